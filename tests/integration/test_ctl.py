"""``shotover-gevent ctl`` with real processes: each command, as people and as programs use it."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shotover_gevent.testing.server import RealServer
from tests.harness import Client, ProxyProcess, command, eventually, free_port
from tests.integration.load import Load
from tests.proxies import tcp_topology, valkey_topology

PING, PONG = command("PING"), b"+PONG\r\n"


class Stage:
    """A proxy with a control socket, and ``ctl`` for it."""

    def __init__(self, folder: Path, server: RealServer, mode: str) -> None:
        self.port, self.tcp_port = free_port(), free_port()
        self.path = folder / "control.sock"
        self.server = server
        topology = valkey_topology(self.port, server.port, mode=mode)
        more = tcp_topology(self.tcp_port, server.port).replace('"sink"', '"tcp-sink"')
        self.proxy = ProxyProcess(topology + more.removeprefix("\nsources:\n"), hotreload_socket=self.path)

    def command(self, name: str, *arguments: str) -> list[str]:
        """The command line."""
        return [sys.executable, "-m", "shotover_gevent", "ctl", name, "--hotreload-socket", str(self.path), *arguments]

    def ctl(self, name: str, *arguments: str, timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            self.command(name, *arguments), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False, timeout=timeout_s)

    def json(self, name: str, *arguments: str) -> Any:
        """What it prints with ``--json``; it must work."""
        result = self.ctl(name, "--json", *arguments)
        assert (result.returncode, result.stderr) == (0, "")
        return json.loads(result.stdout)

    def client(self, port: int = 0) -> Client:
        """A client that was served."""
        client = Client(port or self.port)
        client.ask(PING, PONG)
        return client


@pytest.fixture
def stage(redis_server: RealServer, tmp_path: Path, mode: str) -> Iterator[Stage]:
    """A running proxy."""
    stage = Stage(tmp_path, redis_server, mode)
    with stage.proxy:
        stage.proxy.wait_ready()
        yield stage


# -- status -------------------------------------------------------------------------------------


def test_status_tells_how_things_are(stage: Stage) -> None:
    """As tables, and as the document of ``/status``."""
    with stage.client():
        found, told = stage.json("status"), stage.ctl("status")
    assert (found["pid"], found["ready"], [each["sessions"] for each in found["sources"]]) == (
        stage.proxy.pid, True, [1, 0])
    assert (told.returncode, told.stderr) == (0, "")
    assert re.search(rf"^shotover-gevent \S+, process {stage.proxy.pid}, serving, ready, up ", told.stdout)
    assert re.search(rf"^valkey +Valkey +127.0.0.1:{stage.port} +accepting +1/512 +1 ", told.stdout, re.M)
    assert told.stdout.endswith("last reload: none that this process has seen\n")


def test_nobody_at_the_socket_is_another_exit_code(stage: Stage) -> None:
    """75: try again; the text says what was found there."""
    stage.path = Path("/nonexistent/control.sock")
    told, found = stage.ctl("status"), stage.ctl("status", "--json")
    assert (told.returncode, found.returncode, told.stdout) == (75, 75, "")
    assert told.stderr.startswith("ctl: ") and "No such file or directory" in told.stderr
    assert "No such file" in json.loads(found.stdout)["error"]


# -- sessions -----------------------------------------------------------------------------------


def test_sessions_are_listed(stage: Stage) -> None:
    """Each with who it is and what it does; those of one source on demand."""
    with stage.client() as client, stage.client(stage.tcp_port), stage.client() as waiting:
        waiting.send(command("BLPOP", "ctl", "0"))
        found = eventually(
            lambda: (each := stage.json("sessions")) and any(s["state"] == "running" for s in each) and each)
        tcp = stage.json("sessions", "--source", "tcp")
        told = stage.ctl("sessions", "--source", "valkey").stdout.splitlines()
        peer = "127.0.0.1:%d" % client.socket.getsockname()[1]
        wrong = stage.ctl("sessions", "--source", "x")
    by_source = sorted((each["source"], each["id"], each["state"], each["requests"]) for each in found)
    assert by_source == [("tcp", 1, "idle", 1), ("valkey", 1, "idle", 1), ("valkey", 2, "running", 2)]
    assert next(each["peer"] for each in found if each["source"] == "valkey") == peer
    assert [each["source"] for each in tcp] == ["tcp"]
    assert (len(told), told[0].split()[:3], told[-1]) == (4, ["source", "id", "peer"], "2 sessions")
    assert (wrong.returncode, wrong.stderr) == (1, "ctl: there is no source x; there are: valkey, tcp\n")


def test_a_slow_client_is_found(stage: Stage) -> None:
    """It stands first, with the bytes that wait for it, and for how long it has taken none."""
    with stage.client() as slow, stage.client():
        slow.ask(command("SET", "large", "x" * 1_000_000), b"+OK\r\n")
        slow.send(command("GET", "large") * 100)
        eventually(lambda: stage.json("status")["sources"][0]["session_states"]["blocked"] == 1)
        time.sleep(0.1)  # to be blocked for longer than the clock is fine
        found = max(stage.json("sessions"), key=lambda each: each["unsent_bytes"])
        told = stage.ctl("sessions").stdout.splitlines()
    assert (found["state"], found["blocked_by"], found["id"]) == ("blocked", "client", 1)
    assert (found["unsent_bytes"] > 10_000, found["blocked_s"] >= 0.1) == (True, True)
    assert re.search(r" blocked .* s by the client$", told[1])


def test_a_session_is_closed_at_its_next_boundary(stage: Stage) -> None:
    """An idle one at once; one that waits for others when it is answered, or now."""
    with stage.client() as idle, stage.client() as waiting, stage.client() as stuck:
        for client in (waiting, stuck):
            client.send(command("BLPOP", "ctl", "0"))
        eventually(lambda: stage.json("status")["sources"][0]["session_states"]["running"] == 2)
        closed = stage.json("sessions", "--close", "1")
        idle.eof()
        later = stage.ctl("sessions", "--close", "2", "--source", "valkey")
        now = stage.json("sessions", "--close", "3", "--now")
        stuck.eof()
        with Client(stage.server.port) as direct:
            direct.ask(command("RPUSH", "ctl", "x"), b":1\r\n")
        waiting.expect(b"*2\r\n$3\r\nctl\r\n$1\r\nx\r\n")
        waiting.eof()
    assert closed == {"source": "valkey", "id": 1, "state": "idle", "closed": True}
    assert (later.returncode, later.stdout) == (
        0, "session 2 of valkey is running: it is closed when it comes to the end of its requests; "
        "--now does not wait for that\n")
    assert now == {"source": "valkey", "id": 3, "state": "running", "closed": True}

    def reasons() -> list[str]:
        return [event.fields["reason"] for event in stage.proxy.events if event.message == "session closed"]

    eventually(lambda: len(reasons()) == 3)
    assert reasons() == ["closed by an operator", "aborted", "closed by an operator"]


def test_a_number_that_several_sources_have_needs_a_source(stage: Stage) -> None:
    """Nothing is closed by guessing."""
    with stage.client() as client, stage.client(stage.tcp_port):
        ambiguous, unknown = stage.ctl("sessions", "--close", "1"), stage.ctl("sessions", "--close", "9")
        client.ask(PING, PONG)
    assert [(each.returncode, each.stderr) for each in (ambiguous, unknown)] == [
        (1, "ctl: there is a session 1 of each of these sources: valkey, tcp; name one\n"),
        (1, "ctl: there is no session 9\n")]


# -- log-level ----------------------------------------------------------------------------------


def test_the_filter_changes_for_a_while(stage: Stage) -> None:
    """Lines that were left out are printed, until the filter of before returns by itself."""
    before = stage.json("log-level")
    during = stage.json("log-level", "debug", "--for", "1s")
    again = stage.ctl("log-level")
    after = eventually(lambda: (found := stage.json("log-level"))["expires_s"] is None and found)
    assert before == {"filter": "info,shotover=info", "expires_s": None, "returns_to": None}
    assert (during["filter"], during["returns_to"], 0 < during["expires_s"] <= 1) == (
        "debug", "info,shotover=info", True)
    assert again.returncode == 0
    assert after == before
    assert stage.proxy.wait_log("filter is back to: info,shotover=info")


def test_a_filter_that_cannot_be_read_is_refused(stage: Stage) -> None:
    """With the words of the configuration; a time alone is a mistake of the command line."""
    wrong, lonely = stage.ctl("log-level", "shotover=inof"), stage.ctl("log-level", "--for", "60s")
    assert (wrong.returncode, "error parsing level filter" in wrong.stderr) == (1, True)
    assert (lonely.returncode, lonely.stderr.splitlines()[-1].endswith("--for needs a FILTER")) == (2, True)
    assert stage.json("log-level")["filter"] == "info,shotover=info"


# -- drain --------------------------------------------------------------------------------------


def test_drain_closes_sessions_and_ends_the_process(stage: Stage) -> None:
    """Between requests; what is told on the way goes to standard error, the result to standard output."""
    with stage.client() as client, stage.client(), stage.client():
        result = stage.ctl("drain", "--seconds", "1")
        client.eof()
    assert (result.returncode, stage.proxy.wait()) == (0, 0)
    assert re.fullmatch(
        rf"process {stage.proxy.pid} has ended after [\d.]+ s; sessions closed: 3\n", result.stdout)
    assert result.stderr.startswith(f"process {stage.proxy.pid} drains: ")


def test_drain_as_json_says_nothing_else(stage: Stage) -> None:
    """One object when all is over."""
    with stage.client() as client:
        found = stage.json("drain", "--seconds", "1")
        client.eof()
    seconds = found.pop("duration_s")
    assert (0 < seconds < 20, found) == (True, {
        "pid": stage.proxy.pid, "sessions": 1, "seconds": 1.0, "ended": True, "left": 0})


def test_a_draining_process_is_not_drained_again(stage: Stage) -> None:
    """It tells how things are meanwhile, and a signal still ends it."""
    with stage.client() as client:
        client.send(command("BLPOP", "never", "0"))
        eventually(lambda: stage.json("status")["sources"][0]["session_states"]["running"] == 1)
        first = subprocess.Popen(
            stage.command("drain", "--seconds", "30", "--json"), stdout=subprocess.PIPE, text=True)
        try:
            eventually(lambda: stage.json("status")["state"] == "draining")
            again = stage.ctl("drain")
            stage.proxy.terminate()
            stage.proxy.terminate()
            code = stage.proxy.wait()
            told = json.loads(first.communicate(timeout=30)[0])
        finally:
            first.kill()
            first.wait()
    stage.proxy.tolerate.append("did not end in time")
    assert (again.returncode, again.stderr) == (1, "ctl: this process is draining already\n")
    assert (code, first.returncode, told["ended"]) == (0, 0, True)


# -- top ----------------------------------------------------------------------------------------


def test_top_tells_the_rates_of_a_load(stage: Stage) -> None:
    """A JSON object for each second, and a line for each source without a terminal."""
    with Load(stage.port, clients=2, connect_rate_s=0.05) as load:
        objects = [json.loads(line) for line in stage.ctl("top", "--json", "--count", "2").stdout.splitlines()]
        lines = stage.ctl("top", "--count", "1").stdout.splitlines()
    assert (load.errors, len(objects), len(lines)) == ([], 2, 2)
    assert [each["name"] for each in objects[1]["sources"]] == ["valkey", "tcp"]
    assert objects[1]["sources"][0]["requests_per_s"] > 50
    assert re.fullmatch(r"\d\d:\d\d:\d\d valkey: \d+ requests/s, \d+ sessions, .*/s in, .*/s out", lines[0])


class Terminal:
    """A command on a terminal of its own. ``seen`` is what it has written there."""

    def __init__(self, words: list[str], **environ: str) -> None:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (30, 100))
        try:
            self.process = subprocess.Popen(
                words, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
                env={**os.environ, "TERM": "xterm", **environ})
        finally:
            os.close(theirs)
        self.seen = ""

    def _read(self) -> None:
        try:
            if select.select([self._ours], [], [], 0.05)[0]:
                self.seen += os.read(self._ours, 65536).decode(errors="replace")
        except OSError:
            pass  # EIO: the command has ended

    def wait_for(self, pattern: str) -> None:
        """Read until it is there."""
        def is_there() -> bool:
            self._read()
            return re.search(pattern, self.seen) is not None

        eventually(is_there)

    def press(self, key: str) -> None:
        """As from a keyboard."""
        os.write(self._ours, key.encode())

    def end(self) -> int:
        """Wait for the end; returns the exit code."""
        def has_ended() -> bool:
            self._read()
            return self.process.poll() is not None

        try:
            eventually(has_ended)
            self._read()
        finally:
            self.process.kill()
            os.close(self._ours)
        return self.process.wait()


def test_top_on_a_terminal_ends_with_q(stage: Stage) -> None:
    """A table that is drawn anew, until the key."""
    with stage.client():
        terminal = Terminal(stage.command("top"))
        terminal.wait_for("requests/s")
        terminal.wait_for("q quits")
        terminal.press("q")
        code = terminal.end()
    assert (code, "valkey" in terminal.seen, "1/512" in terminal.seen) == (0, True, True)


def test_top_goes_on_through_a_reload(stage: Stage) -> None:
    """The process that serves next is watched next."""
    watching = subprocess.Popen(stage.command("top", "--json"), stdout=subprocess.PIPE, text=True)
    try:
        assert watching.stdout is not None
        first = json.loads(watching.stdout.readline())["pid"]
        assert stage.proxy.reload().returncode == 0
        pids = {first}
        eventually(lambda: pids.add(json.loads(watching.stdout.readline())["pid"]) or len(pids) == 2)
    finally:
        watching.send_signal(signal.SIGINT)
        assert watching.wait(timeout=20) in (0, 130)
        watching.stdout.close()
    assert first == stage.proxy.pid


def test_progress_on_a_terminal_is_one_line(stage: Stage) -> None:
    """It is written over, without colours if they are not wanted, and nothing of it is left."""
    with stage.client() as client:
        terminal = Terminal(stage.command("drain", "--seconds", "2"), NO_COLOR="1")
        code = terminal.end()
        client.eof()
    written = terminal.seen.replace("\r\n", "\n")
    assert (code, "\x1b[2m" in written, f"\r\x1b[Kprocess {stage.proxy.pid} drains: " in written) == (
        0, False, True)
    assert re.search(r"\r\x1b\[Kprocess \d+ has ended after [\d.]+ s; sessions closed: 1\n$", written)
