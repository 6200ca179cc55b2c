"""The successor's side: asks for the listening sockets, and confirms once it can serve.

Rules:
 1. Build and validate everything before asking: from the answer on, a lease runs.
 2. What is received belongs to the :class:`Handover` until it is taken, by its whole address: a
    wildcard is not a specific address, IPv4 is not IPv6. What nobody took is closed with it.
 3. Confirm before accepting. If that fails, accept nothing and end: the predecessor serves on.
 4. Only the process that lent the sockets is told to retire, not whoever has the path meanwhile.
 5. At the deadline of a confirmation the receiving side is shut down before the last look for an
    answer. The predecessor retires if, and only if, its answer could be put into our queue; so an
    answer that is not there then can never be, and both sides agree on what has happened.
 6. A predecessor that has ended cannot answer, and nobody but us has the sockets: that is a
    confirmation.

Error handling: everything is a :class:`HotReloadError` with Shotover's texts, whose causes are its
causes; nothing stays open then.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import IO, Any

import gevent
from gevent import socket as gsocket

from shotover_gevent.deadline import Deadline
from shotover_gevent.errors import HotReloadError, UsageError, os_error_text
from shotover_gevent.hotreload.peer import Process, credentials
from shotover_gevent.hotreload.protocol import (
    ErrorResponse, GradualShutdown, ListenerResponse, Request, Response, SendListeningSockets,
    ShutdownResponse, SocketsResponse, decode_response, encode_request,
)
from shotover_gevent.net.address import Address
from shotover_gevent.net.dial import rust_duration
from shotover_gevent.net.fdpass import (
    MAX_PACKET_BYTES, MAX_SOCKETS, close_all, recv_packet, send_packet,
)

logger = logging.getLogger(__name__)

# Shotover's limit for one request: connecting, asking and being answered.
REQUEST_TIMEOUT_S = 30.0

# The kernel closes the connections of a process that is killed before it counts as ended.
EXIT_GRACE_S = 1.0

# A full queue of the control socket reports no event when it has room again.
CONNECT_RETRY_S = 0.02

# Names are resolved again by whoever binds; here they only decide what is taken over.
RESOLVE_TIMEOUT_S = 5.0

TCP = (socket.AF_INET, socket.AF_INET6)
STREAMS = (*TCP, socket.AF_UNIX)


class Handover:
    """The sockets that a predecessor lent, until they are taken. A context manager; see the rules."""

    def __init__(
        self, path: str, predecessor: Process, listeners: Sequence[ListenerResponse],
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> None:
        """Take ownership of ``predecessor`` and of the sockets of ``listeners``."""
        self.path = path
        self._predecessor = predecessor
        self._listeners = list(listeners)
        self._timeout_s = timeout_s
        self._is_closed = False
        self._lock: IO[str] | None = None
        #: Where the predecessor listened.
        self.addresses_before = [str(each.address) for each in listeners]
        #: The predecessor's account of its sessions: ``moved``, ``kept`` by reason, and
        #: ``longest_pause_ms``; empty in a dialect in which none move.
        self.end: dict[str, Any] = {}
        #: Gets what is going on, in a few words, for a person who waits; it must not wait itself.
        self.tell: Callable[[str], None] = lambda text: None
        #: What its chains have for ours that belongs to no session; for ``Proxy.adopt_chains``.
        self.chains: list[Any] = []

    @property
    def predecessor_pid(self) -> int:
        """The process that lent the sockets; 0 if in another pid namespace."""
        return self._predecessor.pid

    @property
    def remaining(self) -> list[Address]:
        """The addresses of the sockets that nobody took."""
        return [each.address for each in self._listeners]

    def take(self, address: Address) -> socket.socket | None:
        """The listening socket bound to exactly ``address``; it is the caller's. ``None``: not lent."""
        wanted = resolve(address)
        for index, each in enumerate(self._listeners):
            if each.listener is not None and each.listener.getsockname() == wanted:
                del self._listeners[index]
                return each.listener
        return None

    def confirm(self, gradual_shutdown_s: float) -> None:
        """Tell the predecessor to retire and to drain within ``gradual_shutdown_s`` seconds.

        Raises :class:`HotReloadError` if it refuses or does not answer: then it serves on.
        """
        if self._is_closed:
            raise UsageError("a closed handover cannot be confirmed")
        deadline = Deadline.after(self._timeout_s)
        try:
            with connect(self.path, deadline) as sock:
                if (pid := credentials(sock).pid) != self.predecessor_pid:
                    raise HotReloadError(
                        f"{self.path} is now the socket of process {pid}, and the listening "
                        f"sockets are those of process {self.predecessor_pid}")
                response = _ask_for_shutdown(sock, gradual_shutdown_s, deadline, self._timeout_s)
        except (_NoAnswer, _NoConnection) as error:
            if not self._predecessor.wait(Deadline.after(EXIT_GRACE_S)):
                raise
            logger.warning("process %d has ended before it could confirm the hand-over: %s",
                           self.predecessor_pid, error)
            return
        if isinstance(response, ErrorResponse):
            raise _returned(response)
        if not isinstance(response, ShutdownResponse):
            raise HotReloadError("Unexpected response to GradualShutdown")

    def keep(self, lock: IO[str]) -> None:
        """Take ownership of the lock of this reload, until :meth:`close`."""
        self._lock = lock

    def complete(self, host: object, place_control_socket: Callable[[], None]) -> None:
        """Finish, when clients are accepted: in this dialect, no sessions move."""
        del host
        place_control_socket()

    def close(self) -> None:
        """Close what nobody took; may be called again."""
        self._is_closed = True
        if self._lock is not None:
            self._lock.close()
        listeners, self._listeners = self._listeners, []
        close_all([each.listener for each in listeners if each.listener is not None])
        self._predecessor.close()

    def __enter__(self) -> Handover:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Handover from {self.predecessor_pid}: {len(self._listeners)} listeners not taken>"


class _NoConnection(HotReloadError):
    """Nobody accepts connections at the path."""


class _NoAnswer(HotReloadError):
    """The request was not answered: the connection ended, or the time did."""


def request_listeners(
    path: str | os.PathLike[str], timeout_s: float = REQUEST_TIMEOUT_S
) -> Handover:
    """Ask the process that serves ``path`` for its listening sockets; the caller closes the result.

    Raises :class:`HotReloadError`.
    """
    path = os.fspath(path)
    deadline = Deadline.after(timeout_s)
    with connect(path, deadline) as sock:
        predecessor = process_of(sock, path)
        listeners: list[ListenerResponse] = []
        try:
            data, sockets = _ask(sock, SendListeningSockets(), deadline, timeout_s)
            listeners = listeners_of(sockets)
            response = decode_response(data, listeners)
            if isinstance(response, ErrorResponse):
                raise _returned(response)
            if not isinstance(response, SocketsResponse):
                raise HotReloadError("Unexpected response to SendListeningSockets")
            handover = Handover(path, predecessor, response.listeners, timeout_s)
        except BaseException:
            close_all([each.listener for each in listeners if each.listener is not None])
            predecessor.close()
            raise
    if not listeners:
        logger.warning("No listeners received during hot reload")
    return handover


def connect(path: str, deadline: Deadline) -> socket.socket:
    """A connection to the control socket, retried while its queue is full; the caller closes it."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.setblocking(False)
    try:
        while True:
            try:
                sock.connect(path)
                return sock
            except BlockingIOError:
                if deadline.is_over:
                    raise
                gevent.sleep(CONNECT_RETRY_S)
    except OSError as error:
        sock.close()
        raise _NoConnection(f"Failed to connect to hot reload server at: {path}") from error
    except BaseException:
        sock.close()
        raise


def process_of(sock: socket.socket, path: str) -> Process:
    """The process at the other end of ``sock``, watched; the caller closes it."""
    try:
        return Process.of(sock)
    except OSError as error:
        raise HotReloadError(f"Cannot watch the process that serves {path}") from error


def _ask(
    sock: socket.socket, request: Request, deadline: Deadline, timeout_s: float
) -> tuple[bytes, list[socket.socket]]:
    """Send ``request`` and return the answer; its sockets are the caller's."""
    try:
        send_packet(sock, encode_request(request), [], deadline)
        return recv_packet(sock, MAX_PACKET_BYTES, MAX_SOCKETS, deadline)
    except TimeoutError as error:
        raise _NoAnswer(f"Hot reload request timed out after {rust_duration(timeout_s)}") from error
    except OSError as error:
        raise _NoAnswer("Failed to receive a response from the hot reload server") from error


def _ask_for_shutdown(
    sock: socket.socket, seconds: float, deadline: Deadline, timeout_s: float
) -> Response:
    """Send ``GradualShutdown`` and return the answer, at the last moment or never: rule 5."""
    try:
        data, sockets = _ask(sock, GradualShutdown(seconds), deadline, timeout_s)
    except _NoAnswer:
        # Also for a connection that broke: an answer may be in the queue behind the error.
        try:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RD)
            data, sockets = recv_packet(sock, MAX_PACKET_BYTES, MAX_SOCKETS, Deadline.after(0))
        except OSError:
            data, sockets = b"", []
        if not data:
            close_all(sockets)
            raise
    close_all(sockets)
    if not data:
        raise _NoAnswer("The hot reload server closed the connection without an answer")
    return decode_response(data)


def listeners_of(
    sockets: Sequence[socket.socket], families: Sequence[int] = TCP
) -> list[ListenerResponse]:
    """Those of ``sockets`` that listen for streams; the others are closed with a warning."""
    listeners = []
    for sock in sockets:
        try:
            if sock.family not in families or sock.type != socket.SOCK_STREAM:
                raise OSError("it is no TCP socket")
            if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise OSError("it does not listen")
            listeners.append(ListenerResponse(Address.of(sock.getsockname()), sock))
        except OSError as error:
            logger.warning("Failed to create listener from FD: %s", os_error_text(error))
            sock.close()
    return listeners


def resolve(address: Address) -> object | None:
    """What ``getsockname`` says of a socket bound to ``address``; ``None`` for an unknown name."""
    if address.is_unix:
        return address.path
    for resolve, flags in (
        (socket.getaddrinfo, socket.AI_PASSIVE | socket.AI_NUMERICHOST),
        (gsocket.getaddrinfo, socket.AI_PASSIVE),
    ):
        with gevent.Timeout(RESOLVE_TIMEOUT_S, False):
            try:
                return resolve(
                    address.host, address.port, type=socket.SOCK_STREAM, flags=flags)[0][4]
            except (OSError, UnicodeError):
                continue
    return None


def _returned(response: ErrorResponse) -> HotReloadError:
    return HotReloadError(f"Hot reload server returned error: {response.text}")
