"""What sessions of all protocols share: their greenlet's life, being stopped, being moved.

Rules:
 1. A session owns its client's socket from the start, and everything that its chain opens. Whatever
    ends it, ``run()`` closes all of that, and tells the source.
 2. The client is closed gently, unless it is gone itself: it can read everything it was sent.
 3. A session that is *held* stays parked whatever arrives: nothing is read and nothing is sent. Its
    state can be exported then. Afterwards it is either released, or has moved: then our copies of
    its sockets are closed, and nothing is said to anybody.
"""

from __future__ import annotations

import enum
import logging
import socket
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, cast

from gevent import GreenletExit, get_hub, getcurrent
from greenlet import greenlet

from shotover_gevent.chain.chain import Chain
from shotover_gevent.chain.handoff import EXPORTED, PINS, REBUILT, Fate, Luggage, Pinned
from shotover_gevent.chain.subchain import FINISH_S, SubChain, join
from shotover_gevent.chain.transform import SessionContext
from shotover_gevent.codecs.batch import Batch
from shotover_gevent.deadline import Deadline
from shotover_gevent.errors import ClientGone, SessionEnd, causes, render
from shotover_gevent.logs import span
from shotover_gevent.net.dial import tune
from shotover_gevent.net.park import Park
from shotover_gevent.net.stream import Stream, close_gently

if TYPE_CHECKING:
    from shotover_gevent.net.tls import TlsStream
    from shotover_gevent.sources.source import Source

logger = logging.getLogger(__name__)

# How long a closed client may take to read the last bytes.
LINGER_S = 2.0

FAILED = "Failed to send and/or receive messages, the connection will now be closed."


class EndReason(enum.Enum):
    """Why a session ended, as it is logged and counted."""

    CLIENT = "client closed"
    LOST = "client lost"
    UPSTREAM = "upstream closed"
    ENDED = "ended by a transform"
    QUIT = "quit"
    MALFORMED = "malformed request"
    FAILED = "failed"
    HANDSHAKE = "tls handshake failed"
    IDLE = "idle timeout"
    DRAIN = "drain"
    MOVED = "moved"
    OPERATOR = "closed by an operator"
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
        "source", "id", "peer", "park", "opened_at", "idle_since", "requests", "_socket", "_client",
        "_chain", "_context", "_stop_reason", "_stop_at", "_hold",
    )

    fates: ClassVar[Mapping[str, Fate]] = {
        "source": REBUILT, "id": REBUILT, "peer": EXPORTED, "park": REBUILT, "opened_at": EXPORTED,
        "idle_since": REBUILT, "requests": EXPORTED, "_socket": EXPORTED, "_client": REBUILT, "_chain": EXPORTED,
        "_context": REBUILT, "_stop_reason": PINS, "_stop_at": REBUILT, "_hold": REBUILT,
    }

    def __init__(self, source: Source, session_id: int, sock: socket.socket, peer: Any) -> None:
        """Take ownership of the accepted socket."""
        self.source = source
        self.id = session_id
        self.peer = peer
        self.park: Park | None = None
        self.opened_at = self.idle_since = monotonic()
        self.requests = 0
        self._socket = sock
        self._client: Stream | None = None
        self._chain: Chain | None = None
        self._context: SessionContext | None = None
        self._stop_reason: EndReason | None = None
        self._stop_at = 0.0
        self._hold = Hold.NONE

    @property
    def client_address(self) -> str:
        """The IP of the client."""
        return str(self.peer[0]) if isinstance(self.peer, tuple) and self.peer else "Unknown Peer"

    @property
    def is_idle(self) -> bool:
        """Whether the session is parked between requests."""
        return self.park is not None and self.park.is_idle

    @property
    def client(self) -> socket.socket:
        """The socket of the client, for asking the kernel about it; it stays the session's own."""
        return self._socket

    @property
    def blocked(self) -> tuple[str, float] | None:
        """Who does not take the bytes that wait for it, and since when (monotonic); ``None``: nobody."""
        for stream in self.park.streams if self.park is not None else ():
            if stream.blocked_since:
                return "client" if stream is self._client else "upstream", stream.blocked_since
        return None

    def stop(self, reason: EndReason) -> None:
        """Ask the session to end at the next boundary between requests."""
        if self._stop_reason is None:
            self._stop_reason = reason
            self._stop_at = monotonic()
            if self.park is not None and self._hold is not Hold.HELD:
                self.park.wake()

    def _quit(self) -> None:
        """The client has asked for the end: nothing that it has sent after that is answered."""
        self._stop_reason = EndReason.QUIT

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
            if self.is_idle and self._has_sent():
                self._hold_now()
        return self.is_held

    @property
    def pinned_by(self) -> str | None:
        """Why the session cannot move, as far as its streams say it; ``None`` if they can."""
        streams = self.park.streams if self.park is not None else ()
        return next((stream.pinned_by for stream in streams if stream.pinned_by is not None), None)

    @property
    def is_held(self) -> bool:
        """Whether the session is parked and stays so, and its sub-chains with it."""
        return self._hold is Hold.HELD and all(each.is_idle for each in self._inner)

    @property
    def _inner(self) -> Sequence[SubChain]:
        return () if self._context is None else self._context.inner

    def _has_sent(self) -> bool:
        """Send what was put off to the end of the turn; whether it has all left."""
        return self._client is None or self._client.send_now()

    def _hold_now(self) -> None:
        assert self.park is not None
        self._hold = Hold.HELD
        for stream in self.park.streams:
            stream.pause()
        for each in self._inner:
            each.hold()

    def release(self) -> None:
        """Go on as if :meth:`hold` had never been called; nothing for a session that has moved."""
        if self._stop_reason is EndReason.MOVED:
            return
        was_held, self._hold = self._hold is Hold.HELD, Hold.NONE
        if was_held and self.park is not None:
            for stream in self.park.streams:
                stream.resume()
            for each in self._inner:
                each.release()
            if self._stop_reason is not None:
                self.park.wake()

    def export(self) -> tuple[dict[str, Any], Luggage]:
        """The state of a held session and its sockets, which stay its own. Raises ``Pinned``."""
        assert self._chain is not None and self._hold is Hold.HELD
        if self._stop_reason is not None:
            raise Pinned(self._stop_reason.value)
        luggage = Luggage()
        assert self._client is not None
        luggage.pack_stream(self._client)
        state = self._export(luggage)
        state["chain"] = self._chain.export(luggage)
        state["peer"] = self.peer
        state["requests"] = self.requests
        state["age_s"] = monotonic() - self.opened_at
        return state, luggage

    def _export(self, luggage: Luggage) -> dict[str, Any]:
        raise NotImplementedError

    def moved(self) -> None:
        """Another process has the session: close our copies of its sockets, and say nothing."""
        assert self.park is not None and self._hold is Hold.HELD
        self._stop_reason = EndReason.MOVED
        self.park.wake()

    def adopt(self, state: Mapping[str, Any], luggage: Luggage) -> None:
        """Build everything to go on with what another process exported; serve nothing yet.

        Either :meth:`begin` or :meth:`drop` follows. Raises what building raises; then only
        :meth:`drop` may follow.
        """
        self.requests = state["requests"]
        self.opened_at = monotonic() - state.get("age_s", 0.0)
        try:
            self._open(greenlet(self.run, get_hub()))
            assert self._chain is not None
            self._chain.adopt(state["chain"], luggage)
            self._import(state)
        finally:
            luggage.close()
            if self.park is not None:
                self._hold_now()

    def begin(self) -> None:
        """Serve an adopted session, in its own greenlet."""
        assert self.park is not None
        self.release()
        self.park.loop.run_callback(self.park.greenlet.switch)

    def drop(self) -> None:
        """Another process has kept the session: close our descriptors, and say nothing."""
        self._close(EndReason.MOVED)

    def run(self) -> None:
        """The body of the greenlet: serve the client, then close everything the session owns."""
        opened = monotonic()
        reason = EndReason.ABORTED
        try:
            with span("connection", id=self.id, source=self.source.name):
                if self.park is None:
                    tune(self._socket)
                    self._open(getcurrent())
                reason = self._refusal() or self._serve()
        except GreenletExit:
            pass  # abort() asked for it
        except (ClientGone, ConnectionError):
            reason = EndReason.LOST
        except SessionEnd:
            reason = EndReason.ENDED
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

    def _open(self, owner: greenlet) -> None:
        """Make everything that the session needs, for the greenlet ``owner``."""
        sock, source = self._socket, self.source
        self.park = park = Park(owner)
        tls, buffer = source.tls, source.runtime.buffer
        self._client = Stream(sock, park, buffer) if tls is None else tls.stream(sock, park, buffer)
        self._context = SessionContext(
            source=source.name,
            chain=source.chain.name,
            session_id=self.id,
            client_address=self.client_address,
            park=park,
            buffer=source.runtime.buffer,
            emit=self._emit,
            send_pushed=self._send_pushed,
            client_is_gone=self._client.has_ended,
            end=self._quit,
        )
        self._chain = source.chain.session(self._context)

    def _refusal(self) -> EndReason | None:
        """Let a TLS client in; why it is not, if it is not. A plain one, or one that moved, is."""
        tls, park = self.source.tls, self.park
        if tls is None:
            return None
        assert park is not None
        client = cast("TlsStream", self._client)
        deadline = Deadline.after(tls.handshake_s)
        try:
            while not client.shake():
                # What has begun may be finished; who has said nothing yet would only be waited for.
                if self._stop_reason is not None and not client.has_heard:
                    return self._stop_reason
                if deadline.is_over:
                    raise tls.too_slow()
                park.wait_any(deadline.left())
        except OSError as error:
            if isinstance(error, ConnectionError) and not client.has_heard:
                return EndReason.CLIENT  # it only looked whether somebody listens
            tls.failed(self.client_address, error)
            return EndReason.HANDSHAKE
        return None

    def _import(self, state: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def _serve(self) -> EndReason:
        raise NotImplementedError

    def _emit(self, pushes: Batch) -> None:
        raise NotImplementedError

    def _send_pushed(self) -> None:
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
            self.source.bytes_sent.value += len(reply) * pending

    def _close(self, reason: EndReason) -> None:
        # From here on nothing can move any more: what the chain has opened is closed, although the client
        # may be waited for.
        self._stop_reason = self._stop_reason or reason
        try:
            if self._chain is not None:
                self._chain.close()
        finally:
            try:
                self._close_client(reason)
            finally:
                join(self._inner, 0.0 if reason is EndReason.ABORTED else FINISH_S)

    def _close_client(self, reason: EndReason) -> None:
        if self._client is None:
            self._socket.close()
        elif reason in _ABRUPT:
            self._client.close()
        else:
            close_gently(self._client, LINGER_S)
