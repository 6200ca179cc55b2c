"""A successor that is bad, slow, stopped or killed leaves the predecessor serving."""

import re
import signal
import socket
from contextlib import contextmanager

import pytest

from tests.faults.rig import Rig, end
from tests.harness import eventually
from tests.integration.load import Load

CLIENTS = 4

# Where a successor is killed or stopped, and how many clients may have been its own by then: none
# until it has adopted sessions.
STEPS = [
    ("ours", "successor:built", 0), ("ours", "successor:received", 0), ("ours", "successor:bound", 0),
    ("ours", "successor:confirmed", 0), ("ours", "successor:accepting", 0),
    ("ours", "successor:before-adopt", 0), ("ours", "successor:adopted", CLIENTS),
    ("ours", "successor:before-done", CLIENTS),
    ("shotover", "successor:built", 0), ("shotover", "successor:received", 0),
    ("shotover", "successor:bound", 0), ("shotover", "successor:before-confirm", 0),
]

# A successor that has asked for nothing yet loses nothing; the other steps before confirming are one.
STOPS = [each for each in STEPS if each[1] not in ("successor:built", "successor:bound", "successor:received")]
STOPS += [("ours", "successor:before-confirm", 0)]

# What a successor says that was stopped until its lease had ended.
LATE = {
    "ours": r"Hot reload client failed: (cannot send \w+: Broken pipe \(os error 32\)|"
            "the other process closed the connection)",
    "shotover": r"Hot reload client failed: Hot reload server returned error: "
                r"the lease of pid \d+ has ended: its time is over",
}

MODULE = """
from shotover_gevent.sinks.null import NullSink

{at_import}


class Broken(NullSink):
    def build(self, context):
        {at_build}
"""


@pytest.fixture(scope="module")
def victim(topology, dialect, port):
    """A proxy that serves through all that happens to its successors."""
    with Rig(topology, dialect, env={"PYTHONPATH": "."}) as rig:
        with Load(port, CLIENTS) as load:
            load.wait_requests(50)
        yield rig


@contextmanager
def undisturbed(victim, port, reconnects=0):
    """Clients notice nothing of the block, everything is as before, and the next reload works."""
    before = victim.settle()
    with Load(port, CLIENTS) as load:
        load.wait_requests(50)
        yield
        load.wait_requests(100)
    assert (load.errors, load.reconnects <= reconnects) == ([], True), load.reconnects
    victim.wait_footprint(before)
    with Load(port, CLIENTS) as load:
        load.wait_requests(50)
        assert victim.replace().code == 0
        load.wait_requests(50)
    assert load.errors == []


@pytest.mark.parametrize(("dialect", "point", "adopted"), STEPS, indirect=["dialect"])
def test_a_killed_successor_is_as_if_it_had_never_been(victim, port, point, adopted):
    """Killed at any step, it leaves nothing; clients that it had adopted connect again."""
    with undisturbed(victim, port, adopted):
        with victim.begin(stop_at=point) as reload:
            end(victim.stopped(point))
            failed = reload.end()
        assert (failed.code, failed.reason) == (
            75, "the successor was ended by SIGKILL: it said nothing")


@pytest.mark.parametrize(("dialect", "point", "adopted"), STOPS, indirect=["dialect"])
def test_a_successor_that_comes_too_late_gives_way(victim, port, dialect, point, adopted):
    """Stopped at any step until its lease has ended, it ends without touching a socket."""
    with undisturbed(victim, port, adopted), victim.second(stop_at=point) as successor:
        pid = victim.stopped(point)
        victim.wait_log(rf"process {pid}.*goes on serving")
        end(pid, signal.SIGCONT)
        failed = successor.end()
        assert (failed.code, bool(re.fullmatch(LATE[dialect] + "\n", failed.err))) == (75, True), failed


@pytest.mark.parametrize("point", ["successor:before-confirm"])
def test_a_signal_in_the_middle_ends_the_successor_alone(victim, port, point):
    """SIGTERM ends it in order, at once, and the predecessor goes on."""
    with undisturbed(victim, port):
        with victim.begin(stop_at=point) as reload:
            pid = victim.stopped(point)
            end(pid, signal.SIGTERM)
            end(pid, signal.SIGCONT)
            failed = reload.end()
        assert (failed.code, failed.reason) == (
            75, "the successor ended with exit code 0: ended by a signal before it served")


def broken_topology(topology, name="broken.Broken"):
    """The topology with a sink that is made to fail."""
    return re.sub(r"ValkeySinkSingle:\n(?: {12}.*\n)+", f'{name}: {{{{name: "x"}}}}\n', topology).replace("{{", "{").replace("}}", "}")


BAD = {
    "syntax": ("sources: [\n", "", ""),
    "unknown transform": ("NoSuchTransform", "", ""),
    "exception at import": ("broken.Broken", "raise RuntimeError('no luck')", "pass"),
    "exception while building": ("broken.Broken", "", "raise RuntimeError('no certificate')"),
    "ends at import": ("broken.Broken", "import os; os._exit(0)", "pass"),
    "hangs at import": ("broken.Broken", "import time; time.sleep(60)", "pass"),
}


@pytest.mark.parametrize("dialect", ["ours"], indirect=True)
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_successor_says_why(victim, port, topology, kind):
    """What is wrong with it is the reason of the command, in its own words."""
    text, at_import, at_build = BAD[kind]
    if not text.endswith("\n"):
        text = broken_topology(topology, text)
    (victim.folder / "broken.py").write_text(MODULE.format(at_import=at_import, at_build=at_build or "pass"))
    victim.write_topology(text)
    try:
        with undisturbed(victim, port):
            failed = victim.replace("--timeout", "2")
            print(failed.report["reason"])
            victim.write_topology(topology)
    finally:
        victim.write_topology(topology)
    assert 0
