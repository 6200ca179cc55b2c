"""Free ports, for programs that cannot be asked to choose their own."""

from __future__ import annotations

import random
import socket

# Below the range of which Linux takes the ports of outgoing connections (32768 and up), so that
# a port stays free between the moment it was found and the moment it is bound.
FIRST_PORT = 20000
LAST_PORT = 32767

_ATTEMPTS = 200
_given: set[int] = set()


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether the port can be bound now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connections are in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on; each is given once per process. Raises ``OSError``."""
    for _ in range(_ATTEMPTS):
        port = random.randint(FIRST_PORT, LAST_PORT)
        if port not in _given and is_free(port, host):
            _given.add(port)
            return port
    raise OSError(f"no free port from {FIRST_PORT} to {LAST_PORT} on {host}")
