"""A bound socket and its accept loop, with one owner at any time.

Rules:
 1. The socket is owned by exactly one: this listener's ``StreamServer``, or whoever called
    :meth:`Listener.take`. ``take`` stops accepting, detaches the descriptor from the server and
    moves it into a new socket object; a second call finds nothing.
 2. :meth:`Listener.lend` makes a separate descriptor of the same socket for a successor; whoever
    gets it closes it. The listener goes on accepting meanwhile: a connection is given to one of
    those who hold the socket, so that no client waits while a successor starts.
 3. Once the socket was taken, the serve greenlet waits on an event that is never set: if it ended,
    the process would stop; if it went on, it would bind the address again.
 4. Soft limit: no accepting while full; clients wait in the kernel's queue. Hard limit: the socket
    is closed while full, so that clients are refused at once, and bound again afterwards.

Resource handling: ``close()`` closes the socket if the listener still has it. Accepted sockets
belong to the handler, which is called in the hub: it must not wait.

Error handling: an error of ``accept`` that concerns one connection (``ECONNABORTED`` and its kin)
is skipped. Any other, such as ``EMFILE``, is logged and tried again after 1, 2, 4, ... 64 seconds.
"""

from __future__ import annotations

import enum
import errno
import logging
import os
import socket
import stat
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event
from gevent.server import StreamServer

from shotover_gevent.errors import UsageError, os_error_text
from shotover_gevent.metrics import Counter
from shotover_gevent.net.address import Address

logger = logging.getLogger(__name__)

# The kernel cuts this to net.core.somaxconn; connections beyond it are dropped while a process is busy.
BACKLOG = 4096

# Shotover's back-off after errors of accept and bind.
MIN_BACKOFF_S = 1
MAX_BACKOFF_S = 64

# Shotover's pace of looking whether a hard limit is still reached.
HARD_LIMIT_POLL_S = 1.0

# They say that this one connection is gone, not that accepting is: accept(2), "Error handling".
_CONNECTION_ERRORS = frozenset(
    {
        errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN, errno.ENOPROTOOPT, errno.EHOSTDOWN,
        errno.ENONET, errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH, errno.EPERM,
    }
)

Handler = Callable[[socket.socket, Any], None]


class ListenerState(enum.Enum):
    """What a listener does with its socket."""

    BOUND = "bound"
    ACCEPTING = "accepting"
    REFUSING = "refusing"
    TAKEN = "taken"
    CLOSED = "closed"


def bind(address: Address) -> socket.socket:
    """A listening, non-blocking socket on ``address``; the caller owns it. Raises ``OSError``."""
    if address.is_unix:
        return _bind_unix(address.path)
    found = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, _, _, _, sockaddr = found[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind(sockaddr)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def bind_error(address: Address) -> OSError | None:
    """Why the address cannot be bound now; ``None`` if it can. Nobody can connect meanwhile."""
    try:
        if address.is_unix:
            if os.path.lexists(address.path) and not _is_stale(address.path):
                return OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
            folder = os.path.dirname(address.path)
            if not os.access(folder, os.W_OK | os.X_OK):
                code = errno.EACCES if os.path.isdir(folder) else errno.ENOENT
                return OSError(code, os.strerror(code))
            return None
        family, _, _, _, sockaddr = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(sockaddr)
    except OSError as error:
        return error
    return None


def _bind_unix(path: str) -> socket.socket:
    """A listening Unix socket; a socket file that nobody holds is replaced, nothing else is."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_stale(path):
                raise
            os.unlink(path)
            sock.bind(path)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _is_stale(path: str) -> bool:
    """Whether there is a socket file at ``path`` that no process listens on."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) == errno.ECONNREFUSED


def remove_file(address: Address, identity: tuple[int, int] | None) -> None:
    """Remove the file of a Unix socket if it is still the one with that ``identity``."""
    if identity is not None and file_identity(address) == identity:
        os.unlink(address.path)


def file_identity(address: Address) -> tuple[int, int] | None:
    """Device and inode of the file of a Unix socket; ``None`` for other addresses, or without one."""
    if not address.is_unix:
        return None
    try:
        status = os.lstat(address.path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class _Server(StreamServer):
    """A ``StreamServer`` that hands out plain sockets and asks before it accepts."""

    def __init__(self, sock: socket.socket, listener: Listener) -> None:
        self._listener = listener
        super().__init__(sock, listener.handle)

    def full(self) -> bool:
        return self._listener.check_full()

    def do_read(self) -> tuple[socket.socket, Any] | None:
        try:
            accepted = self.socket.accept()
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno not in _CONNECTION_ERRORS:
                self._listener.accept_failed(error)
            return None
        self._listener.accept_worked()
        return accepted

    def do_handle(self, sock: socket.socket, peer: Any) -> None:
        """Give the socket to the handler, which counts it at once and starts its greenlet."""
        self._listener.handle(sock, peer)


class Listener:
    """One listening address of a source. See the rules above."""

    def __init__(
        self,
        name: str,
        sock: socket.socket,
        handle: Handler,
        *,
        is_full: Callable[[], bool] = lambda: False,
        is_limit_hard: bool = False,
        keeps_file: bool = False,
        accept_failures: Counter | None = None,
        create_failures: Counter | None = None,
    ) -> None:
        """Take ownership of the listening socket ``sock``; accept nothing before :meth:`start`.

        With ``keeps_file`` the file of a Unix socket is somebody else's, and never removed.
        """
        self.name = name
        self.address = Address.of(sock.getsockname())
        self.handle = handle
        self.state = ListenerState.BOUND
        self._is_full = is_full
        self._is_limit_hard = is_limit_hard
        self._accept_failures = accept_failures or Counter()
        self._create_failures = create_failures or Counter()
        self._backoff_s = 0
        self._timer: gevent.Greenlet | None = None
        self._taken = Event()
        self._file = None if keeps_file else file_identity(self.address)
        self._server: _Server | None = _Server(sock, self)

    @property
    def obstacle(self) -> str:
        """Why no connection is accepted now, though it should be; empty when that is not so."""
        if self.state is ListenerState.REFUSING:
            return "connections are refused: the connection limit is reached"
        if self.state is ListenerState.ACCEPTING and self._timer is not None and self._backoff_s:
            return "accepting has failed and is tried again"
        return ""

    def start(self) -> None:
        """Accept connections."""
        if self._server is None:
            raise UsageError(f"listener {self.name} has no socket: it is {self.state.value}")
        self.state = ListenerState.ACCEPTING
        self._server.start()

    def serve(self) -> None:
        """Start, and never return: the body of the serve greenlet. End it by killing it."""
        if self._server is not None:  # whoever was faster than this greenlet may have taken it
            self.start()
        self._taken.wait()
        Event().wait()

    def lend(self) -> socket.socket | None:
        """Another descriptor of the listening socket, owned by the caller; ``None`` without one."""
        return self._server.socket.dup() if self._server is not None else None

    def take(self) -> socket.socket | None:
        """Stop accepting and give up the socket to the caller, open; ``None`` when there is none."""
        server, self._server = self._server, None
        self._cancel_timer()
        self.state = ListenerState.TAKEN
        self._taken.set()
        return _empty(server) if server is not None else None

    def stop_accepting(self) -> None:
        """Accept nothing for now; the socket stays, and clients wait in its queue."""
        self._cancel_timer()
        if self._server is not None:
            self._server.stop_accepting()
            self.state = ListenerState.BOUND

    def resume_accepting(self) -> None:
        """Undo :meth:`stop_accepting`."""
        if self.state is ListenerState.BOUND and self._server is not None:
            self.start()
        elif self.state is ListenerState.REFUSING and self._timer is None:
            self._timer = gevent.spawn(self._bind_again)

    def close(self) -> None:
        """Stop accepting for good, and close the socket if it is still here."""
        server, self._server = self._server, None
        self._cancel_timer()
        if self.state is not ListenerState.TAKEN:
            self.state = ListenerState.CLOSED
        if server is not None:
            self.remove_file()
            _empty(server).close()

    def remove_file(self) -> None:
        """Remove the file of a Unix socket, if it is still ours: nobody listens there any more."""
        remove_file(self.address, self._file)

    def slot_freed(self) -> None:
        """A session has ended: accept again if the limit had stopped that."""
        if self.state is ListenerState.ACCEPTING and self._server is not None and not self._timer:
            self._server.start_accepting()

    def check_full(self) -> bool:
        """Whether the limit is reached; starts to refuse if the limit is a hard one."""
        is_full = self._is_full()
        if is_full and self._is_limit_hard and self._server is not None:
            self.state = ListenerState.REFUSING
            self._server, server = None, self._server
            _empty(server).close()
            self._timer = gevent.spawn(self._bind_again)
        return is_full

    def accept_failed(self, error: OSError) -> None:
        """Log an error of accept and try again later. Called by the server."""
        self._accept_failures.value += 1
        self._backoff_s = min(self._backoff_s * 2, MAX_BACKOFF_S) or MIN_BACKOFF_S
        logger.warning(
            "[%s] Failed to accept incoming connection on listener [%s] with error: %s, "
            "retrying with backoff of %ds",
            self.name, self.address, os_error_text(error), self._backoff_s,
        )
        if self._server is not None:
            self._server.stop_accepting()
            self._timer = gevent.spawn_later(self._backoff_s, self._accept_again)

    def accept_worked(self) -> None:
        """Note the end of a back-off. Called by the server."""
        if self._backoff_s:
            self._backoff_s = 0
            logger.info(
                "[%s] Accept on listener [%s] recovered and is now accepting new connections",
                self.name, self.address,
            )

    def _accept_again(self) -> None:
        self._timer = None
        if self._server is not None:
            self._server.start_accepting()

    def _bind_again(self) -> None:
        backoff_s = 0
        while True:
            gevent.sleep(backoff_s or HARD_LIMIT_POLL_S)
            if self._is_full():
                continue
            if self.state is not ListenerState.REFUSING:
                return  # closed or taken in the moment in which the greenlet was to be ended
            try:
                sock = bind(self.address)
            except OSError as error:
                self._create_failures.value += 1
                backoff_s = min(backoff_s * 2, MAX_BACKOFF_S) or MIN_BACKOFF_S
                logger.warning(
                    "[%s] Failed to create listener on [%s] with error: %s address=%s, "
                    "retrying with backoff of %ds",
                    self.name, self.address, os_error_text(error), self.address, backoff_s,
                )
                continue
            break
        self._timer = None
        self._server = _Server(sock, self)
        self.start()
        if backoff_s:
            logger.info(
                "[%s] Listener on [%s] recovered and is now accepting connections",
                self.name, self.address,
            )

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.kill(block=False)

    def __repr__(self) -> str:
        return f"<Listener {self.name} on {self.address} {self.state.value}>"


def _empty(server: _Server) -> socket.socket:
    """Take the listening socket out of ``server``, which is left closed; the caller owns it."""
    server.stop_accepting()
    sock = server.socket
    moved = socket.socket(fileno=sock.detach())
    server.close()
    return moved
