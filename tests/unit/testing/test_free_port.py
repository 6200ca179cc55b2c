"""Free ports are free, and given once."""

from __future__ import annotations

import socket

from shotover_gevent.testing.port import FIRST_PORT, LAST_PORT, free_port, is_free


def test_a_free_port_can_be_bound_and_then_is_not_free() -> None:
    """The port is in the range and free until somebody binds it."""
    port = free_port()
    before = is_free(port)
    with socket.create_server(("127.0.0.1", port)):
        after = is_free(port)
    assert (FIRST_PORT <= port <= LAST_PORT, before, after) == (True, True, False)


def test_no_port_is_given_twice() -> None:
    """Ports that nobody has bound yet are not given again."""
    ports = [free_port() for _ in range(100)]
    assert len(set(ports)) == 100
