"""What a proxy tells of itself: the answers behind ``/readyz``, ``/status`` and ``ctl``."""

from __future__ import annotations

import enum
import platform
from collections.abc import Sequence
from time import monotonic
from typing import Any, Protocol

import gevent
from gevent.event import Event

from shotover_gevent._version import __version__
from shotover_gevent.hotreload.count import SUCCESSOR, ReloadCounts
from shotover_gevent.metrics import MetricStore
from shotover_gevent.observability.log_filter import LogFilter
from shotover_gevent.sources.source import Source


class Observed(Protocol):
    """The proxy, as far as it is looked at."""

    sources: Sequence[Source]
    state: enum.Enum
    ready: Event
    last_reload: dict[str, Any] | None

    @property
    def is_retired(self) -> bool:
        """Whether it drains, or has ended."""

    def drain(self, seconds: float) -> None:
        """End in order; waits."""


class ProxyFacts:
    """Reads a proxy; what is asked of it by operators is passed on."""

    def __init__(
        self, proxy: Observed, reloads: ReloadCounts, log_filter: LogFilter | None = None
    ) -> None:
        self.log_filter = log_filter
        self._proxy = proxy
        self._reloads = reloads
        self._serving_since: float | None = None

    def register(self, metrics: MetricStore) -> None:
        """The metrics of the process as a whole."""
        metrics.gauge(
            "shotover_gevent_build_info", "What runs here; the value is always 1", lambda: 1,
            version=__version__, python=platform.python_version(), gevent=gevent.__version__)
        metrics.gauge(
            "shotover_gevent_ready", "1 while clients should be sent here, as /readyz says, else 0",
            lambda: int(not self.obstacles()))

    def serving(self) -> None:
        """Clients are accepted from now on."""
        self._serving_since = monotonic()

    @property
    def sources(self) -> Sequence[Source]:
        """Those of the topology."""
        return self._proxy.sources

    @property
    def phase(self) -> str:
        """Where the proxy is in its life, in one word."""
        return str(self._proxy.state.value)

    @property
    def is_retired(self) -> bool:
        """Whether the proxy drains, or has ended."""
        return self._proxy.is_retired

    @property
    def uptime_s(self) -> float:
        """Seconds since clients are accepted."""
        return 0.0 if self._serving_since is None else monotonic() - self._serving_since

    @property
    def last_outcome(self) -> dict[str, Any] | None:
        """What the last reload did, whichever part this process had in it."""
        last, report = self._reloads.last, self._proxy.last_reload
        if last is None or last["role"] != SUCCESSOR or report is None:
            return last
        return {**last, **{name: report[name] for name in ("predecessor_pid", "listeners")}}

    def obstacles(self) -> list[str]:
        """Why no client should be sent here; empty when the proxy is ready."""
        if self._proxy.is_retired or not self._proxy.ready.is_set():
            left = sum(len(source.sessions) for source in self.sources)
            return [f"{self.phase}, sessions left: {left}"]
        return [
            f"source {source.name}: {source.listener.obstacle}" for source in self.sources
            if source.listener is not None and source.listener.obstacle]

    def readiness(self) -> tuple[bool, str]:
        """The answer of ``/readyz``."""
        obstacles = self.obstacles()
        return not obstacles, "\n".join(obstacles)

    def drain(self, seconds: float) -> None:
        """Let the proxy end in order; waits."""
        self._proxy.drain(seconds)
