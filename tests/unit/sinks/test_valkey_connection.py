"""One connection that many wait on: what is written when, who is woken with what, and how it ends.

The server is the other end of a socket pair that keeps the borders of each write.
"""

from __future__ import annotations

import array
import fcntl
import socket
import termios
from collections.abc import Iterator

import gevent
import pytest

from shotover_gevent.errors import UpstreamError
from shotover_gevent.net.park import Park
from shotover_gevent.net.stream import ReceiveBuffer, Stream
from shotover_gevent.sinks import valkey_connection as module
from shotover_gevent.sinks.valkey_connection import SharedConnection, Waiter, raise_failure
from tests.inprocess import until

SILENT_S = 0.02


class Upstream:
    """A shared connection, its server, and what has happened to those who waited."""

    def __init__(self, kind: int) -> None:
        ours, self.server = socket.socketpair(socket.AF_UNIX, kind)
        self.server.setblocking(False)
        self.failures: list[str | None] = []
        self._stream = Stream(ours, Park(), ReceiveBuffer())
        self.connection = SharedConnection(
            self._stream, lambda failed: self.failures.append(failed.failure))
        #: Who was woken, with what: bytes or a failure.
        self.woken: list[tuple[str, bytes | str]] = []

    def ask(self, name: str, raw: bytes, count: int = 1) -> Waiter:
        """Somebody asks."""
        waiter = Waiter(lambda: self.woken.append((name, waiter.failure or waiter.raw)))
        self.connection.ask(waiter, raw, count)
        return waiter

    def read(self, size: int = 1_000_000) -> bytes:
        """The next write, or for a stream what is there; waits for it."""
        return until(lambda: self._read_now(size))

    def _read_now(self, size: int) -> bytes:
        try:
            return self.server.recv(size)
        except BlockingIOError:
            return b""

    def answer(self, raw: bytes) -> None:
        """The server says something, and it is read."""
        self.server.send(raw)
        until(self._has_read)

    def _has_read(self) -> bool:
        unread = array.array("i", [0])
        if not self._stream.is_closed:
            fcntl.ioctl(self._stream.socket.fileno(), termios.FIONREAD, unread)
        return unread[0] == 0

    def fill(self) -> int:
        """Ask for more than the server's buffers hold; how many bytes that are."""
        raw = b"x" * 1_000_000
        self.ask("first", raw)
        self.ask("second", b"y" * 70_000)
        gevent.sleep(0)
        return len(raw)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """A connection whose writes can be told apart."""
    yield from opened(socket.SOCK_SEQPACKET)


@pytest.fixture
def streamed() -> Iterator[Upstream]:
    """A connection that takes a part of what is written when its buffers are full."""
    yield from opened(socket.SOCK_STREAM)


def opened(kind: int) -> Iterator[Upstream]:
    """A connection that is closed at the end."""
    made = Upstream(kind)
    yield made
    made.connection.close()
    made.server.close()
    gevent.sleep(0)


def test_what_is_asked_in_one_turn_leaves_in_one_write(upstream: Upstream) -> None:
    """In the order in which it was asked; the next turn is another write."""
    for name in "abc":
        upstream.ask(name, name.encode() * 2)
    first = upstream.read()
    upstream.ask("d", b"dd")
    assert (first, upstream.read(), upstream.connection.pending) == (b"aabbcc", b"dd", 4)


def test_nothing_leaves_before_the_turn_is_over(upstream: Upstream) -> None:
    """Whoever asks goes on to wait first, so that its greenlet can be woken."""
    upstream.ask("a", b"a")
    with pytest.raises(BlockingIOError):
        upstream.server.recv(10)
    assert upstream.read() == b"a"


def test_large_requests_are_not_copied_together(upstream: Upstream) -> None:
    """They leave one by one, in order."""
    upstream.ask("a", b"a" * module._JOINED_BYTES)
    upstream.ask("b", b"b")
    assert (len(upstream.read()), upstream.read()) == (module._JOINED_BYTES, b"b")


def test_replies_are_dealt_in_order(upstream: Upstream) -> None:
    """Each is woken once, when its last reply is there."""
    upstream.ask("a", b"a")
    upstream.ask("b", b"b", 2)
    upstream.ask("c", b"c")
    upstream.read()
    upstream.answer(b"+a\r\n+b1\r\n")
    between = list(upstream.woken)
    upstream.answer(b"-b2\r\n+c\r\n")
    assert (between, upstream.woken, upstream.connection.pending) == (
        [("a", b"+a\r\n")], [("a", b"+a\r\n"), ("b", b"+b1\r\n-b2\r\n"), ("c", b"+c\r\n")], 0)


def test_a_waiter_serves_again(upstream: Upstream) -> None:
    """The answers of one run are not those of the next; the moment of writing is the last one's."""
    waiter = upstream.ask("a", b"a")
    upstream.read()
    upstream.answer(b"-ERR 1\r\n")
    first = (waiter.raw, waiter.errors, waiter.written_at)
    waiter.parts.clear()
    waiter.errors = 0
    upstream.connection.ask(waiter, b"b", 1)
    upstream.read()
    upstream.answer(b":2\r\n")
    assert (first[:2], waiter.raw, waiter.errors, waiter.written_at > first[2] > 0) == (
        (b"-ERR 1\r\n", 1), b":2\r\n", 0, True)


def test_who_is_not_there_any_more_keeps_its_place(upstream: Upstream) -> None:
    """Whether it goes before or after its request has left; the others get their own."""
    gone = [upstream.ask("gone", b"g"), upstream.ask("gone, too", b"h")]
    upstream.ask("b", b"b")
    gone[0].abandon()
    sent = upstream.read()
    gone[1].abandon()
    upstream.answer(b"+secret\r\n+secret\r\n+b\r\n")
    assert (sent, upstream.woken) == (b"ghb", [("b", b"+b\r\n")])


def test_who_is_woken_may_ask_again_at_once(upstream: Upstream) -> None:
    """Also while others of the same read are still to be woken; that is the next write."""
    waiter = Waiter(lambda: upstream.ask("again", b"2"))
    upstream.connection.ask(waiter, b"1", 1)
    upstream.ask("b", b"b")
    upstream.read()
    upstream.answer(b"+1\r\n+b\r\n")
    again = upstream.read()
    upstream.answer(b"+2\r\n")
    assert (again, upstream.woken) == (b"2", [("b", b"+b\r\n"), ("again", b"+2\r\n")])


# -- a server that does not read --------------------------------------------------------------------


def test_what_the_server_does_not_take_is_kept_in_order(streamed: Upstream) -> None:
    """It leaves as the server reads, and what is asked meanwhile leaves after it."""
    size = streamed.fill()
    streamed.ask("third", b"z" * 10)
    received = b""
    while len(received) < size + 70_010:
        received += streamed.read()
    streamed.ask("fourth", b"after")
    assert (received == b"x" * size + b"y" * 70_000 + b"z" * 10, streamed.read()) == (True, b"after")


def test_replies_come_while_requests_are_kept(streamed: Upstream) -> None:
    """A server that answers before it has read everything is listened to."""
    streamed.fill()
    streamed.answer(b"+early\r\n")
    assert (streamed.woken, streamed.connection.pending) == ([("first", b"+early\r\n")], 1)


def test_a_server_that_takes_nothing_is_given_up(streamed: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time of a stall; all who wait are told, those who have not been sent yet, too."""
    monkeypatch.setattr(module, "SEND_STALL_S", SILENT_S)
    streamed.fill()
    streamed.ask("third", b"z")
    until(lambda: len(streamed.woken) == 3)
    text = "IO error the server takes nothing"
    assert (streamed.woken, streamed.failures) == (
        [("first", text), ("second", text), ("third", text)], [text])


def test_a_slow_server_is_not_given_up(streamed: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it takes gives it the whole time again, and when it has all there is no clock."""
    started: list[int] = []
    start = SharedConnection._start_stall
    monkeypatch.setattr(SharedConnection, "_start_stall", lambda self: (started.append(1), start(self))[1])
    size = streamed.fill()
    before, received = len(started), 0
    while received < size + 70_000:
        received += len(streamed.read(100_000))
    gevent.sleep(0)
    assert (before, len(started) > 2, streamed.connection._stall, streamed.failures) == (1, True, None, [])


def test_a_server_that_goes_while_requests_are_kept(streamed: Upstream) -> None:
    """All who wait are told, and nothing is left of what was kept."""
    streamed.fill()
    streamed.server.close()
    until(lambda: len(streamed.woken) == 2)
    assert (len(streamed.failures), streamed.connection._backlog, streamed.connection.pending) == (1, [], 0)


# -- the end ----------------------------------------------------------------------------------------

CLOSED = "The other side of this connection closed the connection"


def test_the_end_is_told_to_all_who_wait(streamed: Upstream) -> None:
    """To each once, and to the owner of the connection."""
    streamed.ask("a", b"a")
    streamed.ask("b", b"b", 2)
    streamed.read()
    streamed.answer(b":1\r\n:2\r\n")
    streamed.server.close()
    until(lambda: streamed.failures)
    gevent.sleep(0)
    assert (streamed.woken, streamed.failures, repr(streamed.connection)) == (
        [("a", b":1\r\n"), ("b", CLOSED)], [CLOSED], f"<SharedConnection failed: {CLOSED}>")


def test_the_end_is_told_to_those_who_have_just_asked(streamed: Upstream) -> None:
    """They need not have been sent."""
    streamed.ask("a", b"a")
    streamed.connection.close()
    between = list(streamed.woken)
    gevent.sleep(0)
    assert (between, streamed.woken) == ([], [("a", "Shotover closed the connection")])


def test_nobody_is_told_when_nobody_waits(streamed: Upstream) -> None:
    """But the owner is, once, whatever happens after that."""
    streamed.server.close()
    until(lambda: streamed.failures)
    streamed.connection.close()
    gevent.sleep(0)
    assert (streamed.woken, streamed.failures) == ([], [CLOSED])


@pytest.mark.parametrize(
    ("raw", "failure"),
    [(b"+a\r\n+b\r\n+extra\r\n", r"Message decode error b'+extra\r\n' answers nothing"),
     (b"+a\r\n+b\r\nnonsense", "Message decode error no value begins with b'n': b'nonsense'")], ids=repr)
def test_nonsense_ends_the_connection(upstream: Upstream, raw: bytes, failure: str) -> None:
    """Who was answered before it has its answer."""
    upstream.ask("a", b"a")
    upstream.ask("b", b"b")
    upstream.read()
    upstream.answer(raw)
    assert (upstream.woken, upstream.failures) == ([("a", b"+a\r\n"), ("b", b"+b\r\n")], [failure])


def test_nonsense_is_told_to_those_who_wait(upstream: Upstream) -> None:
    """They get nothing of it, and those before it their answer."""
    upstream.ask("a", b"a")
    upstream.ask("b", b"b")
    upstream.read()
    upstream.answer(b"+a\r\nnonsense")
    text = "Message decode error no value begins with b'n': b'nonsense'"
    assert (upstream.woken, upstream.failures) == ([("a", b"+a\r\n"), ("b", text)], [text])


def test_who_goes_as_the_connection_does_is_not_woken(streamed: Upstream) -> None:
    """Its greenlet is another's by then, or dead."""
    waiter = streamed.ask("a", b"a")
    streamed.connection.close()
    waiter.abandon()
    gevent.sleep(0)
    assert streamed.woken == []


def test_a_failure_is_raised_once() -> None:
    """What was received of a broken run is thrown away; the waiter serves again."""
    waiter = Waiter(lambda: None)
    waiter.failure = "why"
    waiter.parts.append(b"half")
    with pytest.raises(UpstreamError, match="^why$"):
        raise_failure(waiter)
    assert (waiter.failure, waiter.raw) == (None, b"")


def test_a_connection_shows_who_waits(upstream: Upstream) -> None:
    """Those whose request has left, and those whose has not."""
    upstream.ask("a", b"a")
    upstream.read()
    upstream.ask("b", b"b")
    assert repr(upstream.connection) == "<SharedConnection 2 waiting>"
