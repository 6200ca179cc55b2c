"""What scenarios run on: one real Redis, the candidates in front of it, and clients as processes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from bench.clients import command
from bench.machine import ROOT, Tree
from bench.peers import SMALL_KEY, SMALL_VALUE, Missing, Peer
from bench.redis_benchmark import LoadError
from bench.results import Results
from shotover_gevent.testing.server import RealServer, ServerBinary

LARGE_KEY = b"bench:large"
LARGE_BYTES = 100_000

# Connections of the database besides those of the candidate that is measured.
SPARE_CLIENTS = 90

# Ten thousand connections are closed within a second; then everything is idle again.
SETTLE_S = 10.0
SETTLE_STEP_S = 0.05

# Timers of its own keep a process a little busy.
IDLE_SHARE = 0.05

CLIENT_S = 120.0


class Stage:
    """The database and the running candidates, from ``with`` to the end of the block.

    ``make`` are the constructors of the candidates. One that cannot run is entered in the results as
    missing, with its reason; those that can are in ``peers``, in their order.
    """

    def __init__(
        self, binary: ServerBinary, make: Sequence[tuple[str, Callable[[int], Peer]]], connections: int,
        results: Results, say: Callable[[str], None],
    ) -> None:
        self.results = results
        self.say = say
        self.connections = connections
        self.peers: list[Peer] = []
        self._make = make
        self.server = RealServer(binary, args=("--maxclients", str(connections + SPARE_CLIENTS)))
        self._stack = ExitStack()

    def __enter__(self) -> Stage:
        try:
            self._stack.enter_context(self.server)
            self._fill()
            for name, make in self._make:
                self._add(name, make)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _fill(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=CLIENT_S) as sock:
            for key, value in ((SMALL_KEY, SMALL_VALUE), (LARGE_KEY, b"x" * LARGE_BYTES)):
                sock.sendall(command(b"SET", key, value))
                if sock.recv(100) != b"+OK\r\n":
                    raise LoadError("the database does not take a value")

    def _add(self, name: str, make: Callable[[int], Peer]) -> None:
        try:
            peer = make(self.server.port)
            version = peer.version()
            self._stack.enter_context(peer)
        except Missing as missing:
            self.results.missing[name] = str(missing)
            self.say(f"missing: {name}: {missing}")
        else:
            self.peers.append(peer)
            self.results.candidates.append({"name": name, "title": peer.title, "version": version})

    def settle(self, peer: Peer) -> None:
        """Wait until the candidate and the database have nothing to do, but not for ever."""
        trees = [tree for tree in (peer.tree, Tree(self.server.pid or 0)) if tree is not None]
        until = time.monotonic() + SETTLE_S
        is_busy = True
        while is_busy and time.monotonic() < until:
            before = [tree.cpu_s() for tree in trees]
            time.sleep(SETTLE_STEP_S)
            is_busy = any(
                tree.cpu_s() - used_s > SETTLE_STEP_S * IDLE_SHARE
                for tree, used_s in zip(trees, before, strict=True))


class PacedClient:
    """A process of :mod:`bench.paced`; a ``with`` block begins when all connections are answered.

    Raises :class:`~bench.redis_benchmark.LoadError` if they are not.
    """

    def __init__(self, port: int, connections: int, rate: float | None = None, seconds: float = 0.0) -> None:
        self._command = [sys.executable, "-m", "bench.paced", "--port", str(port),
                         "--connections", str(connections), "--seconds", str(seconds)]
        if rate is not None:
            self._command += ["--rate", str(rate)]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> PacedClient:
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True)
        try:
            assert self._process.stdout is not None
            if self._process.stdout.readline() != "ready\n":
                raise LoadError(self._failure())
        except BaseException:
            self.__exit__()
            raise
        return self

    def play(self) -> dict[str, Any]:
        """Let it send; returns what it found. Raises :class:`~bench.redis_benchmark.LoadError`."""
        assert self._process is not None
        try:
            output, errors = self._process.communicate("go\n", timeout=CLIENT_S)
        except subprocess.TimeoutExpired as error:
            raise LoadError(f"the paced client did not end within {CLIENT_S:g} s") from error
        if self._process.returncode:
            raise LoadError(f"the paced client failed: {errors.strip()}")
        found: dict[str, Any] = json.loads(output)
        return found

    def _failure(self) -> str:
        assert self._process is not None
        _, errors = self._process.communicate(timeout=CLIENT_S)
        return f"the paced client failed: {errors.strip()}"

    def __exit__(self, *exc_info: object) -> None:
        process = self._process
        assert process is not None
        if process.stdin is not None:
            process.stdin.close()  # it ends with its input
        try:
            process.wait(CLIENT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
