"""What a predecessor does with clients that stay, and when it ends."""

import select
import time

import pytest

from tests.faults.rig import WAITS, Rig
from tests.harness import Client, command


def open_clients(port, count):
    """Idle clients that are known to the proxy, oldest first."""
    clients = [Client(port) for _ in range(count)]
    for client in clients:
        client.ask(b"PING\r\n", b"+PONG\r\n")
    return clients


@pytest.mark.parametrize("dialect", ["shotover"], indirect=True)
def test_idle_clients_are_closed_one_after_the_other(topology, dialect, port):
    """Thirteen in two seconds: two every 200 ms, the oldest first; then the process ends with 0."""
    with Rig(topology, dialect, drain_s=2) as rig:
        clients = open_clients(port, 13)
        try:
            assert rig.replace().code == 0
            started, ends = time.monotonic(), {}
            while len(ends) < len(clients) and time.monotonic() < started + 10:
                waiting = [c.socket for c in clients if c.socket not in ends]
                for sock in select.select(waiting, [], [], 1)[0]:
                    assert sock.recv(10) == b""
                    ends[sock] = round((time.monotonic() - started) / 0.2)
        finally:
            for client in clients:
                client.close()
        order = [ends[client.socket] for client in clients]
        assert (order, order[-1] - order[0] in (5, 6, 7), rig.wait(5)) == (sorted(order), True, 0)


def test_without_clients_the_predecessor_ends_at_once(topology, dialect, port):
    """However long it may drain."""
    with Rig(topology, dialect, drain_s=60) as rig:
        assert (rig.replace().code, rig.wait(5)) == (0, 0)


@pytest.mark.parametrize("dialect", ["shotover"], indirect=True)
def test_a_client_that_never_closes_keeps_nobody(topology, dialect, port):
    """It is sent the end, and the predecessor ends although the client does not answer that."""
    with Rig(topology, dialect, drain_s=1) as rig, Client(port) as client:
        client.ask(b"PING\r\n", b"+PONG\r\n")
        assert (rig.replace().code, rig.wait(8)) == (0, 0)
        client.eof()


def test_a_blocked_client_is_given_the_drain_time(topology, dialect, port):
    """Its request is answered; then it is closed, or moves and goes on."""
    with Rig(topology, dialect, drain_s=5) as rig, Client(port) as client:
        client.ask(command("DEL", "blocked"), b":0\r\n")
        client.send(command("BLPOP", "blocked", "1.5"))
        assert rig.replace().code == 0
        client.expect(b"*-1\r\n")
        if dialect == "ours":
            assert rig.wait(5) == 0
            client.ask(b"PING\r\n", b"+PONG\r\n")
        else:
            client.eof()
            assert rig.wait(5) == 0


@pytest.mark.parametrize("dialect", ["shotover"], indirect=True)
def test_a_client_that_is_never_answered_is_closed_in_the_end(topology, dialect, port):
    """The drain time is a bound: the predecessor ends soon after it, with 0."""
    waits = {**WAITS, "sources.source.CHUNK_WAIT_S": 1}
    with Rig(topology, dialect, waits=waits, tolerate=["did not end in time"]) as rig:
        with Client(port) as client:
            client.send(command("BLPOP", "never", "0"))
            started = time.monotonic()
            assert rig.replace().code == 0
            assert rig.wait(12) == 0
            took = time.monotonic() - started
            client.eof()
    assert 2 <= took < 9
