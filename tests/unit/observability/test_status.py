"""The document of how things are."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import gevent
import pytest

from shotover_gevent._version import __version__
from shotover_gevent.observability import status as module
from shotover_gevent.observability.status import status
from shotover_gevent.sinks.debug_returner import DebugReturner
from shotover_gevent.sinks.valkey_single import ValkeySinkSingle
from shotover_gevent.sources.source import Source
from shotover_gevent.transforms.query_counter import QueryCounter
from tests.client import Client, command
from tests.inprocess import ScriptedServer, connect, serving, until

PING = command("PING")


class Facts:
    """What a proxy knows."""

    phase = "serving"
    uptime_s = 12.34567
    last_outcome: dict[str, Any] | None = None

    def __init__(self, sources: Sequence[Source], obstacles: Sequence[str] = ()) -> None:
        self.sources = sources
        self._obstacles = list(obstacles)

    def obstacles(self) -> list[str]:
        """As given."""
        return self._obstacles


def test_the_process_is_told_first() -> None:
    """What runs, since when, and whether clients should come; all of it is JSON."""
    told = json.loads(json.dumps(status(Facts([], ["draining"]))))
    numbers = {name: told.pop(name) > 0 for name in ("memory_bytes", "descriptors")}
    python = told.pop("python")
    assert (numbers, python.count(".")) == ({"memory_bytes": True, "descriptors": True}, 2)
    assert told == {
        "version": __version__, "pid": os.getpid(), "state": "serving", "ready": False,
        "obstacles": ["draining"], "uptime_s": 12.346, "sources": [], "chains": [], "upstreams": [],
        "last_reload": None,
    }


def test_a_source_is_told_with_its_numbers() -> None:
    """Its sessions by state, and what they did so far."""
    counter = QueryCounter(name="count", counter_name="c")
    with serving(counter, DebugReturner(name="sink", Valkey="x")) as source:
        with connect(source) as first, connect(source) as second:
            for client in (first, second):
                client.ask(PING, b"$1\r\nx\r\n")
            told = status(Facts([source]))
        until(lambda: not source.sessions)
        later = status(Facts([source]))["sources"][0]
    chain = told["chains"][0]
    assert told["sources"] == [{
        "name": source.name, "type": "Valkey", "address": str(source.address), "listener": "accepting",
        "sessions": 2, "session_states": {"idle": 2, "running": 0, "blocked": 0, "held": 0},
        "connection_limit": 512, "opened": 2, "ended": {}, "requests": 2,
        "bytes_received": 2 * len(PING), "bytes_sent": 14, "protocol_errors": 0}]
    assert (later["sessions"], later["ended"]) == (0, {"client closed": 2})
    assert (chain["transforms"], chain["runs"], chain["failures"], chain["p50_ms"] > 0) == (
        [{"type": "QueryCounter", "name": "count"}, {"type": "DebugReturner", "name": "sink"}], 2, 0, True)


def test_databases_are_told_with_what_went_wrong() -> None:
    """One that was not asked yet, one that answers, one that cannot be reached."""
    states = []

    def answer(client: Client) -> None:
        client.expect(PING)
        client.send(b"+PONG\r\n")
        client.socket.recv(100)

    with ScriptedServer(answer) as server:
        sink = ValkeySinkSingle(name="v", remote_address=str(server.address), connect_timeout_ms=1000)
        address = str(server.address)
        with serving(sink) as source:
            states += status(Facts([source]))["upstreams"]
            with connect(source) as client:
                client.ask(PING, b"+PONG\r\n")
                states += status(Facts([source]))["upstreams"]
    with serving(sink) as source, connect(source) as client:
        client.send(PING)
        client.receive(1)
        states += status(Facts([source]))["upstreams"]
    assert {(each["transform"], each["name"], each["address"]) for each in states} == {
        ("ValkeySinkSingle", "v", address)}
    assert [(each["state"], each["connections"], each["failures"]) for each in states] == [
        ("unused", 0, 0), ("ok", 1, 0), ("failing", 0, 1)]
    assert states[2]["failure"].startswith("Failed to connect") and states[2]["failed_s_ago"] >= 0


def test_other_greenlets_run_while_many_sessions_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn of the hub after each chunk."""
    monkeypatch.setattr(module, "SESSIONS_PER_TURN", 2)
    turns: list[int] = []
    with serving(DebugReturner(name="sink", Valkey="x")) as source:
        clients = [connect(source) for _ in range(5)]
        until(lambda: len(source.sessions) == 5)
        gevent.spawn_raw(turns.append, 1)
        counts = module.count_states(source.sessions)
        for client in clients:
            client.close()
    assert (turns, sum(counts.values())) == ([1], 5)
