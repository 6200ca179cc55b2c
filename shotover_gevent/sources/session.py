"""One client of a source with requests and responses.

Rules:
 1. The session's greenlet parks in one place only, between requests. There it may be stopped, and
    nothing is lost: what it has read is answered, what it has not read is still the kernel's.
 2. Requests that were read are answered even if the session was told to stop meanwhile.
 3. A request that waits for other clients (BLPOP) runs by itself, so that the answers to those
    before it are not held back, as the server would not hold them back.

Error handling:
 * malformed request: those before it are answered, then the server's own text for it, then close;
 * failure below: an error for each pending request, one log line with the causes, then close;
 * client gone, or database closed with nothing pending: close, without an error text.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Mapping, Sequence
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any

from shotover_gevent.chain.handoff import EXPORTED, REBUILT, Luggage, pack_bytes, unpack_bytes
from shotover_gevent.codecs.batch import Batch
from shotover_gevent.codecs.resp_requests import MalformedRequest
from shotover_gevent.errors import ClientGone, SessionEnd, UpstreamClosed
from shotover_gevent.net.stream import Stream
from shotover_gevent.sources.base import BaseSession, EndReason, Hold

if TYPE_CHECKING:
    from shotover_gevent.sources.source import Source

logger = logging.getLogger(__name__)

# How long a session that was told to stop goes on at most while its client keeps sending.
STOP_GRACE_S = 1.0

# The answers to one run are held until the last has come. The first runs of a deep pipeline are
# short; they grow while the answers turn out to be small.
FIRST_RUN = 128
LONGEST_RUN = 16384
SMALL_RUN_BYTES = 512 * 1024
LARGE_RUN_BYTES = 4 * 1024 * 1024

# Answers up to this leave at the end of the turn, with those of others; with longer ones the copying
# costs more than the waking, and they would wait for nothing.
SOON_BYTES = 16 * 1024


class Session(BaseSession):
    """One client of a source with requests and responses."""

    __slots__ = ("_decoder", "_is_running", "_run_limit")

    fates = BaseSession.fates | {
        "_decoder": EXPORTED,
        "_is_running": REBUILT,  # a held session is not running
        "_run_limit": REBUILT,
    }

    def __init__(self, source: Source, session_id: int, sock: socket.socket, peer: Any) -> None:
        """Take ownership of the accepted socket."""
        super().__init__(source, session_id, sock, peer)
        self._decoder = source.protocol.decoder()
        self._is_running = False
        self._run_limit = FIRST_RUN

    @property
    def is_idle(self) -> bool:
        """Whether the session is parked between requests; not while a request waits for others."""
        return super().is_idle and not self._is_running

    def _serve(self) -> EndReason:
        assert self._client is not None
        try:
            for requests in self._incoming():
                if not self._answer(requests):
                    return EndReason.FAILED
            self._client.settle()  # it may have ended its side only
        except MalformedRequest as error:
            self.source.protocol_errors.value += 1
            logger.warning("failed to decode message: %s", error)
            return self._refuse(error)
        except UpstreamClosed:
            return EndReason.UPSTREAM
        return self._stop_reason or EndReason.CLIENT

    def _incoming(self) -> Iterator[Batch]:
        """Park, and yield what arrives; ends at the client's end or when told to stop."""
        park, client, decoder = self.park, self._client, self._decoder
        assert park is not None and client is not None and self._context is not None
        view, clock, received = client.buffer.view, perf_counter, self.source.bytes_received
        while True:
            if self._stop_reason is not None:
                if self._stop_reason not in (EndReason.MOVED, EndReason.QUIT):
                    yield from self._last_requests()
                return
            if self._hold is Hold.ASKED:
                self._hold_settled()
            self.idle_since = monotonic()
            stream = park.wait_any()
            if stream is client:
                count = client.receive()
                if count > 0:
                    received_at = clock()
                    received.value += count
                    requests = decoder.feed(view[:count])
                    if requests.count:
                        requests.received_at = received_at
                        yield requests
                elif count == 0:
                    return
            else:
                self._attend(stream)

    def _last_requests(self) -> Iterator[Batch]:
        """What the client had already sent when the session was told to stop."""
        park, client = self.park, self._client
        assert park is not None and client is not None
        until = self._stop_at + STOP_GRACE_S
        while True:
            count = client.receive()
            if count == 0:
                return
            if count > 0:
                self.source.bytes_received.value += count
                requests = self._decoder.feed(client.buffer.view[:count])
                if requests:
                    requests.received_at = perf_counter()
                    yield requests
            left = until - monotonic()
            if left <= 0 or (count < 0 and not self._decoder.pending):
                return
            if count < 0 and (stream := park.wait_any(left)) is not client:
                if stream is not None:
                    self._take_pushes(stream)
                else:
                    client.settle()

    def _hold_settled(self) -> None:
        """Hold, once the client has been sent everything. Raises ``OSError``."""
        assert self._client is not None
        self._client.settle()
        self._hold_now()

    def _attend(self, stream: Stream | None) -> None:
        """Take what a stream of the chain has, or do what the session was woken for. Raises ``OSError``."""
        assert self._client is not None and self._context is not None
        if stream is not None:
            self._take_pushes(stream)
        else:
            self._client.settle()
            self._context.deliver()

    def _export(self, luggage: Luggage) -> dict[str, Any]:
        return {"pending": pack_bytes(self._decoder.pending)}

    def _import(self, state: Mapping[str, Any]) -> None:
        self._decoder = self.source.protocol.decoder(unpack_bytes(state["pending"]))

    def _answer(self, requests: Batch) -> bool:
        """Run the chain and send what it returns; ``False`` if it failed and the client was told."""
        count = left = requests.count
        self.requests += count
        parts: Sequence[Batch] = (requests,)
        if count != 1:
            parts = self.source.protocol.runs(requests, self._run_limit)
        try:
            for part in parts:
                count = part.count
                self._run(part, count == left)
                left -= count
        except SessionEnd:
            raise
        except _SendFailed as error:
            raise error.__cause__ or error
        except Exception as error:
            self._report(error, left)
            return False
        return True

    def _run(self, requests: Batch, is_last: bool) -> None:
        """Answer a part of what was read; after the last one the session parks."""
        chain, client, context, source = self._chain, self._client, self._context, self.source
        assert chain is not None and client is not None and context is not None
        self._is_running = True
        try:
            responses = chain.run(requests)
        finally:
            self._is_running = False
        raw = responses.raw
        if context.pushed:
            raw += context.take_pushed()
        size = len(raw)
        since = responses.received_at
        latency = source.sink_to_source if since else None
        try:
            # Where sessions are answered one after the other anyway, putting off only costs.
            if is_last and 0 < size <= SOON_BYTES and not source.chain.answers_together:
                client.send_soon(raw, latency, since)
            else:
                if size:
                    client.send(raw)
                if latency is not None:
                    latency.observe(perf_counter() - since)
        except OSError as error:
            raise _SendFailed from error
        source.bytes_sent.value += size
        if size > SMALL_RUN_BYTES or self._run_limit < LONGEST_RUN:
            self._adapt(size)

    def _adapt(self, size: int) -> None:
        """Choose the length of the next run by the size of these answers."""
        if size > LARGE_RUN_BYTES:
            self._run_limit = max(1, self._run_limit // 4)
        elif size < SMALL_RUN_BYTES and self._run_limit < LONGEST_RUN:
            self._run_limit *= 2

    def _take_pushes(self, stream: Stream) -> None:
        try:
            stream.owner.on_readable()
        except SessionEnd:
            raise
        except Exception as error:
            self._report(error, 0)
            raise UpstreamClosed from error

    def _emit(self, pushes: Batch) -> None:
        """The top of the push path: the client, after what is being answered."""
        assert self._context is not None
        self._context.pushed.append(pushes.raw)
        if not self._is_running:
            self._send_pushed()

    def _send_pushed(self) -> None:
        """Send the collected pushes now. Raises ``ClientGone``."""
        assert self._client is not None and self._context is not None
        raw = self._context.take_pushed()
        try:
            if raw:
                self._client.send(raw)
                self.source.bytes_sent.value += len(raw)
        except OSError as error:
            raise ClientGone("the client was lost while a push was sent") from error

    def _refuse(self, error: MalformedRequest) -> EndReason:
        """Answer what came before the malformed request, then say what was wrong with it."""
        if error.batch and not self._answer(error.batch):
            return EndReason.FAILED
        if error.reply and self._client is not None:
            self._client.send(error.reply)
            self.source.bytes_sent.value += len(error.reply)
        return EndReason.MALFORMED


class _SendFailed(Exception):
    """The client could not be sent its responses; the cause is the ``OSError``."""
