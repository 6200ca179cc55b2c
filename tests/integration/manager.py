"""What stands in for a service manager: its notify socket, and the sockets that it passes."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from shotover_gevent.hotreload import notify

WAIT_S = 20.0

# Becomes the proxy, with the descriptors named in its first argument moved to where sd_listen_fds(3)
# has them, and the pid that only this process knows.
LAUNCHER = """
import fcntl, os, sys
copies = [fcntl.fcntl(int(number), fcntl.F_DUPFD_CLOEXEC, 100) for number in sys.argv[1].split(",")]
for number, copy in enumerate(copies, 3):
    os.dup2(copy, number)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "shotover_gevent", *sys.argv[2:]])
"""


class Manager:
    """The socket at ``NOTIFY_SOCKET``, and the main process as a manager would know it.

    Closed by the end of a ``with`` block.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.main_pid: int | None = None
        self.messages: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(WAIT_S)
        self._socket.bind(str(path))

    @property
    def environ(self) -> dict[str, str]:
        """What the process is given."""
        return {notify.VARIABLE: str(self.path)}

    def next(self) -> dict[str, str]:
        """The next message; fails after a while without one."""
        message = notify.parse(self._socket.recv(65536))
        if "MAINPID" in message:
            self.main_pid = int(message["MAINPID"])
        self.messages.append(message)
        return message

    def until(self, **fields: str) -> dict[str, str]:
        """The next message with these fields; others are noted as well."""
        while True:
            message = self.next()
            if fields.items() <= message.items():
                return message

    def pending(self) -> list[dict[str, str]]:
        """What has arrived and was not read."""
        found = []
        self._socket.setblocking(False)
        try:
            while True:
                found.append(self.next())
        except BlockingIOError:
            return found
        finally:
            self._socket.settimeout(WAIT_S)

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()


def account(message: dict[str, str]) -> dict[str, int]:
    """How many sessions moved in the reload that a message tells of."""
    return json.loads(message[notify.RELOAD])["sessions"]


def launcher(sockets: Sequence[socket.socket]) -> list[str]:
    """The beginning of a command line that passes the sockets; they must be inheritable."""
    for sock in sockets:
        sock.set_inheritable(True)
    return [sys.executable, "-c", LAUNCHER, ",".join(str(sock.fileno()) for sock in sockets), "serve"]


def listen_environ(names: Sequence[str]) -> dict[str, str]:
    """What the manager says of the sockets."""
    return {"LISTEN_FDS": str(len(names)), "LISTEN_FDNAMES": ":".join(names)}


def is_open(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_alive(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            return stat.read().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False

