"""A successor that is bad, slow, stopped or killed leaves the predecessor serving."""

import os
import re
import signal
import socket
from contextlib import contextmanager

import pytest

from shotover_gevent.config.registry import Registry
from tests.faults.rig import Rig, end
from tests.harness import free_port
from tests.integration.load import Load

# Few, so that the processes that start have a core left.
CLIENTS = 2

# Where a successor is killed or stopped, and how many clients may have been its own by then: none
# until it has adopted sessions.
KILLS = [
    ("ours", "successor:built", 0), ("ours", "successor:received", 0),
    ("ours", "successor:before-confirm", 0), ("ours", "successor:confirmed", 0),
    ("ours", "successor:accepting", 0),
    ("ours", "successor:before-adopt", 0), ("ours", "successor:adopted", CLIENTS),
    ("ours", "successor:before-done", CLIENTS),
    ("shotover", "successor:received", 0), ("shotover", "successor:before-confirm", 0),
]

# One that has asked for nothing yet has nothing to lose, and until it confirms the steps are alike.
STOPS = [
    ("ours", "successor:before-confirm", 0), ("ours", "successor:confirmed", 0),
    ("ours", "successor:before-adopt", 0), ("ours", "successor:adopted", CLIENTS),
    ("ours", "successor:before-done", CLIENTS), ("shotover", "successor:before-confirm", 0),
]

# What a successor says that was stopped until its lease had ended.
LATE = {
    "ours": r"Hot reload client failed: (cannot send \w+: Broken pipe \(os error 32\)|"
            r"the connection to the other process broke: Connection reset by peer \(os error 104\)|"
            r"the other process closed the connection)\n",
    "shotover": r"Hot reload client failed: Hot reload server returned error: "
                r"the lease of pid \d+ has ended: its time is over\n",
}


@pytest.fixture(scope="module")
def victim(topology, dialect, port):
    """A proxy that serves through all that happens to its successors; in the end it is reloaded."""
    env = {"PYTHONPATH": os.pathsep.join([".", os.environ.get("PYTHONPATH", "")])}
    with Rig(topology, dialect, drain_s=0, env=env) as rig:
        with Load(port, CLIENTS, 0.01) as load:
            load.wait_requests(50)
        yield rig
        with Load(port, CLIENTS, 0.01) as load:
            load.wait_requests(50)
            assert rig.replace().code == 0
            load.wait_requests(50)
        assert load.errors == []


@contextmanager
def undisturbed(victim, port, reconnects=0):
    """Clients notice nothing of what happens in the block, and afterwards all is as before.

    That the next reload works is proved by the next test, and in the end by the fixture.
    """
    before = victim.settle()
    with Load(port, CLIENTS, 0.01) as load:
        load.wait_requests(50)
        yield
        load.wait_requests(100)
    assert (load.errors, load.reconnects > reconnects) == ([], False), load.reconnects
    victim.wait_footprint(before)


@pytest.mark.parametrize(("dialect", "point", "adopted"), KILLS, indirect=["dialect"])
def test_a_killed_successor_is_as_if_it_had_never_been(victim, port, point, adopted):
    """Killed at any step, it leaves nothing; clients that it had adopted connect again."""
    with undisturbed(victim, port, adopted):
        with victim.begin(stop_at=point) as reload:
            end(victim.stopped(point, reload))
            failed = reload.end()
        assert (failed.code, failed.reason) == (
            75, "the successor was ended by SIGKILL: it said nothing")


@pytest.mark.parametrize(("dialect", "point", "adopted"), STOPS, indirect=["dialect"])
def test_a_successor_that_comes_too_late_gives_way(victim, port, dialect, point, adopted):
    """Stopped at any step until its lease has ended, it ends without touching a socket."""
    with undisturbed(victim, port, adopted), victim.second(stop_at=point) as successor:
        pid = victim.stopped(point, successor)
        victim.wait_log(rf"process {pid}.*goes on serving")
        end(pid, signal.SIGCONT)
        failed = successor.end()
        assert (failed.code, bool(re.fullmatch(LATE[dialect], failed.err))) == (75, True), failed


@pytest.mark.parametrize(
    ("dialect", "point"),
    [("ours", "successor:before-confirm"), ("shotover", "successor:built")], indirect=["dialect"])
def test_a_signal_in_the_middle_ends_the_successor_alone(victim, port, point):
    """SIGTERM while it waits for the predecessor ends it in order, and the predecessor goes on."""
    with undisturbed(victim, port):
        with victim.begin(stop_at=point) as reload:
            pid = victim.stopped(point, reload)
            end(pid, signal.SIGTERM)
            end(pid, signal.SIGCONT)
            failed = reload.end()
        assert (failed.code, failed.reason) == (
            75, "the successor ended with exit code 0: ended by a signal before it served")


@pytest.mark.parametrize("dialect", ["ours"], indirect=True)
def test_a_stopped_successor_is_ended_by_the_command(victim, port):
    """At the deadline of the command, even if it cannot take a signal."""
    point = "successor:received"
    with undisturbed(victim, port):
        with victim.begin("--timeout", "2", stop_at=point) as reload:
            victim.stopped(point, reload)
            failed = reload.end()
        assert (failed.code, failed.reason) == (75, "the successor was not ready in time")


def with_sink(topology, name):
    """The topology with another sink."""
    return topology[: topology.index("- ValkeySinkSingle")] + f'- {name}: {{name: "sink"}}\n'


def module(at_import="", at_build="pass"):
    """A sink of somebody else that fails."""
    return (
        f"from shotover_gevent.sinks.null import NullSink\n{at_import}\n\n\n"
        f"class Broken(NullSink):\n    def build(self, context):\n        {at_build}\n")


BAD = {
    "import": (
        module(at_import="raise RuntimeError('no luck')"),
        "the successor ended with exit code 78: topology.yaml:9:11  "
        "sources[0].Valkey.chain[1].broken.Broken: broken.Broken cannot be imported: "
        "RuntimeError: no luck\n1 problem; nothing was started"),
    "build": (
        module(at_build="raise RuntimeError('no certificate')"),
        "the successor ended with exit code 78: topology.yaml:9:11  "
        "sources[0].Valkey.chain[1].broken.Broken: build() raised RuntimeError: no certificate\n"
        "    the code of Broken failed at broken.py:7: mend that, or what it needs, or take the entry out\n"
        "1 problem; nothing was started"),
    "end": (
        module(at_import="import os; os._exit(0)"),
        "the successor ended with exit code 0: it said nothing"),
    "hang": (
        module(at_import="import time; time.sleep(60)"), "the successor was not ready in time"),
}


@pytest.mark.parametrize("dialect", ["ours"], indirect=True)
@pytest.mark.parametrize("kind", BAD)
def test_a_transform_that_fails_is_the_reason(victim, port, topology, kind):
    """One that raises, ends the process or hangs is told in the successor's own words."""
    text, reason = BAD[kind]
    (victim.folder / "broken.py").write_text(text)
    try:
        failed = replaced_with(victim, port, with_sink(topology, "broken.Broken"))
    finally:
        (victim.folder / "broken.py").unlink()
    assert (failed.code, failed.reason[: len(reason)]) == (75, reason)


WRONG = {
    "sources: [\n": (
        "topology.yaml:2:1  not valid YAML: expected the node content, but found '<stream end>' "
        "(while parsing a flow node, begun in line 2)"),
    "unknown": (
        'topology.yaml:9:11  sources[0].Valkey.chain[1].NoSuchTransform: unknown transform type '
        f'"NoSuchTransform"\n    known types: {", ".join(Registry().names())}'),
}


@pytest.mark.parametrize("dialect", ["ours"], indirect=True)
@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_topology_is_the_reason(victim, port, topology, kind):
    """It is refused as ``serve`` would refuse it, with its place."""
    text = kind if kind.endswith("\n") else with_sink(topology, "NoSuchTransform")
    failed = replaced_with(victim, port, text)
    assert (failed.code, failed.reason) == (
        75, f"the successor ended with exit code 78: {WRONG[kind]}\n1 problem; nothing was started")


def test_an_added_listener_whose_port_is_in_use_is_the_reason(victim, port, topology):
    """The address and a way out are told; the listeners that were lent stay with the predecessor."""
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        number = taken.getsockname()[1]
        added = topology.partition("sources:\n")[2].replace(str(port), str(number)).replace(
            'name: "', 'name: "added ')
        failed = replaced_with(victim, port, topology + added)
    line = max(n for n, text in enumerate((topology + added).splitlines(), 1) if "listen_addr" in text)
    assert (failed.code, failed.reason) == (
        75, "the successor ended with exit code 75: "
        f"topology.yaml:{line}:20  sources[1].Valkey.listen_addr: "
        f"cannot listen on 127.0.0.1:{number}: Address already in use (os error 98)\n"
        "    another program listens there; to see which one: ss -ltnp\n"
        "1 problem; nothing was started")


def replaced_with(victim, port, text):
    """A reload with another topology, of which the clients notice nothing."""
    with undisturbed(victim, port):
        before = victim.topology
        victim.write_topology(text)
        failed = victim.replace("--timeout", "2")
        victim.write_topology(before)
    return failed
