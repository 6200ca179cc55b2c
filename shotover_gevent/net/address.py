"""Socket addresses as they are written in a topology."""

from __future__ import annotations

import os
from dataclasses import dataclass

UNIX_PREFIX = "unix:"

# sizeof(sun_path) less the zero byte: unix(7).
MAX_PATH_BYTES = 107


@dataclass(frozen=True, slots=True)
class Address:
    """A host (name, IPv4 or IPv6 without brackets) and a port, or the ``path`` of a Unix socket.

    Printed as it is written: ``host:port``, ``[ipv6]:port`` or ``unix:/path``.
    """

    host: str
    port: int
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``host:port``, ``[ipv6]:port`` or ``unix:/path``. ``ValueError`` says what is wrong."""
        if text.startswith(UNIX_PREFIX):
            return cls("", 0, _checked_path(text))
        host, colon, port = text.rpartition(":")
        if not colon or not host:
            raise ValueError(f"{text!r} has no port; write host:port, e.g. 10.0.0.1:9042")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"{text!r}: put an IPv6 address in brackets, e.g. [::1]:9042")
        if not (port.isascii() and port.isdigit()) or int(port) > 65535:
            raise ValueError(f"{text!r}: {port!r} is not a port; a port is a number from 0 to 65535")
        return cls(host, int(port))

    @classmethod
    def of(cls, sockname: object) -> Address:
        """The address in what ``getsockname``, ``getpeername`` or ``accept`` returned."""
        if isinstance(sockname, tuple):
            return cls(str(sockname[0]), int(sockname[1]))
        return cls("", 0, os.fsdecode(sockname))  # type: ignore[arg-type]

    @property
    def is_unix(self) -> bool:
        """Whether it is the path of a Unix socket."""
        return bool(self.path)

    @property
    def is_ipv6(self) -> bool:
        """Whether the host is an IPv6 literal."""
        return ":" in self.host

    def __str__(self) -> str:
        if self.path:
            return UNIX_PREFIX + self.path
        return f"[{self.host}]:{self.port}" if self.is_ipv6 else f"{self.host}:{self.port}"


def _checked_path(text: str) -> str:
    path = text.removeprefix(UNIX_PREFIX)
    if not path.startswith("/"):
        raise ValueError(f"{text!r}: the path of a Unix socket begins with /, e.g. unix:/run/proxy.sock")
    if "\0" in path or len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise ValueError(f"{text!r}: the path of a Unix socket has at most {MAX_PATH_BYTES} bytes")
    return path
