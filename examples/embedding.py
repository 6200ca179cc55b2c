"""Two proxies in one gevent program: the second one's database is the first.

    python examples/embedding.py [FIRST_PORT SECOND_PORT]

Nothing is patched and nothing is global, so that proxies live beside anything else in the program. No
database is needed: the first proxy answers every request by itself.
"""

from __future__ import annotations

import sys
from typing import Any

import gevent
from gevent import socket

from shotover_gevent import Proxy

CLIENTS = 3


def answering(port: int) -> dict[str, Any]:
    """A topology that answers every request by ``42``."""
    chain = [{"DebugReturner": {"name": "answer", "Valkey": "42"}}]
    return topology("inner", port, chain)


def forwarding(port: int, upstream: int) -> dict[str, Any]:
    """A topology that counts requests and forwards them."""
    chain = [
        {"QueryCounter": {"name": "count", "counter_name": "outer"}},
        {
            "ValkeySinkSingle": {
                "name": "inner", "remote_address": f"127.0.0.1:{upstream}", "connect_timeout_ms": 3000,
            }
        },
    ]
    return topology("outer", port, chain)


def topology(name: str, port: int, chain: list[dict[str, Any]]) -> dict[str, Any]:
    """What a ``topology.yaml`` with one Valkey source holds."""
    return {"sources": [{"Valkey": {"name": name, "listen_addr": f"127.0.0.1:{port}", "chain": chain}}]}


def ask(port: int, number: int) -> None:
    """A client, in a greenlet of its own."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        sock.sendall(b"GET answer\r\n")
        print(f"client {number}: {sock.recv(100)!r}")


def main(first_port: int = 16379, second_port: int = 16380) -> None:
    """Start both, ask, and end both in order: the one that clients see first."""
    inner = Proxy(topology=answering(first_port))
    outer = Proxy(topology=forwarding(second_port, first_port))
    inner.start()
    outer.start()
    try:
        outer.ready.wait()
        gevent.joinall(
            [gevent.spawn(ask, second_port, number) for number in range(CLIENTS)], raise_error=True)
    finally:
        outer.drain(1)
        inner.stop()
    print("both proxies have ended")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
