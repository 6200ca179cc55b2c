"""One client of a ``Tcp`` source: bytes both ways, until both sides have ended.

Rules:
 1. The two directions are independent: one that cannot go on holds up only itself.
 2. Back-pressure: while a side does not take what it was sent, nothing is read for it. What is kept
    is at most one read.
 3. A half-close is passed on: the end of one side's bytes ends the other side's input, and the
    opposite direction goes on.
 4. A byte stream shows no boundaries; a session that is told to stop ends when nothing was moving
    either way for :data:`QUIET_S`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from shotover_gevent.codecs.batch import Batch
from shotover_gevent.codecs.raw import RAW
from shotover_gevent.errors import UpstreamError
from shotover_gevent.net.stream import SEND_STALL_S, Stream
from shotover_gevent.sinks.tcp_single import TcpSink
from shotover_gevent.sources.session import BaseSession, EndReason

if TYPE_CHECKING:
    from shotover_gevent.sources.source import Source

# Longer than a round trip within a data centre, so that a request and its answer count as one.
QUIET_S = 0.2

Change = Callable[[Any], bytes]


class Direction:
    """Bytes from one stream to the other; it owns neither."""

    __slots__ = ("source", "target", "change", "backlog", "has_ended", "error", "stalled_since")

    def __init__(self, source: Stream, target: Stream, change: Change | None) -> None:
        self.source = source
        self.target = target
        self.change = change
        self.backlog: memoryview | None = None
        self.has_ended = False
        self.error: OSError | None = None
        self.stalled_since = 0.0
        source.owner = self

    def pump(self) -> None:
        """Move what ``source`` has, as far as ``target`` takes it. Raises ``OSError``."""
        source = self.source
        count = source.receive()
        if count > 0:
            data: Any = source.buffer.view[:count]
            if self.change is not None:
                data = self.change(data)
                count = len(data)
            sent = self.target.try_send(data) if count else 0
            if sent != count:
                self._hold(bytes(data[sent:]))
        elif count == 0:
            source.pause()
            self.has_ended = True
            self.target.socket.shutdown(socket.SHUT_WR)

    def _hold(self, rest: bytes) -> None:
        """Keep what the target does not take, and read nothing more until it does."""
        self.backlog = memoryview(rest)
        self.stalled_since = monotonic()
        self.source.pause()
        self.target.call_when_writable(self._flush)

    def _flush(self) -> None:
        """Called in the hub when the target takes bytes again."""
        assert self.backlog is not None
        try:
            sent = self.target.try_send(self.backlog)
        except OSError as error:
            self.error = error
            sent = len(self.backlog)
        self.stalled_since = monotonic()
        self.backlog = self.backlog[sent:] or None
        if self.backlog is None:
            self.target.stop_writable()
            self.source.resume()
            self.source.park.wake()


class RelaySession(BaseSession):
    """One client of a ``Tcp`` source."""

    __slots__ = ("_directions",)

    def __init__(self, source: Source, session_id: int, sock: socket.socket, peer: Any) -> None:
        """Take ownership of the accepted socket."""
        super().__init__(source, session_id, sock, peer)
        self._directions: tuple[Direction, ...] = ()

    def _serve(self) -> EndReason:
        assert self._chain is not None and self._client is not None
        sink = self._chain.transforms[-1]
        assert isinstance(sink, TcpSink), "the models let nothing else end a Tcp chain"
        try:
            upstream = sink.connect()
        except UpstreamError as error:
            self._report(error, 0)
            return EndReason.FAILED
        down, up = self._changes(sink)
        self._directions = (
            Direction(self._client, upstream, down), Direction(upstream, self._client, up))
        try:
            return self._relay()
        except ConnectionError:
            return EndReason.LOST

    def _changes(self, sink: TcpSink) -> tuple[Change | None, Change | None]:
        """What the chain does to the bytes each way; nothing if the sink stands alone."""
        chain, context = self._chain, self._context
        assert chain is not None and context is not None
        if len(chain.transforms) == 1:
            return None, None

        def down(data: Any) -> bytes:
            chain.run(Batch(RAW, bytes(data), ()))
            return sink.take_outgoing()

        def up(data: Any) -> bytes:
            sink.push_bytes(bytes(data))
            return context.take_pushed()

        return down, up

    def _relay(self) -> EndReason:
        park, (down, up) = self.park, self._directions
        assert park is not None
        while True:
            timeout_s = self._check()
            if timeout_s == 0:
                return self._stop_reason or EndReason.CLIENT
            self.idle_since = monotonic()
            stream = park.wait_any(timeout_s)
            if stream is not None:
                self.requests += stream is down.source
                stream.owner.pump()
                if down.has_ended and up.has_ended:
                    return EndReason.CLIENT
            elif self._stop_reason is not None and monotonic() - self.idle_since >= QUIET_S:
                if down.backlog is None and up.backlog is None:
                    return self._stop_reason

    def _check(self) -> float | None:
        """How long to wait at most; 0 to end. Raises what broke a direction in the hub."""
        timeout_s = None if self._stop_reason is None else QUIET_S
        for direction in self._directions:
            if direction.error is not None:
                raise direction.error
            if direction.backlog is not None:
                if monotonic() - direction.stalled_since > SEND_STALL_S:
                    return 0
                timeout_s = timeout_s or SEND_STALL_S
        return timeout_s

    def _emit(self, pushes: Batch) -> None:
        assert self._context is not None
        self._context.pushed.append(pushes.raw)
