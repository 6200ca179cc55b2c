"""The commands of operators, without a process around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gevent
import pytest

from shotover_gevent import control as module
from shotover_gevent.control import Control
from shotover_gevent.hotreload.control import CommandRefused
from shotover_gevent.observability.log_filter import LogFilter
from shotover_gevent.sinks.debug_returner import DebugReturner
from shotover_gevent.sources.source import Source
from tests.client import command
from tests.inprocess import connect, serving

PING, PONG = command("PING"), b"$1\r\nx\r\n"
SINK = DebugReturner(name="sink", Valkey="x")


class Proxy:
    """What the commands need of one."""

    uptime_s = 1.0
    last_outcome: dict[str, Any] | None = None

    def __init__(self, sources: Sequence[Source] = (), log_filter: LogFilter | None = None) -> None:
        self.sources = sources
        self.log_filter = log_filter
        self.is_retired = False
        self.drained: list[float] = []

    @property
    def phase(self) -> str:
        """As its state."""
        return "draining" if self.is_retired else "serving"

    def obstacles(self) -> list[str]:
        """None."""
        return []

    def drain(self, seconds: float) -> None:
        """Note it."""
        self.drained.append(seconds)


def ask(proxy: Proxy, name: str, **arguments: Any) -> list[Mapping[str, Any]]:
    """All parts of an answer."""
    return list(Control(proxy)(name, arguments))


def test_an_unknown_command_is_refused_with_those_that_are_known() -> None:
    """A newer ctl and an older process understand each other."""
    with pytest.raises(CommandRefused) as caught:
        ask(Proxy(), "fly")
    assert str(caught.value) == (
        "unknown command fly; this process knows status, sessions, close, drain, log-level")


def test_a_long_status_comes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A packet has no room for hundreds of sources; the parts together are the document."""
    monkeypatch.setattr(module, "ENTRIES", 2)
    with serving(SINK) as source:
        head, *rest = ask(Proxy([source] * 3), "status")
    assert [len(head[name]) for name in ("sources", "chains", "upstreams")] == [0, 0, 0]
    assert [[(name, len(entries)) for name, entries in part.items()] for part in rest] == [
        [("sources", 2)], [("sources", 1)], [("chains", 2)], [("chains", 1)]]


def test_drain_is_answered_before_it_is_done() -> None:
    """Whoever asked sees how many there are, and then watches."""
    proxy = Proxy()
    (told,) = ask(proxy, "drain", seconds=5)
    gevent.sleep(0)
    proxy.is_retired = True
    with pytest.raises(CommandRefused, match="this process is draining already"):
        ask(proxy, "drain", seconds=5)
    assert ((told["sessions"], told["seconds"]), proxy.drained) == ((0, 5), [5])


@pytest.mark.parametrize("seconds", [-1, 10**9, float("nan"), "5", None])
def test_drain_needs_a_time(seconds: Any) -> None:
    """Within bounds; anything else changes nothing."""
    proxy = Proxy()
    with pytest.raises(Exception, match="seconds"):
        ask(proxy, "drain", seconds=seconds)
    assert proxy.drained == []


def test_a_session_that_is_not_idle_is_closed_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks does not wait for it."""
    monkeypatch.setattr(module, "CLOSE_S", 0.02)
    with serving(SINK) as source, connect(source) as client:
        client.ask(PING, PONG)
        session = next(iter(source.sessions))
        session.hold()
        (told,) = ask(Proxy([source]), "close", id=1)
        session.release()
        client.eof()
    assert told == {"source": "s", "id": 1, "state": "held", "closed": False}


def test_a_process_with_its_own_logging_has_no_filter_to_change() -> None:
    """The program around it has."""
    with pytest.raises(CommandRefused, match="belongs to another program"):
        ask(Proxy(), "log-level", filter="info")


@pytest.mark.parametrize("seconds", [0, -5, "60", 10**9])
def test_a_filter_needs_a_time_that_makes_sense(seconds: Any) -> None:
    """It is refused before anything changes."""
    texts = ["info"]
    log = LogFilter(lambda: texts[-1], texts.append)
    with pytest.raises(CommandRefused, match="is not a number of seconds"):
        ask(Proxy(log_filter=log), "log-level", filter="debug", seconds=seconds)
    assert texts == ["info"]
