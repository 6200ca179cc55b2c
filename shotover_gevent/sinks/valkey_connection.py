"""One connection to a server that many sessions use at the same time.

Rules:
 1. What the sessions of one turn of the hub send leaves in one write, in the order in which they sent
    it. So the replies come in that order, and are dealt out in it (:mod:`~shotover_gevent.codecs.resp_deal`).
 2. All of it runs in the hub: nothing here waits, and a session is switched to only when its answer is
    complete. A client that takes its answer slowly keeps nobody waiting but itself.
 3. A session whose greenlet is ended while it waits keeps its place among those that wait: what is its
    own is thrown away, and never given to anybody else.
 4. When the connection breaks, all who wait are told; it is never used again.
 5. What is kept for a server that does not read is at most one run of every session, and for no longer than
    :data:`~shotover_gevent.net.stream.SEND_STALL_S`.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

from gevent import get_hub

from shotover_gevent.codecs.resp_deal import ReplyDealer, Share
from shotover_gevent.errors import PeerError, UpstreamError, os_error_text
from shotover_gevent.net.park import HubPark
from shotover_gevent.net.stream import SEND_STALL_S, Stream
from shotover_gevent.sinks.valkey_dedicated import CLOSED

# One read. Each is copied to be dealt out; what fits into the cache of a core is copied at half the cost.
READ_BYTES = 32 * 1024

# As long as reads are full there is more. So much of one connection, and the others have their turn.
MAX_READS = 16

# Small requests are joined, which costs less than a system call for each; large ones are not copied.
_JOINED_BYTES = 64 * 1024

CLOSED_HERE = "Shotover closed the connection"


class Waiter(Share):
    """A session that waits for the answers to its requests. It serves for one run after the other."""

    __slots__ = ("request", "written_at", "failure", "wake")

    def __init__(self, wake: Callable[[], Any]) -> None:
        """``wake`` resumes the greenlet that waits; it is called in the hub."""
        super().__init__(0)
        self.request: bytes = b""
        #: When the request left, as ``perf_counter()``.
        self.written_at = 0.0
        self.failure: str | None = None
        self.wake = wake

    def abandon(self) -> None:
        """Nobody waits any more."""
        self.wake = _nobody


def _nobody() -> None:
    """Whom an abandoned waiter wakes."""


class SharedConnection:
    """A connection with the identity of its group. ``failure`` says why it is of no use any more."""

    __slots__ = (
        "failure", "received_at", "_stream", "_dealer", "_unsent", "_backlog", "_stall", "_on_failure")

    def __init__(self, stream: Stream, on_failure: Callable[[SharedConnection], None]) -> None:
        """Take ownership of a stream whose handshake is over."""
        self.failure: str | None = None
        #: When the last replies came, as ``perf_counter()``.
        self.received_at = 0.0
        self._dealer = ReplyDealer()
        self._unsent: list[Waiter] = []
        self._backlog: list[memoryview] = []
        self._stall: Any = None
        self._on_failure = on_failure
        self._stream = stream
        stream.move(HubPark(self._receive))

    @property
    def pending(self) -> int:
        """How many sessions wait."""
        return len(self._dealer.waiting) + len(self._unsent)

    def ask(self, waiter: Waiter, raw: bytes, count: int) -> None:
        """Send ``count`` requests; the waiter's greenlet parks in the hub right after this.

        It is resumed when ``waiter`` has all answers, or a ``failure``.
        """
        waiter.request = raw
        waiter.missing = count
        if not self._unsent:
            self._stream.park.loop.run_callback(self._flush)
        self._unsent.append(waiter)

    # -- sending --------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Send what was collected in this turn of the hub."""
        unsent = self._unsent
        if not unsent or self.failure is not None:
            return
        self._unsent = []
        now = perf_counter()
        requests = []
        for waiter in unsent:
            waiter.written_at = now
            requests.append(waiter.request)
            waiter.request = b""
        if len(requests) > 1 and sum(map(len, requests)) <= _JOINED_BYTES:
            requests = [b"".join(requests)]
        self._dealer.waiting.extend(unsent)
        try:
            for raw in requests:
                self._send(raw)
        except OSError as error:
            self._fail(f"IO error {os_error_text(error)}")

    def _send(self, raw: bytes) -> None:
        if self._backlog:
            self._backlog.append(memoryview(raw))
            return
        sent = self._stream.try_send(raw)
        if sent != len(raw):
            self._backlog.append(memoryview(raw)[sent:])
            self._stream.call_when_writable(self._send_backlog)
            self._start_stall()

    def _send_backlog(self) -> None:
        """Called in the hub while the server takes bytes again."""
        try:
            while self._backlog:
                rest = self._backlog[0]
                sent = self._stream.try_send(rest)
                if sent:
                    self._start_stall()
                if sent != len(rest):
                    self._backlog[0] = rest[sent:]
                    return
                del self._backlog[0]
        except OSError as error:
            self._fail(f"IO error {os_error_text(error)}")
            return
        self._stream.stop_writable()
        self._stop_stall()

    def _start_stall(self) -> None:
        self._stop_stall()
        self._stall = self._stream.park.loop.timer(SEND_STALL_S)
        self._stall.start(self._fail, "IO error the server takes nothing")

    def _stop_stall(self) -> None:
        if self._stall is not None:
            self._stall.stop()
            self._stall.close()
            self._stall = None

    # -- receiving ------------------------------------------------------------------------------

    def _receive(self, stream: Stream) -> None:
        """Called in the hub when replies are there."""
        done: list[Any] = []
        try:
            for _ in range(MAX_READS):
                count = stream.receive(READ_BYTES)
                if count > 0:
                    self.received_at = perf_counter()
                    self._dealer.feed(bytes(stream.buffer.view[:count]), done)
                elif count == 0:
                    self._fail(CLOSED)
                if count != READ_BYTES:
                    break
        except OSError as error:
            self._fail(f"IO error {os_error_text(error)}")
        except PeerError as error:
            self._fail(f"Message decode error {error}")
        for waiter in done:
            waiter.wake()

    # -- ending ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection; whoever still waits is told."""
        self._fail(CLOSED_HERE)

    def _fail(self, reason: str) -> None:
        """End the connection, and tell all who wait."""
        if self.failure is not None:
            return
        self.failure = reason
        self._stop_stall()
        self._backlog.clear()
        waiting = [*self._dealer.waiting, *self._unsent]
        self._dealer.waiting.clear()
        self._unsent = []
        self._stream.close()
        for waiter in waiting:
            waiter.failure = reason
        self._on_failure(self)
        if waiting:
            # Not from here: whoever calls this may be a greenlet of its own.
            get_hub().loop.run_callback(_wake_all, waiting)

    def __repr__(self) -> str:
        state = f"failed: {self.failure}" if self.failure else f"{self.pending} waiting"
        return f"<SharedConnection {state}>"


def _wake_all(waiters: list[Waiter]) -> None:
    for waiter in waiters:
        waiter.wake()


def raise_failure(waiter: Waiter) -> None:
    """Raise what has broken the connection of a waiter."""
    reason, waiter.failure = waiter.failure, None
    waiter.parts.clear()
    raise UpstreamError(reason or CLOSED)
