"""Packets with sockets attached, between two processes, over ``AF_UNIX`` ``SOCK_SEQPACKET``.

Rules:
 1. Outside this module there are sockets only. A descriptor becomes a number in
    :func:`send_packet`, next to ``sendmsg``, and stops being one in :func:`recv_packet`.
 2. Sending gives nothing away: the kernel makes its own copies, and the caller's sockets stay the
    caller's, to be closed by it whether the packet went out or not.
 3. Who receives, owns: a received descriptor is close-on-exec from its first instant and wrapped
    before anything else can happen. It is closed on every path that does not return it.
 4. Received sockets are non-blocking. ``O_NONBLOCK`` belongs to the description that both processes
    share, so nobody may ever set one of them to blocking.
 5. Nothing blocks the hub: sockets are non-blocking, waits are gevent's and end at a deadline.

Error handling: ``OSError`` is the operating system's (``EPIPE``: the peer is gone; ``EMSGSIZE``: the
packet is larger than the send buffer; ``ETOOMANYREFS``: too many descriptors in flight);
``TimeoutError`` is the deadline; :class:`HotReloadError` is a packet that cannot be used.
"""

from __future__ import annotations

import array
import logging
import socket
from collections.abc import Sequence

from gevent import socket as gsocket

from shotover_gevent.deadline import Deadline
from shotover_gevent.errors import HotReloadError, UsageError, os_error_text

logger = logging.getLogger(__name__)

# SCM_MAX_FD of the kernel: with 254, sendmsg fails with EINVAL and nothing is sent.
MAX_SOCKETS = 253

# What Shotover receives with; whatever it sends or understands fits.
MAX_PACKET_BYTES = 65_536

# A record of its own, and EPIPE instead of a signal when the peer is gone. As Shotover sends.
_SEND_FLAGS = socket.MSG_NOSIGNAL | socket.MSG_EOR

_Ancillary = list[tuple[int, int, bytes]]


def send_packet(
    sock: socket.socket, data: bytes, sockets: Sequence[socket.socket], deadline: Deadline
) -> None:
    """Send one packet with ``sockets`` attached, which stay open and the caller's."""
    if not data:
        raise UsageError("an empty packet cannot be told from the end of the connection")
    if len(sockets) > MAX_SOCKETS:
        raise UsageError(f"{len(sockets)} sockets do not fit into a packet: {MAX_SOCKETS} do")
    ancillary = []
    if sockets:
        numbers = array.array("i", [each.fileno() for each in sockets])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)]
    while True:
        try:
            sock.sendmsg([data], ancillary, _SEND_FLAGS)
            return
        except BlockingIOError:
            _check(deadline)
            gsocket.wait_write(sock.fileno(), deadline.left(), _out_of_time())


def recv_packet(
    sock: socket.socket, max_bytes: int, max_fds: int, deadline: Deadline
) -> tuple[bytes, list[socket.socket]]:
    """Wait for one packet; the caller owns the sockets returned. No bytes: the peer has closed.

    With ``max_fds`` 0 descriptors are not let in: the kernel discards them, as with a plain
    ``recv``. Otherwise more than ``max_fds`` are an error, as is more than ``max_bytes``. A
    descriptor that is no socket is closed with a warning.
    """
    if max_fds > MAX_SOCKETS:
        raise UsageError(f"a packet has at most {MAX_SOCKETS} descriptors, not {max_fds}")
    # CMSG_SPACE would round up, and let in one descriptor more than asked for.
    room = socket.CMSG_LEN(max_fds * array.array("i").itemsize) if max_fds else 0
    while True:
        try:
            data, ancillary, flags, _ = sock.recvmsg(max_bytes, room, socket.MSG_CMSG_CLOEXEC)
            break
        except BlockingIOError:
            _check(deadline)
            gsocket.wait_read(sock.fileno(), deadline.left(), _out_of_time())
    sockets = _own(ancillary)
    try:
        if flags & socket.MSG_TRUNC:
            raise HotReloadError(f"a packet is longer than {max_bytes} bytes")
        if flags & socket.MSG_CTRUNC and max_fds:
            raise HotReloadError(
                f"descriptors of a packet were lost: it has more than {max_fds}, "
                "or this process has reached its limit of open files")
        for each in sockets:
            each.setblocking(False)
    except BaseException:
        close_all(sockets)
        raise
    return data, sockets


def close_all(sockets: Sequence[socket.socket]) -> None:
    """Close every one of ``sockets``, also when closing one of them fails."""
    for each in sockets:
        try:
            each.close()
        except OSError as error:  # the descriptor is gone all the same: close(2)
            logger.warning("closing a socket failed: %s", os_error_text(error))


def _own(ancillary: _Ancillary) -> list[socket.socket]:
    """Wrap the received descriptors; what is no socket is closed here."""
    numbers = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
    sockets = []
    for number in numbers:
        try:
            sockets.append(socket.socket(fileno=number))
        except OSError as error:
            socket.close(number)
            logger.warning("a received descriptor was closed: %s", os_error_text(error))
    return sockets


def _check(deadline: Deadline) -> None:
    if deadline.is_over:
        raise _out_of_time()


def _out_of_time() -> TimeoutError:
    return TimeoutError("no time is left")
