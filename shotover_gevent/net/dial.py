"""Connecting to a database within a deadline."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Any

import gevent
from gevent import socket as gsocket

from shotover_gevent.deadline import Deadline
from shotover_gevent.errors import UpstreamError
from shotover_gevent.net.address import Address
from shotover_gevent.net.park import Park
from shotover_gevent.net.stream import ReceiveBuffer, Stream

if TYPE_CHECKING:
    from shotover_gevent.net.tls_context import ClientTls

# A database host that vanished without a FIN is noticed after about 60 + 3 x 10 seconds;
# there is no other limit on how long a blocking command may take.
KEEPALIVE_IDLE_S = 60
KEEPALIVE_INTERVAL_S = 10
KEEPALIVE_PROBES = 3

_STARTED = (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR)


def open_stream(
    address: Address, timeout_s: float, park: Park, buffer: ReceiveBuffer, owner: Any = None,
    tls: ClientTls | None = None,
) -> Stream:
    """A stream to ``address``, which the caller closes; with ``tls`` after the handshake.

    Both have to be done within the one timeout. Raises :class:`UpstreamError` as :func:`dial` does.
    """
    deadline = Deadline.after(timeout_s)
    sock = dial(address, timeout_s)
    if tls is None:
        return Stream(sock, park, buffer, owner)
    try:
        return tls.shake(
            sock, deadline, park, buffer, owner, host=address.host, port=address.port)
    except OSError as error:
        if deadline.is_over:
            raise _too_slow(address, timeout_s) from error
        raise UpstreamError(f"Failed to establish TLS connection to destination {address}") from error


def dial(address: Address, timeout_s: float) -> socket.socket:
    """Connect to ``address``; the caller owns the returned non-blocking socket.

    All addresses of a host name are tried in turn within the one timeout. Raises
    :class:`UpstreamError` with Shotover's texts; its cause is the operating system's error.
    """
    deadline = Deadline.after(timeout_s)
    failure: OSError | None = None
    try:
        for family, sockaddr in _resolve(address, deadline):
            try:
                return _connect(family, sockaddr, deadline)
            except OSError as error:
                if error.errno is None:  # our own time is over, not the kernel's (ETIMEDOUT)
                    break
                failure = error
    except OSError as error:
        failure = error if error.errno is not None else None
    if failure is None or deadline.is_over:
        raise _too_slow(address, timeout_s)
    raise UpstreamError(f"Failed to connect to destination {address}") from failure


def _too_slow(address: Address, timeout_s: float) -> UpstreamError:
    return UpstreamError(
        f"destination {address} did not respond to connection attempt "
        f"within {rust_duration(timeout_s)}"
    )


def _resolve(address: Address, deadline: Deadline) -> list[tuple[socket.AddressFamily, Any]]:
    if address.is_unix:
        return [(socket.AF_UNIX, address.path)]
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, address.host)
        except OSError:
            continue
        return [(family, (address.host, address.port))]
    with gevent.Timeout(deadline.left(), TimeoutError("resolve")):
        found = gsocket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    return [(family, sockaddr) for family, _, _, _, sockaddr in found]


def _connect(
    family: socket.AddressFamily, sockaddr: Any, deadline: Deadline
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        tune(sock)
        code = sock.connect_ex(sockaddr)
        if code in _STARTED:
            gsocket.wait_write(sock.fileno(), deadline.left(), TimeoutError("connect"))
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock


def tune(sock: socket.socket) -> None:
    """Set what every TCP connection of ours has: no delay, and keep-alive probes."""
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def rust_duration(seconds: float) -> str:
    """Seconds as Rust prints a ``Duration`` for debugging: ``3s``, ``500ms``, ``1.5s``, ``0ns``."""
    if seconds == 0:
        return "0ns"
    if 0 < seconds < 1:
        return f"{round(seconds * 1000, 6):g}ms"
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"
