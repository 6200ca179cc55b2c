"""A successor confirms to its predecessor alone, and both agree on whether it has."""

import os
import subprocess
import sys

import pytest
from gevent import socket as gsocket
from gevent.event import Event
from reload_kit import (
    SEND, SHUTDOWN_DONE, Host, Predecessor, Successor, addresses, cookie, error, refusal, serving,
    wait_until,
)

from shotover_gevent.errors import UsageError
from shotover_gevent.hotreload import client as client_module
from shotover_gevent.hotreload.client import request_listeners
from shotover_gevent.hotreload.protocol import encode_request
from shotover_gevent.hotreload.socketfile import Live, inspect
from shotover_gevent.net.fdpass import recv_packet

_DYING_PREDECESSOR = """
import os, socket, sys
path = sys.argv[1]
listener = socket.create_server(("127.0.0.1", 0))
control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
control.bind(path + ".new")
control.listen()
os.rename(path + ".new", path)
sock, _ = control.accept()
sock.recv(100)
socket.send_fds(sock, [b'"SendListeningSockets"'], [listener.fileno()])
sock.close()
if sys.argv[2] == "at once":
    os._exit(9)
sock, _ = control.accept()
if sys.argv[2] == "when told":
    sock.recv(100)
os._exit(9)
"""


def lent(path, *answers):
    """A predecessor that lends nothing, then answers the confirmation with ``answers``."""
    return Predecessor(path, (SEND, []), *answers)


@pytest.mark.parametrize(
    "answer,texts",
    [
        ((error("lease expired"), []), ["Hot reload server returned error: lease expired"]),
        ((SEND, []), ["Unexpected response to GradualShutdown"]),
        (None, ["The hot reload server closed the connection without an answer"]),
        ((b"{}", []), ["Failed to parse JSON from packet",
                       "expected the name of a variant, or an object with one as its only key"]),
    ],
)
def test_a_confirmation_that_is_not_accepted_is_an_error(path, monkeypatch, answer, texts):
    """The successor then accepts nothing: its predecessor serves."""
    monkeypatch.setattr(client_module, "EXIT_GRACE_S", 0.05)
    with lent(path, answer), request_listeners(path) as handover:
        assert refusal(handover.confirm, 60) == texts


def test_after_the_last_look_no_answer_can_be_given(path, monkeypatch):
    """A predecessor whose answer comes too late learns that, and serves on."""
    monkeypatch.setattr(client_module, "EXIT_GRACE_S", 0)
    too_late = Event()
    outcomes = []

    def answer_late(sock):
        too_late.wait()
        try:
            sock.send(SHUTDOWN_DONE)
            outcomes.append("sent")
        except OSError as failure:
            outcomes.append(failure.strerror)

    def receive(sock, max_bytes, max_fds, deadline):
        is_last_look = deadline.is_over
        try:
            return recv_packet(sock, max_bytes, max_fds, deadline)
        finally:
            if is_last_look:
                too_late.set()
                wait_until(lambda: outcomes)

    with lent(path, answer_late), request_listeners(path, 0.1) as handover:
        monkeypatch.setattr(client_module, "recv_packet", receive)
        assert refusal(handover.confirm, 60)[0] == "Hot reload request timed out after 100ms"
        assert outcomes == ["Broken pipe"]


def test_an_answer_at_the_last_moment_counts(path, monkeypatch):
    """The predecessor has retired: whoever has the sockets must serve."""
    def ask_too_late(sock, request, deadline, timeout_s):
        sock.send(encode_request(request))
        gsocket.wait_read(sock.fileno())
        raise client_module._NoAnswer("out of time")

    with lent(path, (SHUTDOWN_DONE, [])), request_listeners(path) as handover:
        monkeypatch.setattr(client_module, "_ask", ask_too_late)
        assert handover.confirm(60) is None


def test_only_the_process_that_lent_the_sockets_is_told_to_retire(path):
    """Another process that has the path by now is not asked to drain."""
    with serving(path), request_listeners(path) as handover:
        other = subprocess.Popen([sys.executable, "-S", "-c", _DYING_PREDECESSOR, path, "told"])
        try:
            wait_until(lambda: not os.path.exists(path + ".new") and _pid_at(path) == other.pid)
            assert refusal(handover.confirm, 60) == [
                f"{path} is now the socket of process {other.pid}, and the listening sockets are "
                f"those of process {os.getpid()}"]
        finally:
            other.kill()
            other.wait()


def _pid_at(path):
    """The process that listens at ``path``."""
    found = inspect(path)
    return found.pid if isinstance(found, Live) else None


@pytest.mark.parametrize("when", ["at once", "when connected", "when told"])
def test_a_predecessor_that_has_died_needs_no_telling(path, log, when):
    """Nobody but the successor has the sockets: it serves."""
    process = subprocess.Popen([sys.executable, "-S", "-c", _DYING_PREDECESSOR, path, when])
    try:
        wait_until(lambda: os.path.exists(path))
        with request_listeners(path) as handover:
            assert handover.predecessor_pid == process.pid
            handover.confirm(60)
            assert len(handover.remaining) == 1
        assert any(
            each.startswith(f"process {process.pid} has ended before it could confirm")
            for each in log.messages)
    finally:
        process.kill()
        process.wait()


def test_a_closed_handover_confirms_nothing(path):
    """The caller no longer has the sockets."""
    with serving(path), request_listeners(path) as handover:
        handover.close()
        with pytest.raises(UsageError):
            handover.confirm(60)


def test_both_sides_together_refuse_a_second_successor(path):
    """The texts of the one arrive at the other."""
    with serving(path), Successor(path) as first:
        first.ask(SEND)
        assert refusal(request_listeners, path) == [
            "Hot reload server returned error: another reload is in progress: "
            f"pid {first.pid} has the listening sockets"]


def test_a_second_reload_follows_the_first(path):
    """From one to two to three, with the first still draining."""
    with serving(path) as one:
        (address,) = addresses(one.host)
        known = cookie(one.host.listeners[0])
        with request_listeners(path) as handover:
            handover.confirm(1)
            two_host = Host(0)
            two_host.listeners = [handover.take(address)]
        with serving(path, two_host), request_listeners(path) as handover:
            handover.confirm(1)
            with handover.take(address) as sock:
                assert cookie(sock) == known
            one.close()
            assert os.path.exists(path)


def test_a_handover_can_be_read(path):
    """Its repr names the predecessor and what is left."""
    with serving(path), request_listeners(path) as handover:
        assert repr(handover) == f"<Handover from {os.getpid()}: 1 listeners not taken>"
