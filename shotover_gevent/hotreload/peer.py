"""The process at the other end of a control connection, as the kernel tells it.

A pid is given to another process once its own has ended, so a pid alone proves nothing later. A
pidfd stays with its process: while it is not readable, that process lives and its pid is its own.
"""

from __future__ import annotations

import enum
import io
import os
import select
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import gevent
from gevent import monkey
from gevent import socket as gsocket

from shotover_gevent.deadline import Deadline
from shotover_gevent.net.fdpass import MAX_PACKET_BYTES, recv_packet, send_packet

# Since Linux 6.5 the kernel gives the pidfd of the peer itself; before, its pid must be looked up.
_SO_PEERPIDFD = 77

_UCRED = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who connected, or listened: at that time, and for good. ``pid`` 0 is not visible to us."""

    pid: int
    uid: int
    gid: int


def credentials(sock: socket.socket) -> Credentials:
    """The peer of the connected ``AF_UNIX`` socket ``sock``."""
    return Credentials(
        *_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


class Process:
    """A process that is watched for its end. ``close()`` ends the watching, not the process."""

    def __init__(self, pid: int, pidfd: io.FileIO | None) -> None:
        """Take ownership of ``pidfd``; without one the process counts as living for ever."""
        self.pid = pid
        self._pidfd = pidfd

    @classmethod
    def of(cls, sock: socket.socket) -> Process:
        """The peer of ``sock``. Raises ``ProcessLookupError`` if it is gone, or other ``OSError``."""
        pid = credentials(sock).pid
        try:
            number = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
        except OSError:
            if pid == 0:
                return cls(pid, None)
            number = os.pidfd_open(pid)
        return cls(pid, io.FileIO(number))

    @property
    def has_exited(self) -> bool:
        """Whether the process has ended."""
        if self._pidfd is None:
            return False
        # The original: a cooperative poll would let other greenlets run in the middle of a decision.
        poll = monkey.get_original("select", "poll")()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def wait(self, deadline: Deadline) -> bool:
        """Wait for the end of the process; ``False`` if the deadline, which must be one, came first."""
        left = deadline.left()
        if self._pidfd is None:
            gevent.sleep(left)
            return False
        try:
            gsocket.wait_read(self._pidfd.fileno(), left, TimeoutError())
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Stop watching."""
        if self._pidfd is not None:
            self._pidfd.close()

    def __repr__(self) -> str:
        return f"<Process {self.pid}>"


class PeerState(enum.Enum):
    """How far the conversation with a peer has come."""

    SILENT = "silent"
    ASKED = "asked"
    ANSWERED = "answered"


class Peer:
    """A control connection as the predecessor sees it: its socket, its time, and who it is."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        """Take ownership of the connected socket ``sock``; :meth:`close` closes it."""
        sock.setblocking(False)
        self.socket = sock
        self.who = credentials(sock)
        self.state = PeerState.SILENT
        self._deadline = deadline

    def receive(self) -> bytes:
        """The next packet; nothing at the end. Descriptors that came with it are not let in."""
        data, _ = recv_packet(self.socket, MAX_PACKET_BYTES, 0, self._deadline)
        if self.state is PeerState.SILENT:
            self.state = PeerState.ASKED
        return data

    def send(self, data: bytes, sockets: Sequence[socket.socket] = ()) -> None:
        """Send one packet; the ``sockets`` stay the caller's."""
        send_packet(self.socket, data, sockets, self._deadline)
        self.state = PeerState.ANSWERED

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    def __repr__(self) -> str:
        return f"<Peer {self.who.pid} {self.state.value}>"
