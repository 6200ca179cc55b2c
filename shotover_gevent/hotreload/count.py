"""What reloads did, as metrics.

A predecessor that has been replaced answers no scrapes any more, so the successor counts what the
reload did to the sessions of both.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from shotover_gevent.hotreload.moving import Moved
from shotover_gevent.hotreload.reason import PASSING, TLS
from shotover_gevent.metrics import Counter, MetricStore

PREDECESSOR, SUCCESSOR = "predecessor", "successor"

# Labels of sessions that were kept. Reasons are texts, some with an address or a name in them, and
# those of transforms are anybody's: what is not here counts as "other".
REASONS = (*sorted(PASSING), TLS, "the chain has changed", "the connection limit is reached")
OTHER = "other"


class ReloadCounts:
    """The metrics of the reloads that one proxy takes part in. All of them exist from the start."""

    def __init__(self, metrics: MetricStore) -> None:
        def reloads(role: str, result: str) -> Counter:
            return metrics.counter(
                "shotover_gevent_reloads_count", "Hot reloads by the part this process had in them",
                role=role, result=result)

        def sessions(result: str, **labels: str) -> Counter:
            return metrics.counter(
                "shotover_gevent_reload_sessions_count", "Sessions by what reloads did to them",
                result=result, **labels)

        self._reloads = {
            (role, is_ok): reloads(role, "ok" if is_ok else "failed")
            for role in (PREDECESSOR, SUCCESSOR) for is_ok in (True, False)
        }
        self._moved, self._adopted = sessions("moved"), sessions("adopted")
        self._kept = {reason: sessions("kept", reason=reason) for reason in (*REASONS, OTHER)}
        self.longest_pause_s = 0.0
        self.ended_at = 0.0
        #: What the last reload did, as JSON; ``None`` before the first.
        self.last: dict[str, Any] | None = None
        metrics.gauge(
            "shotover_gevent_reload_timestamp_seconds",
            "When the last reload ended, as Unix time; 0 before the first", lambda: self.ended_at)
        metrics.gauge(
            "shotover_gevent_reload_longest_pause_seconds",
            "The longest that a session was held in the last reload", lambda: self.longest_pause_s)

    def given(self, moved: Moved, is_ok: bool, reason: str = "") -> None:
        """A successor has taken over, or has failed to, and why."""
        self._reloads[PREDECESSOR, is_ok].value += 1
        self._note(PREDECESSOR, is_ok, reason, moved.as_json())
        self._moved.value += moved.moved
        self._keep(moved.kept)
        self.longest_pause_s = moved.longest_pause_s

    def moved_late(self, count: int) -> None:
        """Sessions that had been busy moved after the reload."""
        self._moved.value += count

    def taken(self, end: Mapping[str, Any]) -> None:
        """This process has taken over; ``end`` is what its predecessor says of its sessions."""
        self._reloads[SUCCESSOR, True].value += 1
        self._note(SUCCESSOR, True, "", end)
        self._adopted.value += end.get("moved", 0)
        self._keep(end.get("kept", {}))
        self.longest_pause_s = end.get("longest_pause_ms", 0.0) / 1000

    def not_taken(self) -> None:
        """This process has failed to take over."""
        self._reloads[SUCCESSOR, False].value += 1
        self._note(SUCCESSOR, False, "", {})

    def adopted_late(self, count: int) -> None:
        """Sessions that had been busy came after the reload."""
        self._adopted.value += count

    def _note(self, role: str, is_ok: bool, reason: str, end: Mapping[str, Any]) -> None:
        self.ended_at = time.time()
        self.last = {
            "role": role, "result": "ok" if is_ok else "failed", "reason": reason,
            "ended_at": round(self.ended_at, 3), "moved": end.get("moved", 0),
            "kept": end.get("kept", {}), "longest_pause_ms": end.get("longest_pause_ms", 0.0),
        }

    def _keep(self, kept: Mapping[str, int]) -> None:
        for reason, count in kept.items():
            self._kept.get(reason, self._kept[OTHER]).value += count
