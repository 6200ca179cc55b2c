"""``demo --check``: load a proxy, reload it in the middle, and tell whether anything was lost.

Clients are threads with plain blocking sockets. Each repeats a *round*: one write of up to four
requests that begins with an ``INCR`` of its own counter, then the replies, compared byte by byte.

Rules:
 1. A connection that is closed between two rounds has moved: the client connects again and goes on.
 2. A close that meets a round on its way, before any byte of a reply, is told apart by the counter in
    the server itself: if the round was not executed, it is sent again, as every client library does,
    and counted; if it was, its reply is lost.
 3. Everything else is a loss: a refused connection, a wrong or missing reply, a close within a reply,
    a reset of a silent connection, bytes that nobody asked for.
 4. At the end every counter in the server is compared with what its client was told: nothing was
    executed twice.
"""

from __future__ import annotations

import random
import select
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shotover_gevent.terminal import Progress

if TYPE_CHECKING:
    from shotover_gevent.demo import Stage

BUSY_CLIENTS = 6
SILENT_CLIENTS = 4
SHORT_CLIENTS = 3

# Between two rounds, so that the threads of one interpreter wait for the proxy and not for each other.
PAUSE_S = 0.003

# Traffic before the reload and after the predecessor has ended.
BEFORE_S = 1.5
AFTER_S = 1.0

# No step of the check takes a second on an idle machine; these are for loaded ones.
REPLY_S = 10.0
RELOAD_S = 15.0
PREDECESSOR_S = 12.0

# Larger than one read of the proxy, so that a reload meets requests and replies in pieces too.
LARGE_VALUE_BYTES = 300_000

MAX_LOSSES_SHOWN = 10


class Lost(Exception):
    """Something was lost; the text says what."""


def command(*parts: bytes) -> bytes:
    """A request as clients send it."""
    head = b"*%d\r\n" % len(parts)
    return head + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def bulk(value: bytes) -> bytes:
    """A reply that holds one value."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


@dataclass
class Client:
    """One client and what became of it. ``rounds_per_connection`` is 0 for one that stays."""

    number: int
    port: int
    server_port: int
    pause_s: float | None
    rounds_per_connection: int = 0
    counter: int = 0
    requests: int = 0
    connections: int = 0
    moved: int = 0
    resent: int = 0
    longest_connect_s: float = 0.0
    longest_reply_s: float = 0.0
    connected_at: float = 0.0
    loss: str | None = None
    _socket: socket.socket | None = field(default=None, repr=False)
    _rounds: int = 0

    @property
    def is_short(self) -> bool:
        """Whether it opens a new connection all the time."""
        return self.rounds_per_connection > 0

    @property
    def counter_name(self) -> bytes:
        """The key that counts its rounds."""
        return b"check:%d" % self.number

    def run(self, done: threading.Event) -> None:
        """Play rounds until ``done``, and one after it; the first loss ends it."""
        try:
            self.play_round()
            while not done.wait(self.pause_s):
                self.play_round()
            self.play_round()
        except Lost as loss:
            self.loss = f"client {self.number}: {loss}"
        except OSError as error:
            self.loss = f"client {self.number}: {type(error).__name__}: {error}"
        finally:
            self._close()

    def play_round(self) -> None:
        """One round, over a new connection if the present one was closed. Raises :class:`Lost`."""
        request, expected, count = self._round()
        while not self._ask(request, expected):
            self._check_not_executed()
            self.resent += 1
            self._close()
        self.counter += 1
        self.requests += count
        self._rounds += 1
        if self.is_short and self._rounds % self.rounds_per_connection == 0:
            self._close()

    def _round(self) -> tuple[bytes, bytes, int]:
        """What to send, what must come back, and how many requests that is."""
        number = self.counter + 1
        parts = [(command(b"INCR", self.counter_name), b":%d\r\n" % number)]
        kind = number % 20
        if kind % 2 == 0:
            token = b"echo %d of %d" % (number, self.number)
            parts.append((command(b"ECHO", token), bulk(token)))
        if kind % 3 == 0:
            size = LARGE_VALUE_BYTES if kind == 0 else 10 * kind
            value = (b"%d/%d " % (self.number, number)).ljust(size, b"v")
            key = b"check:%d:value" % self.number
            parts.append((command(b"SET", key, value), b"+OK\r\n"))
            parts.append((command(b"GET", key), bulk(value)))
        requests, replies = zip(*parts, strict=True)
        return b"".join(requests), b"".join(replies), len(parts)

    def _ask(self, request: bytes, expected: bytes) -> bool:
        """Send and compare; ``False`` when the connection ended before any byte of a reply."""
        sock = self._connection()
        start = time.monotonic()
        reply = b""
        try:
            sock.sendall(request)
            while len(reply) < len(expected):
                data = sock.recv(1 << 16)
                if not data:
                    break
                reply += data
        except (ConnectionResetError, BrokenPipeError):
            pass
        except TimeoutError:
            raise Lost(f"no reply within {REPLY_S:.0f} s") from None
        if not reply:
            return False
        if reply != expected:
            raise Lost(_difference(reply, expected))
        self.longest_reply_s = max(self.longest_reply_s, time.monotonic() - start)
        return True

    def _connection(self) -> socket.socket:
        """The open connection, or a new one when there is none or it was closed while idle."""
        if self._socket is not None and self._was_closed(self._socket):
            self._close()
            self.moved += 1
        if self._socket is None:
            start = time.monotonic()
            try:
                self._socket = socket.create_connection(("127.0.0.1", self.port), timeout=REPLY_S)
            except OSError as error:
                raise Lost(f"a connection was not accepted: {error}") from error
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            self.connected_at = time.monotonic()
            self.longest_connect_s = max(self.longest_connect_s, self.connected_at - start)
        return self._socket

    def _was_closed(self, sock: socket.socket) -> bool:
        if not select.select([sock], [], [], 0)[0]:
            return False
        try:
            data = sock.recv(64)
        except ConnectionResetError:
            raise Lost("a silent connection was reset") from None
        if data:
            raise Lost(f"bytes that nobody asked for: {data!r}")
        return True

    def _check_not_executed(self) -> None:
        executed = ask_server(self.server_port, self.counter_name)
        if executed != self.counter:
            raise Lost(f"round {self.counter + 1} was executed, and closed without a reply")

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def ask_server(port: int, key: bytes) -> int:
    """The counter in the server itself, past the proxy."""
    with socket.create_connection(("127.0.0.1", port), timeout=REPLY_S) as sock:
        sock.sendall(command(b"GET", key))
        reply = sock.recv(1024)
    return 0 if reply == b"$-1\r\n" else int(reply.split(b"\r\n")[1])


def _difference(reply: bytes, expected: bytes) -> str:
    if expected.startswith(reply):
        return f"closed within a reply, after {len(reply)} of {len(expected)} bytes"
    place = next((i for i, pair in enumerate(zip(reply, expected)) if pair[0] != pair[1]), len(expected))
    return f"wrong reply: {reply[place:][:60]!r} instead of {expected[place:][:60]!r} at byte {place}"


@dataclass
class Reload:
    """How the reload in the middle went."""

    started_at: float
    seconds: float
    exit_code: int
    output: str
    predecessors: list[int]
    successors: list[int]
    has_ended: bool

    def problems(self) -> list[str]:
        """What was not as it should be."""
        if self.exit_code != 0:
            return [f"the reload command ended with code {self.exit_code}: {self.output}"]
        if len(self.successors) != 1:
            return [f"one process should have taken over, there are {self.successors}"]
        if not self.has_ended:
            return [f"the predecessor still runs {PREDECESSOR_S:.0f} s after the reload"]
        return []


def run_check(stage: Stage, stop: threading.Event) -> int:
    """Play, reload, and report; 0 only if nothing was lost. ``stop`` ends it early, with 1."""
    clients = _make_clients(stage.port, stage.server.port)
    done = threading.Event()
    threads = [threading.Thread(target=client.run, args=(done,)) for client in clients]
    for thread in threads:
        thread.start()
    try:
        with Progress() as progress:
            progress(f"{len(clients)} clients compare every reply")
            stop.wait(BEFORE_S)
            progress("reloading, and waiting for the predecessor to end")
            reload = _reload(stage)
            progress("comparing with the server")
            stop.wait(AFTER_S)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    problems = reload.problems() + _losses(clients)
    if stop.is_set():
        problems.append("interrupted")
    for problem in problems[:MAX_LOSSES_SHOWN]:
        print(f"demo: {problem}", file=sys.stderr)
    exit_code = None if stage.proxy is None else stage.proxy.poll()
    print(_report(clients, reload, exit_code, len(problems)), flush=True)
    return 1 if problems else 0


def _make_clients(port: int, server_port: int) -> list[Client]:
    clients: list[Client] = []
    for _ in range(BUSY_CLIENTS):
        clients.append(Client(len(clients), port, server_port, random.uniform(0.5, 1.5) * PAUSE_S))
    for _ in range(SHORT_CLIENTS):
        clients.append(Client(len(clients), port, server_port, PAUSE_S, rounds_per_connection=1))
    for _ in range(SILENT_CLIENTS):
        clients.append(Client(len(clients), port, server_port, None))
    return clients


def _reload(stage: Stage) -> Reload:
    predecessors = stage.family.pids()
    started_at = time.monotonic()
    result = stage.reload(RELOAD_S)
    seconds = time.monotonic() - started_at
    successors = [pid for pid in stage.family.pids() if pid not in predecessors]
    has_ended = result.returncode == 0 and _wait_for_end(stage, predecessors)
    output = (result.stderr or result.stdout).strip()
    return Reload(
        started_at, seconds, result.returncode, output, predecessors, successors, has_ended)


def _wait_for_end(stage: Stage, pids: Sequence[int]) -> bool:
    until = time.monotonic() + PREDECESSOR_S
    while set(pids) & set(stage.family.pids()):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def _losses(clients: Sequence[Client]) -> list[str]:
    losses = [client.loss for client in clients if client.loss is not None]
    for client in clients:
        if client.loss is None:
            executed = ask_server(client.server_port, client.counter_name)
            if executed != client.counter:
                losses.append(
                    f"client {client.number}: the server has executed {executed} rounds, "
                    f"the client was told of {client.counter}")
    return losses


def _report(clients: Sequence[Client], reload: Reload, exit_code: int | None, problems: int) -> str:
    staying = [client for client in clients if not client.is_short]
    kept = sum(client.connected_at < reload.started_at for client in staying)
    requests = sum(client.requests for client in clients)
    connections = sum(client.connections for client in clients)
    moved = sum(client.moved for client in clients)
    resent = sum(client.resent for client in clients)
    connect_ms = max(client.longest_connect_s for client in clients) * 1000
    reply_ms = max(client.longest_reply_s for client in clients) * 1000
    verdict = "nothing was lost" if not problems else f"LOST: {problems}"
    return "\n".join([
        f"traffic  {requests} requests over {connections} connections, every reply byte compared",
        f"reload   exit code {reload.exit_code} after {reload.seconds:.2f} s; "
        f"process {_names(reload.successors)} took over from {_names(reload.predecessors)}, "
        f"which ended with {exit_code}",
        f"clients  {kept} of {len(staying)} kept their connection, {moved} moved by reconnect between "
        f"requests; sent again after a close without execution: {resent}",
        f"longest  {connect_ms:.0f} ms for a connection, {reply_ms:.0f} ms for replies",
        f"verdict  {verdict}",
    ])


def _names(pids: Sequence[int]) -> str:
    return ", ".join(map(str, pids)) or "none"
