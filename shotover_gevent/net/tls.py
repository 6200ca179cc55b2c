"""A stream that speaks TLS, with the interface of :class:`~shotover_gevent.net.stream.Stream`.

Rules:
 1. OpenSSL never sees the socket. Encrypted bytes go through two buffers in memory, so that it has
    nothing to wait for: reading never needs to write, nor writing to read, and what it answers by
    itself (a key update, an alert) leaves when the kernel takes it.
 2. What can be had without the kernel wakes the greenlet as readable bytes do: a stream that has more
    than was asked for counts as stopped, and fires as soon as its greenlet waits again. Where no
    greenlet waits (a ``HubPark``) it fires in the next turn of the hub.
 3. ``try_send`` counts bytes as sent when the kernel has them, not when they are encrypted. What it
    does not count must be offered again, first and unchanged.
 4. The end of a stream is the peer's *close_notify*. Without it the stream was cut off, and reading
    raises :class:`Truncated`. Ours is sent by ``shutdown_send`` and by ``close``.
 5. A stream keeps its keys in OpenSSL, where nobody can get them out: it pins its session to the process.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable
from time import monotonic, perf_counter
from typing import Any, ClassVar

from gevent.socket import wait_write

from shotover_gevent.metrics import Histogram
from shotover_gevent.net.park import ANY, HubPark, Park
from shotover_gevent.net.stream import SEND_STALL_S, ReceiveBuffer, Stream

# One read, and one step of encrypting. The buffers in memory keep their largest size for as long as the
# connection lives, so this bounds what each connection costs.
STEP_BYTES = 64 * 1024

# Kinds of failures, as they are counted.
TIMEOUT, CLOSED, NOT_TLS, PROTOCOL, CERTIFICATE, OTHER = KINDS = (
    "timeout", "closed", "not_tls", "protocol", "certificate", "other")

_KINDS = {
    NOT_TLS: {
        "WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "PACKET_LENGTH_TOO_LONG",
        "RECORD_LAYER_FAILURE", "BAD_RECORD_TYPE", "UNKNOWN_PROTOCOL",
    },
    PROTOCOL: {
        "UNSUPPORTED_PROTOCOL", "NO_SHARED_CIPHER", "NO_PROTOCOLS_AVAILABLE", "NO_SUITABLE_KEY_SHARE",
        "NO_SHARED_SIGNATURE_ALGORITHMS", "NO_SUITABLE_SIGNATURE_ALGORITHM", "WRONG_SSL_VERSION",
        "ALERT_PROTOCOL_VERSION", "ALERT_HANDSHAKE_FAILURE",
    },
}
_TEXTS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the peer showed no certificate",
    "NO_SHARED_CIPHER": "the peer offers no cipher that can be used with this certificate",
    "UNSUPPORTED_PROTOCOL": "the peer offers no version from TLS 1.2 on",
}


class TlsError(OSError):
    """TLS failed; ``kind`` is one of :data:`KINDS`."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind

    @classmethod
    def of(cls, error: ssl.SSLError) -> TlsError:
        """The same error in our words."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return cls(CERTIFICATE, f"the certificate of the peer is refused: {error.verify_message}")
        reason = error.reason or ""
        before, alert, name = reason.rpartition("ALERT_")
        kind = next((kind for kind, reasons in _KINDS.items() if alert + name in reasons), OTHER)
        if kind == NOT_TLS:
            return cls(kind, "the peer does not speak TLS")
        if "CERTIFICATE" in reason or reason.endswith("UNKNOWN_CA"):
            kind = CERTIFICATE
        words = name.replace("_", " ").lower()
        if alert:
            return cls(kind, f"the peer refused TLS: {words}")
        return cls(kind, _TEXTS.get(reason, words or str(error)))


class Truncated(TlsError, ConnectionResetError):
    """The connection ended without *close_notify*: what came may not be all."""

    def __init__(self, text: str = "the connection was cut off: its TLS has not ended") -> None:
        super().__init__(CLOSED, text)


class TlsStream(Stream):
    """A connected socket with TLS on it. :meth:`shake` comes before anything else."""

    __slots__ = (
        "has_heard", "_tls", "_incoming", "_outgoing", "_unsent", "_accepted", "_stash", "_failure",
        "_is_open", "_is_reset", "_is_finishing", "_has_more", "_has_ended", "_callback", "_remember",
        "_step_bytes",
    )

    pinned_by: ClassVar[str | None] = "tls"

    def __init__(
        self, sock: socket.socket, park: Park | HubPark, buffer: ReceiveBuffer, owner: Any = None, *,
        context: ssl.SSLContext, is_server: bool = False, host: str | None = None,
        session: ssl.SSLSession | None = None,
        remember: Callable[[ssl.SSLSession], None] | None = None,
    ) -> None:
        """TLS on ``sock``, which the stream owns.

        ``host`` is whom a client wants to talk to; ``session`` one that it had before, and ``remember``
        is given the one that it may resume next time.
        """
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=is_server, server_hostname=host, session=session)
        self._unsent = memoryview(b"")
        self._accepted = 0
        self._stash = b""
        self._failure: OSError | None = None
        self._is_open = self._is_reset = self._is_finishing = False
        self._has_more = self._has_ended = False
        self._callback: Callable[[], None] | None = None
        self._remember = remember
        self._step_bytes = min(STEP_BYTES, len(buffer.bytes))
        #: Whether the peer has sent anything yet.
        self.has_heard = False
        super().__init__(sock, park, buffer, owner)

    # -- the handshake --------------------------------------------------------------------------

    def shake(self) -> bool:
        """Go on with the handshake as far as it goes without waiting; whether it is done.

        If not, call it again when the socket is readable. Raises ``TlsError``, when the peer has
        been told, and other ``OSError`` when the connection is broken.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._push()
                if not self._pull():
                    return False
            except ssl.SSLError as error:
                self._push()
                self._failure = TlsError.of(error)
                raise self._failure from None  # its text says all
            else:
                break
        self._push()
        self._is_open = True
        self._set_more(self._incoming.pending > 0)
        return True

    @property
    def version(self) -> str | None:
        """``TLSv1.2`` or ``TLSv1.3``; ``None`` before the handshake."""
        return self._tls.version()

    @property
    def is_resumed(self) -> bool:
        """Whether a session of before was resumed."""
        return bool(self._tls.session_reused)

    # -- receiving ------------------------------------------------------------------------------

    def receive(self, limit: int = 0) -> int:
        """Read what is there into the buffer, decrypted, as :meth:`Stream.receive` does.

        Raises :class:`Truncated` when the connection ends without *close_notify*.
        """
        if not self._has_more and (self._has_ended or not self._pull()):
            return 0 if self._has_ended else -1
        count = self._take(limit or len(self.buffer.bytes))
        if self._outgoing.pending:
            self._push()
        if self._remember is not None and count > 0:
            self._remember_session(self._remember)
        self._set_more(self._has_more)
        return count

    def _pull(self) -> bool:
        """Get encrypted bytes from the kernel; whether there were any."""
        try:
            count = self._receive_into(self.buffer.bytes, self._step_bytes)
        except (BlockingIOError, InterruptedError):
            return False
        if not count:
            self._failure = Truncated()
            raise self._failure
        self.has_heard = True
        self._incoming.write(self.buffer.view[:count])
        return True

    def _take(self, size: int) -> int:
        """Put up to ``size`` decrypted bytes into the buffer: their count, 0 at the end, -1 for none."""
        self._has_more = False
        view, count = self.buffer.view, 0
        if self._stash:
            count = min(size, len(self._stash))
            view[:count], self._stash = self._stash[:count], self._stash[count:]
            self._has_more = True
            return count
        if self._failure is not None:
            raise self._failure
        try:
            while count < size:
                got = self._tls.read(size - count, view[count:] if count else view)
                if not got:
                    self._has_ended = True
                    break
                count += got
                self._has_more = self._may_have_more
                if not self._has_more:
                    return count
        except ssl.SSLWantReadError:
            self._has_more = False
            return count or -1
        except ssl.SSLZeroReturnError:
            self._has_ended = True
        except ssl.SSLError as error:
            self._failure = TlsError.of(error)
            self._push()  # an alert
            if not count:
                raise self._failure from None
        self._has_more = self._has_more or self._failure is not None or (self._has_ended and count > 0)
        return count

    @property
    def _may_have_more(self) -> bool:
        return self._incoming.pending > 0 or self._tls.pending() > 0

    def _set_more(self, has_more: bool) -> None:
        """Note whether something is here that the kernel does not know of: see rule 2."""
        self._has_more = has_more
        if has_more and self.park.target is ANY:  # a HubPark: nobody will wait
            self.park.loop.run_callback(self._fire_more)
        elif has_more and not self.is_stopped:
            self._watcher.stop()
            self.is_stopped = self.park.has_stopped = True

    def resume(self) -> None:
        """Watch for bytes again, and for those that are here already."""
        super().resume()
        if self._has_more:
            self.park.loop.run_callback(self._fire_more)

    def _fire_more(self) -> None:
        if self._has_more and not self.is_stopped and not self.is_closed:
            self._fire()

    def discard(self) -> int:
        """Read and forget encrypted bytes; the end is the one of the connection."""
        return super().receive()

    def has_ended(self) -> bool:
        """Whether the peer has closed its side. Consumes nothing."""
        return self._has_ended or super().has_ended()

    def _remember_session(self, remember: Callable[[ssl.SSLSession], None]) -> None:
        """Keep the session. The ticket of TLS 1.3 comes before the first byte of a server, if at all."""
        self._remember = None
        session = self._tls.session
        if session is not None and (session.has_ticket or self.version != "TLSv1.3"):
            remember(session)

    # -- sending --------------------------------------------------------------------------------

    def try_send(self, data: Any) -> int:
        """Send what the kernel takes now; returns the count. Offer the rest again, before anything else."""
        if self._failure is not None:
            raise self._failure
        try:
            return self._try_send(memoryview(data))
        except OSError as error:
            raise self._last_words(error) from None

    def _try_send(self, data: memoryview) -> int:
        if not self._flush():
            return 0
        count, self._accepted = self._accepted, 0
        while count < len(data):
            taken = self._encrypt(data[count:])
            if not self._flush():
                self._accepted = taken
                break
            count += taken
        return count

    def send_soon(self, data: bytes, latency: Histogram | None = None, since: float = 0.0) -> None:
        """Send now: encrypting costs more than waking the peer."""
        self.send(data)
        if latency is not None:
            latency.observe(perf_counter() - since)

    def send(self, data: Any) -> None:
        """Send all of ``data``, as :meth:`Stream.send` does."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._encrypt(rest):]
                if not self._flush():
                    self.flush()
        except OSError as error:
            raise self._last_words(error) from None

    def _last_words(self, error: OSError) -> OSError:
        """The alert that the peer sent before it broke the connection, if it did; else the error.

        With TLS 1.3 a server refuses the certificate of its client after the client has begun to send.
        """
        try:
            while self._pull():
                with contextlib.suppress(ssl.SSLWantReadError):
                    while self._tls.read(STEP_BYTES):
                        pass
        except ssl.SSLZeroReturnError:
            pass
        except ssl.SSLError as alert:
            return TlsError.of(alert)
        except OSError:
            pass
        return error

    def flush(self) -> None:
        """Wait until the kernel has all that was sent. Raises ``OSError``, and ``TimeoutError``."""
        stalled = TimeoutError("the peer reads nothing")
        try:
            while not self._flush():
                self.blocked_since = self.blocked_since or monotonic()
                wait_write(self.socket.fileno(), timeout=SEND_STALL_S, timeout_exc=stalled)
        finally:
            self.blocked_since = 0.0

    def _encrypt(self, data: memoryview) -> int:
        try:
            return self._tls.write(data[:STEP_BYTES])
        except ssl.SSLError as error:
            raise TlsError.of(error) from None

    def _flush(self) -> bool:
        """Give the kernel what is encrypted; whether it took all."""
        while True:
            if not self._unsent:
                if not self._outgoing.pending:
                    return True
                self._unsent = memoryview(self._outgoing.read())
            try:
                self._unsent = self._unsent[self._send(self._unsent):]
            except (BlockingIOError, InterruptedError):
                return False

    def _push(self) -> None:
        """Send what OpenSSL has to say, now or when the kernel takes it. An error waits for who sends."""
        with contextlib.suppress(OSError):
            if not self._flush():
                super().call_when_writable(self._on_writable)

    def call_when_writable(self, callback: Callable[[], None]) -> None:
        """Call back from the hub, again and again, while the kernel takes bytes."""
        self._callback = callback
        super().call_when_writable(self._on_writable)

    def stop_writable(self) -> None:
        """Stop what :meth:`call_when_writable` started."""
        self._callback = None
        if not self._unsent and not self._outgoing.pending:
            super().stop_writable()

    def _on_writable(self) -> None:
        """Called in the hub: what is encrypted goes first."""
        try:
            if not self._flush():
                return
            if self._is_finishing:
                self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._failure = error
        if self._callback is not None:
            self._callback()
        else:
            super().stop_writable()

    # -- the end --------------------------------------------------------------------------------

    def shutdown_send(self) -> None:
        """Tell the peer that nothing more comes; it may go on sending."""
        self._notify_close()
        self._is_finishing = True
        if self._flush():
            self.socket.shutdown(socket.SHUT_WR)
        else:
            super().call_when_writable(self._on_writable)

    def _notify_close(self) -> None:
        if self._is_open and self._failure is None and not self._is_finishing:
            self._put_aside()
            with contextlib.suppress(ssl.SSLError):  # it wants to read the peer's: that is for receive()
                self._tls.unwrap()

    def _put_aside(self) -> None:
        """Decrypt what is here: OpenSSL takes bytes that it has for a mistake once we have ended."""
        pieces = [self._stash]
        with contextlib.suppress(ssl.SSLError):
            while self._may_have_more and (piece := self._tls.read(STEP_BYTES)):
                pieces.append(piece)
        self._stash = b"".join(pieces)

    def reset_at_close(self) -> None:
        """Let :meth:`close` send a reset, and no *close_notify*."""
        self._is_reset = True
        super().reset_at_close()

    def close(self) -> None:
        """Send *close_notify* if the kernel takes it, and close the socket."""
        if not self.is_closed and not self._is_reset:
            with contextlib.suppress(OSError):
                self._notify_close()
                self._flush()
        self._callback = None
        self._failure = None  # it holds the frames that raised it, and they hold the stream
        super().close()

    def __repr__(self) -> str:
        return super().__repr__().replace("<Stream", "<TlsStream", 1)
