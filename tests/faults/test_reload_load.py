"""Clients notice nothing of reloads, one after the other, several at once, or the metrics."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from tests.faults.rig import Rig, end
from tests.harness import Client, command, eventually, free_port
from tests.integration.load import Load
from tests.proxies import valkey_topology

SCRIPT = Path(__file__).parents[2] / "scripts" / "reload.sh"

# The script looks for the program on PATH; here it is installed beside the interpreter.
PATH = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("dialect", "times", "reconnects", "mode"),
    [("ours", 20, 0, "dedicated"), ("ours", 20, 0, "shared"), ("shotover", 3, 3 * 8, "dedicated"),
     ("shotover", 3, 3 * 8, "shared")],
    indirect=["dialect"])
def test_reloads_in_a_row_are_not_noticed(dialect, port, redis_server, times, reconnects, mode):
    """Every reload works, no reply is wrong or another client's, nobody is refused; without moving, all
    connect again."""
    topology = valkey_topology(port, redis_server.port, mode=mode)
    with Rig(topology, dialect) as rig:
        before = rig.settle()
        codes = []
        with Load(port) as load:
            for _ in range(times):
                load.wait_requests(100)
                codes.append(subprocess.run(
                    [SCRIPT, "--hotreload-socket", str(rig.hotreload_socket)], env=PATH, timeout=60,
                    capture_output=True, check=False).returncode)
            load.wait_requests(100)
        after = rig.settle()
        assert (codes, load.errors, after.files, abs(after.descriptors - before.descriptors) <= 2) == (
            [0] * times, [], before.files, True)
        assert load.reconnects <= reconnects


def test_of_two_reloads_at_once_one_is_refused(topology, dialect, port):
    """The second is told who is at it, and the first takes over."""
    point = "successor:before-confirm"
    with Rig(topology, dialect, waits={}) as rig:
        with Load(port, 2, 0.01) as load, rig.begin(stop_at=point) as first:
            pid = rig.stopped(point, first)
            second = rig.replace()
            end(pid, signal.SIGCONT)
            assert (second.code, first.end().code, rig.serving) == (75, 0, pid)
            load.wait_requests(50)
    assert load.errors == []
    assert re.search("Hot reload client failed: .*another reload is in progress: (process|pid) N",
                     second.reason)


def test_five_reloads_at_once_leave_one_process(rig, port):
    """Some take over, one after the other, the others are refused; nobody is refused service."""
    with Load(port, 2, 0.01) as load:
        load.wait_requests(50)
        with contextlib.ExitStack() as stack:
            reloads = [stack.enter_context(rig.begin()) for _ in range(5)]
            codes = sorted(reload.end().code for reload in reloads)
        load.wait_requests(50)
    rig.settle()
    assert (codes[0], set(codes) <= {0, 75}, load.errors) == (0, True, [])


@pytest.mark.parametrize("dialect", ["ours", "shotover"], indirect=True)
def test_a_reload_does_not_wait_for_an_earlier_drain(topology, dialect, port, redis_server):
    """The second successor takes over while the first process still serves a blocked client."""
    with Rig(topology, dialect, drain_s=10) as rig, Client(port) as blocked:
        first = rig.serving
        blocked.send(command("BLPOP", "drained", "0"))
        eventually(lambda: b"cmd=blpop" in clients(redis_server.port))
        assert [rig.replace().code, rig.replace().code] == [0, 0]
        assert (len(rig.family.pids()) >= 2, first in rig.family.pids()) == (True, True)
        with Client(port) as other:
            other.ask(command("RPUSH", "drained", "item"), b":1\r\n")
        blocked.expect(b"*2\r\n$7\r\ndrained\r\n$4\r\nitem\r\n")
        if dialect == "ours":
            eventually(lambda: first not in rig.family.pids())
            blocked.ask(command("PING"), b"+PONG\r\n")
        else:
            blocked.eof()


def test_a_request_for_metrics_that_the_predecessor_has_accepted_is_answered(topology, dialect):
    """All its sessions have moved, and it still finishes what it has begun before it ends."""
    address = f"127.0.0.1:{free_port()}"
    config = f'main_log_level: "info"\nobservability_interface: "{address}"\n'
    port = int(address.rpartition(":")[2])
    with Rig(topology, dialect, config=config) as rig:
        rig.wait_ready()
        rig.wait_port(port)
        with Client(port) as scraper:
            scraper.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n")
            time.sleep(0.2)  # it is accepted, and begun
            assert rig.replace().code == 0
            time.sleep(0.5)  # nothing else keeps the predecessor
            scraper.send(b"\r\n")
            received = b""
            while data := scraper.socket.recv(65536):
                received += data
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")


def clients(port):
    """The server's list of its clients."""
    with Client(port) as client:
        client.send(command("CLIENT", "LIST") + command("QUIT"))
        received = b""
        while data := client.socket.recv(65536):
            received += data
        return received


def test_the_metrics_are_served_at_every_moment(topology, dialect):
    """Each request is answered, first by the predecessor, then by the successor alone."""
    address = f"127.0.0.1:{free_port()}"
    config = f'main_log_level: "info"\nobservability_interface: "{address}"\n'
    answers, stop = [], threading.Event()

    def poll():
        while not stop.is_set():
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
                text = response.read().decode()
            answers.append(re.search(r"^process_start_time_seconds (\S+)$", text, re.M).group(1))

    with Rig(topology, dialect, config=config) as rig:
        rig.wait_ready()
        poller = threading.Thread(target=poll)
        rig.wait_port(int(address.rpartition(":")[2]))
        poller.start()
        try:
            for _ in range(2):
                assert rig.replace().code == 0
                seen = len(answers)
                eventually(lambda: len(answers) > seen + 5)
        finally:
            stop.set()
            poller.join(20)
    changes = [one for one, other in zip(answers, [None, *answers]) if one != other]
    assert (len(changes), len(set(changes))) == (3, 3)
