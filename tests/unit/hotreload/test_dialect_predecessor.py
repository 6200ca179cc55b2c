"""Our dialect, as a predecessor meets it: whatever the successor does before Done changes nothing."""

import json
import os
import socket
from contextlib import contextmanager

import gevent
import pytest
from gevent import socket as gsocket
from reload_kit import connect, receive, wait_until

from shotover_gevent import Proxy
from shotover_gevent.hotreload import dialect, giving, moving
from shotover_gevent.net.fdpass import close_all

HELLO = {"Hello": {"protocol": 1, "version": "x", "pid": 1, "gradual_shutdown_seconds": 0}}
TOPOLOGY = {"sources": [{"Valkey": {
    "name": "v", "listen_addr": "127.0.0.1:0",
    "chain": [{"DebugReturner": {"name": "r", "Valkey": "here"}}],
}}]}


@pytest.fixture
def proxy(path):
    """A serving proxy with a control socket; it answers every request with ``here``."""
    proxy = Proxy(TOPOLOGY, hotreload_socket=path)
    proxy.start()
    gevent.sleep(0)
    yield proxy
    proxy.stop(0)


def client(proxy):
    """A connection to the source, answered once."""
    address = proxy.sources[0].address
    sock = gsocket.create_connection((address.host, address.port), timeout=5)
    ask(sock)
    return sock


def ask(sock):
    """One request and its answer."""
    sock.sendall(b"PING\r\n")
    assert sock.recv(100) == b"$4\r\nhere\r\n"


def say(sock, message, sockets=()):
    """Send one message."""
    socket.send_fds(sock, [json.dumps(message).encode()], [each.fileno() for each in sockets])


def hear(sock):
    """The next message and its sockets; ``None`` at the end."""
    data, sockets = receive(sock)
    return (json.loads(data) if data else None), sockets


@contextmanager
def successor(path, steps):
    """A scripted successor that has gone through the first ``steps`` messages."""
    sock = connect(path)
    received = []
    sessions = None
    script = [
        HELLO,
        {"SendListeningSockets": {"addresses": []}},
        {"Ack": 0},
        {"Ready": {}},
        {"Accepting": {}},
    ]
    try:
        for message in script[:steps]:
            say(sock, message)
            if "Ack" not in message:
                sessions, sockets = hear(sock)
                received += sockets
        yield sock, sessions, received
    finally:
        close_all(received)
        sock.close()


@pytest.mark.parametrize("steps", range(6))
def test_a_successor_that_vanishes_at_any_step_leaves_everything_as_it_was(proxy, path, steps):
    """After EOF the session goes on, new clients are served, and another reload may begin."""
    with client(proxy) as session:
        with successor(path, steps):
            pass
        wait_until(lambda: proxy._hotreload_server._giver.step is giving.Step.IDLE)
        ask(session)
        client(proxy).close()
        with successor(path, 1) as (_, hello, _):
            assert hello["Hello"]["sessions"] >= 1


@pytest.mark.parametrize("steps", range(1, 6))
def test_a_successor_that_falls_silent_at_any_step_is_given_up(proxy, path, steps, monkeypatch, log):
    """At the deadline of the step the predecessor accepts again, and says so once."""
    monkeypatch.setattr(giving, "START_S", 0.1)
    monkeypatch.setattr(dialect, "STEP_S", 0.1)
    monkeypatch.setattr(dialect.Line.receive, "__defaults__", (0.1, 0))
    monkeypatch.setattr(dialect.Line.expect, "__kwdefaults__", {"timeout_s": 0.1, "max_sockets": 0})
    with client(proxy) as session, successor(path, steps):
        wait_until(lambda: [m for m in log.messages if "has failed" in m])
        ask(session)
        client(proxy).close()
    assert len([m for m in log.messages if "this process goes on serving" in m]) == 1


@pytest.mark.parametrize("message", [
    {"Ready": {}}, {"Done": {}}, {"Hello": HELLO["Hello"]}, {"Nonsense": 1},
])
def test_a_message_out_of_order_is_refused(proxy, path, message):
    """The answer names what came and what was expected; the predecessor serves on."""
    name = next(iter(message))
    with successor(path, 1) as (sock, _, _):
        say(sock, message)
        reply = hear(sock)[0]
        assert (reply, hear(sock)[0]) == (
            {"Error": f"unexpected message {name}; expected SendListeningSockets"}, None)
    client(proxy).close()


@pytest.mark.parametrize(("hello", "reason"), [
    ({"protocol": 2, "gradual_shutdown_seconds": 1}, "protocol 2 is not spoken here, only 1"),
    ({"protocol": 0, "gradual_shutdown_seconds": 1}, "protocol 0 is not spoken here, only 1"),
])
def test_another_protocol_is_refused_cleanly(proxy, path, hello, reason):
    """A version lower or higher is told so."""
    with connect(path) as sock:
        say(sock, {"Hello": hello})
        assert hear(sock)[0] == {"Error": reason}
    client(proxy).close()


def test_missing_fields_end_the_conversation(proxy, path, log):
    """A Hello without its fields is closed, with one line that names the field."""
    with connect(path) as sock:
        say(sock, {"Hello": {}})
        assert hear(sock)[0] is None
    assert any("field protocol of a message is missing" in m for m in log.messages)
    client(proxy).close()


def test_unknown_fields_are_ignored(proxy, path):
    """A later version may say more."""
    with connect(path) as sock:
        say(sock, {"Hello": HELLO["Hello"] | {"more": [1, 2]}})
        assert hear(sock)[0]["Hello"]["pid"] == os.getpid()


def test_a_second_successor_is_refused_while_one_is_busy(proxy, path):
    """It is told who has the reload, in either dialect."""
    with successor(path, 1), connect(path) as second, connect(path) as third:
        say(second, HELLO)
        third.send(b'"SendListeningSockets"')
        assert [hear(second)[0], hear(third)[0]] == [
            {"Error": f"another reload is in progress: pid {os.getpid()}"}] * 2


def test_the_sockets_of_the_wanted_addresses_are_lent(proxy, path):
    """Exactly the wanted listeners travel, in a packet that is the last."""
    address = str(proxy.sources[0].address)
    with successor(path, 1) as (sock, hello, received):
        say(sock, {"SendListeningSockets": {"addresses": [address, "127.0.0.1:1"]}})
        body, sockets = hear(sock)
        received += sockets
        assert (hello["Hello"]["listeners"], body, [s.getsockname()[1] for s in sockets]) == (
            [{"name": "v", "address": address}],
            {"ListeningSockets": {"addresses": [address], "last": True}},
            [proxy.sources[0].address.port])


def test_a_session_that_is_not_adopted_stays(proxy, path):
    """Refused sessions are counted by the reason, held no longer, and drained after Done."""
    with client(proxy) as session, successor(path, 5) as (sock, message, _):
        number = message["Sessions"][0]["id"]
        say(sock, {"Adopted": [], "Refused": {str(number): "not today"}})
        end = hear(sock)[0]
        ask(session)
        say(sock, {"Done": {}})
        assert session.recv(10) == b""
    end["End"].pop("longest_pause_ms")
    assert end == {"End": {"moved": 0, "kept": {"not today": 1}}}
    wait_until(proxy.ended.is_set)


def test_an_adopted_session_is_let_go_without_a_word(proxy, path):
    """The predecessor closes its copies; the connection itself lives on with the successor."""
    with client(proxy) as session:
        with successor(path, 5) as (sock, message, received):
            (offer,) = message["Sessions"]
            say(sock, {"Adopted": [offer["id"]], "Refused": {}})
            assert hear(sock)[0]["End"]["moved"] == 1
            wait_until(lambda: not proxy.sources[0].sessions)
            session.sendall(b"PING\r\n")
            (moved,) = received
            gsocket.wait_read(moved.fileno(), 5)
            assert moved.recv(100) == b"PING\r\n"
            moved.send(b"+moved\r\n")
            assert session.recv(100) == b"+moved\r\n"


def test_an_answer_at_the_last_moment_counts(proxy, path, monkeypatch):
    """When the wait is over, an answer that is in the queue already decides."""
    real = moving.Line.expect

    def late(line, *names, **options):
        if names == ("Adopted",):
            gevent.sleep(0.05)
            raise dialect.LeaseLost("too late")
        return real(line, *names, **options)

    monkeypatch.setattr(moving.Line, "expect", late)
    with client(proxy), successor(path, 5) as (sock, message, received):
        say(sock, {"Adopted": [message["Sessions"][0]["id"]], "Refused": {}})
        wait_until(lambda: not proxy.sources[0].sessions)
        received[0].send(b"still open")
    client(proxy).close()


@pytest.mark.parametrize("data", [b"{", b"[]", b"{}", b"\xff", b'{"Hello":1}', b'{"Hello":{"protocol":true}}'])
def test_what_is_no_message_changes_nothing(proxy, path, data):
    """It is closed, and clients are served."""
    with connect(path) as sock:
        sock.send(data)
        assert hear(sock)[0] is None
    client(proxy).close()
