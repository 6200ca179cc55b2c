"""What an operator sees of a reload: the report, the plan, SIGHUP, and the metrics."""

import json
import os
import re
import signal
import time
import urllib.request

import pytest

from tests.harness import CONFIG, READY, Client, ProxyProcess, command, eventually, free_port
from tests.proxies import tcp_topology, valkey_topology

PING, PONG = b"PING\r\n", b"+PONG\r\n"

# A later change of the text of a topology: another chain for the same address.
OTHER_CHAIN = ('counter_name: "main"', 'counter_name: "other"')


class Stage:
    """A proxy that can be reloaded, and what is written in its files."""

    def __init__(self, folder, server, mode):
        self.server = server
        self.port, self.admin = free_port(), free_port()
        self.topology = valkey_topology(self.port, server.port, mode=mode)
        self.config = CONFIG + f'observability_interface: "127.0.0.1:{self.admin}"\n'
        self.proxy = ProxyProcess(
            self.topology, self.config, hotreload_socket=folder / "control.sock",
            args=["--hotreload-gradual-shutdown-seconds", "5"])

    def second_source(self, port, name="second"):
        """The topology with one more source in front of the same server."""
        more = tcp_topology(port, self.server.port).replace("sources:\n", "")
        return self.topology + more.replace('name: "tcp"', f'name: "{name}"').replace(
            'name: "sink"', 'name: "second-sink"')

    def client(self):
        """A connection that has been served, so that it has one to the server as well."""
        client = Client(self.port)
        client.ask(command("SET", "here", "x"), b"+OK\r\n")
        return client

    def serving_pid(self):
        """The only process left of the family."""
        (pid,) = eventually(lambda: len(pids := self.proxy.family.pids()) == 1 and pids)
        return pid

    def metrics(self):
        """The samples of the process that serves, of our own names."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        found = dict(line.rsplit(" ", 1) for line in lines if line.startswith("shotover_gevent_"))
        return {name: float(value) for name, value in found.items()}


@pytest.fixture
def stage(redis_server, tmp_path, mode):
    """A running proxy, in each mode."""
    stage = Stage(tmp_path, redis_server, mode)
    with stage.proxy:
        stage.proxy.wait_ready()
        yield stage


def plan(stage, *arguments):
    """The exit code and the plan."""
    result = stage.proxy.reload("--plan", "--json", *arguments)
    return result.returncode, json.loads(result.stdout)


# -- the report ---------------------------------------------------------------------------------


def test_a_report_has_exactly_the_keys_that_programs_rely_on(stage):
    """Every key of a report, and what a reload of one moving session says."""
    with stage.client() as client:
        result = stage.proxy.reload("--json")
        client.ask(PING, PONG)
    report = json.loads(result.stdout)
    measured = {name: report.pop(name) for name in ("duration_s", "longest_pause_ms", "successor_pid")}
    assert (result.returncode, result.stderr, report) == (0, "", {
        "verdict": "ok", "reason": "", "predecessor_pid": stage.proxy.pid,
        "listeners": {"kept": 1, "added": 0, "removed": 0},
        "sessions": {"moved": 1, "drained": 0, "kept": 0, "dropped": 0}, "reasons": {},
    })
    assert 0 < measured["longest_pause_ms"] / 1000 < measured["duration_s"]
    assert measured["successor_pid"] == stage.serving_pid()


def test_a_failed_report_has_the_same_keys(stage):
    """A program reads one shape, whatever the verdict."""
    stage.proxy.expect += ["^Failed to start shotover"]
    stage.proxy.write_topology("sources: 5")
    result = stage.proxy.reload("--json")
    report = json.loads(result.stdout)
    assert (result.returncode, sorted(report)) == (75, [
        "duration_s", "listeners", "longest_pause_ms", "predecessor_pid", "reason", "reasons",
        "sessions", "successor_pid", "verdict"])
    assert report["reason"].endswith("1 problem; nothing was started")


def test_the_metrics_tell_of_the_reload(stage, mode):
    """The successor counts what became of the sessions; a failure is counted by who goes on."""
    before = eventually(stage.metrics)
    with stage.client() as client:
        assert stage.proxy.reload().returncode == 0
        client.ask(PING, PONG)
        after = eventually(stage.metrics)
    pause = after.pop("shotover_gevent_reload_longest_pause_seconds")
    ended_at = after.pop("shotover_gevent_reload_timestamp_seconds")
    upstream = f'chain="valkey",transform="ValkeySinkSingle",upstream="127.0.0.1:{stage.server.port}"'
    changed = {name: value for name, value in after.items() if value != before[name]}
    assert changed == {
        'shotover_gevent_sessions{source="valkey"}': 1.0,
        'shotover_gevent_bytes_received_count{source="valkey"}': len(PING),
        'shotover_gevent_bytes_sent_count{source="valkey"}': len(PONG),
        f"shotover_gevent_upstream_connections{{{upstream}}}": 1.0,
        'shotover_gevent_reloads_count{role="successor",result="ok"}': 1.0,
        'shotover_gevent_reload_sessions_count{result="adopted"}': 1.0,
    } | ({} if mode == "dedicated" else {  # a shared connection does not move, the successor makes its own
        f"shotover_gevent_upstream_connects_count{{{upstream}}}": 1.0,
        'shotover_gevent_pool_connections{use="shared",chain="valkey"}': 1.0,
    })
    assert (0 < pause < 5, abs(ended_at - time.time()) < 60) == (True, True)


def test_what_is_going_on_is_told_to_people(stage):
    """In a line for each step, on standard error; a successor tells its own steps."""
    with stage.client() as client:
        result = stage.proxy.reload()
        client.ask(PING, PONG)
    successor = stage.serving_pid()
    assert (result.returncode, result.stdout.startswith("reload ok in ")) == (0, True)
    assert result.stderr.splitlines() == [
        f"process {stage.proxy.pid} serves; starting its successor",
        f"process {successor} starts",
        f"process {successor} has built everything, and takes over the listening sockets",
        f"process {successor} has 1 of 1 sessions",
    ]


# -- the plan -----------------------------------------------------------------------------------


def test_a_plan_of_an_unchanged_topology_moves_everything(stage):
    """The numbers are those of a report, and the process stays."""
    with stage.client() as client:
        code, found = plan(stage)
        client.ask(PING, PONG)
    assert (code, found | {"duration_s": 0}) == (0, {
        "verdict": "plan", "reason": "", "duration_s": 0, "predecessor_pid": stage.proxy.pid,
        "listeners": {"kept": 1, "added": 0, "removed": 0},
        "sessions": {"moved": 1, "drained": 0, "kept": 0, "dropped": 0}, "reasons": {},
        "changes": [{
            "what": "kept", "name": "valkey", "address": f"127.0.0.1:{stage.port}", "sessions": 1,
            "moved": 1, "drained": "", "problem": ""}],
    })
    assert stage.serving_pid() == stage.proxy.pid


def test_a_plan_for_people_says_what_comes_goes_and_drains(stage):
    """A changed chain drains its sessions, and an added address is tried."""
    port = free_port()
    stage.proxy.write_topology(stage.second_source(port).replace(*OTHER_CHAIN))
    with stage.client() as client:
        result = stage.proxy.reload("--plan")
        client.ask(PING, PONG)
    assert (result.returncode, result.stdout, result.stderr) == (0, (
        f"a reload would replace process {stage.proxy.pid}; listeners: 1 kept, 1 added, 0 removed\n"
        f"  kept     127.0.0.1:{stage.port}  valkey  sessions: 1 would be drained: the chain has changed\n"
        f"  added    127.0.0.1:{port}  second  can be bound\n"
        "sessions: 0 would move, 1 would be drained\n"
        "nothing was done\n"), "")


def test_a_plan_and_the_reload_agree(stage):
    """What the plan tells of a topology that loses a source is what the reload then reports."""
    port = free_port()
    stage.proxy.write_topology(stage.second_source(port))
    assert stage.proxy.reload().returncode == 0
    stage.serving_pid()
    stage.proxy.write_topology(stage.topology)
    with stage.client(), Client(port) as leaving:
        leaving.ask(PING, PONG)
        _, found = plan(stage)
        report = json.loads(stage.proxy.reload("--json").stdout)
    assert (found["listeners"], found["sessions"], found["reasons"]) == (
        report["listeners"], report["sessions"], report["reasons"])
    assert found["reasons"] == {f"nothing listens at 127.0.0.1:{port}": 1}


def test_a_plan_tells_of_an_address_that_is_in_use(stage):
    """A reload would fail, so the plan does, with the reason."""
    stage.proxy.write_topology(stage.second_source(stage.server.port))
    code, found = plan(stage)
    assert (code, found["verdict"], found["reason"]) == (
        75, "failed",
        f"cannot listen on 127.0.0.1:{stage.server.port}: Address already in use (os error 98)")


def test_a_plan_tells_every_problem_as_the_check_does(stage):
    """Both files are read, whatever is wrong with the first."""
    stage.proxy.write_topology(stage.topology.replace("remote_address", "remote_adress"))
    stage.proxy.write_config("main_log_level: 5\n")
    code, found = plan(stage)
    places = re.findall(r"(config|topology)\.yaml:(\d+):\d+ ", found["reason"])
    assert (code, found["verdict"], places) == (
        75, "failed", [("config", "1"), ("topology", "9"), ("topology", "11")])
    assert found["reason"].endswith("\n3 problems")


def test_a_plan_without_a_process_fails(tmp_path):
    """There is nothing to compare with."""
    path = tmp_path / "control.sock"
    proxy = ProxyProcess("", hotreload_socket=path)
    result = proxy.reload("--plan")
    assert (result.returncode, result.stdout, result.stderr) == (75, "", (
        f"a reload would fail: nobody serves at {path}; start the first process with "
        f"--hotreload-socket {path}\nnothing was done\n"))


# -- SIGHUP -------------------------------------------------------------------------------------


def test_a_hangup_replaces_the_process_and_logs_the_verdict(stage):
    """The session moves, the old process ends with 0, and its last lines say how it went."""
    with stage.client() as client:
        os.kill(stage.proxy.pid, signal.SIGHUP)
        event = stage.proxy.wait_log("^hot reload: ok")
        client.ask(PING, PONG)
    code, pid = stage.proxy.wait(), stage.serving_pid()
    counts = {name: event.fields[name] for name in (
        "moved", "drained", "kept", "dropped", "listeners_kept", "listeners_added", "listeners_removed")}
    assert (code, event.level, event.message, counts) == (
        0, "INFO", f"hot reload: ok: process {pid} has taken over", {
            "moved": 1, "drained": 0, "kept": 0, "dropped": 0, "listeners_kept": 1,
            "listeners_added": 0, "listeners_removed": 0})


def test_a_hangup_with_a_wrong_topology_logs_the_reason(stage):
    """The process goes on, and the next hangup works."""
    stage.proxy.expect += ["^hot reload: failed: ", "^Failed to start shotover"]
    stage.proxy.write_topology("sources: 5")
    os.kill(stage.proxy.pid, signal.SIGHUP)
    event = stage.proxy.wait_log("^hot reload: failed")
    stage.client().close()
    stage.proxy.write_topology(stage.topology)
    os.kill(stage.proxy.pid, signal.SIGHUP)
    stage.proxy.wait_log("^hot reload: ok")
    assert (event.level, event.message) == (
        "ERROR", "hot reload: failed: the successor ended with exit code 78: "
        f"{stage.proxy.folder}/topology.yaml:1:10  sources: found the number 5, wanted a list\n"
        "1 problem; nothing was started")


def test_a_second_hangup_is_refused_while_the_first_one_runs(stage):
    """One reload at a time; the first one is not disturbed."""
    stage.proxy.expect += ["^SIGHUP refused"]
    os.kill(stage.proxy.pid, signal.SIGHUP)
    stage.proxy.wait_log("^SIGHUP: starting a successor")
    os.kill(stage.proxy.pid, signal.SIGHUP)
    event = stage.proxy.wait_log("^SIGHUP refused")
    stage.proxy.wait_log("^hot reload: ok")
    assert (event.level, event.message, stage.proxy.wait()) == (
        "WARN", "SIGHUP refused: a reload is in progress", 0)


def test_a_hangup_without_a_control_socket_says_what_to_do(redis_server):
    """The process lives on."""
    port = free_port()
    with ProxyProcess(
        valkey_topology(port, redis_server.port), expect=["^SIGHUP: this process cannot be reloaded"]
    ) as proxy:
        os.kill(proxy.pid, signal.SIGHUP)
        event = proxy.wait_log("^SIGHUP: ")
        with Client(port) as client:
            client.ask(PING, PONG)
    assert (event.level, event.message) == (
        "WARN", "SIGHUP: this process cannot be reloaded, since it has no control socket; "
        "start it with --hotreload-socket PATH")


def test_a_process_that_is_stopped_during_its_reload_ends(stage):
    """SIGTERM right after SIGHUP: neither hangs on the other."""
    stage.proxy.tolerate += ["hot reload", "control socket", "Hot reload", "Failed to start"]
    os.kill(stage.proxy.pid, signal.SIGHUP)
    stage.proxy.wait_log("^SIGHUP: starting a successor")
    assert stage.proxy.stop() == 0


def test_the_successor_logs_to_the_same_place(stage):
    """Two processes have said that they accept connections, in one log."""
    os.kill(stage.proxy.pid, signal.SIGHUP)
    assert stage.proxy.wait_log(re.escape(READY), count=2).level == "INFO"
    stage.proxy.wait_log("^hot reload: ok")
