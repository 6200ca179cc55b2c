"""``shotover-gevent reload``: start a successor of the process that serves, and say how it went.

Steps, under one deadline:
 1. Ask the kernel who listens on the control socket, and ``/proc`` how that process was started.
 2. Start the same command line, in the same folder and environment, as a session of its own.
 3. Wait until it reports that it serves, or ends, or the time is over.

Whatever goes wrong, the process that serves is left alone; a successor that did not become ready is
ended, by its pid.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shotover_gevent.deadline import Deadline
from shotover_gevent.errors import HotReloadError
from shotover_gevent.hotreload import notify
from shotover_gevent.hotreload.reason import PASSING
from shotover_gevent.hotreload.socketfile import Live, inspect

#: Names the descriptor that a successor makes its standard error once it is ready.
STDERR_VARIABLE = "SHOTOVER_GEVENT_STDERR_FD"

# A successor that imports, builds and binds needs about a second; slow disks and many listeners more.
DEFAULT_TIMEOUT_S = 60.0

# How much of a failed successor's error output is shown: its end, where the reason is.
ERROR_OUTPUT_BYTES = 8192


@dataclass
class Report:
    """The outcome of one reload; its fields are the keys of ``--json``.

    ``sessions`` counts those that moved, that are drained by the predecessor, that it kept because
    they were busy (they move when they fall idle), and that were dropped.
    """

    verdict: str
    reason: str
    duration_s: float
    predecessor_pid: int | None
    successor_pid: int | None
    listeners: dict[str, int] = field(default_factory=lambda: dict.fromkeys(
        ("kept", "added", "removed"), 0))
    sessions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(
        ("moved", "drained", "kept", "dropped"), 0))
    reasons: dict[str, int] = field(default_factory=dict)
    longest_pause_ms: float = 0.0

    def add(self, account: Mapping[str, Any]) -> None:
        """Add what the successor says of the reload."""
        self.listeners.update(account["listeners"])
        self.reasons = account["sessions"]["kept"]
        waiting = sum(count for reason, count in self.reasons.items() if reason in PASSING)
        self.sessions.update(
            moved=account["sessions"]["moved"], kept=waiting,
            drained=sum(self.reasons.values()) - waiting)
        self.longest_pause_ms = account["longest_pause_ms"]

    @property
    def is_ok(self) -> bool:
        """Whether the successor serves."""
        return self.verdict == "ok"

    def as_json(self) -> str:
        """One JSON object."""
        return json.dumps(asdict(self))

    def as_text(self) -> str:
        """Lines for a person."""
        if self.is_ok:
            counts = ", ".join(f"{count} {what}" for what, count in self.sessions.items())
            why = "".join(f"\n  stayed: {count} {reason}" for reason, count in self.reasons.items())
            return (
                f"reload ok in {self.duration_s:.2f} s: "
                f"process {self.successor_pid} serves, process {self.predecessor_pid} drains\n"
                f"sessions: {counts}; longest pause {self.longest_pause_ms:g} ms{why}"
            )
        untouched = "" if self.predecessor_pid is None else (
            f"\nprocess {self.predecessor_pid} goes on serving")
        return f"reload failed after {self.duration_s:.2f} s: {self.reason}{untouched}"


Tell = Callable[[str], None]


def reload(
    path: str, command: Sequence[str] = (), timeout_s: float = DEFAULT_TIMEOUT_S,
    tell: Tell = lambda text: None,
) -> Report:
    """Replace the process that serves ``path`` by a new one; ``command`` replaces its command line.

    ``tell`` gets what is going on, in a few words.
    """
    started = time.monotonic()
    predecessor: int | None = None
    successor: int | None = None
    account: Mapping[str, Any] | None = None
    verdict, reason = "ok", ""
    try:
        deadline = Deadline.after(timeout_s)
        predecessor = predecessor_at(path)
        tell(f"process {predecessor} serves; starting its successor")
        successor, account = _run(predecessor, list(command), deadline, tell)
    except HotReloadError as error:
        verdict, reason = "failed", str(error)
    seconds = round(time.monotonic() - started, 3)
    report = Report(verdict, reason, seconds, predecessor, successor)
    if account is not None:
        report.add(account)
    return report


def predecessor_at(path: str) -> int:
    """The process that serves ``path``. Raises ``HotReloadError``."""
    found = inspect(path)
    if not isinstance(found, Live):
        raise HotReloadError(
            f"nobody serves at {path}; start the first process with --hotreload-socket {path}")
    return found.pid


def _run(
    predecessor: int, command: list[str], deadline: Deadline, tell: Tell
) -> tuple[int, Mapping[str, Any] | None]:
    """Start the successor and wait until it serves: its pid, and its account of the reload."""
    proc = Path("/proc", str(predecessor))
    try:
        environ = environ_of(proc)
        command = command or serve_command(proc)
        folder = os.readlink(proc / "cwd")
    except OSError as error:
        raise HotReloadError(f"cannot see how process {predecessor} was started: {error}") from error
    with tempfile.TemporaryDirectory(prefix="shotover-reload-") as temporary:
        notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        errors = tempfile.TemporaryFile()
        outputs = _outputs(proc)
        with notifications, errors:
            notifications.bind(os.path.join(temporary, "notify"))
            environ[notify.COMMAND_VARIABLE] = os.path.join(temporary, "notify")
            # The sockets that were passed to the first process come from the predecessor now.
            environ.pop("LISTEN_PID", None)
            environ[STDERR_VARIABLE] = str(outputs[1])
            try:
                successor = subprocess.Popen(
                    command, cwd=folder, env=environ, stdin=subprocess.DEVNULL,
                    stdout=outputs[0], stderr=errors, pass_fds=(outputs[1],),
                    start_new_session=True,
                )
            except OSError as error:
                raise HotReloadError(f"cannot run {command[0]}: {error}") from error
            finally:
                for output in outputs:
                    os.close(output)
            try:
                tell(f"process {successor.pid} starts")
                said = _wait(successor, notifications, errors, deadline, tell)
            except BaseException:
                _end(successor)
                raise
            return successor.pid, json.loads(said.get(notify.RELOAD, "null"))


def _strings(path: Path) -> list[str]:
    """The zero-terminated strings of a file in ``/proc``."""
    return [os.fsdecode(part) for part in path.read_bytes().split(b"\0")[:-1]]


def environ_of(proc: Path) -> dict[str, str]:
    """The environment that the process with that folder was started with. Raises ``OSError``."""
    return dict(entry.split("=", 1) for entry in _strings(proc / "environ") if "=" in entry)


def serve_command(proc: Path) -> list[str]:
    """How the process with that folder was started. Raises ``HotReloadError`` or ``OSError``."""
    command = _strings(proc / "cmdline")
    if "serve" not in command or not any("shotover" in part for part in command):
        raise HotReloadError(
            f"process {proc.name} was not started as shotover-gevent serve but as: "
            f"{' '.join(command)}; give the successor's command line after --")
    return command


def _outputs(proc: Path) -> tuple[int, int]:
    """The predecessor's standard output and error, opened again; else our own."""
    found = []
    for number in (1, 2):
        try:
            found.append(os.open(proc / "fd" / str(number), os.O_WRONLY | os.O_APPEND))
        except OSError:  # a socket cannot be opened this way
            found.append(os.dup(number))
    return found[0], found[1]


def _wait(
    successor: subprocess.Popen[bytes], notifications: socket.socket, errors: object,
    deadline: Deadline, tell: Tell,
) -> dict[str, str]:
    """What the successor says when it serves; raises ``HotReloadError`` with the reason when it will not."""
    said: dict[str, str] = {}
    pidfd = os.pidfd_open(successor.pid)
    try:
        while not deadline.is_over:
            readable, _, _ = select.select([notifications, pidfd], [], [], deadline.left())
            if notifications in readable:
                said.update(notify.parse(notifications.recv(65536)))
                if (text := said.pop(notify.PROGRESS, None)) is not None:
                    tell(f"process {successor.pid} {text}")
                if said.get("READY") == "1":
                    return said
            elif pidfd in readable:
                output = said.get("STATUS") or _tail(errors) or "it said nothing"
                raise HotReloadError(f"the successor {_ending(successor.wait())}: {output}")
    finally:
        os.close(pidfd)
    raise HotReloadError("the successor was not ready in time")


def _ending(code: int) -> str:
    """How a process ended, by its exit code or, negative, the signal."""
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _tail(errors: object) -> str:
    size = errors.seek(0, os.SEEK_END)  # type: ignore[attr-defined]
    errors.seek(max(0, size - ERROR_OUTPUT_BYTES))  # type: ignore[attr-defined]
    return errors.read().decode(errors="replace").strip()  # type: ignore[attr-defined]


def _end(successor: subprocess.Popen[bytes]) -> None:
    """End a successor that did not become ready."""
    if successor.poll() is None:
        successor.send_signal(signal.SIGCONT)
        successor.kill()
        successor.wait()
