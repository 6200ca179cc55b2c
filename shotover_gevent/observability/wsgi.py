"""``gevent.pywsgi`` with a deadline per connection, a bound on headers, and silent.

It writes nothing to standard error: a client's mistake is a line at DEBUG, an error of ours one at
ERROR, with its traceback.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Iterable
from typing import Any

import gevent
from gevent.pool import Pool
from gevent.pywsgi import LoggingLogAdapter, WSGIHandler, WSGIServer

from shotover_gevent.errors import os_error_text
from shotover_gevent.net.address import Address

logger = logging.getLogger(__name__)

WsgiApplication = Callable[..., Iterable[bytes]]

# From accept to close. Prometheus gives up a scrape after 10 s by default; a client that sends
# slower than this is holding the connection for its own sake.
CONNECTION_S = 10.0

# Headers of one request: twice what browsers with cookies send. The request line has 8 KiB.
MAX_HEADER_BYTES = 16 * 1024

# As long as gevent's own pause at most, after an error of accept such as EMFILE.
ACCEPT_RETRY_S = 1.0

_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class WSGI(WSGIServer):
    """Serves an application on a listening socket, which ``close()`` closes."""

    def __init__(
        self, sock: socket.socket, application: WsgiApplication, pool: Pool, address: Address
    ) -> None:
        self._is_paused = True
        self._bound_to = address
        super().__init__(
            sock, application, spawn=pool, log=None,
            error_log=LoggingLogAdapter(logger, logging.DEBUG), handler_class=Handler,
        )

    def update_environ(self) -> None:
        """Name the server without asking a resolver, as the original does."""
        self.environ.update(SERVER_NAME=self._bound_to.host, SERVER_PORT=str(self._bound_to.port))

    def pause(self) -> None:
        """Accept nothing for now."""
        self._is_paused = True
        self.stop_accepting()

    def resume(self) -> None:
        """Accept connections."""
        self._is_paused = False
        if self.started:
            self.start_accepting()
        else:
            self.start()

    def start_accepting(self) -> None:
        """As the original, which also calls this whenever a connection of a pool has ended."""
        if not self._is_paused:
            super().start_accepting()

    def do_read(self) -> Any:
        """Accept; an error is logged and accepting paused, not printed."""
        try:
            return super().do_read()
        except OSError as error:
            logger.warning(
                "cannot accept admin connections", extra={"fields": {"error": os_error_text(error)}})
            self.stop_accepting()
            gevent.spawn_later(ACCEPT_RETRY_S, self._start_accepting_if_started)
            return None

    def handle(self, sock: Any, address: Any) -> None:
        """Serve one connection within its deadline."""
        deadline = gevent.spawn_later(CONNECTION_S, _cut, sock, address)
        try:
            super().handle(sock, address)
        except OSError as error:
            logger.debug("admin connection lost", extra={
                "fields": {"peer": address[0], "error": os_error_text(error)}})
        finally:
            deadline.kill(block=False)


def _cut(sock: Any, address: Any) -> None:
    """End a connection: whoever waits for it, to read or to write, sees its end.

    A ``Timeout`` would not do: pywsgi goes on to read the rest of a request that it interrupts.
    """
    logger.debug("admin connection took too long", extra={"fields": {"peer": address[0]}})
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


class Handler(WSGIHandler):
    """One connection."""

    def MessageClass(self, *args: Any) -> Any:  # noqa: N802 (the base class has this name)
        """Parse the headers, within their bound."""
        return super().MessageClass(_HeaderReader(self.rfile), *args[1:])

    def log_request(self) -> None:
        """One line per request, for those who want it."""
        logger.debug("admin request", extra={"fields": {
            "peer": self.client_address[0], "request": self.requestline, "status": self.code}})

    def handle_error(self, kind: Any, value: Any, trace: Any) -> None:
        """Errors outside of a page: those of ours are logged, control flow goes on."""
        self.close_connection = True
        if not issubclass(kind, Exception):
            raise value
        logger.error("admin connection failed", exc_info=(kind, value, trace))

    def _handle_client_error(self, error: Exception) -> Any:
        """A malformed request is a 400 and a line at DEBUG; one that broke off is nothing.

        The base class documents this as the place for subclasses; its own prints some errors.
        """
        if isinstance(error, ConnectionError):
            return None
        self.code = 400
        reason = getattr(error, "formatted_message", None) or str(error) or type(error).__name__
        logger.debug("bad admin request", extra={
            "fields": {"peer": self.client_address[0], "reason": reason}})
        return "400 Bad Request", _BAD_REQUEST


class _HeaderReader:
    """Reads lines up to :data:`MAX_HEADER_BYTES` in all; more is a ``ValueError``."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._left = MAX_HEADER_BYTES

    def readline(self, limit: int) -> bytes:
        """The next line, of at most ``limit`` bytes."""
        line: bytes = self._file.readline(min(limit, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise ValueError(f"more than {MAX_HEADER_BYTES} bytes of headers")
        return line
