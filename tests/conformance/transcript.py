"""A client that writes down every byte it receives, so that two servers can be compared."""

import re
import socket
import time

from tests.harness import command


class Transcript:
    """One connection; ``received`` holds everything that came back."""

    def __init__(self, port, timeout=10.0):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.is_over = False
        self._position = 0
        self._token = 0

    def send(self, *arguments):
        """Send one command."""
        self.sock.sendall(command(*arguments))

    def raw(self, data):
        """Send bytes as they are."""
        self.sock.sendall(data)

    def until(self, pattern, timeout=10.0):
        """Receive until ``pattern`` (a regular expression) is found behind the last find."""
        deadline = time.monotonic() + timeout
        while not (match := re.compile(pattern, re.S).search(self.received, self._position)):
            if self.is_over:
                raise AssertionError(f"closed before {pattern!r}: {self.received[-300:]!r}")
            self.sock.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                data = self.sock.recv(65536)
            except TimeoutError:
                raise AssertionError(f"no {pattern!r} in time: {self.received[-300:]!r}") from None
            self.received += data
            self.is_over = not data
        self._position = match.end()
        return match

    def call(self, *arguments):
        """Send one command and wait until the connection answers what is sent after it."""
        self.send(*arguments)
        self.sync()

    def sync(self):
        """Wait until everything sent so far is answered."""
        self._token += 1
        token = b"token-%d" % self._token
        self.send("PING", token)
        self.until(rb"\$%d\r\n%b\r\n" % (len(token), token))

    def end(self, timeout=10.0):
        """Receive until the server closes."""
        deadline = time.monotonic() + timeout
        while not self.is_over:
            self.sock.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                data = b""
            except TimeoutError:
                raise AssertionError(f"not closed in time: {self.received[-300:]!r}") from None
            self.received += data
            self.is_over = not data

    def quiet(self, seconds=0.1):
        """Nothing arrives for that long."""
        self.sock.settimeout(seconds)
        try:
            data = self.sock.recv(65536)
        except TimeoutError:
            return
        self.received += data
        raise AssertionError(f"unexpected bytes: {data!r}")

    def close(self):
        """Close the connection."""
        self.sock.close()
