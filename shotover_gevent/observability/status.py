"""How things are, as one JSON document: what ``/status`` answers and ``ctl status`` prints.

Everything in it is a plain number or text that is there anyway; making it changes nothing. Sums are
since the start of the process.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import gevent

from shotover_gevent._version import __version__
from shotover_gevent.chain.transform import TransformConfig
from shotover_gevent.metrics import Histogram
from shotover_gevent.observability.quantile import quantile
from shotover_gevent.sources.base import BaseSession
from shotover_gevent.sources.source import Source

# Sessions looked at in one go: a fraction of a millisecond.
SESSIONS_PER_TURN = 500


class Facts(Protocol):
    """What is asked of the proxy."""

    sources: Sequence[Source]

    @property
    def phase(self) -> str:
        """Where it is in its life, in one word."""

    @property
    def uptime_s(self) -> float:
        """Seconds since it has begun to serve."""

    @property
    def last_outcome(self) -> dict[str, Any] | None:
        """What the last reload did; ``None`` before the first."""

    def obstacles(self) -> list[str]:
        """Why no client should be sent here; empty when it is ready."""


def status(facts: Facts) -> dict[str, Any]:
    """The document. Other greenlets may run meanwhile: with many sessions it takes a while."""
    obstacles = facts.obstacles()
    return {
        "version": __version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "pid": os.getpid(),
        "state": facts.phase,
        "ready": not obstacles,
        "obstacles": obstacles,
        "uptime_s": round(facts.uptime_s, 3),
        "memory_bytes": _memory_bytes(),
        "descriptors": _descriptors(),
        "sources": [_source(source) for source in facts.sources],
        "chains": [_chain(source) for source in facts.sources],
        "upstreams": [entry for source in facts.sources for entry in _upstreams(source)],
        "last_reload": facts.last_outcome,
    }


def _source(source: Source) -> dict[str, Any]:
    listener = source.listener
    return {
        "name": source.name,
        "type": source.type_name,
        "address": str(source.address),
        "listener": "closed" if listener is None else listener.state.value,
        "sessions": len(source.sessions),
        "session_states": count_states(source.sessions),
        "connection_limit": source.connection_limit,
        "opened": source.opened.value,
        "ended": {reason.value: each.value for reason, each in source.ended.items() if each.value},
        "requests": int(source.chain.requests_size.total),
        "bytes_received": source.bytes_received.value,
        "bytes_sent": source.bytes_sent.value,
        "protocol_errors": source.protocol_errors.value,
    }


def count_states(sessions: Sequence[BaseSession] | dict[BaseSession, None]) -> dict[str, int]:
    """How many sessions are in which state."""
    counts: Counter[str] = Counter(dict.fromkeys(("idle", "running", "blocked", "held"), 0))
    for number, session in enumerate(list(sessions), 1):
        counts[state_of(session)] += 1
        if number % SESSIONS_PER_TURN == 0:
            gevent.sleep(0)
    return dict(counts)


def state_of(session: BaseSession) -> str:
    """``held`` (about to move), ``blocked`` (a peer takes no bytes), ``idle`` or ``running``."""
    if session.is_held:
        return "held"
    if session.blocked is not None:
        return "blocked"
    return "idle" if session.is_idle else "running"


def _chain(source: Source) -> dict[str, Any]:
    chain = source.chain
    return {
        "name": chain.name,
        "protocol": chain.protocol,
        "transforms": [{"type": step.type_name, "name": step.name} for step in chain.steps],
        "runs": chain.total.value,
        "failures": chain.failures.value,
        **latencies(chain.latency),
    }


def latencies(histogram: Histogram, digits: int = 3) -> dict[str, float | None]:
    """``p50_ms`` and ``p99_ms`` of a histogram of seconds."""
    return {
        f"p{share}_ms": None if found is None else round(found * 1000, digits)
        for share in (50, 99)
        for found in (quantile(share / 100, histogram.bounds, histogram.counts),)
    }


def _upstreams(source: Source) -> Iterator[dict[str, Any]]:
    for step in _steps(source.chain.steps):
        for upstream in step.upstreams():
            ago = upstream.failed_s_ago
            is_used = upstream.connects.value or upstream.connections
            yield {
                "chain": upstream.chain,
                "transform": upstream.transform,
                "name": upstream.name,
                "address": upstream.address,
                "state": "failing" if ago is not None else "ok" if is_used else "unused",
                "connections": upstream.connections,
                "connects": upstream.connects.value,
                "failures": upstream.failures.value,
                "failure": upstream.failure,
                "failed_s_ago": None if ago is None else round(ago, 1),
            }


def _steps(steps: Sequence[TransformConfig]) -> Iterator[TransformConfig]:
    """The steps, and those of the chains inside of them."""
    for step in steps:
        yield step
        for _, inner in step.subchains():
            yield from _steps(inner)


def _memory_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _descriptors() -> int:
    # Since Linux 6.2 the size of the folder is their number, and it need not be read.
    return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))

