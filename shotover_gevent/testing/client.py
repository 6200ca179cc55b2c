"""A peer that sends and expects exact bytes, over a plain blocking socket or one of gevent's.

Made of a port it blocks the thread. Made of a socket of ``gevent.socket`` it lets the hub run while it
waits, so that a proxy in the same process can serve it.
"""

from __future__ import annotations

import socket
import struct

# Nothing in a test takes a second on an idle machine; this is for a loaded one.
CLIENT_S = 10.0

# SO_LINGER on, for no time: close(2) sends a reset.
_NO_LINGER = struct.pack("ii", 1, 0)


def command(*parts: bytes | str) -> bytes:
    """A Redis request as clients send it: an array of bulk strings."""
    encoded = [part.encode() if isinstance(part, str) else part for part in parts]
    head = b"*%d\r\n" % len(encoded)
    return head + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in encoded)


class Client:
    """A blocking client that sends and expects exact bytes.

    ``target`` is a port of 127.0.0.1, an address, or a connected socket, which the client then owns.
    """

    def __init__(
        self, target: int | tuple[str, int] | socket.socket, timeout_s: float = CLIENT_S
    ) -> None:
        if isinstance(target, (int, tuple)):
            address = ("127.0.0.1", target) if isinstance(target, int) else target
            self.socket = socket.create_connection(address, timeout=timeout_s)
        else:
            self.socket = target
        self.socket.settimeout(timeout_s)

    def send(self, data: bytes) -> None:
        """Send all of ``data``."""
        self.socket.sendall(data)

    def read(self, limit: int) -> bytes:
        """What one read brings: at most ``limit`` bytes, none at the end. Raises ``TimeoutError``."""
        return self.socket.recv(limit)

    def receive(self, count: int) -> bytes:
        """Exactly ``count`` bytes, or fewer when the connection ends or nothing more comes."""
        received = bytearray()
        while len(received) < count:
            try:
                data = self.read(count - len(received))
            except TimeoutError:
                break
            if not data:
                break
            received += data
        return bytes(received)

    def expect(self, expected: bytes) -> None:
        """Fail unless exactly these bytes come next."""
        received = self.receive(len(expected))
        assert received == expected, f"expected {expected!r}, received {received!r}"

    def until(self, end: bytes) -> bytes:
        """Everything up to and including ``end``; fail if it does not come."""
        received = bytearray()
        while not received.endswith(end):
            try:
                data = self.read(1)
            except TimeoutError:
                data = b""
            assert data, f"{end!r} did not come behind {bytes(received[-200:])!r}"
            received += data
        return bytes(received)

    def ask(self, request: bytes, expected: bytes) -> None:
        """Send one, expect the other."""
        self.send(request)
        self.expect(expected)

    def eof(self) -> None:
        """Fail unless the connection is closed in order, without another byte."""
        try:
            received = self.read(4096)
        except TimeoutError:
            raise AssertionError("the connection is still open") from None
        assert received == b"", f"{received!r} came instead of the end"

    def silent(self, seconds: float = 0.1) -> None:
        """Fail if a byte, or the end, comes within that time."""
        timeout_s = self.socket.gettimeout()
        self.socket.settimeout(seconds)
        try:
            received = self.read(4096)
        except TimeoutError:
            return
        finally:
            self.socket.settimeout(timeout_s)
        raise AssertionError(f"{received!r} came while nothing was expected")

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    def reset(self) -> None:
        """Close so that the peer sees a reset instead of the end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class RecordingClient(Client):
    """A client that writes down every byte it reads, in ``received``; ``is_over`` says that the end came."""

    def __init__(
        self, target: int | tuple[str, int] | socket.socket, timeout_s: float = CLIENT_S
    ) -> None:
        super().__init__(target, timeout_s)
        self.received = b""
        self.is_over = False

    def read(self, limit: int) -> bytes:
        """Read once, and record it."""
        data = super().read(limit)
        self.received += data
        self.is_over = not data
        return data
