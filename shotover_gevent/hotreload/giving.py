"""Our dialect as the predecessor speaks it. The bytes are in ``dialect``.

Rules:
 1. The whole exchange is :meth:`Giver._give`, in the order of the messages. Nothing before ``Done`` is
    final: whatever happens before, this process accepts again, and keeps what was not adopted.
 2. It stops accepting when the successor is ready, not before; for the moment until the successor
    accepts, clients wait in the queue of the kernel.
 3. One successor at a time. How things are is told at any time, and changes nothing.
"""

from __future__ import annotations

import enum
import logging
import os
from collections.abc import Sequence, Set
from typing import Any, Protocol

from shotover_gevent._version import __version__
from shotover_gevent.errors import HotReloadError, causes
from shotover_gevent.hotreload.count import ReloadCounts
from shotover_gevent.hotreload.dialect import (
    HELD_STEP_S,
    PROTOCOL,
    SOCKETS_PER_PACKET,
    START_S,
    Line,
    field,
    fingerprint,
)
from shotover_gevent.hotreload.lending import MAX_DRAIN_S, Host
from shotover_gevent.hotreload.moving import BUSY_S, Adopter, Moved, adopt, move
from shotover_gevent.net.fdpass import close_all
from shotover_gevent.sources.source import Source

logger = logging.getLogger(__name__)


class Step(enum.Enum):
    """How far a reload has come, as the predecessor sees it."""

    IDLE = "no reload"
    GREETED = "the successor has connected"
    LENT = "the successor has the listening sockets"
    GONE = "the successor may accept"
    MOVING = "sessions are moving"
    DONE = "the successor serves"


class GivingHost(Host, Adopter, Protocol):
    """What is replaced by a reload: the proxy, as this conversation sees it."""

    sources: Sequence[Source]

    def stop_accepting(self) -> None:
        """Accept nothing, keep the sockets."""

    def resume_accepting(self) -> None:
        """Accept again."""

    def export_chains(self) -> list[Any]:
        """What chains have for the successor that belongs to no session."""

    def retire(
        self, seconds: float, moved: Moved | None = None, lent: Set[str] = frozenset()
    ) -> None:
        """Close the listeners and start to drain within ``seconds``. Does not wait."""


class Giver:
    """Hands everything over to one successor at a time. See the rules above."""

    def __init__(self, host: GivingHost, counts: ReloadCounts) -> None:
        self.host = host
        self._counts = counts
        self.step = Step.IDLE
        self.successor_pid: int | None = None
        self._lent: set[str] = set()

    @property
    def is_busy(self) -> bool:
        """Whether a reload is in progress."""
        return self.step not in (Step.IDLE, Step.DONE)

    def converse(self, line: Line, pid: int, name: str, body: Any) -> None:
        """The conversation that begins with ``Hello``, ``Offer`` or ``Status``."""
        if name == "Status":
            line.send("Status", self._status())
            return
        if name == "Offer":
            self._adopt_late(line)
            return
        refusal = self._refusal(body)
        if refusal is not None:
            logger.warning("hot reload by process %d refused: %s", pid, refusal)
            line.refuse(refusal)
            return
        self.successor_pid = pid
        moved = Moved()
        try:
            seconds = self._give(line, body, moved)
        except BaseException as error:
            self._undo(error, pid, moved)
            raise
        self.step = Step.DONE
        if not self.host.is_retired:  # a signal may have ended it at the last step
            self.host.retire(seconds, moved, self._lent)
        self._counts.given(moved, is_ok=True)
        logger.info(
            "process %d has taken over", pid,
            extra={"fields": {"moved": moved.moved, "kept": dict(moved.kept)}})

    def _status(self) -> dict[str, Any]:
        """What a reload would start from."""
        sources = self.host.sources
        return {
            "protocol": PROTOCOL, "version": __version__, "pid": os.getpid(),
            "listeners": [
                {"name": source.name, "address": str(source.address), "type": source.type_name,
                 "identity": fingerprint(source.state_identity)}
                for source in sources
            ],
            "sessions": {str(source.address): len(source.sessions) for source in sources},
        }

    def _refusal(self, hello: Any) -> str | None:
        if self.host.is_retired:
            by = f" to pid {self.successor_pid}" if self.step is Step.DONE else ""
            return f"already handed over{by}" if by else "this process is shutting down"
        if self.is_busy:
            return f"another reload is in progress: pid {self.successor_pid}"
        protocol = field(hello, "protocol", int)
        if protocol != PROTOCOL:
            return f"protocol {protocol} is not spoken here, only {PROTOCOL}"
        return None

    def _give(self, line: Line, hello: Any, moved: Moved) -> float:
        """The whole exchange; returns the seconds that the successor gives us to drain."""
        host = self.host
        seconds = min(float(field(hello, "gradual_shutdown_seconds", (int, float))), MAX_DRAIN_S)
        self.step = Step.GREETED
        line.send("Hello", {
            "protocol": PROTOCOL, "version": __version__, "pid": os.getpid(),
            "listeners": [{"name": s.name, "address": str(s.address)} for s in host.sources],
            "sessions": sum(len(source.sessions) for source in host.sources),
        })
        _, body, _ = line.expect("SendListeningSockets", timeout_s=START_S)
        self._lend(line, set(field(body, "addresses", list)))
        self.step = Step.LENT
        line.expect("Ready", timeout_s=START_S)
        host.stop_accepting()
        self.step = Step.GONE
        line.send("Go", {"chains": states} if (states := host.export_chains()) else {})
        line.expect("Accepting", timeout_s=HELD_STEP_S)
        self.step = Step.MOVING
        move(line, host.sources, BUSY_S, moved)
        line.send("End", moved.as_json())
        line.expect("Done")
        return seconds

    def _lend(self, line: Line, wanted: set[Any]) -> None:
        """Send copies of the wanted listening sockets, a packet at a time, each acknowledged."""
        lent = self.host.lend_listeners()
        try:
            chosen = [
                each for each in lent if each.listener is not None and str(each.address) in wanted]
            for start in range(0, max(1, len(chosen)), SOCKETS_PER_PACKET):
                part = chosen[start : start + SOCKETS_PER_PACKET]
                line.send(
                    "ListeningSockets",
                    {"addresses": [str(each.address) for each in part],
                     "last": start + SOCKETS_PER_PACKET >= len(chosen)},
                    [each.listener for each in part if each.listener is not None])
                line.expect("Ack")
            self._lent = {str(each.address) for each in chosen}
        finally:
            close_all([each.listener for each in lent if each.listener is not None])

    def _undo(self, error: BaseException, pid: int, moved: Moved) -> None:
        step, self.step = self.step, Step.IDLE
        self.host.resume_accepting()
        self._counts.given(moved, is_ok=False, reason=": ".join(causes(error)))
        if isinstance(error, (HotReloadError, OSError)):
            logger.warning(
                "hot reload by process %d has failed: %s; this process goes on serving",
                pid, ": ".join(causes(error)),
                extra={"fields": {"step": step.value, "moved": moved.moved}})

    def _adopt_late(self, line: Line) -> None:
        """A former predecessor offers sessions that were busy when it was replaced."""
        if self.host.is_retired:
            line.refuse("this process is shutting down")
            return
        line.send("Go", {})
        while True:
            name, body, sockets = line.expect("Sessions", "End", max_sockets=SOCKETS_PER_PACKET)
            if name == "End":
                return
            self._counts.adopted_late(adopt(line, self.host, body, sockets))
