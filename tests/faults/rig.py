"""A proxy that is reloaded while something is wrong, and what it holds before and after."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shotover_gevent.testing.stop_points import CONSTANTS, DIALECT, STOP_AT, STOP_REPORT
from tests.harness import WAIT_S, ProxyProcess, eventually

# Short enough for a test, long enough for a loaded machine to do in time what is not held up.
WAITS = {
    "hotreload.server.LEASE_S": 1.5, "hotreload.dialect.START_S": 1.5, "hotreload.dialect.STEP_S": 1.0,
    "hotreload.client.REQUEST_TIMEOUT_S": 1.5, "hotreload.client.EXIT_GRACE_S": 0.3,
    "sinks.valkey_pool.KEEP_S": 0.2,
}

# What a failed reload leaves in the log of the process that goes on serving, or of the successor.
FAILED_RELOAD = (
    "hot reload by process", "was lent the listening sockets", "Failed to start shotover",
    "has ended (before|while|at)", "Error handling connection",
)

REAP_S = 20.0


@dataclass(frozen=True)
class Footprint:
    """Who serves, which processes there are, what the server has open, and the files beside it."""

    serving: int
    pids: list[int]
    descriptors: int
    files: list[str]


@dataclass
class Ended:
    """How a program ended."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        """What ``reload --json`` printed."""
        return json.loads(self.out)

    @property
    def reason(self) -> str:
        """Why the reload failed, with pids and file names left out."""
        text = re.sub(r"/\S+/", "", self.report["reason"])
        return re.sub(r"\b(process|pid) \d+", r"\1 N", text)


class Background:
    """A program that runs beside the test; at the end of the block it is killed if it still runs."""

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, start_new_session=True, **options)

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        self._process.send_signal(number)

    def end(self, timeout_s: float = REAP_S) -> Ended:
        """Wait for the end of the process."""
        out, err = self._process.communicate(timeout=timeout_s)
        return Ended(self._process.returncode, out, err)

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()


@dataclass
class Waits:
    """The constants of a process, for its environment."""

    values: Mapping[str, float] = field(default_factory=lambda: WAITS)

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.values.items())


class Rig(ProxyProcess):
    """A proxy with a control socket, whose successors can be made to stop at a step.

    ``dialect`` is what its successors speak, ``drain_s`` how long it drains once it is replaced.
    """

    program = (sys.executable, "-m", "shotover_gevent.testing.stop_points", "serve")

    def __init__(
        self, topology: str, dialect: str = "ours", *, drain_s: int = 1, stop_at: str | None = None,
        waits: Mapping[str, float] = WAITS, tolerate: Sequence[str] = FAILED_RELOAD, **options: Any,
    ) -> None:
        super().__init__(
            topology, args=["--hotreload-gradual-shutdown-seconds", str(drain_s)], tolerate=tolerate,
            **options)
        self.env |= {DIALECT: dialect, CONSTANTS: str(Waits(waits))}
        self.stop_at = stop_at
        self._is_killed = False

    def _command(self) -> list[str]:
        if self.hotreload_socket is None:
            self.hotreload_socket = self.folder / "control"
        self.env[STOP_REPORT] = str(self.folder / "stopped")
        if self.stop_at is not None and self._process is None:
            self.env[STOP_AT] = self.stop_at
        else:
            self.env.pop(STOP_AT, None)
        return super()._command()

    def killed(self) -> bool:
        """Wait for the end of the process; whether it was SIGKILL, as the test then wanted it."""
        self._is_killed = self.wait() == -signal.SIGKILL
        return self._is_killed

    def stop(self, timeout_s: float = WAIT_S) -> int:
        """As ``ProxyProcess.stop``; a process that the test has killed counts as ended in order."""
        code = super().stop(timeout_s)
        return 0 if self._is_killed else code

    # -- the successor --------------------------------------------------------------------------

    def begin(self, *args: str, stop_at: str | None = None, command: Sequence[str] = ()) -> Background:
        """Start ``shotover-gevent reload --json``, whose successor stops at a point."""
        successor = ["env", f"{STOP_AT}={stop_at}", *self._command()] if stop_at else [*command]
        if self.stop_at and not successor:
            successor = ["env", "-u", STOP_AT, *self._command()]
        return Background([
            sys.executable, "-m", "shotover_gevent", "reload", "--json", "--hotreload-socket",
            str(self.hotreload_socket), *args, *(["--", *successor] if successor else []),
        ])

    def replace(self, *args: str, **options: Any) -> Ended:
        """Run a whole reload."""
        with self.begin(*args, **options) as reload:
            return reload.end()

    def second(self, stop_at: str | None = None) -> Background:
        """Start a successor by hand, without the command."""
        command = self._command()
        stop = {STOP_AT: stop_at} if stop_at else {}
        environ = self.family.environ({**os.environ, **self.env, **stop})
        return Background(command, cwd=self.folder, env=environ)

    def stopped(self, point: str, program: Background) -> int:
        """Wait until a process has stopped at the point; which one. ``program`` must not end before."""
        report = Path(self.env[STOP_REPORT])

        def found() -> int | None:
            if program.has_ended:
                raise RuntimeError(f"ended before {point}: {program.end()}")
            name, _, pid = report.read_text().partition(" ")
            assert name == point
            return int(pid) if pid.endswith("\n") and _state(int(pid)) == "T" else None

        pid = eventually(found)
        report.unlink()
        return pid

    # -- what is there --------------------------------------------------------------------------

    @property
    def serving(self) -> int:
        """The process that listens on the control socket."""
        return peer_pid(str(self.hotreload_socket))

    def footprint(self) -> Footprint:
        """What there is now. The lock of the reload stays in the folder for the next one."""
        serving = self.serving
        files = sorted(name for name in os.listdir(self.folder) if not name.endswith(".lock"))
        return Footprint(serving, self.family.pids(), len(os.listdir(f"/proc/{serving}/fd")), files)

    def wait_footprint(self, expected: Footprint) -> None:
        """Wait until there is exactly what was there before."""
        def check() -> bool:
            assert self.footprint() == expected
            return True

        eventually(check)

    def settle(self) -> Footprint:
        """Wait until one process is left, which has no clients; what there is then."""
        eventually(lambda: self.family.pids() == [self.serving] and not connected(self.serving))
        return self.footprint()


def peer_pid(path: str) -> int:
    """The process that listens on a control socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(path)
        pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return int(pid)


def end(pid: int, number: int = signal.SIGKILL) -> None:
    """Signal a process that :meth:`Rig.stopped` named."""
    os.kill(pid, number)


def sockets(pid: int) -> set[int]:
    """The inodes of the sockets that a process has open."""
    folder = Path(f"/proc/{pid}/fd")
    links = [os.readlink(folder / name) for name in os.listdir(folder)]
    return {int(link[8:-1]) for link in links if link.startswith("socket:[")}


def listening(pid: int) -> dict[str, int]:
    """The TCP sockets at which a process listens: address and port in hexadecimal, and inode."""
    held = sockets(pid)
    return {
        local: inode for local, is_listening, inode in _tcp() if is_listening and inode in held}


def connected(pid: int) -> int:
    """How many TCP connections a process has."""
    held = sockets(pid)
    return sum(not is_listening and inode in held for _, is_listening, inode in _tcp())


def _tcp() -> list[tuple[str, bool, int]]:
    """The TCP sockets of the machine: local address, whether it listens, inode."""
    rows = [
        line.split() for name in ("tcp", "tcp6")
        for line in Path("/proc/net", name).read_text().splitlines()[1:]
    ]
    return [(row[1], row[3] == "0A", int(row[9])) for row in rows]


def _state(pid: int) -> str:
    """The letter of the process's state; ``T`` is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
