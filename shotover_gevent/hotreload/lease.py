"""Who was lent the listening sockets, and until when it may confirm that it serves.

Rules:
 1. A lease is HELD by one process from the moment the sockets are sent to it. It ends once: by its
    confirmation, by the end of that process, by its deadline, or by being released.
 2. Only while it is held, and only by its holder, can it be confirmed: anybody else's confirmation
    would be an outage. The holder is known by pid, and its pidfd says that the pid is still its own.
 3. A lease that ends without a confirmation costs nothing: the predecessor never stopped accepting.

``release()`` gives up what the lease holds (a pidfd and a greenlet); every lease is released.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable

import gevent

from shotover_gevent.deadline import Deadline
from shotover_gevent.hotreload.peer import Process

logger = logging.getLogger(__name__)


class LeaseState(enum.Enum):
    """What has become of a lease."""

    HELD = "held"
    CONFIRMED = "confirmed"
    ORPHANED = "its process has ended"
    EXPIRED = "its time is over"
    RELEASED = "released"


class Lease:
    """The right of one process to take over. See the rules above."""

    def __init__(
        self, holder: Process, duration_s: float, on_lost: Callable[[], None] = lambda: None
    ) -> None:
        """Take ownership of ``holder`` and watch it; ``on_lost`` is told that it will not take over."""
        self.duration_s = duration_s
        self.state = LeaseState.HELD
        self._holder = holder
        self._on_lost = on_lost
        self._deadline = Deadline.after(duration_s)
        self._watcher = gevent.spawn(self._watch)

    @property
    def pid(self) -> int:
        """The process that was lent the sockets."""
        return self._holder.pid

    @property
    def is_held(self) -> bool:
        """Whether the holder may still confirm."""
        self._look()
        return self.state is LeaseState.HELD

    def confirm(self) -> None:
        """Its holder serves: the lease has done its work. Does not wait."""
        if self.state is LeaseState.HELD:
            self.state = LeaseState.CONFIRMED

    def release(self) -> None:
        """Give up the lease, whatever has become of it; may be called again."""
        if self.state is LeaseState.HELD:
            self.state = LeaseState.RELEASED
        self._watcher.kill()
        self._holder.close()

    def _watch(self) -> None:
        try:
            while self.state is LeaseState.HELD:
                self._holder.wait(self._deadline)
                self._look()
        finally:
            self._holder.close()

    def _look(self) -> None:
        """End the lease if its process or its time has."""
        if self.state is not LeaseState.HELD:
            return
        if self._holder.has_exited:
            self.state = LeaseState.ORPHANED
            logger.warning(
                "process %d, which was lent the listening sockets, has ended without taking over; "
                "this process goes on serving", self.pid)
        elif self._deadline.is_over:
            self.state = LeaseState.EXPIRED
            logger.warning(
                "process %d, which was lent the listening sockets, has not taken over within %gs; "
                "this process goes on serving", self.pid, self.duration_s)
        if self.state is not LeaseState.HELD:
            self._on_lost()

    def __repr__(self) -> str:
        return f"<Lease of process {self.pid}: {self.state.value}>"
