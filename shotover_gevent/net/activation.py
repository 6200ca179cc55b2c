"""Listening sockets that a service manager has opened for us: sd_listen_fds(3).

The manager passes ``LISTEN_FDS`` descriptors from 3 on to the process ``LISTEN_PID``, with their names,
separated by colons, in ``LISTEN_FDNAMES``. It keeps the sockets open, so that clients wait in their
queues while no process serves.

Resource handling: :func:`passed_sockets` makes the caller the owner of every socket.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import NamedTuple

# The first descriptor that is passed: SD_LISTEN_FDS_START.
FIRST = 3

# More than a unit file would ever list. It keeps a wrong number from costing time.
MAX_PASSED = 1024

VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


class Passed(NamedTuple):
    """One socket and its name."""

    name: str
    socket: socket.socket


def passed_sockets(environ: Mapping[str, str]) -> list[Passed]:
    """The sockets that were passed to this process, non-blocking and close-on-exec; the caller owns
    them. Raises ``OSError`` if a descriptor is not open or no socket; none stays open then."""
    pid, count = environ.get("LISTEN_PID", ""), environ.get("LISTEN_FDS", "")
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    passed = []
    try:
        for number, name in zip(range(FIRST, FIRST + min(int(count), MAX_PASSED)), _names(environ)):
            sock = socket.socket(fileno=number)
            passed.append(Passed(name, sock))
            sock.setblocking(False)
            os.set_inheritable(number, False)
    except BaseException:
        for each in passed:
            each.socket.close()
        raise
    return passed


def manager_names(environ: Mapping[str, str], is_successor: bool) -> frozenset[str]:
    """The names of sockets that the manager holds, whoever serves them.

    A successor that a reload starts inherits the variables of the first process.
    """
    if not is_successor and environ.get("LISTEN_PID", "") != str(os.getpid()):
        return frozenset()
    count = environ.get("LISTEN_FDS", "")
    return frozenset(_names(environ)[:int(count)]) if count.isdigit() else frozenset()


def _names(environ: Mapping[str, str]) -> list[str]:
    """A name for each descriptor: systemd says ``unknown`` where there is none."""
    names = environ.get("LISTEN_FDNAMES", "").split(":") if environ.get("LISTEN_FDNAMES") else []
    count = environ.get("LISTEN_FDS", "")
    missing = min(int(count), MAX_PASSED) - len(names) if count.isdigit() else 0
    return names + ["unknown"] * missing


def is_listening(sock: socket.socket) -> bool:
    """Whether it is a stream socket that listens."""
    return sock.type == socket.SOCK_STREAM and bool(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


class Activation:
    """Sockets that were passed, by name, until they are taken.

    ``held`` has the names of all that the manager holds, also of those that a predecessor gives us:
    closing them does not free their address, and their files are the manager's.
    """

    def __init__(
        self, sockets: Mapping[str, socket.socket] | None = None, held: frozenset[str] = frozenset()
    ) -> None:
        """Take ownership of the sockets."""
        self._sockets = dict(sockets or {})
        self.held = held | self._sockets.keys()

    def take(self, name: str) -> socket.socket | None:
        """The socket of that name, which is the caller's then; ``None`` without one."""
        return self._sockets.pop(name, None)

    def close(self) -> None:
        """Close what nobody has taken."""
        while self._sockets:
            self._sockets.popitem()[1].close()
