"""TLS of one source and of one sink: its files, read again when they change, and its streams.

Rules:
 1. The files are read when the source or the sink is built, before anything is bound. That they
    cannot be used is an error of the configuration then.
 2. Afterwards they are looked at when somebody connects or asks for the metrics, at most every
    :data:`CHECK_S`. Changed ones are loaded together; if that fails, those of before stay in use,
    and an error is logged and counted, once for each change.
 3. Connections that exist keep what they began with.
"""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from socket import socket
from time import monotonic
from typing import Any

from gevent.socket import wait_read

from shotover_gevent.deadline import Deadline
from shotover_gevent.metrics import Counter, MetricStore
from shotover_gevent.net.park import Park
from shotover_gevent.net.stream import ReceiveBuffer
from shotover_gevent.net.tls import CLOSED, KINDS, OTHER, TIMEOUT, TlsError, TlsStream
from shotover_gevent.net.tls_files import Loaded, TlsFilesError, load, paths
from shotover_gevent.net.tls_settings import TlsAcceptor, TlsConnector, TlsSettings

logger = logging.getLogger(__name__)

# How often the files are looked at, at most: three stat() each time. Whoever has replaced them does not
# wait for longer than this before testing the result.
CHECK_S = 2.0

# A handshake takes two round trips. This leaves room for a packet that is lost and sent again three
# times (1 + 2 + 4 s); whoever needs longer holds a connection slot without being able to use it.
HANDSHAKE_S = 10.0

# A sink talks to a few hosts at most; beyond this, names come and go.
MAX_SESSIONS = 64

_Signature = tuple[tuple[int, int, int] | None, ...]


class Files:
    """The files of a ``tls`` as a context, which is made anew when they change.

    ``owner`` is how log lines call whom they belong to. Raises ``TlsFilesError``, a ``ConfigError``.
    """

    def __init__(self, settings: TlsSettings, owner: str, failures: Counter) -> None:
        self._settings = settings
        self._owner = owner
        self._failures = failures
        self._seen = _signature(paths(settings))
        self._checked_at = monotonic()
        self._loaded = load(settings)
        self._is_new = True

    def current(self) -> Loaded:
        """What to use now. Warns of certificates that have expired, at the first time."""
        now = monotonic()
        if now - self._checked_at >= CHECK_S:
            self._checked_at = now
            self._check()
        if self._is_new:
            self._is_new = False
            self._warn()
        return self._loaded

    def expires_at(self) -> float:
        """When the first of our own certificates expires, in seconds since the epoch; 0 without one."""
        return self.current().expires_at or 0.0

    def _check(self) -> None:
        seen = _signature(paths(self._settings))
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._loaded = load(self._settings)
        except TlsFilesError as error:
            self._failures.value += 1
            logger.error(
                "%s: the changed TLS files cannot be used, those of before stay in use: %s",
                self._owner, error)
        else:
            self._is_new = True
            logger.info("%s: the changed TLS files are in use from now on", self._owner)

    def _warn(self) -> None:
        """Not part of loading: a process sets its logs up only after it has built everything."""
        expires_at = self._loaded.expires_at
        if expires_at is not None and expires_at < time.time():
            when = datetime.fromtimestamp(expires_at, timezone.utc)
            logger.warning(
                "%s: a certificate in %s has expired on %s", self._owner,
                self._settings.certificate_path, f"{when:%Y-%m-%d %H:%M:%S} UTC")


def _signature(files: Sequence[str]) -> _Signature:
    """What changes when a file is replaced or written to; ``None`` for one that is not there."""
    found: list[tuple[int, int, int] | None] = []
    for path in files:
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            found.append(None)
        else:
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)


class ServerTls:
    """TLS of a source. ``handshake_s`` is how long a client may take until it can send a request."""

    def __init__(
        self, settings: TlsAcceptor, source: str, metrics: MetricStore,
        handshake_s: float | None = None,
    ) -> None:
        self.settings = settings
        self.handshake_s = HANDSHAKE_S if handshake_s is None else handshake_s
        self._source = source
        self._files = Files(settings, f"source {source}", metrics.counter(
            "shotover_gevent_tls_reload_failures_count",
            "Changed files of a source that could not be used", source=source))
        self._failures = _failure_counters(
            metrics, "shotover_gevent_tls_handshake_failures_count",
            "Clients with which no TLS came about", source=source)
        metrics.gauge(
            "shotover_gevent_tls_certificate_expiry_seconds",
            "When the certificate shown to clients expires, since the epoch",
            self._files.expires_at, source=source)

    def warn(self) -> None:
        """Say now what is worth a warning, instead of when the first client connects."""
        self._files.current()

    def stream(self, sock: socket, park: Park, buffer: ReceiveBuffer) -> TlsStream:
        """A stream for an accepted socket, which it owns."""
        return TlsStream(sock, park, buffer, context=self._files.current().context, is_server=True)

    def failed(self, client_address: str, error: OSError) -> None:
        """Log and count a handshake that failed."""
        kind = error.kind if isinstance(error, TlsError) else CLOSED
        self._failures[kind].value += 1
        logger.warning("[%s] TLS handshake with %s failed: %s", self._source, client_address, error)

    def too_slow(self) -> TlsError:
        """What is wrong with a client that has had :attr:`handshake_s`."""
        return TlsError(TIMEOUT, f"not done within {self.handshake_s:g} s")


class ClientTls:
    """TLS of the sink ``name``, which remembers the session of each host to resume it.

    Its metrics have ``labels``.
    """

    def __init__(
        self, settings: TlsConnector, name: str, metrics: MetricStore, labels: Mapping[str, str]
    ) -> None:
        self.settings = settings
        self._files = Files(settings, f"sink {name}", metrics.counter(
            "shotover_gevent_tls_upstream_reload_failures_count",
            "Changed files of a sink that could not be used", **labels))
        self._failures = _failure_counters(
            metrics, "shotover_gevent_tls_upstream_handshake_failures_count",
            "Connections to the database with which no TLS came about", **labels)
        if settings.certificate_path is not None:
            metrics.gauge(
                "shotover_gevent_tls_upstream_certificate_expiry_seconds",
                "When the certificate shown to the database expires, since the epoch",
                self._files.expires_at, **labels)
        self._sessions: dict[tuple[str, int], ssl.SSLSession] = {}
        self._context: ssl.SSLContext | None = None

    def shake(
        self, sock: socket, deadline: Deadline, park: Park, buffer: ReceiveBuffer, owner: Any = None, *,
        host: str, port: int = 0,
    ) -> TlsStream:
        """A stream for a connected socket, after the handshake; it owns the socket, which is closed if
        that fails. Raises ``OSError``, ``TlsError`` with the kind ``timeout`` at the deadline."""
        try:
            stream = self._stream(sock, park, buffer, owner, host, port)
        except ValueError as error:  # a host name that none can be
            sock.close()
            raise self._failed(TlsError(OTHER, f"{host!r} is no host name: {error}")) from error
        late = TlsError(TIMEOUT, "the handshake was not done in time")
        try:
            while not stream.shake():
                wait_read(sock.fileno(), deadline.left(), late)
        except OSError as error:
            stream.close()
            raise self._failed(error)
        except BaseException:
            stream.close()
            raise
        return stream

    def _stream(
        self, sock: socket, park: Park, buffer: ReceiveBuffer, owner: Any, host: str, port: int
    ) -> TlsStream:
        context = self._files.current().context
        if context is not self._context:
            self._context = context
            self._sessions.clear()  # each belongs to its context
        key = (host, port)

        def remember(session: ssl.SSLSession) -> None:
            if context is self._context:
                if len(self._sessions) >= MAX_SESSIONS:
                    self._sessions.clear()
                self._sessions[key] = session

        return TlsStream(
            sock, park, buffer, owner, context=context, host=host or None,
            session=self._sessions.get(key), remember=remember)

    def _failed(self, error: OSError) -> OSError:
        self._failures[error.kind if isinstance(error, TlsError) else CLOSED].value += 1
        return error


def _failure_counters(
    metrics: MetricStore, name: str, help: str, **labels: str
) -> dict[str, Counter]:
    """A counter for each kind of failure; all of them exist from the start."""
    return {kind: metrics.counter(name, help, **labels, reason=kind) for kind in KINDS}
