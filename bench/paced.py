"""A client that sends at a fixed rate, whatever comes back: ``python -m bench.paced``.

It is a program of its own, so that its work is not that of the program that measures.

Rules:
 1. *Open loop.* Request ``k`` is due at ``start + k / rate``, on the connections in turn. It is sent then
    even if its connection still waits for replies, which are told apart by their order.
 2. A latency is counted from the moment at which the request was *due*, not from when it was sent. A
    stall thus shows in every request that should have been sent during it; counting from the sending
    would leave those out ("coordinated omission"). What this program itself adds is in there, too, and is
    reported as *lag*: how late requests were sent.
 3. It says ``ready`` when every connection has been answered once, begins when a line is read from
    standard input, and prints one JSON object. Without a rate it holds the connections until standard
    input ends.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import select
import socket
import sys
import time
from array import array
from collections import deque
from contextlib import closing
from pathlib import Path

from bench.peers import GET_SMALL, SMALL_REPLY
from bench.statistic import percentile

# Replies of the last requests; on an idle machine they take less than a millisecond.
TAIL_S = 5.0
CONNECT_S = 10.0

# Connections are opened so many at a time and answered before the next: listeners queue few.
OPEN_AT_ONCE = 100

# By default the kernel wakes a waiting process up to 50 us late, so that wake-ups come together.
TIMER_SLACK = Path("/proc/self/timerslack_ns")

READ_BYTES = 65536


class Connections:
    """Open connections, each with the times at which its unanswered requests were due."""

    def __init__(self, port: int) -> None:
        # First of all: ``select`` takes small numbers only, and waits with a finer clock than epoll.
        self._poll = select.epoll()
        self._port = port
        self.sockets: list[socket.socket] = []
        self.waiting: dict[int, deque[float]] = {}
        self._by_number: dict[int, socket.socket] = {}

    def open(self, count: int) -> None:
        """Open so many, each answered once. Raises ``OSError``."""
        while len(self.sockets) < count:
            self._open(min(OPEN_AT_ONCE, count - len(self.sockets)))

    def _open(self, count: int) -> None:
        first = len(self.sockets)
        for _ in range(count):
            self.sockets.append(socket.create_connection(("127.0.0.1", self._port), timeout=CONNECT_S))
        opened = self.sockets[first:]
        for sock in opened:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(GET_SMALL)
        for sock in opened:
            if sock.recv(READ_BYTES) != SMALL_REPLY:
                raise ConnectionError("the first request of a connection was not answered")
            sock.setblocking(False)
            self._poll.register(sock, select.EPOLLIN)
            self.waiting[sock.fileno()] = deque()
            self._by_number[sock.fileno()] = sock

    def receive(self, timeout_s: float, latencies: array[float]) -> int:
        """Take the replies that come within the time; returns how many. Raises ``ConnectionError``."""
        if timeout_s > 0:
            select.select([self._poll], [], [], timeout_s)
        count = 0
        size = len(SMALL_REPLY)
        for number, _ in self._poll.poll(0):
            data = self._by_number[number].recv(READ_BYTES)
            now = time.monotonic()
            replies, rest = divmod(len(data), size)
            if not data or rest or data != SMALL_REPLY * replies:
                raise ConnectionError(f"not the reply to what was asked: {data[:80]!r}")
            waiting = self.waiting[number]
            for _ in range(replies):
                latencies.append(now - waiting.popleft())
            count += replies
        return count

    def close(self) -> None:
        """Close all."""
        for sock in self.sockets:
            sock.close()
        self._poll.close()


def play(connections: Connections, rate: float, seconds: float) -> dict[str, float]:
    """Send at ``rate`` for so long; returns counts, and latencies in milliseconds.

    Raises ``ConnectionError`` for a wrong reply, and ``TimeoutError`` if replies are missing in the end.
    """
    total = max(1, int(rate * seconds))
    latencies, lags = array("d"), array("d")
    sockets, waiting = connections.sockets, connections.waiting
    count = len(sockets)
    start = time.monotonic()
    sent = answered = 0
    while sent < total:
        now = time.monotonic()
        while sent < total and (due := start + sent / rate) <= now:
            sock = sockets[sent % count]
            waiting[sock.fileno()].append(due)
            sock.send(GET_SMALL)
            lags.append(now - due)
            sent += 1
        answered += connections.receive(start + sent / rate - time.monotonic(), latencies)
    ended = time.monotonic()
    while answered < total:
        if time.monotonic() > ended + TAIL_S:
            raise TimeoutError(f"{total - answered} of {total} requests were not answered")
        answered += connections.receive(0.01, latencies)
    return summary(sorted(latencies), sorted(lags), total, ended - start)


def summary(latencies: list[float], lags: list[float], total: int, seconds: float) -> dict[str, float]:
    """The percentiles of sorted latencies and lags in seconds, in milliseconds."""
    found = {"requests": float(total), "rate": total / seconds}
    for name, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999)):
        found[f"{name}_ms"] = round(percentile(latencies, share) * 1000, 4)
    found["max_ms"] = round(latencies[-1] * 1000, 4)
    found["lag_p99_ms"] = round(percentile(lags, 0.99) * 1000, 4)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run it; returns the exit code. Failures are told on standard error."""
    parser = argparse.ArgumentParser(prog="python -m bench.paced", description="Send at a fixed rate.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=50, metavar="N")
    parser.add_argument("--rate", type=float, metavar="N",
                        help="requests a second; without it, none are sent")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="N")
    options = parser.parse_args(arguments)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with closing(Connections(options.port)) as connections:
            connections.open(options.connections)
            print("ready", flush=True)
            if options.rate is None:
                sys.stdin.read()
            elif sys.stdin.readline():
                _undisturbed()
                print(json.dumps(play(connections, options.rate, options.seconds)), flush=True)
    except OSError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _undisturbed() -> None:
    """Take what would delay requests out of the way: garbage collection, and the slack of timers."""
    gc.disable()
    try:
        TIMER_SLACK.write_text("1")
    except OSError:
        pass  # not permitted: the lag shows it


if __name__ == "__main__":
    sys.exit(main())
