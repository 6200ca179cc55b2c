"""The process under a service manager: what it is told at each step, as systemd would read it."""

import os
import signal

import pytest

from tests.harness import Client, ProxyProcess, command, eventually, free_port
from tests.integration.manager import Manager, account

TOPOLOGY = """\
sources:
  - Valkey:
      name: "edge"
      listen_addr: "127.0.0.1:{port}"
      chain:
        - DebugReturner: {{name: "r", Valkey: "42"}}
"""
ASK, ANSWER = command("GET", "x"), b"$2\r\n42\r\n"


@pytest.fixture
def manager(tmp_path):
    """Where ``NOTIFY_SOCKET`` points to."""
    with Manager(tmp_path / "notify") as manager:
        yield manager


class Service(ProxyProcess):
    """A proxy that the manager has started."""

    def __init__(self, manager, path, **env):
        self.port = free_port()
        super().__init__(
            TOPOLOGY.format(port=self.port), env={**manager.environ, **env},
            hotreload_socket=path / "control.sock", args=["--hotreload-gradual-shutdown-seconds", "5"])


@pytest.fixture
def service(manager, tmp_path):
    """A running service, whose start has been told."""
    with Service(manager, tmp_path) as service:
        manager.until(READY="1")
        yield service


def test_the_start_is_told(manager, tmp_path):
    """READY with the pid and a status, once clients are accepted."""
    with Service(manager, tmp_path) as service, Client(service.port) as client:
        client.ask(ASK, ANSWER)
        assert manager.next() == {
            "READY": "1", "MAINPID": str(service.pid), "STATUS": "serving 1 source"}


def test_a_failed_start_is_told(manager, tmp_path):
    """Its reason is the status."""
    service = Service(manager, tmp_path)
    service.topology = "sources: 5"
    service.start()
    try:
        assert (service.wait(), manager.next()) == (78, {"STATUS": (
            f"{service.folder}/topology.yaml:1:10  sources: found the number 5, wanted a list\n"
            "1 problem; nothing was started")})
    finally:
        service._remove()


def test_the_main_process_is_told_through_every_reload(manager, service):
    """After each of three reloads the manager knows the process that serves, before the old one has ended."""
    mains = [service.pid]
    with Client(service.port) as client:
        for _ in range(3):
            assert service.reload().returncode == 0
            serving = int(manager.until(READY="1")["MAINPID"])
            (last,) = eventually(lambda: len(pids := service.family.pids()) == 1 and pids)
            manager.pending()
            assert (serving, manager.main_pid) == (last, last)
            mains.append(last)
            client.ask(ASK, ANSWER)
    assert len(set(mains)) == 4
    assert [account(m) for m in manager.messages if len(m) > 3] == [{"moved": 1, "kept": {}}] * 3


def test_the_predecessor_names_its_successor(manager, service):
    """A manager that listens to the main process only is told as well, and nothing else."""
    assert service.reload().returncode == 0
    service.wait()
    (successor,) = service.family.pids()
    told = [{k: v for k, v in m.items() if k in ("MAINPID", "READY", "STOPPING")}
            for m in manager.messages[1:] + manager.pending()]
    assert sorted(told, key=len) == [
        {"MAINPID": str(successor)}, {"MAINPID": str(successor), "READY": "1"}]


def test_a_failed_reload_is_no_news_for_the_manager(manager, service):
    """The command says what is wrong and ends with 75; the service goes on."""
    service.expect += ["^Failed to start shotover"]
    service.write_topology("sources: 5")
    result = service.reload()
    assert (result.returncode, "wanted a list" in result.stderr, manager.pending()) == (75, True, [])


def test_a_stop_is_told(manager, service):
    """STOPPING, once, from the process that serves."""
    service.stop()
    assert [message.get("STOPPING") for message in manager.pending()] == ["1"]


def test_a_replaced_process_says_nothing_when_it_is_stopped(manager, tmp_path):
    """A signal to one that drains does not stop the service."""
    service = Service(manager, tmp_path)
    service.args = ("--hotreload-gradual-shutdown-seconds", "600")
    with service:
        clients = [Client(service.port) for _ in range(5)]
        for client in clients:
            client.ask(ASK, ANSWER)
        # Another chain: the sessions stay with the old process.
        service.write_topology(service.topology.replace('"42"', '"43"'))
        assert service.reload().returncode == 0
        service.wait_log("has taken over")
        drains = service.returncode is None
        service.terminate()
        service.wait()
        for client in clients:
            client.close()
        told = [message for message in manager.messages + manager.pending() if "STOPPING" in message]
    assert (drains, told) == (True, [])


def test_a_reload_by_signal_is_told(manager, service):
    """RELOADING with the time, then READY from the successor."""
    os.kill(service.pid, signal.SIGHUP)
    reloading = manager.until(RELOADING="1")
    ready = manager.until(READY="1")
    (successor,) = eventually(lambda: len(pids := service.family.pids()) == 1 and pids)
    assert (reloading["MONOTONIC_USEC"].isdigit(), int(ready["MAINPID"])) == (True, successor)


def test_a_failed_reload_by_signal_is_told(manager, service):
    """READY again, with the reason as the status: the service runs on."""
    service.expect += ["^Failed to start shotover", "^hot reload: failed"]
    service.write_topology("sources: 5")
    os.kill(service.pid, signal.SIGHUP)
    manager.until(RELOADING="1")
    ready = manager.until(READY="1")
    assert ("MAINPID" in ready, "serving; the last reload failed" in ready["STATUS"]) == (False, True)


def test_the_watchdog_hears_the_process_that_serves(manager, tmp_path):
    """Twice as often as it asks for; after a reload, the successor."""
    with Service(manager, tmp_path, WATCHDOG_USEC="200000") as service:
        manager.until(WATCHDOG="1")
        assert service.reload().returncode == 0
        service.wait()
        manager.pending()
        manager.until(WATCHDOG="1")


def test_a_watchdog_of_another_process_is_none_of_ours(manager, tmp_path):
    """``WATCHDOG_PID`` says whom the manager wants to hear."""
    with Service(manager, tmp_path, WATCHDOG_USEC="2", WATCHDOG_PID="1") as service, \
            Client(service.port) as client:
        manager.until(READY="1")
        client.ask(ASK, ANSWER)
        assert manager.pending() == []
