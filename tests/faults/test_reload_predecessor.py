"""A predecessor that is stopped, killed, ended or full while it is replaced."""

import re
import signal

import pytest

from tests.faults.rig import FAILED_RELOAD, Rig, end
from tests.harness import Client, eventually
from tests.proxies import is_refused, valkey_topology

# From lending on the successor has the sockets: whatever becomes of the predecessor, it serves.
SERVED = [
    ("ours", "predecessor:lent"), ("ours", "predecessor:before-go"), ("ours", "predecessor:moved"),
    ("ours", "predecessor:before-retire"),
    ("shotover", "predecessor:lent"), ("shotover", "predecessor:before-retire"),
]

# A predecessor that is stopped for too long goes on as if nothing had happened, up to this step.
STOPPED = [
    ("ours", "predecessor:before-lend"), ("ours", "predecessor:before-go"),
    ("ours", "predecessor:moved"),
    ("shotover", "predecessor:before-lend"), ("shotover", "predecessor:lent"),
]

GIVEN_UP = (
    r"Hot reload client failed: (no message within [\d.]+s: no time is left|"
    r"Hot reload request timed out after 1\.5s: .*)\n")


def ping(port):
    """A new client is served."""
    with Client(port) as client:
        client.ask(b"PING\r\n", b"+PONG\r\n")


@pytest.mark.parametrize(("dialect", "point"), SERVED, indirect=["dialect"])
def test_after_a_predecessor_that_was_killed_the_successor_serves(topology, dialect, port, point):
    """Once it was lent the sockets, it needs nobody; it can be reloaded in turn."""
    with Rig(topology, dialect, stop_at=point) as rig:
        with Client(port) as moving, rig.begin() as reload:
            moving.ask(b"PING\r\n", b"+PONG\r\n")
            pid = rig.stopped(point, reload)
            end(pid)
            ended = reload.end()
        ping(port)
        assert (ended.code, rig.killed(), rig.replace().code) == (0, True, 0)
        ping(port)


@pytest.mark.parametrize("dialect", ["ours", "shotover"], indirect=True)
def test_a_predecessor_that_is_killed_before_lending_leaves_nothing(topology, dialect, port):
    """The successor says so and ends; the stale file is in nobody's way."""
    point = "predecessor:before-lend"
    with Rig(topology, dialect, stop_at=point) as rig:
        with rig.begin() as reload:
            end(rig.stopped(point, reload))
            ended = reload.end()
        assert (ended.code, rig.killed(), is_refused(port)) == (75, True, True)
        with rig.second() as again:
            eventually(lambda: not is_refused(port))
            ping(port)
            again.signal(signal.SIGTERM)
            assert again.end().code == 0


@pytest.mark.parametrize(("dialect", "point"), STOPPED, indirect=["dialect"])
def test_a_predecessor_that_is_stopped_is_waited_for_in_limits(topology, dialect, port, point):
    """The successor gives up in time; the predecessor, continued, serves on and can be reloaded."""
    with Rig(topology, dialect, stop_at=point) as rig:
        with Client(port) as client, rig.second() as successor:
            client.ask(b"PING\r\n", b"+PONG\r\n")
            pid = rig.stopped(point, successor)
            ended = successor.end()
            end(pid, signal.SIGCONT)
            ping(port)
            if point != "predecessor:moved":
                client.ask(b"PING\r\n", b"+PONG\r\n")
            else:
                client.eof()
        assert (ended.code, bool(re.fullmatch(GIVEN_UP, ended.err)), rig.settle().serving) == (
            75, True, pid), ended
        assert rig.replace().code == 0


@pytest.mark.parametrize("point", ["predecessor:lent"])
def test_a_predecessor_that_is_ended_meanwhile_leaves_the_sockets(topology, dialect, port, point):
    """SIGTERM after lending: the successor takes over or says why not; then a new start works."""
    with Rig(topology, dialect, stop_at=point) as rig:
        with rig.second() as successor:
            pid = rig.stopped(point, successor)
            end(pid, signal.SIGTERM)
            end(pid, signal.SIGCONT)
            assert rig.wait() == 0
            eventually(lambda: successor.has_ended or rig.serving == successor.pid)
            if successor.has_ended:
                assert successor.end().code == 75
            else:
                ping(port)
                successor.signal(signal.SIGTERM)
                assert successor.end().code == 0


@pytest.mark.parametrize("is_hard", [False, True], ids=["soft", "hard"])
def test_a_predecessor_at_its_limit_is_replaced(dialect, redis_server, port, is_hard):
    """It lends its listener while full, or has none; afterwards clients are served as before."""
    limit = f"connection_limit: 2\n      hard_connection_limit: {str(is_hard).lower()}"
    topology = valkey_topology(port, redis_server.port, limit)
    tolerate = [*FAILED_RELOAD, "No listeners received during hot reload"]
    with Rig(topology, dialect, tolerate=tolerate) as rig:
        with Client(port) as first, Client(port) as second:
            for client in (first, second):
                client.ask(b"PING\r\n", b"+PONG\r\n")
            if is_hard:
                eventually(lambda: is_refused(port))
            assert rig.replace().code == 0
            if dialect == "ours":
                for client in (first, second):
                    client.ask(b"PING\r\n", b"+PONG\r\n")
        rig.settle()
        eventually(lambda: ping(port) or True)


@pytest.mark.parametrize("dialect", ["ours"], indirect=True)
def test_a_file_that_was_deleted_is_in_place_for_the_next_reload(rig, port):
    """It is made again by the process that serves."""
    rig.hotreload_socket.unlink()
    eventually(lambda: rig.serving == rig.pid)
    assert rig.replace().code == 0
    ping(port)


@pytest.mark.parametrize("dialect", ["ours"], indirect=True)
def test_after_sigkill_a_start_works(rig, port):
    """The file that a killed process left is stale: it is replaced, and nothing is asked of it."""
    end(rig.pid)
    assert rig.killed()
    with rig.second() as again:
        eventually(lambda: rig.serving == again.pid)
        ping(port)
        assert (rig.replace().code, rig.settle().serving != again.pid) == (0, True)
