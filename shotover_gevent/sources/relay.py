"""One client of a ``Tcp`` source: bytes both ways, until both sides have ended.

Rules:
 1. The two directions are independent: one that cannot go on holds up only itself.
 2. Back-pressure: while a side does not take what it was sent, nothing is read for it. What is kept
    is at most one read.
 3. A half-close is passed on: the end of one side's bytes ends the other side's input, and the
    opposite direction goes on.
 4. A connection that breaks on one side is reset on the other: a stream that was cut off must not
    look like one that has ended.
 5. A byte stream shows no boundaries; a session that is told to stop ends when nothing was moving
    either way for :data:`QUIET_S`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar

from shotover_gevent.chain.handoff import (
    EXPORTED,
    PINS,
    REBUILT,
    Fate,
    Luggage,
    Pinned,
    pack_bytes,
    unpack_bytes,
)
from shotover_gevent.codecs.batch import Batch
from shotover_gevent.codecs.raw import RAW
from shotover_gevent.errors import SessionEnd, UpstreamError
from shotover_gevent.metrics import Counter
from shotover_gevent.net.stream import SEND_STALL_S, Stream
from shotover_gevent.sinks.tcp_single import TcpSink
from shotover_gevent.sources.base import BaseSession, EndReason, Hold

if TYPE_CHECKING:
    from shotover_gevent.sources.source import Source

# Longer than a round trip within a data centre, so that a request and its answer count as one.
QUIET_S = 0.2

# One read. What the other side does not take of it is kept, and has to fit, twice, into one packet
# when the session moves to another process.
READ_BYTES = 64 * 1024

Change = Callable[[Any], bytes]


class Direction:
    """Bytes from one stream to the other; it owns neither."""

    __slots__ = (
        "source", "target", "change", "backlog", "has_ended", "error", "stalled_since", "count",
    )

    fates: ClassVar[Mapping[str, Fate]] = {
        "source": REBUILT, "target": REBUILT, "change": REBUILT, "backlog": EXPORTED,
        "has_ended": EXPORTED, "error": PINS, "stalled_since": REBUILT, "count": REBUILT,
    }

    def __init__(
        self, source: Stream, target: Stream, change: Change | None, count: Counter
    ) -> None:
        """``count`` counts the bytes that ``source`` brings."""
        self.source = source
        self.target = target
        self.change = change
        self.backlog: memoryview | None = None
        self.has_ended = False
        self.error: OSError | None = None
        self.stalled_since = 0.0
        self.count = count
        source.owner = self

    def pump(self) -> bool:
        """Move what ``source`` has, as far as ``target`` takes it. Raises ``OSError``.

        Returns whether that was all of it, and not the last.
        """
        source = self.source
        count = source.receive(READ_BYTES)
        if count > 0:
            self.count.value += count
            data: Any = source.buffer.view[:count]
            if self.change is not None:
                data = self.change(data)
                count = len(data)
            sent = self.target.try_send(data) if count else 0
            if sent == count:
                return True
            self._keep(bytes(data[sent:]))
        elif count == 0:
            source.pause()
            self.has_ended = True
            self.target.shutdown_send()
        return False

    def export(self) -> dict[str, Any]:
        """Where this direction stands, as JSON. Raises ``Pinned`` when it is broken."""
        if self.error is not None:
            raise Pinned("broken")
        return {"has_ended": self.has_ended, "backlog": pack_bytes(self.backlog or b"")}

    def adopt(self, state: Mapping[str, Any]) -> None:
        """Go on where another process stopped."""
        if state["has_ended"]:
            self.has_ended = True
            self.source.pause()
        if state["backlog"]:
            self._keep(unpack_bytes(state["backlog"]))

    def _keep(self, rest: bytes) -> None:
        """Keep what the target does not take, and read nothing more until it does."""
        self.backlog = memoryview(rest)
        self.stalled_since = self.target.blocked_since = monotonic()
        self.source.pause()
        self.target.call_when_writable(self.flush)

    def flush(self) -> None:
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
            self.target.blocked_since = 0.0
            self.target.stop_writable()
            self.source.resume()
            self.source.park.wake()


class RelaySession(BaseSession):
    """One client of a ``Tcp`` source."""

    __slots__ = ("_directions", "_resumed")

    fates = BaseSession.fates | {"_directions": EXPORTED, "_resumed": REBUILT}

    def __init__(self, source: Source, session_id: int, sock: socket.socket, peer: Any) -> None:
        """Take ownership of the accepted socket."""
        super().__init__(source, session_id, sock, peer)
        self._directions: tuple[Direction, ...] = ()
        self._resumed: Mapping[str, Any] = {}

    def _serve(self) -> EndReason:
        assert self._chain is not None and self._client is not None
        sink = self._chain.transforms[-1]
        assert isinstance(sink, TcpSink), "the models let nothing else end a Tcp chain"
        try:
            upstream = sink.stream or sink.connect()
        except UpstreamError as error:
            self._report(error, 0)
            return EndReason.FAILED
        down, up = self._changes(sink)
        self._directions = (
            Direction(self._client, upstream, down, self.source.bytes_received),
            Direction(upstream, self._client, up, self.source.bytes_sent))
        for direction, state in zip(self._directions, self._resumed.get("directions", ())):
            direction.adopt(state)
        try:
            return self._relay()
        except OSError:
            for stream in (self._client, upstream):
                stream.reset_at_close()
            return EndReason.LOST
        except SessionEnd:
            return EndReason.UPSTREAM
        except Exception as error:
            self._report(error, 0)
            return EndReason.FAILED

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
        wait_any, clock, client = park.wait_any, monotonic, down.source
        while True:
            if self._hold is Hold.ASKED:
                self._hold_now()
            timeout_s = self._check()
            self.idle_since = clock()
            stream = wait_any(timeout_s)
            if timeout_s is None:
                # As long as all goes well there is nothing else to look at.
                while stream is not None and stream.owner.pump():
                    self.requests += stream is client
                    self.idle_since = clock()
                    stream = wait_any()
            elif stream is not None:
                stream.owner.pump()
            if self._stop_reason is EndReason.MOVED:
                return EndReason.MOVED
            if stream is not None:
                self.requests += stream is client
                if down.has_ended and up.has_ended:
                    for direction in self._directions:
                        direction.target.flush()
                    return EndReason.CLIENT
            elif self._stop_reason is not None and monotonic() - self.idle_since >= QUIET_S:
                if down.backlog is None and up.backlog is None:
                    return self._stop_reason

    def _check(self) -> float | None:
        """How long to wait at most. Raises ``OSError`` when a direction is broken or stuck."""
        timeout_s = None if self._stop_reason is None else QUIET_S
        for direction in self._directions:
            if direction.error is not None:
                raise direction.error
            if direction.backlog is not None:
                if monotonic() - direction.stalled_since > SEND_STALL_S:
                    raise TimeoutError("the peer reads nothing")
                timeout_s = timeout_s or SEND_STALL_S
        return timeout_s

    def _hold_now(self) -> None:
        super()._hold_now()
        for direction in self._directions:
            direction.target.stop_writable()

    def release(self) -> None:
        """Go on as if the session had not been held; what waited to be sent is sent first."""
        super().release()
        if self._stop_reason is EndReason.MOVED:
            return
        for direction in self._directions:
            if direction.backlog is not None or direction.has_ended:
                direction.source.pause()
            if direction.backlog is not None:
                direction.target.call_when_writable(direction.flush)

    def _export(self, luggage: Luggage) -> dict[str, Any]:
        if not self._directions:
            raise Pinned("connecting")
        return {"directions": [direction.export() for direction in self._directions]}

    def _import(self, state: Mapping[str, Any]) -> None:
        self._resumed = state

    def _emit(self, pushes: Batch) -> None:
        assert self._context is not None
        self._context.pushed.append(pushes.raw)

    def _send_pushed(self) -> None:
        """What is pushed leaves with the read that brought it."""
