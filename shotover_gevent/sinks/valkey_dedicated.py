"""The sink of one session that has an upstream connection of its own.

Rules:
 1. The connection is made for the first request and lives as long as the session, so that whatever
    a client sets on its connection (AUTH, SELECT, MULTI, SUBSCRIBE) is naturally its own.
 2. While every reply answers one request, replies are counted by hiredis and passed on as the bytes
    they are. As soon as anything else may come, each value is looked at
    (:mod:`shotover_gevent.codecs.resp_conversation`).
 3. Pushes keep their place among the replies.
 4. A server that closes with nothing pending closes the client, without an error text.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

import hiredis

from shotover_gevent.chain import Batch, Message, Next, SessionContext, Sink
from shotover_gevent.chain.handoff import (
    EXPORTED,
    REBUILT,
    Luggage,
    Pinned,
    pack_bytes,
    unpack_bytes,
)
from shotover_gevent.codecs.resp import RESP, ReplyScanner
from shotover_gevent.codecs.resp_conversation import BLOCKING, SPECIAL, Conversation
from shotover_gevent.codecs.resp_deal import simple_end
from shotover_gevent.errors import ClientGone, PeerError, UpstreamClosed, UpstreamError, os_error_text
from shotover_gevent.net.stream import Stream

if TYPE_CHECKING:
    from shotover_gevent.sinks.valkey_single import ValkeySinkSingle

CLOSED = "The other side of this connection closed the connection"

# A client that sends on while its request waits for others hides its own end behind those bytes;
# then its state is asked for at this interval.
GONE_CHECK_S = 0.5

_UNUSUAL = SPECIAL | BLOCKING
_INCOMPLETE: Any = ...
_NEWLINE, _MINUS = b"\n-"


class ValkeySink(Sink):
    """The upstream connection of one session."""

    #: Requests whose replies must be looked at.
    unusual: ClassVar[frozenset[bytes]] = _UNUSUAL

    fates = {
        "_config": REBUILT, "_context": REBUILT, "_push": REBUILT, "_stream": EXPORTED,
        "_conversation": EXPORTED, "_scanner": EXPORTED,
        "_reader": REBUILT,  # it holds nothing between runs
        "_is_plain": REBUILT,  # follows from the conversation and the scanner
        "_has_ended": EXPORTED, "_failed_requests": REBUILT, "_source_to_sink": REBUILT,
    }

    def __init__(
        self, config: ValkeySinkSingle, context: SessionContext,
        conversation: Conversation | None = None,
    ) -> None:
        self._config = config
        self._context = context
        self._push = context.pusher()
        self._stream: Stream | None = None
        self._conversation = Conversation() if conversation is None else conversation
        self._scanner = ReplyScanner()
        self._reader: Any = None
        self._is_plain = True
        self._has_ended = False
        self._failed_requests = config._failed_requests
        self._source_to_sink = config._source_to_sink

    def transform(self, requests: Batch, next: Next) -> Batch:
        """Send the requests, and return when the last one is answered."""
        stream = self._stream or self._connect()
        is_plain = self._is_plain and self.unusual.isdisjoint(requests.names)
        if not is_plain:
            expects = self._conversation.sent(requests.names, requests.values)
        try:
            if is_plain and requests.count:
                latency = self._source_to_sink if requests.received_at else None
                stream.send_soon(requests.raw, latency, requests.received_at)
            else:
                stream.send(requests.raw)
                if requests.received_at:
                    self._source_to_sink.observe(perf_counter() - requests.received_at)
        except OSError as error:
            raise UpstreamError(f"IO error {os_error_text(error)}") from error
        responses = self._count(requests) if is_plain else self._pair(requests, expects)
        responses.received_at = perf_counter()
        return responses

    def _connect(self) -> Stream:
        stream = self._config.dial(self._context)
        stream.owner = self
        return self._use(stream)

    def _use(self, stream: Stream) -> Stream:
        self._config._upstream.connections += 1
        self._stream = stream
        return stream

    # -- every reply answers one request --------------------------------------------------------

    def _count(self, requests: Batch) -> Batch:
        """Read until as many values have come as there are requests."""
        count, stream = requests.count, self._stream
        assert stream is not None
        if not count:  # a transform above has answered all of them
            return Batch(RESP, b"", ())
        chunk = self._receive(stream)
        if count == 1 and (end := simple_end(chunk)) >= len(chunk):
            if end != len(chunk):
                return self._read_string(requests, chunk, end)
            if chunk[0] == _MINUS:
                self._failed_requests.value += 1
            return Batch.counted(RESP, chunk, 1)
        return self._count_values(requests, stream, chunk)

    def _count_values(self, requests: Batch, stream: Stream, chunk: bytes) -> Batch:
        """Go on after ``chunk`` until as many values have come as there are requests."""
        reader, missing = self._reader or self._new_reader(), requests.count
        gets = reader.gets
        is_resp3 = self._conversation.is_resp3
        values: list[Any] = []
        chunks = [chunk]
        while True:
            if is_resp3 and (b">" in chunk or b"|" in chunk or b"!" in chunk):
                return self._pair_after_all(requests, chunks)
            try:
                reader.feed(chunk)
                while (value := gets()) is not _INCOMPLETE:
                    values.append(value)
            except (hiredis.HiredisError, TypeError):
                return self._pair_after_all(requests, chunks)
            if len(values) >= missing:
                break
            chunk = self._receive(stream)
            chunks.append(chunk)
        raw = chunk if len(chunks) == 1 else b"".join(chunks)
        # More than was asked for, or the beginning of it. (Only a lone array head is not seen here;
        # no server sends anything unasked in this state.)
        if len(values) > missing or reader.has_data() or chunk[-1] != _NEWLINE:
            return self._pair_after_all(requests, chunks)
        if b"-" in raw:
            self._failed_requests.value += sum(
                1 for value in values if value.__class__ is hiredis.ReplyError)
        return Batch(RESP, raw, values)

    def _read_string(self, requests: Batch, chunk: bytes, end: int) -> Batch:
        """The reply to one request, which is a string of ``end`` bytes with its head."""
        stream = self._stream
        assert stream is not None
        chunks, left = [chunk], end - len(chunk)
        while left > 0:
            chunk = self._receive(stream)
            chunks.append(chunk)
            left -= len(chunk)
        raw = b"".join(chunks)
        if left or not raw.endswith(b"\r\n"):
            return self._pair_after_all(requests, [raw])
        return Batch.counted(RESP, raw, 1)

    def _new_reader(self) -> Any:
        self._reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
        return self._reader

    def _pair_after_all(self, requests: Batch, chunks: list[bytes]) -> Batch:
        """Something else may be among the replies: look at each value from the start of the run."""
        self._reader = None
        expects = self._conversation.sent(requests.names, requests.values)
        return self._pair(requests, expects, b"".join(chunks))

    # -- each value is looked at ----------------------------------------------------------------

    def _pair(self, requests: Batch, expects: list[bool], raw: bytes = b"") -> Batch:
        """Give each value to the request that it answers, until all are answered."""
        answers: list[list[bytes]] = [[] for _ in expects]
        leads = [b""] * len(expects)
        waiting = deque(index for index, is_expected in enumerate(expects) if is_expected)
        is_blocking = not BLOCKING.isdisjoint(requests.names)
        if raw:
            self._sort(raw, answers, leads, waiting)
        while waiting:
            stream = self._stream
            assert stream is not None
            count = self._read_or_leave(stream) if is_blocking else self._read(stream)
            if count == 0:
                if not self._conversation.awaits_only_the_end:
                    raise UpstreamError(CLOSED)
                self._has_ended = True
                break
            self._sort(stream.buffer.view[:count], answers, leads, waiting)
            if is_blocking and waiting:
                self._context.send_pushed()  # nobody knows when the answer will come
        self._is_plain = self._conversation.is_plain and self._scanner.is_between
        return Batch.of(
            RESP, [Message(RESP, b"".join(answer), lead=lead) for answer, lead in zip(answers, leads)])

    def _sort(
        self, data: Any, answers: list[list[bytes]], leads: list[bytes], waiting: deque[int]
    ) -> None:
        """Sort the values that ``data`` completes into the answers of those who wait."""
        for raw in self._scan(data):
            completes = self._conversation.received(raw)
            if completes is None or not waiting:
                self._push(Batch(RESP, raw, (raw,), [len(raw)]))
                continue
            index = waiting[0]
            pushed = self._context.take_pushed()
            if answers[index]:
                answers[index].append(pushed)
            else:
                leads[index] = pushed
            answers[index].append(raw)
            if raw[0] == 45:  # "-"
                self._failed_requests.value += 1
            if completes:
                waiting.popleft()

    def _scan(self, data: Any) -> list[bytes]:
        try:
            return self._scanner.feed(data)
        except PeerError as error:
            raise UpstreamError(f"Message decode error {error}") from error

    def on_readable(self) -> None:
        """Push what came while nothing was asked. Raises ``UpstreamClosed`` at the end."""
        stream = self._stream
        assert stream is not None
        try:
            count = stream.receive()
        except ConnectionError:
            count = 0
        if count == 0:
            raise UpstreamClosed("the database closed the connection")
        if count > 0:
            for raw in self._scan(stream.buffer.view[:count]):
                self._conversation.received(raw)
                self._push(Batch(RESP, raw, (raw,), [len(raw)]))
            self._is_plain = self._conversation.is_plain and self._scanner.is_between

    # -- waiting --------------------------------------------------------------------------------

    def _receive(self, stream: Stream) -> bytes:
        """Wait for bytes. Raises ``UpstreamError``, also at the end."""
        count = self._read(stream)
        if count == 0:
            raise UpstreamError(CLOSED)
        return bytes(stream.buffer.view[:count])

    def _read(self, stream: Stream) -> int:
        try:
            return stream.read()
        except OSError as error:
            raise UpstreamError(f"IO error {os_error_text(error)}") from error

    def _read_or_leave(self, stream: Stream) -> int:
        """Read, and notice meanwhile that the client has gone: nobody would get what comes."""
        context = self._context
        paused: list[Stream] = []
        try:
            while True:
                readable = context.park.wait_any(GONE_CHECK_S if paused else None)
                if readable is stream:
                    count = stream.receive()
                    if count >= 0:
                        return count
                elif context.client_is_gone():
                    raise ClientGone("the client closed while its request was waiting")
                elif readable is not None:
                    readable.pause()
                    paused.append(readable)
        except OSError as error:
            raise UpstreamError(f"IO error {os_error_text(error)}") from error
        finally:
            for other in paused:
                other.resume()

    # -- moving ---------------------------------------------------------------------------------

    def export(self, luggage: Luggage) -> Any:
        """The state of the connection, which travels along if there is one yet."""
        if self._stream is None:
            return None
        conversation = self._conversation.export()
        if conversation is None:
            raise Pinned("busy")
        luggage.pack_stream(self._stream)
        return {
            "conversation": conversation,
            "pending": pack_bytes(self._scanner.pending),
            "has_ended": self._has_ended,
        }

    def adopt(self, state: Any, luggage: Luggage) -> None:
        """Go on with the connection of another process."""
        if state is None:
            return
        context = self._context
        self._use(Stream(luggage.unpack(), context.park, context.buffer, owner=self))
        self._conversation = type(self._conversation).adopt(state["conversation"])
        self._scanner = ReplyScanner(unpack_bytes(state["pending"]))
        self._has_ended = state["has_ended"]
        self._is_plain = self._conversation.is_plain and self._scanner.is_between

    def close(self) -> None:
        """Close the upstream connection."""
        if self._stream is not None and not self._stream.is_closed:
            self._stream.close()
            self._config._upstream.connections -= 1
