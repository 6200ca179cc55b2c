"""Closed-loop clients that check every byte of every reply, and a stream of new connections."""

import socket
import threading
import time

from tests.harness import command


class Load:
    """Clients in threads; ``stop()`` ends them and returns what they saw.

    A connection that ends *between* requests (no byte of the reply to the last request has come)
    is counted in ``reconnects`` and opened again. Everything else that is not the right reply is
    in ``errors``.
    """

    def __init__(self, port, clients=8, connect_rate_s=0.002, wrap=lambda sock: sock):
        """``wrap`` is given each connected socket, and returns what to talk over."""
        self.port = port
        self._wrap = wrap
        self.requests = 0
        self.reconnects = 0
        self.connections = 0
        self.errors = []
        self.longest_pause_s = 0.0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._connect_rate_s = connect_rate_s
        self._threads = [
            threading.Thread(target=self._client, args=(number,), daemon=True)
            for number in range(clients)
        ]
        self._threads.append(threading.Thread(target=self._connector, daemon=True))

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info):
        self.stop()

    def stop(self):
        """End all clients; waits for them."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=20)
            if thread.is_alive():
                self.errors.append(f"{thread.name} hangs")
        return self

    def wait_requests(self, count, timeout=30):
        """Wait until so many further requests were answered."""
        target, deadline = self.requests + count, time.monotonic() + timeout
        while self.requests < target and not self.errors and time.monotonic() < deadline:
            time.sleep(0.01)
        if self.requests < target:
            self.errors.append(f"only {self.requests} of {target} requests were answered in time")

    def _connect(self):
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=15)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._wrap(sock)

    def _client(self, number):
        try:
            sock, count = self._connect(), 0
            while not self._stop.is_set():
                count += 1
                value = b"%d-%d" % (number, count) * (1 + count % 50)
                request = command("SET", f"key-{number}", value) + command("GET", f"key-{number}")
                expected = b"+OK\r\n$%d\r\n%b\r\n" % (len(value), value)
                started = time.monotonic()
                sock = self._exchange(sock, request, expected)
                with self._lock:
                    self.requests += 2
                    self.longest_pause_s = max(self.longest_pause_s, time.monotonic() - started)
            sock.close()
        except Exception as error:
            self.errors.append(f"client {number}: {error!r}")

    def _exchange(self, sock, request, expected):
        """One request and its reply; returns the connection to go on with."""
        while True:
            received = b""
            try:
                sock.sendall(request)
                while len(received) < len(expected):
                    data = sock.recv(65536)
                    if not data:
                        break
                    received += data
            except (ConnectionResetError, BrokenPipeError):
                pass
            if received == expected:
                return sock
            if received:
                raise AssertionError(f"wrong or partial reply {received[:200]!r} to {request[:100]!r}")
            sock.close()
            with self._lock:
                self.reconnects += 1
            sock = self._connect()

    def _connector(self):
        while not self._stop.is_set():
            try:
                with self._connect() as sock:
                    sock.sendall(b"PING\r\n")
                    reply = sock.recv(100)
                    if reply not in (b"+PONG\r\n", b""):
                        self.errors.append(f"new connection: wrong reply {reply!r}")
                    with self._lock:
                        self.connections += 1
            except ConnectionResetError:
                pass  # accepted, and drained before its first request was read
            except OSError as error:
                self.errors.append(f"new connection: {error!r}")
            time.sleep(self._connect_rate_s)
