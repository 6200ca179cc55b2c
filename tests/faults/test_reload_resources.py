"""Too little of something, too much of something, and connections that end on their way."""

import resource
import signal
import socket
import struct

import pytest

from tests.faults.rig import Rig, end
from tests.harness import Client, command, free_port
from tests.proxies import valkey_topology

IDLE = 8000

# Python itself does not start with less; a proxy does not with that. A session has one descriptor less
# where it shares its connection to the database.
DESCRIPTORS = {"dedicated": "ulimit -n 12", "shared": "ulimit -n 11"}
MEMORY = "ulimit -v 40000"


@pytest.fixture(scope="module")
def dialect():
    """Nothing here depends on the dialect."""
    return "ours"


@pytest.mark.parametrize("limits", [DESCRIPTORS, dict.fromkeys(DESCRIPTORS, MEMORY)],
                         ids=["descriptors", "memory"])
def test_a_successor_with_too_little_is_as_if_it_had_never_been(rig, port, mode, limits):
    """It ends with its own words, the client notices nothing, and the next reload works."""
    limit = limits[mode]
    with Client(port) as client:
        client.ask(b"PING\r\n", b"+PONG\r\n")
        limited = ["sh", "-c", f'{limit}; exec "$@"', "sh", *rig._command()]
        failed = rig.replace(command=limited)
        client.ask(b"PING\r\n", b"+PONG\r\n")
        assert (failed.code, failed.report["verdict"], failed.reason != "") == (75, "failed", True)
        assert rig.replace().report["sessions"]["moved"] == 1
        client.ask(b"PING\r\n", b"+PONG\r\n")


def reset(client):
    """End a connection without the usual ceremony."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def test_connections_that_end_while_they_move_end_and_the_others_go_on(rig, port, redis_server):
    """A client that resets, one that half-closes and one whose database connection is killed."""
    point = "successor:before-adopt"
    with Client(port) as gone, Client(port) as killed, Client(port) as stays, Client(port) as half:
        gone.ask(b"PING\r\n", b"+PONG\r\n")
        half.ask(b"PING\r\n", b"+PONG\r\n")
        stays.ask(b"PING\r\n", b"+PONG\r\n")
        killed.send(command("CLIENT", "ID"))
        number = killed.until(b"\r\n")[1:-2]
        with rig.begin(stop_at=point) as reload:
            pid = rig.stopped(point, reload)
            reset(gone)
            half.socket.shutdown(socket.SHUT_WR)
            with Client(redis_server.port) as direct:
                direct.ask(command("CLIENT", "KILL", "ID", number), b":1\r\n")
            end(pid, signal.SIGCONT)
            report = reload.end()
        stays.ask(b"PING\r\n", b"+PONG\r\n")
        killed.eof()
        half.eof()
        assert (report.code, report.report["sessions"]["moved"]) == (0, 4)
    rig.settle()


def test_thousands_of_idle_sessions_move(redis_server):
    """8,000 clients that ask nothing are moved, and are served when they ask at last."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < IDLE + 1000:
        pytest.skip(f"{IDLE} clients need more descriptors than the hard limit {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    port = free_port()
    topology = valkey_topology(port, redis_server.port, f"connection_limit: {2 * IDLE}")
    clients = []
    try:
        with Rig(topology, waits={}, config='main_log_level: "warn"\n') as rig:
            rig.wait_port(port)
            for _ in range(IDLE):
                clients.append(socket.create_connection(("127.0.0.1", port), timeout=30))
            clients[-1].sendall(b"PING\r\n")
            assert clients[-1].recv(10) == b"+PONG\r\n"
            report = rig.replace().report
            for client in clients[::40]:
                client.sendall(b"PING\r\n")
            assert {client.recv(10) for client in clients[::40]} == {b"+PONG\r\n"}
            for client in clients:
                client.close()
            assert (report["verdict"], report["sessions"]["moved"]) == ("ok", IDLE)
    finally:
        for client in clients:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
