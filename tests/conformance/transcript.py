"""A client that writes down every byte it receives, so that two servers can be compared."""

import re
import socket
import time

from shotover_gevent.testing import RecordingClient, command

_READ_BYTES = 65536


class Transcript(RecordingClient):
    """One connection; ``received`` holds everything that came back."""

    def __init__(self, port):
        super().__init__(port)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._position = 0
        self._token = 0

    def send(self, *arguments):
        """Send one command."""
        self.raw(command(*arguments))

    def raw(self, data):
        """Send bytes as they are."""
        super().send(data)

    def until(self, pattern, timeout=10.0):
        """Receive until ``pattern`` (a regular expression) is found behind the last find."""
        deadline = time.monotonic() + timeout
        while not (match := re.compile(pattern, re.S).search(self.received, self._position)):
            if self.is_over:
                raise AssertionError(f"closed before {pattern!r}: {self.received[-300:]!r}")
            self._read_before(deadline, f"no {pattern!r} in time")
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
            try:
                self._read_before(deadline, "not closed in time")
            except ConnectionResetError:
                self.is_over = True

    def _read_before(self, deadline, complaint):
        self.socket.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            self.read(_READ_BYTES)
        except TimeoutError:
            raise AssertionError(f"{complaint}: {self.received[-300:]!r}") from None
