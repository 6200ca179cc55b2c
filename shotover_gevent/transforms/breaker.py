"""The state of a circuit breaker: closed, open, or half-open.

::

    CLOSED --too many failures--> OPEN --after a while--> HALF_OPEN --probes succeed--> CLOSED
                                    ^----a probe fails, or is not answered----/

Rules:
 1. What is counted are runs: what one session asked at once. A run that was begun in one state says
    nothing about a later one: its outcome is ignored.
 2. While half-open, at most ``probes`` runs are in flight. As many have to succeed, none may fail.
 3. A probe that is not answered for as long as the breaker stays open has failed.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from shotover_gevent.transforms.window import Window


class State(enum.Enum):
    """Whether requests pass; the values are those of the metric."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2

    @property
    def word(self) -> str:
        """For a person."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class Limits:
    """When a breaker opens, and how it closes again."""

    consecutive_failures: int
    error_ratio: float
    minimum_runs: int
    window_s: float
    open_s: float
    probes: int


@dataclass(frozen=True, slots=True)
class Ticket:
    """A run that was admitted."""

    generation: int


class Breaker:
    """Counts how runs end, and says which may begin. ``changed`` is told each new state and why."""

    def __init__(
        self, limits: Limits, changed: Callable[[State, str], None] = lambda state, reason: None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.state = State.CLOSED
        self._limits = limits
        self._changed = changed
        self._clock = clock
        self._window = Window(limits.window_s, clock)
        self._in_a_row = 0
        self._generation = 0
        self._since = 0.0
        self._probes = 0  # in flight
        self._probed_at = 0.0  # when the last of them began
        self._succeeded = 0

    def admit(self, may_probe: bool = True) -> Ticket | None:
        """Let a run begin, or not. :meth:`record` or :meth:`release` has to follow for a ticket.

        ``may_probe`` says whether the run can tell soon how the database is.
        """
        if self.state is State.CLOSED:
            return Ticket(self._generation)
        now, limits = self._clock(), self._limits
        if self.state is State.OPEN and now - self._since >= limits.open_s:
            self._become(State.HALF_OPEN, "it was open long enough")
        if self.state is State.OPEN or not may_probe:
            return None
        if self._probes + self._succeeded >= limits.probes:
            if now - self._probed_at >= limits.open_s:
                self._become(State.OPEN, "a probe was not answered")
            return None
        self._probes += 1
        self._probed_at = now
        return Ticket(self._generation)

    def record(self, ticket: Ticket, has_failed: bool) -> None:
        """A run that was admitted has ended."""
        if ticket.generation != self._generation:
            return
        if self.state is State.HALF_OPEN:
            self._record_probe(has_failed)
        elif has_failed:
            self._window.add(1, 1)
            self._in_a_row += 1
            self._judge()
        else:
            self._window.add(1)
            self._in_a_row = 0

    def release(self, ticket: Ticket) -> None:
        """A run that was admitted says nothing: its client has gone, or nothing was asked."""
        if ticket.generation == self._generation and self.state is State.HALF_OPEN:
            self._probes -= 1

    def _record_probe(self, has_failed: bool) -> None:
        self._probes -= 1
        if has_failed:
            self._become(State.OPEN, "a probe failed")
            return
        self._succeeded += 1
        if self._succeeded >= self._limits.probes:
            self._become(State.CLOSED, "the probes succeeded")

    def _judge(self) -> None:
        limits = self._limits
        if self._in_a_row >= limits.consecutive_failures:
            self._become(State.OPEN, f"{self._in_a_row} failures in a row")
            return
        runs, failed = self._window.sums()
        if runs >= limits.minimum_runs and failed >= limits.error_ratio * runs:
            self._become(State.OPEN, f"{failed} of {runs} failed within {limits.window_s:g} s")

    def _become(self, state: State, reason: str) -> None:
        self.state = state
        self._generation += 1
        self._since = self._clock()
        self._probes = self._succeeded = self._in_a_row = 0
        self._window.clear()
        self._changed(state, reason)
