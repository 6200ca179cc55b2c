"""One client of a Tcp source: bytes both ways, each way on its own."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable

import gevent
import pytest
from gevent.event import Event

from shotover_gevent.chain import Batch, Next, TransformConfig
from shotover_gevent.codecs.raw import RAW
from shotover_gevent.deadline import Deadline
from shotover_gevent.sinks.tcp_single import TcpSinkSingle
from shotover_gevent.sources import relay as module
from shotover_gevent.sources.base import EndReason
from shotover_gevent.sources.source import Source
from tests.client import Client
from tests.inprocess import ScriptedServer, Step, connect, reset, serving, until

# More than all socket buffers of both connections take together.
MUCH = os.urandom(1 << 20) * 24


def relaying(server: ScriptedServer, *above: TransformConfig):
    """A Tcp source in front of the server."""
    sink = TcpSinkSingle(name="t", remote_address=str(server.address), connect_timeout_ms=1000)
    return serving(*above, sink, type_name="Tcp")


def read_all(client: Client) -> bytes:
    """Everything until the end."""
    return b"".join(iter(lambda: client.socket.recv(1 << 20), b""))


def echo(client: Client) -> None:
    """A server that answers with what it gets."""
    while data := client.socket.recv(65536):
        client.send(data)


def ends(log: pytest.LogCaptureFixture) -> list[str]:
    """The reason of each session that has closed."""
    return [record.fields["reason"] for record in log.records if record.message == "session closed"]  # type: ignore


def loud(log: pytest.LogCaptureFixture) -> list[str]:
    """Warnings and errors."""
    return [record.message for record in log.records if record.levelno >= logging.WARNING]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The log, from INFO on."""
    caplog.set_level(logging.INFO)
    return caplog


def test_a_server_may_speak_first(log: pytest.LogCaptureFixture) -> None:
    """The connection to it is made at once, and bytes flow whoever begins."""

    def greet(client: Client) -> None:
        client.send(b"hello")
        client.expect(b"bye")

    with ScriptedServer(greet) as server, relaying(server) as source, connect(source) as client:
        client.expect(b"hello")
        client.send(b"bye")
        client.eof()
        client.close()
        until(lambda: ends(log))
    assert (ends(log), loud(log)) == (["client closed"], [])


def test_both_sides_may_send_much_at_once() -> None:
    """Nothing waits for the other direction."""

    def serve(client: Client) -> None:
        sending = gevent.spawn(client.send, MUCH)
        received.append(client.receive(len(MUCH)) == MUCH)
        sending.get(timeout=5)
        client.socket.shutdown(socket.SHUT_WR)
        client.eof()

    received: list[bool] = []
    with ScriptedServer(serve) as server, relaying(server) as source, connect(source) as client:
        sending = gevent.spawn(client.send, MUCH)
        received.append(client.receive(len(MUCH)) == MUCH)
        sending.get(timeout=5)
        client.eof()
        counted = source.bytes_received.value, source.bytes_sent.value
    assert (received, counted) == ([True, True], (len(MUCH), len(MUCH)))


def test_the_end_of_one_direction_leaves_the_other(log: pytest.LogCaptureFixture) -> None:
    """Whoever ends first still gets everything, after all that was held back."""

    def serve(client: Client) -> None:
        data = read_all(client)
        client.send(data[::-1])
        client.send(b"!")

    with ScriptedServer(serve) as server, relaying(server) as source, connect(source) as client:
        client.send(MUCH[: 1 << 21])
        client.socket.shutdown(socket.SHUT_WR)
        answer = read_all(client)
    assert answer == MUCH[: 1 << 21][::-1] + b"!"

    def greet(client: Client) -> None:
        client.send(b"hello")
        client.socket.shutdown(socket.SHUT_WR)
        heard.append(read_all(client))

    heard: list[bytes] = []
    with ScriptedServer(greet) as server, relaying(server) as source, connect(source) as client:
        client.expect(b"hello")
        client.eof()
        client.send(b"late")
        client.socket.shutdown(socket.SHUT_WR)
        until(lambda: heard)
    assert (heard, loud(log)) == ([b"late"], [])


def test_a_side_that_does_not_read_is_not_read_for() -> None:
    """At most one read is kept; what comes later is left to the kernel, and nothing is lost."""
    may_read = Event()
    kept = []

    def serve(client: Client) -> None:
        may_read.wait()
        kept.append(len(down.backlog or b""))
        got.append(read_all(client) == MUCH)

    got: list[bool] = []
    with ScriptedServer(serve) as server, relaying(server) as source, connect(source) as client:
        sending = gevent.spawn(lambda: (client.send(MUCH), client.socket.shutdown(socket.SHUT_WR)))
        session = until(lambda: next(iter(source.sessions), None))
        until(lambda: session._directions)  # type: ignore[attr-defined]
        down = session._directions[0]  # type: ignore[attr-defined]
        until(lambda: down.backlog is not None and down.source.is_paused)
        was_sending = not sending.dead
        may_read.set()
        sending.get(timeout=10)
        client.eof()
    assert (was_sending, got, 0 < kept[0] <= module.READ_BYTES) == (True, [True], True)


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_side_that_takes_nothing_for_long_is_given_up(
    who: str, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    """Both connections are reset, so that neither takes what it got for everything."""
    monkeypatch.setattr(module, "SEND_STALL_S", 0.1)
    over = Event()

    def sends_much(client: Client) -> None:
        try:
            client.send(MUCH * 2)
        except ConnectionError:
            over.set()

    def reads_nothing(client: Client) -> None:
        over.wait()

    server_does, client_does = (sends_much, reads_nothing) if who == "client" else (reads_nothing, sends_much)
    with ScriptedServer(server_does) as server, relaying(server) as source, connect(source) as client:
        client_does(client)
        assert over.is_set()
        until(lambda: ends(log))
    assert (ends(log), loud(log)) == (["client lost"], [])


@pytest.mark.parametrize("breaker", ["client", "server"])
@pytest.mark.parametrize("before", [b"", b"part of something"], ids=["silent", "talking"])
def test_a_reset_is_passed_on(breaker: str, before: bytes, log: pytest.LogCaptureFixture) -> None:
    """A stream that was cut off does not look like one that has ended; that is no error of ours."""
    arrived = Event()
    seen: list[str] = []

    def suffer(client: Client) -> None:
        client.expect(before)
        arrived.set()
        try:
            seen.append(repr(client.socket.recv(10)))
        except ConnectionResetError:
            seen.append("reset")

    def break_off(client: Client) -> None:
        client.send(before)
        arrived.wait()
        reset(client)

    server_does, client_does = (suffer, break_off) if breaker == "client" else (break_off, suffer)
    with ScriptedServer(server_does) as server, relaying(server) as source, connect(source) as client:
        until(lambda: server.connections)
        client_does(client)
        until(lambda: seen and ends(log))
    assert (seen, ends(log), loud(log)) == (["reset"], ["client lost"], [])


def test_a_server_that_is_down_closes_the_client(log: pytest.LogCaptureFixture) -> None:
    """No byte is sent; one line says why."""
    with ScriptedServer(echo) as server:
        address = server.address
    with relaying(server) as source, connect(source) as client:
        client.send(b"anybody?")
        client.eof()
        client.close()
        until(lambda: ends(log))
    assert (ends(log), loud(log)) == (["failed"], [
        "connection was unexpectedly terminated\n\nCaused by:\n"
        "    0: Failed to send and/or receive messages, the connection will now be closed.\n"
        f"    1: Failed to connect to destination {address}\n    2: Connection refused (os error 111)"])


def test_transforms_see_and_change_the_bytes_of_both_directions() -> None:
    """What a transform keeps to itself is not sent."""

    def run(requests: Batch, next: Next) -> Batch:
        if requests.raw == b"drop":
            return Batch(RAW, b"", ())
        return next(Batch(RAW, requests.raw.upper(), ()))

    def pushed(pushes: Batch, forward: Callable[[Batch], None]) -> None:
        forward(Batch(RAW, b"<" + pushes.raw + b">", ()))

    step = Step(name="a", run=run, pushed=pushed)
    with ScriptedServer(echo) as server, relaying(server, step) as source, connect(source) as client:
        client.ask(b"one", b"<ONE>")
        client.send(b"drop")
        client.silent(0.02)
        client.ask(b"two", b"<TWO>")


@pytest.mark.parametrize("direction", ["down", "up"])
def test_a_transform_that_fails_ends_the_session(direction: str, log: pytest.LogCaptureFixture) -> None:
    """One line names it; both connections are closed."""

    def fail(*args: object) -> Batch:
        raise ValueError("no")

    step = Step(name="a", run=fail) if direction == "down" else Step(name="a", pushed=fail)
    with ScriptedServer(echo) as server, relaying(server, step) as source, connect(source) as client:
        client.send(b"x")
        client.eof()
        client.close()
        until(lambda: ends(log))
    texts = ["Transform Step named a failed in chain s", "no"] if direction == "down" else ["no"]
    lines = [f"    {number}: {text}" for number, text in enumerate(texts, 1)]
    assert (ends(log), loud(log)) == (["failed"], ["\n".join([
        "connection was unexpectedly terminated\n\nCaused by:",
        "    0: Failed to send and/or receive messages, the connection will now be closed.", *lines])])


def stop_all(source: Source) -> None:
    """Ask every session to stop."""
    for session in source.sessions:
        session.stop(EndReason.DRAIN)


def test_a_stop_waits_until_nothing_moves(log: pytest.LogCaptureFixture) -> None:
    """As long as bytes flow the session goes on; then both sides see the end."""
    with ScriptedServer(echo) as server, relaying(server) as source, connect(source) as client:
        client.ask(b"x", b"x")
        stop_all(source)
        for _ in range(6):
            gevent.sleep(module.QUIET_S / 4)
            client.ask(b"y", b"y")
        client.eof()
        client.close()
        until(lambda: ends(log))
    assert (ends(log), loud(log)) == (["drain"], [])


def test_a_stop_does_not_cut_off_what_is_held_back(
    monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    """What one side has sent arrives, though the other is slow to take it."""
    monkeypatch.setattr(module, "QUIET_S", 0.02)
    may_read = Event()
    got: list[int] = []

    def serve(client: Client) -> None:
        may_read.wait()
        got.append(len(client.receive(len(MUCH))))

    with ScriptedServer(serve) as server, relaying(server) as source, connect(source) as client:
        sending = gevent.spawn(client.send, MUCH)
        session = until(lambda: next(iter(source.sessions), None))
        until(lambda: session._directions and session._directions[0].backlog)  # type: ignore[attr-defined]
        stop_all(source)
        gevent.sleep(0.1)
        may_read.set()
        sending.get(timeout=10)
        until(lambda: got)
        client.eof()
    assert got == [len(MUCH)]


def test_a_stream_that_never_rests_is_cut_off_at_the_deadline(log: pytest.LogCaptureFixture) -> None:
    """The source ends although bytes still flow."""

    def pour(client: Client) -> None:
        try:
            while True:
                client.send(b"x" * 1000)
                gevent.sleep(0.005)
        except ConnectionError:
            pass

    with ScriptedServer(pour) as server, relaying(server) as source, connect(source) as client:
        client.expect(b"x" * 1000)
        source.stop(Deadline.after(0.05))
    assert (ends(log), loud(log)) == (["aborted"], ["1 sessions did not end in time and are closed"])
