"""A family finds and ends the processes that come from one, and no others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from shotover_gevent.testing.family import Family
from tests.harness import eventually


@pytest.fixture
def family() -> Iterator[Family]:
    """A family that is ended after the test."""
    family = Family()
    yield family
    family.stop(timeout_s=0)


def spawn(family: Family, code: str) -> subprocess.Popen[bytes]:
    """A Python process of the family."""
    return subprocess.Popen([sys.executable, "-c", code], env=family.environ())


# A process that starts another in a session of its own, and ends.
ORPHAN = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
"""

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_process_whose_parent_has_ended_is_found_and_ended(family: Family) -> None:
    """A successor is found after the process that started it has gone."""
    spawn(family, ORPHAN).wait()
    found = eventually(family.pids)
    killed = family.stop()
    assert (len(found), killed, family.pids()) == (1, [], [])


def test_who_ignores_sigterm_is_killed(family: Family) -> None:
    """A member that does not end by itself is killed, and named."""
    with subprocess.Popen(
        [sys.executable, "-c", STUBBORN], env=family.environ(), stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        killed = family.stop(timeout_s=0.2)
        process.wait()
    assert (killed, family.pids()) == ([process.pid], [])


def test_other_processes_are_left_alone(family: Family) -> None:
    """A process of another family, and one of none, go on."""
    other = Family()
    with spawn(other, "input()") as stranger, subprocess.Popen(["sleep", "60"]) as plain:
        family.stop()
        still_running = (stranger.poll(), plain.poll())
        plain.terminate()
        other.stop()
    assert still_running == (None, None)
