"""Proxies in front of real servers, for the tests of several folders."""

from __future__ import annotations

import socket

from tests.client import Client

VALKEY = """
sources:
  - Valkey:
      name: "valkey"
      listen_addr: "127.0.0.1:{port}"
      {options}
      chain:
        - QueryCounter: {{name: "count", counter_name: "main"}}
        - ValkeySinkSingle:
            name: "sink"
            remote_address: "127.0.0.1:{upstream}"
            connect_timeout_ms: 3000
            connection_mode: {mode}
"""

# How a ValkeySinkSingle may be connected; what a client sees must be the same.
MODES = ("dedicated", "shared")

TCP = """
sources:
  - Tcp:
      name: "tcp"
      listen_addr: "127.0.0.1:{port}"
      {options}
      chain:
        - TcpSinkSingle: {{name: "sink", remote_address: "127.0.0.1:{upstream}", connect_timeout_ms: 3000}}
"""


def valkey_topology(port: int, upstream: int, options: str = "", mode: str = "dedicated") -> str:
    """A Valkey source in front of a server."""
    return VALKEY.format(port=port, upstream=upstream, options=options, mode=mode)


def tcp_topology(port: int, upstream: int, options: str = "") -> str:
    """A Tcp source in front of a server."""
    return TCP.format(port=port, upstream=upstream, options=options)


def is_refused(port: int) -> bool:
    """Whether nobody listens on the port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def is_served(port: int) -> bool:
    """Whether a client of a Valkey source is answered."""
    try:
        with Client(port) as client:
            client.ask(b"PING\r\n", b"+PONG\r\n")
    except ConnectionError:
        return False
    return True
