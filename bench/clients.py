"""Clients for long runs: live connections that check every byte, and a stream of new ones.

All of them are greenlets of this process. A live client repeats a *round*: ``INCR`` of a key of its own
and ``ECHO`` of a text that nobody else sends, in one write; then it waits for both replies, compares
them, and thinks for a moment. A lost, repeated or crossed request shows in the number or in the text.

Rules:
 1. A connection that ends before the first byte of a reply is a *reconnect*; everything else that is
    not the right reply is an *error*. Both are counted, and the client goes on.
 2. A pause is the time from the write of a round to the last byte of its replies, with all that this
    process adds. What it adds is measured too, as *lag*: how late a timer of this process fires.
"""

from __future__ import annotations

import random
import socket
import time
from dataclasses import dataclass, field

import gevent
from gevent import socket as gsocket
from gevent.event import Event

REQUESTS_PER_ROUND = 2

# Longer than anything that a reload may cost by far: such a reply is an error.
REPLY_S = 15.0

# Connections are opened by so many greenlets at first, so that no queue overflows.
OPENERS = 32

# Texts of errors are kept to be shown; all are counted.
MAX_ERROR_TEXTS = 20

LAG_INTERVAL_S = 0.005


@dataclass
class Count:
    """What the clients saw since :meth:`Clients.take` was last called."""

    requests: int = 0
    new_connections: int = 0
    errors: int = 0
    reconnects: int = 0
    longest_pause_s: float = 0.0
    longest_lag_s: float = 0.0
    texts: list[str] = field(default_factory=list)


def command(*parts: bytes) -> bytes:
    """A request as clients send it."""
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts)


class Clients:
    """``count`` live connections to ``port``, together ``rate`` requests a second, and new ones.

    Use it in a ``with`` block, which begins when all are connected and served.
    """

    def __init__(self, port: int, count: int, rate: float, connect_interval_s: float = 0.01) -> None:
        self.port = port
        self.count = Count()
        self.is_stopping = False
        #: Cleared, no new connections are opened; the live ones stay.
        self.may_connect = Event()
        self.may_connect.set()
        self._number = count
        self._think_s = count * REQUESTS_PER_ROUND / rate
        self._connect_interval_s = connect_interval_s
        self._greenlets: list[gevent.Greenlet] = []
        self._connected = 0
        self._all_connected = Event()

    def take(self) -> Count:
        """What was counted since the last call."""
        taken, self.count = self.count, Count()
        return taken

    def __enter__(self) -> Clients:
        for opener in range(min(OPENERS, self._number)):
            numbers = range(opener, self._number, OPENERS)
            self._greenlets.append(gevent.spawn(self._open_all, numbers))
        if not self._all_connected.wait(REPLY_S + self._number / 100):
            raise TimeoutError(f"only {self._connected} of {self._number} clients were served")
        self._greenlets += [gevent.spawn(self._open_new), gevent.spawn(self._measure_lag)]
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.is_stopping = True
        self.may_connect.set()
        gevent.joinall(self._greenlets, timeout=REPLY_S)
        gevent.killall(self._greenlets)

    # -- live connections -----------------------------------------------------------------------

    def _open_all(self, numbers: range) -> None:
        for number in numbers:
            client = _Client(self, number)
            client.play()
            self._connected += 1
            self._greenlets.append(gevent.spawn(self._live, client))
        if self._connected == self._number:
            self._all_connected.set()

    def _live(self, client: _Client) -> None:
        gevent.sleep(random.random() * self._think_s)
        while not self.is_stopping:
            client.play()
            gevent.sleep(self._think_s * random.uniform(0.5, 1.5))
        client.close()

    # -- new connections ------------------------------------------------------------------------

    def _open_new(self) -> None:
        while self.may_connect.wait() and not self.is_stopping:
            try:
                with connect(self.port) as sock:
                    sock.sendall(b"PING\r\n")
                    reply = sock.recv(100)
                if reply != b"+PONG\r\n":
                    self.error(f"new connection: {reply!r}")
                self.count.new_connections += 1
            except OSError as error:
                self.error(f"new connection: {error!r}")
            gevent.sleep(self._connect_interval_s)

    def _measure_lag(self) -> None:
        while not self.is_stopping:
            due = time.monotonic() + LAG_INTERVAL_S
            gevent.sleep(LAG_INTERVAL_S)
            self.count.longest_lag_s = max(self.count.longest_lag_s, time.monotonic() - due)

    def error(self, text: str) -> None:
        """Count an error."""
        self.count.errors += 1
        if len(self.count.texts) < MAX_ERROR_TEXTS:
            self.count.texts.append(text)


def connect(port: int) -> gsocket.socket:
    """A connection to the proxy; the caller closes it."""
    sock = gsocket.create_connection(("127.0.0.1", port), timeout=REPLY_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class _Client:
    """One live connection and how often it has counted."""

    def __init__(self, clients: Clients, number: int) -> None:
        self._clients = clients
        self._key = b"soak:%d" % number
        self._rounds = 0
        self._socket: gsocket.socket | None = None

    def play(self) -> None:
        """One round; afterwards the connection is open and right, or will be made anew."""
        self._rounds += 1
        text = b"%b says %d" % (self._key, self._rounds) * (1 + self._rounds % 20)
        request = command(b"INCR", self._key) + command(b"ECHO", text)
        expected = b":%d\r\n$%d\r\n%b\r\n" % (self._rounds, len(text), text)
        started = time.monotonic()
        try:
            reply = self._ask(request, len(expected))
        except OSError as error:
            self._fail(f"{error!r}")
            return
        count = self._clients.count
        count.requests += REQUESTS_PER_ROUND
        count.longest_pause_s = max(count.longest_pause_s, time.monotonic() - started)
        if reply != expected:
            self._fail(f"{reply[:80]!r} instead of {expected[:80]!r}")

    def _ask(self, request: bytes, length: int) -> bytes:
        """The reply, over a new connection if the present one has ended between two rounds."""
        while True:
            if self._socket is None:
                self._socket = connect(self._clients.port)
            reply = b""
            try:
                self._socket.sendall(request)
                while len(reply) < length and (data := self._socket.recv(65536)):
                    reply += data
            except (ConnectionResetError, BrokenPipeError):
                pass
            if reply or self._clients.is_stopping:
                return reply
            self.close()
            self._clients.count.reconnects += 1

    def _fail(self, text: str) -> None:
        self._clients.error(f"{self._key.decode()}, round {self._rounds}: {text}")
        self.close()
        # The number in the database is not known any more: count from zero under another key.
        self._key += b"+"
        self._rounds = 0

    def close(self) -> None:
        """Close the connection."""
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()
