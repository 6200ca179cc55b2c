"""The candidates of a comparison, as processes; each is a class with one worker, one thread, one core.

Rules:
 1. A candidate listens on a free port of 127.0.0.1 and passes everything to one real Redis there.
 2. Its files are in a temporary folder, and it is ended with the block that started it.
 3. What cannot run here says so by :class:`Missing`; nothing is left out in silence.
"""

from __future__ import annotations

import copy
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import ClassVar

from bench.machine import Tree
from shotover_gevent.testing.port import free_port

# Asked to know that the way to the database is open. Envoy answers PING by itself, but not this.
SMALL_KEY, SMALL_VALUE = b"bench:small", b"abc"
GET_SMALL = b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(SMALL_KEY), SMALL_KEY)
SMALL_REPLY = b"$%d\r\n%b\r\n" % (len(SMALL_VALUE), SMALL_VALUE)

# The slowest starts in half a second on an idle machine.
START_S = 20.0
STOP_S = 15.0

# Fine enough for a table in milliseconds, and no load.
POLL_S = 0.002

_VERSION_S = 20.0
_LOG_LINES = 8


class Missing(Exception):
    """A candidate cannot take part; the text says why and what would help."""


class Peer:
    """A candidate. The constructor raises :class:`Missing` if it is not installed, and starts nothing.

    ``upstream`` is the port of the database, ``connections`` how many clients must fit.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    #: What the program is found by on PATH, and what brings it.
    program: ClassVar[str] = ""
    hint: ClassVar[str] = ""

    def __init__(self, upstream: int, connections: int) -> None:
        self.upstream = upstream
        self.connections = connections
        self.port = 0
        self.folder = Path()
        self.path = self._find()
        self._process: subprocess.Popen[bytes] | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    # -- what each one says of itself -----------------------------------------------------------

    def version(self) -> str:
        """Name and version, as the program tells them."""
        raise NotImplementedError

    def files(self) -> dict[str, str]:
        """Its configuration: names and contents of the files in its folder."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """Its command line; the working directory is its folder."""
        raise NotImplementedError

    def _find(self) -> str:
        path = shutil.which(self.program)
        if path is None:
            raise Missing(f"{self.program} is not on PATH; {self.hint}")
        return path

    # -- life -----------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """The process that runs, if one does."""
        return None if self._process is None else self._process.pid

    @property
    def tree(self) -> Tree | None:
        """What it costs; ``None`` if it has no process."""
        return None if self._process is None else Tree(self._process.pid)

    def fresh(self) -> Peer:
        """Another one of the same kind, which has not been started."""
        other = copy.copy(self)
        other._process = other._temporary = None
        return other

    def environ(self) -> dict[str, str] | None:
        """The environment of its process; ``None``: that of this one."""
        return None

    def start(self) -> float:
        """Start it; returns after how many seconds it answered. Raises :class:`Missing` if it never does."""
        self.port = free_port()
        self._temporary = tempfile.TemporaryDirectory(prefix="shotover-bench-")
        self.folder = Path(self._temporary.name)
        try:
            for name, text in self.files().items():
                (self.folder / name).write_text(text)
            started = time.monotonic()
            with open(self.folder / "log", "wb") as log:
                self._process = subprocess.Popen(
                    self.command(), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    env=self.environ(), start_new_session=True)
            self._wait_until_ready(started + START_S)
        except BaseException:
            self.stop()
            raise
        return time.monotonic() - started

    def stop(self) -> None:
        """End it and remove its folder; calling it again does nothing."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def _wait_until_ready(self, until: float) -> None:
        assert self._process is not None
        while not answers(self.port):
            if self._process.poll() is not None:
                raise Missing(f"it ended with code {self._process.returncode}: {self._log()}")
            if time.monotonic() > until:
                raise Missing(f"it did not answer within {START_S:g} s: {self._log()}")
            time.sleep(POLL_S)

    def _log(self) -> str:
        lines = (self.folder / "log").read_text(errors="replace").splitlines()
        return " | ".join(lines[-_LOG_LINES:])

    def __enter__(self) -> Peer:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} port={self.port} pid={self.pid}>"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    """Whether a request sent there comes back from the database."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2.0) as sock:
            sock.sendall(GET_SMALL)
            return sock.recv(64) == SMALL_REPLY
    except OSError:
        return False


def first_match(command: list[str], pattern: str) -> str:
    """What a program says of its version, on either output. Raises :class:`Missing` if it does not."""
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=_VERSION_S, check=False,
            stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{command[0]} does not run: {error}") from error
    match = re.search(pattern, result.stdout + result.stderr)
    if match is None:
        raise Missing(f"{' '.join(command)} tells no version")
    return match[1]
