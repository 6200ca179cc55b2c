"""What Shotover's tests of the running process check, and no test of ours did: ids, and ports that are taken."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

from shotover_gevent.testing.server import RealServer
from tests.harness import CONFIG, Client, ProxyProcess, eventually, free_port
from tests.proxies import is_refused, is_served, valkey_topology

CLIENTS = 1000


def test_the_ids_of_clients_count_from_one() -> None:
    """A thousand clients have the ids from 1 to 1000, in the order in which they came."""
    port = free_port()
    with ProxyProcess(valkey_topology(port, free_port())) as proxy:
        proxy.wait_ready()
        for _ in range(CLIENTS):
            with Client(port):
                pass
        proxy.wait_log("^session closed$", count=CLIENTS)
    ids = [event.fields["id"] for event in proxy.events if event.message.startswith("New connection")]
    assert ids == list(range(1, CLIENTS + 1))


def test_a_port_that_was_taken_is_served_once_it_is_free(
    redis_server: RealServer, tmp_path: Path, mode: str
) -> None:
    """The start fails with 1 and the address; when the other program has gone, the same start works."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (tmp_path / "topology.yaml").write_text(valkey_topology(port, redis_server.port, mode=mode))
        (tmp_path / "config.yaml").write_text(CONFIG)
        failed = subprocess.run(
            [*ProxyProcess.program, "-t", "topology.yaml", "-c", "config.yaml"], cwd=tmp_path,
            capture_output=True, text=True, check=False, timeout=60)
    with ProxyProcess(valkey_topology(port, redis_server.port, mode=mode)) as proxy:
        proxy.wait_ready()
        with Client(port) as client:
            client.ask(b"PING\r\n", b"+PONG\r\n")
    assert (failed.returncode, f"address=127.0.0.1:{port}" in failed.stdout) == (1, True)


def test_a_port_that_is_stolen_behind_a_hard_limit_is_tried_again(redis_server: RealServer, mode: str) -> None:
    """While it cannot be bound a warning is logged and counted; afterwards clients are served again."""
    port, admin = free_port(), free_port()
    topology = valkey_topology(
        port, redis_server.port, "connection_limit: 1\n      hard_connection_limit: true", mode=mode)
    config = f'main_log_level: "info"\nobservability_interface: "127.0.0.1:{admin}"\n'
    with ProxyProcess(topology, config, expect=["Failed to create listener on"]) as proxy:
        proxy.wait_ready()
        with Client(port) as client:
            client.ask(b"PING\r\n", b"+PONG\r\n")
            eventually(lambda: is_refused(port))
            thief = socket.create_server(("127.0.0.1", port))
        with thief:
            proxy.wait_log("Failed to create listener on")
            metric = 'shotover_listener_create_failures_count{source="valkey"} '
            failures = [line for line in page(admin).splitlines() if line.startswith(metric)]
        eventually(lambda: is_served(port))
    assert (len(failures), int(failures[0].removeprefix(metric)) >= 1) == (1, True)


def page(port: int) -> str:
    """The metrics."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: client.recv(65536), b"")).decode()
