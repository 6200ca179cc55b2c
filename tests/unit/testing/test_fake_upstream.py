"""A fake upstream does what its script says, and records what it got."""

from __future__ import annotations

import re
from collections.abc import Sequence

import gevent
import pytest
from gevent import socket as gsocket

from shotover_gevent.codecs.batch import Message
from shotover_gevent.testing import (
    CLOSE, HANG, RESET, AnsweringUpstream, Client, Delay, Expect, FakeUpstream, Send, UpstreamConnection, command,
)


def connect(upstream: FakeUpstream) -> Client:
    """A client that lets the hub run while it waits."""
    return Client(gsocket.create_connection(("127.0.0.1", upstream.port), timeout=5))


def test_a_script_expects_and_sends() -> None:
    """Step by step, and closes when it is over."""
    with FakeUpstream([Expect(b"one"), Send(b"1"), Delay(0.01), Send(b"2")]) as upstream:
        with connect(upstream) as client:
            client.ask(b"one", b"12")
            client.eof()
        assert upstream.received == [b"one"]


@pytest.mark.parametrize("ending", [CLOSE, RESET], ids=repr)
def test_an_answer_is_cut_in_the_middle(ending: object) -> None:
    """By the end, or by a reset."""
    with FakeUpstream([Expect(b"x"), Send(b"$5\r\nhe"), ending]) as upstream, connect(upstream) as client:  # type: ignore[list-item]
        client.ask(b"x", b"$5\r\nhe")
        if ending is CLOSE:
            client.eof()
        else:
            with pytest.raises(ConnectionResetError):
                client.receive(1)


def test_a_hanging_upstream_takes_everything_and_answers_nothing() -> None:
    """Until the other side closes."""
    with FakeUpstream([HANG]) as upstream:
        with connect(upstream) as client:
            client.send(b"anybody?")
            client.silent(0.02)
            assert [c.received for c in upstream.open_connections] == [b"anybody?"]
        assert upstream.connections[0].closed.wait(5)


def test_each_connection_has_its_script() -> None:
    """In their order; the last one is for all further ones."""
    with FakeUpstream([Send(b"a")], [Send(b"b")]) as upstream:
        got = []
        for _ in range(3):
            with connect(upstream) as client:
                got.append(client.receive(2))
    assert got == [b"a", b"b", b"b"]


def test_a_script_may_be_a_function() -> None:
    """It gets the connection, which is closed when it returns."""

    def greet(connection: UpstreamConnection) -> None:
        connection.send(b"hello " + connection.until(b"\n"))

    with FakeUpstream(greet) as upstream, connect(upstream) as client:
        client.ask(b"you\n", b"hello you\n")
        client.eof()


def test_a_script_that_fails_fails_the_test() -> None:
    """At the end of the block, with what came instead."""
    with pytest.raises(AssertionError) as caught, FakeUpstream([Expect(b"GET")]) as upstream:
        with connect(upstream) as client:
            client.send(b"SET")
            client.eof()
    assert str(caught.value.__cause__) == "expected b'GET', received b'SET'"


def test_a_script_that_is_not_over_fails_the_test() -> None:
    """What it waits for has to come."""
    with pytest.raises(AssertionError) as caught, FakeUpstream([Expect(b"GET")]) as upstream:
        with connect(upstream) as client:
            client.send(b"GE")
            upstream.wait_connection()
            client.silent(0.01)
    assert re.sub(r":\d+", ":PORT", str(caught.value)) == (
        "the script of <FakeUpstream stopped, 0 of 1 connections open> is not over: b'GET' did not come")


def test_the_end_of_the_block_ends_everything() -> None:
    """Connections are closed, and nobody listens any more."""
    with FakeUpstream([HANG]) as upstream:
        client = connect(upstream)
        upstream.wait_connection()
        port = upstream.port
    client.eof()
    client.close()
    assert (upstream.errors, upstream.open_connections) == ([], [])
    with pytest.raises(ConnectionRefusedError):
        gsocket.create_connection(("127.0.0.1", port), timeout=5)


def test_a_script_is_needed() -> None:
    """What answers nothing says so."""
    with pytest.raises(TypeError) as caught:
        FakeUpstream()
    assert str(caught.value) == "a fake upstream needs a script; to answer nothing: [HANG]"


@pytest.mark.parametrize(
    ("protocol", "requests", "expected"),
    [
        ("Valkey", [command("GET", "k"), b"ping\r\n"], b"$5\r\nGET k\r\n$4\r\nping\r\n"),
        ("Tcp", [b"any ", b"bytes"], b"any bytes"),
    ], ids=["Valkey", "Tcp"])
def test_an_answering_upstream_shows_what_it_was_asked(
    protocol: str, requests: Sequence[bytes], expected: bytes
) -> None:
    """Each request is answered, in its order, in pieces or not."""
    with AnsweringUpstream(protocol=protocol) as upstream, connect(upstream) as client:
        client.ask(b"".join(requests), expected)
        for byte in b"".join(requests):
            client.send(bytes([byte]))
        client.expect(expected)
        assert (upstream.answered_bytes, upstream.received) == (2 * len(expected), [b"".join(requests) * 2])


def test_the_answers_may_be_those_of_the_test() -> None:
    """A function makes the bytes of an answer of a request."""

    def reverse(request: Message) -> bytes:
        return b"+%b\r\n" % request.frame[0][::-1]

    with AnsweringUpstream(reverse) as upstream, connect(upstream) as client:
        client.ask(command("PING"), b"+GNIP\r\n")


def test_the_next_answer_is_cut() -> None:
    """After some bytes, once; the next connection is answered."""
    with AnsweringUpstream() as upstream:
        upstream.cut_next(3, CLOSE)
        with connect(upstream) as client:
            client.ask(b"PING\r\n", b"$4\r")
            client.eof()
        with connect(upstream) as client:
            client.ask(b"PING\r\n", b"$4\r\nPING\r\n")


def test_a_connection_that_does_not_come_is_told() -> None:
    """Waiting for it ends."""
    with FakeUpstream([HANG]) as upstream, gevent.Timeout(5), pytest.raises(AssertionError) as caught:
        upstream.wait_connection(0, timeout_s=0.02)
    assert str(caught.value) == "connection 0 did not come"
