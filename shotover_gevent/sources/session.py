"""One client connection, from accept to close.

Rules:
 1. The session's greenlet parks in one place only, between requests. There it may be stopped, and
    nothing is lost: what it has read is answered, what it has not read is still the kernel's.
 2. Requests that were read are answered even if the session was told to stop meanwhile.
 3. A request that waits for other clients (BLPOP) runs by itself, so that the answers to those
    before it are not held back, as the server would not hold them back.
 4. The client is closed gently: it can read everything it was sent.

Error handling:
 * malformed request: those before it are answered, then the server's own text for it, then close;
 * failure below: an error for each pending request, one log line with the causes, then close;
 * client gone, or database closed with nothing pending: close, without an error text.
"""

from __future__ import annotations

import enum
import logging
import socket
from collections.abc import Iterator, Mapping
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

from gevent import GreenletExit

from shotover_gevent.chain.chain import Chain
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
from shotover_gevent.chain.transform import SessionContext
from shotover_gevent.codecs.batch import Batch
from shotover_gevent.codecs.resp_requests import MalformedRequest
from shotover_gevent.errors import ClientGone, SessionEnd, UpstreamClosed, causes, render
from shotover_gevent.net.dial import tune
from shotover_gevent.net.stream import Park, Stream, close_gently

if TYPE_CHECKING:
    from shotover_gevent.sources.source import Source

logger = logging.getLogger(__name__)

# How long a session that was told to stop goes on at most while its client keeps sending.
STOP_GRACE_S = 1.0

# How long a closed client may take to read the last bytes.
LINGER_S = 2.0

# The answers to one run are held until the last has come. The first runs of a deep pipeline are
# short; they grow while the answers turn out to be small.
FIRST_RUN = 128
LONGEST_RUN = 16384
SMALL_RUN_BYTES = 512 * 1024
LARGE_RUN_BYTES = 4 * 1024 * 1024

FAILED = "Failed to send and/or receive messages, the connection will now be closed."


class EndReason(enum.Enum):
    """Why a session ended, as it is logged and counted."""

    CLIENT = "client closed"
    LOST = "client lost"
    UPSTREAM = "upstream closed"
    MALFORMED = "malformed request"
    FAILED = "failed"
    IDLE = "idle timeout"
    DRAIN = "drain"
    MOVED = "moved"
    SHUTDOWN = "shutdown"
    ABORTED = "aborted"


# Ends after which nothing of ours is on its way to the client, or nobody is there to read it.
_ABRUPT = (EndReason.CLIENT, EndReason.LOST, EndReason.ABORTED, EndReason.MOVED)


class Hold(enum.Enum):
    """Whether a session is kept at a boundary, to be moved."""

    NONE = "none"
    ASKED = "asked"
    HELD = "held"


class BaseSession:
    """What sessions of all protocols share: opening, being stopped, closing."""

    __slots__ = (
        "source", "id", "peer", "park", "idle_since", "requests", "_socket", "_client", "_chain",
        "_context", "_stop_reason", "_stop_at", "_hold", "_adopted",
    )

    fates: ClassVar[Mapping[str, Fate]] = {
        "source": REBUILT, "id": REBUILT, "peer": EXPORTED, "park": REBUILT, "idle_since": REBUILT,
        "requests": EXPORTED, "_socket": EXPORTED, "_client": REBUILT, "_chain": EXPORTED,
        "_context": REBUILT, "_stop_reason": PINS, "_stop_at": REBUILT, "_hold": REBUILT,
        "_adopted": REBUILT,
    }

    def __init__(self, source: Source, session_id: int, sock: socket.socket, peer: Any) -> None:
        """Take ownership of the accepted socket."""
        self.source = source
        self.id = session_id
        self.peer = peer
        self.park: Park | None = None
        self.idle_since = monotonic()
        self.requests = 0
        self._socket = sock
        self._client: Stream | None = None
        self._chain: Chain | None = None
        self._context: SessionContext | None = None
        self._stop_reason: EndReason | None = None
        self._stop_at = 0.0
        self._hold = Hold.NONE
        self._adopted: tuple[Mapping[str, Any], Luggage] | None = None

    @property
    def client_address(self) -> str:
        """The IP of the client."""
        return str(self.peer[0]) if isinstance(self.peer, tuple) and self.peer else "Unknown Peer"

    @property
    def is_idle(self) -> bool:
        """Whether the session is parked between requests."""
        return self.park is not None and self.park.is_idle

    def stop(self, reason: EndReason) -> None:
        """Ask the session to end at the next boundary between requests."""
        if self._stop_reason is None:
            self._stop_reason = reason
            self._stop_at = monotonic()
            if self.park is not None and self._hold is not Hold.HELD:
                self.park.wake()

    def abort(self) -> None:
        """End the session now, wherever it is."""
        if self.park is not None:
            self.park.loop.run_callback(self._throw)

    def _throw(self) -> None:
        if self.park is not None and not self.park.greenlet.dead:
            self.park.greenlet.throw(GreenletExit)

    # -- moving to another process --------------------------------------------------------------

    def hold(self) -> bool:
        """Stop reading at the next boundary; whether that is now. :meth:`release` ends it.

        A held session stays parked whatever arrives: nothing is read, nothing is sent.
        """
        if self._hold is Hold.NONE and self._stop_reason is None and self._chain is not None:
            self._hold = Hold.ASKED
            if self.is_idle:
                self._hold_now()
        return self._hold is Hold.HELD

    @property
    def is_held(self) -> bool:
        """Whether the session is parked and stays so."""
        return self._hold is Hold.HELD

    def _hold_now(self) -> None:
        assert self.park is not None
        self._hold = Hold.HELD
        for stream in self.park.streams:
            stream.pause()

    def release(self) -> None:
        """Go on as if :meth:`hold` had never been called; nothing for a session that has moved."""
        if self._stop_reason is EndReason.MOVED:
            return
        was_held, self._hold = self._hold is Hold.HELD, Hold.NONE
        if was_held and self.park is not None:
            for stream in self.park.streams:
                stream.resume()
            if self._stop_reason is not None:
                self.park.wake()

    def export(self) -> tuple[dict[str, Any], Luggage]:
        """The state of a held session and its sockets, which stay its own. Raises ``Pinned``."""
        assert self._chain is not None and self._hold is Hold.HELD
        if self._stop_reason is not None:
            raise Pinned(self._stop_reason.value)
        luggage = Luggage()
        luggage.pack(self._socket)
        state = self._export(luggage)
        state["chain"] = self._chain.export(luggage)
        state["peer"] = self.peer
        state["requests"] = self.requests
        return state, luggage

    def _export(self, luggage: Luggage) -> dict[str, Any]:
        raise NotImplementedError

    def moved(self) -> None:
        """Another process has the session: close our copies of its sockets, and say nothing."""
        assert self.park is not None and self._hold is Hold.HELD
        self._stop_reason = EndReason.MOVED
        self.park.wake()

    def adopt(self, state: Mapping[str, Any], luggage: Luggage) -> None:
        """Go on, in :meth:`run`, with what another process exported."""
        self.requests = state["requests"]
        self._adopted = state, luggage

    def abandon(self) -> None:
        """Close the sockets of an adopted session that was never run."""
        assert self._adopted is not None
        self._socket.close()
        self._adopted[1].close()

    def run(self) -> None:
        """The body of the greenlet: serve the client, then close everything the session owns."""
        opened = monotonic()
        reason = EndReason.ABORTED
        try:
            self._open()
            reason = self._serve()
        except GreenletExit:
            pass  # abort() asked for it
        except (ClientGone, ConnectionError):
            reason = EndReason.LOST
        except OSError as error:
            reason = EndReason.LOST
            logger.warning("failed to send to or receive from the client: %s", error)
        except Exception:
            reason = EndReason.FAILED
            logger.exception("session ended by an unexpected error")
        finally:
            try:
                self._close(reason)
            finally:
                self.source.session_ended(self, reason, monotonic() - opened)

    def _open(self) -> None:
        sock, source = self._socket, self.source
        if self._adopted is None:
            tune(sock)
        self.park = park = Park()
        self._client = Stream(sock, park, source.runtime.buffer)
        self._context = SessionContext(
            source=source.name,
            chain=source.chain.name,
            session_id=self.id,
            client_address=self.client_address,
            park=park,
            buffer=source.runtime.buffer,
            emit=self._emit,
            client_is_gone=self._client.has_ended,
        )
        self._chain = source.chain.session(self._context)
        if self._adopted is not None:
            (state, luggage), self._adopted = self._adopted, None
            self._chain.adopt(state["chain"], luggage)
            self._import(state)

    def _import(self, state: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def _serve(self) -> EndReason:
        raise NotImplementedError

    def _emit(self, pushes: Batch) -> None:
        raise NotImplementedError

    def _report(self, error: Exception, pending: int) -> None:
        """Log what failed, and tell it to the client once for each pending request."""
        failed = [FAILED, *causes(error)]
        logger.error(
            render("connection was unexpectedly terminated", failed),
            extra={"fields": {"source": self.source.name, "id": self.id}},
        )
        text = f"Internal shotover (or custom transform) bug (chain: {self.source.chain.name}): "
        reply = self.source.protocol.codec.error(text + render(failed[0], failed[1:]))
        if reply and pending and self._client is not None:
            self._client.send(reply * pending)

    def _close(self, reason: EndReason) -> None:
        if self._chain is not None:
            self._chain.close()
        if self._client is None:
            self._socket.close()
        elif reason in _ABRUPT:
            self._client.close()
        else:
            close_gently(self._client, LINGER_S)


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
        try:
            for requests in self._incoming():
                if not self._answer(requests):
                    return EndReason.FAILED
        except MalformedRequest as error:
            logger.warning("failed to decode message: %s", error)
            return self._refuse(error)
        except UpstreamClosed:
            return EndReason.UPSTREAM
        return self._stop_reason or EndReason.CLIENT

    def _incoming(self) -> Iterator[Batch]:
        """Park, and yield what arrives; ends at the client's end or when told to stop."""
        park, client, decoder = self.park, self._client, self._decoder
        assert park is not None and client is not None
        view, clock = client.buffer.view, perf_counter
        while True:
            if self._stop_reason is not None:
                if self._stop_reason is not EndReason.MOVED:
                    yield from self._last_requests()
                return
            if self._hold is Hold.ASKED:
                self._hold_now()
            self.idle_since = monotonic()
            stream = park.wait_any()
            if stream is client:
                count = client.receive()
                if count > 0:
                    received_at = clock()
                    requests = decoder.feed(view[:count])
                    if requests:
                        requests.received_at = received_at
                        yield requests
                elif count == 0:
                    return
            elif stream is not None:
                self._take_pushes(stream)

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
                requests = self._decoder.feed(client.buffer.view[:count])
                if requests:
                    requests.received_at = perf_counter()
                    yield requests
            left = until - monotonic()
            if left <= 0 or (count < 0 and not self._decoder.pending):
                return
            if count < 0 and (stream := park.wait_any(left)) is not client and stream is not None:
                self._take_pushes(stream)

    def _export(self, luggage: Luggage) -> dict[str, Any]:
        return {"pending": pack_bytes(self._decoder.pending)}

    def _import(self, state: Mapping[str, Any]) -> None:
        self._decoder = self.source.protocol.decoder(unpack_bytes(state["pending"]))

    def _answer(self, requests: Batch) -> bool:
        """Run the chain and send what it returns; ``False`` if it failed and the client was told."""
        self.requests += len(requests)
        parts = self.source.protocol.runs(requests, self._run_limit)
        for number, part in enumerate(parts):
            try:
                self._run(part)
            except SessionEnd:
                raise
            except _SendFailed as error:
                raise error.__cause__ or error
            except Exception as error:
                self._report(error, sum(map(len, parts[number:])))
                return False
        return True

    def _run(self, requests: Batch) -> None:
        assert self._chain is not None and self._client is not None and self._context is not None
        self._is_running = True
        try:
            responses = self._chain.run(requests)
        finally:
            self._is_running = False
        raw = responses.raw
        if self._context.pushed:
            raw += self._context.take_pushed()
        if raw:
            try:
                self._client.send(raw)
            except OSError as error:
                raise _SendFailed from error
        self._adapt(len(raw))
        if responses.received_at:
            self.source.sink_to_source.observe(perf_counter() - responses.received_at)

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
        assert self._client is not None and self._context is not None
        if self._is_running:
            self._context.pushed.append(pushes.raw)
        else:
            self._client.send(pushes.raw)

    def _refuse(self, error: MalformedRequest) -> EndReason:
        """Answer what came before the malformed request, then say what was wrong with it."""
        if error.batch and not self._answer(error.batch):
            return EndReason.FAILED
        if error.reply and self._client is not None:
            self._client.send(error.reply)
        return EndReason.MALFORMED


class _SendFailed(Exception):
    """The client could not be sent its responses; the cause is the ``OSError``."""
