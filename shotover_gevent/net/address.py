"""Socket addresses as they are written in a topology."""

from __future__ import annotations

import socket
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Address:
    """A host (name, IPv4 or IPv6 without brackets) and a port; printed as ``host:port``."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``host:port`` or ``[ipv6]:port``. Raises ``ValueError`` saying what is wrong."""
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
    def of(cls, sockname: tuple[object, ...]) -> Address:
        """The address in what ``getsockname``, ``getpeername`` or ``accept`` returned."""
        return cls(str(sockname[0]), int(str(sockname[1])))

    @property
    def is_ipv6(self) -> bool:
        """Whether the host is an IPv6 literal."""
        return ":" in self.host

    @property
    def family(self) -> socket.AddressFamily:
        """``AF_INET6`` for an IPv6 literal, else ``AF_INET``."""
        return socket.AF_INET6 if self.is_ipv6 else socket.AF_INET

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.is_ipv6 else f"{self.host}:{self.port}"
