"""The demo plays, tells, and leaves nothing behind."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shotover_gevent.testing.server import RealServer
from tests.harness import Client, command, free_port

DEMO = (sys.executable, "-m", "shotover_gevent", "demo")

pytestmark = pytest.mark.usefixtures("valkey_server")


# How a sink is connected, by the option that says so.
OPTIONS = {"dedicated": (), "shared": ("--shared",)}


def demo(*args: str) -> subprocess.Popen[str]:
    """The demo as a process."""
    return subprocess.Popen(
        [*DEMO, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read_invitation(process: subprocess.Popen[str]) -> str:
    """What the demo prints once everything runs."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C" in line:
            break
    return "".join(lines)


def pids_of(folder: str) -> list[int]:
    """All processes that have the folder in their command line."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if folder.encode() in path.read_bytes():
                pids.append(int(path.parent.name))
        except OSError:
            continue  # it has just ended
    return pids


def test_the_check_loses_nothing(mode: str) -> None:
    """Under load, with a reload in the middle, every reply comes and is right."""
    with demo("--check", *OPTIONS[mode]) as process:
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output.splitlines()[-1]) == (0, "verdict  nothing was lost")
    assert errors.splitlines()[1:] == [
        "starting the proxy", "13 clients compare every reply",
        "reloading, and waiting for the predecessor to end", "comparing with the server"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_serves_until_a_signal_and_leaves_nothing(number: signal.Signals, mode: str) -> None:
    """What it tells to try works, also after a reload; afterwards no process and no folder is left."""
    port = free_port()
    with demo("--port", str(port), *OPTIONS[mode]) as process:
        told = read_invitation(process)
        folder = re.findall(r"configuration is in (\S+):", told)[0]
        assert f"connection_mode: {mode}\n" in (Path(folder) / "topology.yaml").read_text()
        reload_command = re.findall(r"^ +(\S.*--hotreload-socket (\S+))$", told, re.MULTILINE)[0]
        with Client(port) as client:
            client.ask(command("SET", "greeting", "hello"), b"+OK\r\n")
        reloaded = subprocess.run(
            [sys.executable, "-m", "shotover_gevent", "reload", "--hotreload-socket", reload_command[1]],
            capture_output=True, check=False, timeout=30)
        with Client(port) as client:
            client.ask(command("GET", "greeting"), b"$5\r\nhello\r\n")
        process.send_signal(number)
        process.communicate(timeout=30)
    assert (reloaded.returncode, process.returncode, pids_of(folder), Path(folder).exists()) == (
        0, 0, [], False)


def test_a_port_in_use_is_refused_when_it_was_asked_for(valkey_server: RealServer) -> None:
    """A given port is taken or nothing; the message names a way out."""
    with demo("--port", str(valkey_server.port)) as process:
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (
        1, "", f"demo: port {valkey_server.port} is in use; choose another by --port, or leave it out\n")


def test_a_proxy_that_ends_by_itself_ends_the_demo() -> None:
    """When the proxy is gone the demo says so, with the end of its log, and cleans up."""
    with demo("--port", str(free_port())) as process:
        folder = re.findall(r"configuration is in (\S+):", read_invitation(process))[0]
        for pid in pids_of(folder):
            subprocess.run(["kill", str(pid)], check=True)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors.splitlines()[1:3], Path(folder).exists()) == (
        1, ["starting the proxy", "demo: the proxy has ended by itself:"], False)
