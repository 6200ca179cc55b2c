"""CircuitBreaker: answers at once by an error while the database fails, instead of asking it.

Clients that wait for a database that does not answer hold connections and memory, and those that try
again at once keep it from recovering. The breaker belongs to the entry: all its sessions together. The
defaults are those of Hystrix (its wiki, "Configuration"), the number of failures in a row is Envoy's
(outlier detection, ``consecutive_5xx``).
"""

from __future__ import annotations

import logging
from typing import ClassVar

from pydantic import Field, PrivateAttr

from shotover_gevent.chain import (
    Batch,
    BuildContext,
    Next,
    SessionContext,
    Transform,
    TransformConfig,
)
from shotover_gevent.chain.handoff import REBUILT
from shotover_gevent.codecs.resp_conversation import BLOCKING
from shotover_gevent.errors import SessionEnd
from shotover_gevent.metrics import Counter
from shotover_gevent.transforms.breaker import Breaker, Limits, State
from shotover_gevent.transforms.refusing import RefusingTransform
from shotover_gevent.transforms.replies import code_of, code_problems, errors

logger = logging.getLogger(__name__)

# The server says of itself, in these, that it cannot serve now.
FAILURE_CODES = ["LOADING", "MASTERDOWN", "CLUSTERDOWN"]

# A day; longer is a database that is not to be asked at all.
MAX_MS = 24 * 60 * 60 * 1000


class CircuitBreaker(TransformConfig):
    """Answers by an error at once while the database fails, and asks it again by single probes."""

    protocols: ClassVar[tuple[str, ...] | None] = ("Valkey",)

    consecutive_failures: int = Field(
        5, ge=1, description="How many runs in a row have to fail for it to open")
    error_ratio: float = Field(
        0.5, gt=0, le=1, description="Which share of the runs of the window has to fail for it to open")
    minimum_runs: int = Field(
        20, ge=1, description="How many runs the window must have for their share to count")
    window_ms: int = Field(10_000, ge=10, le=MAX_MS, description="How long the window is")
    open_ms: int = Field(
        5_000, ge=1, le=MAX_MS, description="How long it stays open before it lets a probe pass")
    probes: int = Field(
        1, ge=1, le=1000, description="How many runs pass at most while it is half-open, and have to succeed")
    failure_codes: list[str] = Field(
        FAILURE_CODES, description="The first words of the error replies that count as failures")
    _breaker: Breaker = PrivateAttr()
    _refused: Counter = PrivateAttr(default_factory=Counter)
    _transitions: dict[State, Counter] = PrivateAttr(default_factory=dict)

    def problems(self) -> list[str]:
        """A code is one word."""
        return code_problems(self.type_name, "failure_codes", self.failure_codes)

    def build(self, context: BuildContext) -> None:
        """Begin closed, and register the metrics."""
        limits = Limits(
            self.consecutive_failures, self.error_ratio, self.minimum_runs, self.window_ms / 1000,
            self.open_ms / 1000, self.probes)
        breaker = self._breaker = Breaker(limits, self._changed)
        metrics, labels = context.metrics, {"chain": context.chain, "name": self.name}
        metrics.gauge(
            "shotover_gevent_circuit_breaker_state", "0 is closed, 1 half-open, 2 open",
            lambda: breaker.state.value, **labels)
        self._refused = metrics.counter(
            "shotover_gevent_circuit_breaker_refused_count",
            "Requests answered by an error instead of being sent", **labels)
        self._transitions = {
            state: metrics.counter(
                "shotover_gevent_circuit_breaker_transitions_count", "Changes to a state",
                **labels, state=state.word)
            for state in State}

    def session(self, context: SessionContext) -> Transform:
        """The view of one session; the breaker is that of all."""
        return _Fuse(self)

    def _changed(self, state: State, reason: str) -> None:
        self._transitions[state].value += 1
        level = logging.WARNING if state is State.OPEN else logging.INFO
        logger.log(level, "circuit breaker %s is %s: %s", self.name, state.word, reason)


class _Fuse(RefusingTransform):
    fates = RefusingTransform.fates | {
        "_breaker": REBUILT,  # of the process: a successor begins closed
        "_codes": REBUILT, "_text": REBUILT, "_refused": REBUILT,
    }

    def __init__(self, config: CircuitBreaker) -> None:
        super().__init__()
        self._breaker = config._breaker
        self._codes = frozenset(config.failure_codes)
        self._text = f"The circuit breaker {config.name} is open: the database is not asked"
        self._refused = config._refused

    def transform(self, requests: Batch, next: Next) -> Batch:
        if not requests:
            return next(requests)
        ticket = self._breaker.admit(BLOCKING.isdisjoint(requests.names))
        if ticket is None:
            return self._refuse_all(requests, next)
        failed: list[bool] = []  # whether the run failed, if the database was asked

        def below(batch: Batch) -> Batch:
            try:
                responses = next(batch)
            except SessionEnd:
                raise
            except Exception:
                failed.append(True)
                raise
            failed.append(self._has_failure(responses))
            return responses

        try:
            return self.follow(requests, below)
        finally:
            if failed:
                self._breaker.record(ticket, failed[0])
            else:
                self._breaker.release(ticket)

    def _has_failure(self, responses: Batch) -> bool:
        return bool(self._codes) and any(code_of(text) in self._codes for _, text in errors(responses))

    def _refuse_all(self, requests: Batch, next: Next) -> Batch:
        error, refused = requests.codec.error(self._text), self._refused

        def judge(index: int, may_refuse: bool) -> bytes | None:
            refused.value += may_refuse
            return error

        return self.refuse(requests, next, judge)
