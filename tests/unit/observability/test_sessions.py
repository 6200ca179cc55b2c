"""The list of sessions."""

from __future__ import annotations

import socket
import termios

import gevent
import pytest
from gevent import socket as gsocket

from shotover_gevent.observability import sessions as module
from shotover_gevent.observability.sessions import describe, peer_text, queued, sessions
from shotover_gevent.sinks.debug_returner import DebugReturner
from shotover_gevent.sinks.tcp_single import TcpSinkSingle
from tests.client import Client, command
from tests.inprocess import ScriptedServer, connect, serving, until

PING, PONG = command("PING"), b"$1\r\nx\r\n"
SINK = DebugReturner(name="sink", Valkey="x")

# More than the socket buffers of a local connection take.
LARGE = DebugReturner(name="sink", Valkey="x" * (1 << 20))


def test_a_session_is_told_with_what_it_has_done() -> None:
    """Who it is, since when it is here and idle, and how much it was asked."""
    with serving(SINK) as source, connect(source) as client:
        client.ask(PING * 3, PONG * 3)
        found = describe(next(iter(source.sessions)))
        own = client.socket.getsockname()
    age_s, idle_s = found.pop("age_s"), found.pop("idle_s")
    assert 0 <= idle_s <= age_s < 10
    assert found == {
        "source": "s", "id": 1, "peer": f"127.0.0.1:{own[1]}", "state": "idle", "requests": 3,
        "unsent_bytes": 0, "unread_bytes": 0, "blocked_by": None, "blocked_s": 0.0}


def test_a_client_that_does_not_read_is_found() -> None:
    """It is blocked, with the bytes that wait for it and since when; and no longer when it reads."""
    with serving(LARGE) as source, connect(source) as client:
        client.send(PING * 100)
        session = until(lambda: next(iter(source.sessions), None))
        until(lambda: session.blocked)
        gevent.sleep(0.01)
        found = describe(session)
        draining = gevent.spawn(client.receive, 100 * (len(LARGE.Valkey or "") + 12))
        draining.get(timeout=10)
        until(lambda: session.blocked is None)
    assert (found["state"], found["blocked_by"], found["idle_s"]) == ("blocked", "client", 0.0)
    assert (found["unsent_bytes"] > 10_000, found["blocked_s"] >= 0.01) == (True, True)


def test_a_database_that_does_not_read_is_found() -> None:
    """Of a Tcp source, too: the bytes of the client wait, and are not read."""
    may_read = gevent.event.Event()

    def serve(client: Client) -> None:
        may_read.wait(10)
        while client.socket.recv(1 << 20):
            pass

    with ScriptedServer(serve) as server:
        sink = TcpSinkSingle(name="t", remote_address=str(server.address), connect_timeout_ms=1000)
        with serving(sink, type_name="Tcp") as source, connect(source) as client:
            sending = gevent.spawn(client.send, b"x" * (32 << 20))
            session = until(lambda: next(iter(source.sessions), None))
            until(lambda: session.blocked)
            until(lambda: describe(session)["unread_bytes"])
            found = describe(session)
            may_read.set()
            sending.get(timeout=10)
            until(lambda: session.blocked is None)
    assert (found["state"], found["blocked_by"]) == ("blocked", "upstream")


def test_sessions_come_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oldest first; one that ends between two chunks is left out."""
    monkeypatch.setattr(module, "CHUNK", 2)
    with serving(SINK) as source:
        clients = [connect(source) for _ in range(5)]
        for client in clients:
            client.ask(PING, PONG)
        chunks = sessions([source])
        first = [each["id"] for each in next(chunks)]
        clients[2].close()
        until(lambda: len(source.sessions) == 4)
        rest = [[each["id"] for each in chunk] for chunk in chunks]
        for client in clients:
            client.close()
    assert (first, rest) == ([1, 2], [[4], [5]])


def test_peers_are_told_as_addresses() -> None:
    """IPv6 in brackets; a client of a Unix socket has none."""
    texts = [peer_text(peer) for peer in (("10.0.0.1", 5), ("::1", 5, 0, 0), "", b"", ())]
    assert texts == ["10.0.0.1:5", "[::1]:5", "unix", "unix", "unix"]


def test_a_closed_socket_has_nothing_in_its_queues() -> None:
    """No error: it may close while it is looked at."""
    one, other = gsocket.socketpair()
    one.close()
    other.close()
    plain = socket.socket()
    plain.close()
    assert queued(plain, termios.TIOCOUTQ) == 0
