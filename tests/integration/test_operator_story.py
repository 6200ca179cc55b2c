"""The commands of ``docs/install_systemd.rst``, one after the other, as an operator would run them.

systemd itself is played by ``fake_systemd``, which runs the command lines of the unit. Whatever changes
the system outside of the service's own files is left out.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from docutils import nodes

from tests.harness import Client, command, eventually, free_port
from tests.integration.fake_systemd import Failed, Systemd
from tests.test_docs import ROOT, tree

PAGE = ROOT / "docs/install_systemd.rst"

# What is not run, by what begins it, and why.
NOT_RUN = {
    "python3 -m venv": "the environment of the tests has the program",
    "/opt/shotover-gevent/bin/pip": "the same",
    "ln -s": "the same",
    "systemd-sysusers": "changes the users of the machine",
}

PING, PONG = command("PING"), b"+PONG\r\n"


def commands() -> list[str]:
    """The command lines of the page, without ``sudo``."""
    blocks = [node for node in tree(PAGE).findall(nodes.literal_block) if "sh" in node["classes"]]
    lines = [line.strip() for node in blocks for line in node.astext().splitlines()]
    return [line.removeprefix("sudo ") for line in lines if line]


def is_run(line: str) -> bool:
    """Whether a command line is run here."""
    return not any(line.startswith(each) for each in NOT_RUN)


class Machine:
    """A folder in the place of the root of the file system, with free ports in the place of known ones."""

    def __init__(self, folder: Path, server_port: int) -> None:
        self.root = folder / "root"
        self.port = free_port()
        ports = {"6379": server_port, "6380": self.port, "9001": free_port()}
        self._real = {
            "/opt/shotover-gevent/bin": str(Path(sys.executable).parent),
            "/etc/": f"{self.root}/etc/", "/usr/": f"{self.root}/usr/", "/run/": f"{self.root}/run/",
            **{known: str(port) for known, port in ports.items()},
        }
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environ = {**os.environ, "PATH": path, "COLUMNS": "200"}
        self.systemd = Systemd(folder, self.translate, self.environ)

    def translate(self, text: str) -> str:
        """The same for this machine."""
        return re.sub("|".join(map(re.escape, self._real)), lambda match: self._real[match[0]], text)

    def run(self, line: str) -> str:
        """Run one command line of the page; it must end with 0. Returns what it prints."""
        words = shlex.split(line)
        if words[0] == "systemctl":
            return self.systemd.systemctl(*words[1:])
        if words[0] == "install":
            return self._install(Path(words[-2]), Path(self.translate(words[-1])))
        result = subprocess.run(
            shlex.split(self.translate(line)), cwd=ROOT, env=self.environ, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=90)
        assert result.returncode == 0, f"{line}\n{result.stdout}{result.stderr}"
        return result.stdout

    def _install(self, source: Path, target: Path) -> str:
        """Copy a file; an example gets the ports of this machine."""
        subprocess.run(["install", "-D", "-m", "644", source, target], cwd=ROOT, check=True)
        if source.suffix == ".yaml":
            target.write_text(self.translate(target.read_text()))
        return ""


class Story:
    """Runs the page until a command, and keeps what each has printed."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._left = [line for line in commands() if is_run(line)]

    def until(self, start: str) -> str:
        """Run all commands up to the next one that begins so; returns what that one prints."""
        while self._left:
            line = self._left.pop(0)
            printed = self.machine.run(line)
            if line.startswith(start):
                return printed
        raise AssertionError(f"the page has no command {start!r} (left)")

    @property
    def is_over(self) -> bool:
        """Whether all commands have been run."""
        return not self._left


@pytest.fixture
def machine(tmp_path, redis_server):
    """A machine without the service; nothing of it runs on afterwards."""
    machine = Machine(tmp_path, redis_server.port)
    yield machine
    machine.systemd.close()


CTL = "shotover-gevent ctl"
SESSIONS = f"{CTL} sessions --hotreload-socket /run/shotover-gevent/control.sock"


@pytest.mark.timeout(240)
def test_the_page_is_true(machine):
    """Every command works in its order, and does what the page says of it."""
    story, systemd = Story(machine), machine.systemd
    assert story.until("shotover-gevent check").endswith("no problems\n")
    assert "Active: active" in story.until("systemctl status")
    first = systemd.mains[-1]
    with Client(machine.port) as client, Client(machine.port) as other:
        client.ask(PING, PONG)
        other.ask(PING, PONG)
        assert story.until("curl") == "ok"
        assert "shotover_gevent_sessions" in story.until("curl")
        assert f"process {first}, serving, ready" in story.until(f"{CTL} status")
        with Client(machine.port) as slow:
            slow.send(command("SET", "big", "x" * 1_000_000) + command("GET", "big") * 50)
            eventually(lambda: " by the client" in machine.run(SESSIONS).splitlines()[1])
            header, first_row, *rows = story.until(f"{CTL} sessions").splitlines()
            assert (first_row.split()[:2], " by the client" in first_row, rows[-1]) == (
                ["edge", "3"], True, "3 sessions")
        assert "edge" in story.until(f"{CTL} top")
        assert story.until(f"{CTL} sessions") == "session 1 of edge is closed\n"
        client.eof()
        assert "it returns to: " in story.until(f"{CTL} log-level")
        assert story.until(f"{CTL} log-level").startswith("filter: debug\n")
        assert "1 would move" in story.until("shotover-gevent reload")
        story.until("systemctl reload")
        assert "1 session moved" in story.until("systemctl status")
        assert (systemd.state, len(systemd.mains)) == ("active", 2)
        other.ask(PING, PONG)
        assert f"process {systemd.mains[-1]} has ended" in story.until(f"{CTL} drain")
        other.eof()
        story.until("systemctl stop")
    assert (story.is_over, systemd.state, systemd.family.pids()) == (True, "inactive", [])


@pytest.mark.timeout(240)
def test_a_failed_reload_fails_the_command_and_not_the_service(machine):
    """``systemctl reload`` fails, the journal has the place of the mistake, and clients stay."""
    story, systemd = Story(machine), machine.systemd
    story.until("systemctl enable")
    topology = Path(machine.translate("/etc/shotover-gevent/topology.yaml"))
    with Client(machine.port) as client:
        client.ask(PING, PONG)
        topology.write_text(topology.read_text().replace("remote_address", "remote_adress"))
        with pytest.raises(Failed, match="ended with 75"):
            systemd.systemctl("reload", "shotover-gevent")
        client.ask(PING, PONG)
        assert (systemd.state, len(systemd.mains), systemd.status_text) == ("active", 1, "serving 1 source")
        assert re.search(r"topology.yaml:\d+:\d+ .*remote_adress: unknown field", systemd.journal.read_text())
        systemd.systemctl("stop", "shotover-gevent")
        client.eof()
    assert (systemd.state, systemd.family.pids()) == ("inactive", [])


@pytest.mark.timeout(240)
def test_a_second_reload_and_a_stop_reach_the_main_process(machine):
    """After two reloads the manager still has the right main process, and ends it in order."""
    story, systemd = Story(machine), machine.systemd
    story.until("systemctl enable")
    with Client(machine.port) as client:
        client.ask(PING, PONG)
        for _ in range(2):
            systemd.systemctl("reload", "shotover-gevent")
            client.ask(PING, PONG)
        eventually(lambda: systemd.family.pids() == [systemd.mains[-1]])
        systemd.systemctl("stop", "shotover-gevent")
    assert (len(set(systemd.mains)), systemd.state, systemd.family.pids()) == (3, "inactive", [])


def test_what_is_not_run_is_on_the_page():
    """The list of exceptions has no entry that nothing needs."""
    assert [each for each in NOT_RUN if not any(line.startswith(each) for line in commands())] == []
