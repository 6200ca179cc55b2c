"""The control socket minds no peer that misbehaves, and its file is where it belongs."""

import os
import resource
import socket
import time
from contextlib import ExitStack

import gevent
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reload_kit import (
    SEND, SHUTDOWN, Host, Successor, ask, connect, is_serving, open_count, serving, wait_until,
)

from shotover_gevent.errors import HotReloadError, UsageError
from shotover_gevent.hotreload import server as server_module
from shotover_gevent.hotreload.server import State
from shotover_gevent.hotreload.socketfile import Absent, ControlSocket, Stale, inspect
from shotover_gevent.net.fdpass import close_all


# -- peers that misbehave -----------------------------------------------------------------------


def test_a_silent_peer_does_not_hold_up_a_reload(path, log):
    """Each connection has its own greenlet, and its own end."""
    with serving(path, peer_timeout_s=0.2) as server, connect(path) as silent:
        assert is_serving(path, server.host)
        assert silent.recv(10) == b""
        assert (f"control socket {path}: process {os.getpid()} took longer than 0.2s; closed"
                in log.messages)


def test_a_hundred_silent_peers_do_not_hold_up_a_reload(path, log):
    """Those that have been silent for longest make room, and only they."""
    with serving(path, peer_timeout_s=60) as server, ExitStack() as stack:
        silent = [stack.enter_context(connect_when_possible(path)) for _ in range(100)]
        assert is_serving(path, server.host)
        most = server_module.MAX_CONVERSATIONS
        assert [has_ended(each) for each in silent] == [True] * (101 - most) + [False] * (most - 1)
        assert log.messages.count(
            f"control socket {path}: process {os.getpid()} closed: it was silent, and {most} others "
            "are connected") == 101 - most


def has_ended(sock):
    """Whether the other end has closed."""
    sock.settimeout(0)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False


def connect_when_possible(path):
    """A connection, once the queue has room."""
    while True:
        try:
            return connect(path)
        except BlockingIOError:
            gevent.sleep(0)


def test_without_a_free_descriptor_the_connection_waits(path, monkeypatch, log):
    """It is accepted once there is one again."""
    monkeypatch.setattr(server_module, "ACCEPT_RETRY_S", 0.01)
    with serving(path) as server, connect(path) as sock:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
        try:
            wait_until(lambda: f"control socket {path}: accept failed: Too many open files "
                       "(os error 24); trying again in 0.01s" in log.messages)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        sock.send(b'"Nonsense"')
        assert sock.recv(10) == b""
        assert is_serving(path, server.host)


def test_a_peer_that_looks_and_leaves_is_no_error(path, log):
    """Whoever wants to know the process connects and closes."""
    with serving(path) as server:
        connect(path).close()
        assert is_serving(path, server.host)
        assert not [each for each in log.records if each.levelname in ("WARNING", "ERROR")]


@pytest.mark.parametrize(
    "data,reason",
    [
        (b'{"Goodbye":{"protocol":1}}',
         "unknown variant `Goodbye`, expected `SendListeningSockets` or `GradualShutdown`"),
        (b"{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (b"\xff", "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
    ],
)
def test_what_cannot_be_understood_is_closed_without_an_answer(path, log, data, reason):
    """A successor that speaks another dialect relies on it."""
    with serving(path) as server:
        assert ask(path, data) == (b"", [])
        assert (f"Error handling connection: Failed to parse JSON from packet: {reason}"
                in log.messages)
        assert is_serving(path, server.host)


def test_one_byte_at_a_time_is_a_bad_document(path):
    """A packet is a whole request."""
    with serving(path) as server:
        assert ask(path, SEND[:1]) == (b"", [])
        assert is_serving(path, server.host)


def test_a_packet_that_is_too_long_is_refused(path, log):
    """Larger ones than the send buffer never leave the peer, others are not read in part."""
    with serving(path) as server:
        with connect(path) as sock, pytest.raises(OSError, match="Message too long"):
            sock.send(b" " * 10_000_000)
        assert ask(path, SEND + b" " * 65_536) == (b"", [])
        assert "Error handling connection: a packet is longer than 65536 bytes" in log.messages
        assert is_serving(path, server.host)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(
    st.binary(min_size=1, max_size=200).filter(lambda data: b'"' not in data), max_size=5))
def test_random_packets_change_nothing(path, packets):
    """Whatever is sent, the next reload works."""
    with serving(path) as server:
        for data in packets:
            answer, sockets = ask(path, data)
            close_all(sockets)
            assert answer == b""
        assert is_serving(path, server.host)


# -- the file -----------------------------------------------------------------------------------


def test_starting_says_where(path, log):
    """In Shotover's words."""
    with serving(path):
        assert log.messages[:2] == [
            f"Unix socket server listening on: {path}", f"Hot reload server created at {path}"]


def test_closing_removes_the_file_and_may_be_repeated(path):
    """Nothing is left, and starting again is the caller's mistake."""
    with serving(path) as server:
        server.close()
        server.close()
        assert (inspect(path), server.state) == (Absent(), State.CLOSED)
        with pytest.raises(UsageError):
            server.start()


def test_closing_removes_the_file_for_good(path, monkeypatch):
    """Nobody who looks after the file at that moment makes it again."""
    monkeypatch.setattr(server_module, "WATCH_INTERVAL_S", 0)
    with serving(path) as server:
        gevent.sleep(0.01)
        server.close()
        assert inspect(path) == Absent()


def test_closing_ends_open_conversations(path):
    """A silent peer sees the end."""
    with serving(path, peer_timeout_s=60) as server, connect(path) as silent:
        wait_until(lambda: server._conversations)
        server.close()
        assert silent.recv(10) == b""


def test_closing_leaves_the_file_of_a_successor(path):
    """The path belongs to whoever has it now."""
    with serving(path), serving(path, Host()) as successor:
        pass_on = ControlSocket.bind(path)
        successor.close()
        assert pass_on.is_in_place()
        pass_on.close()


def test_a_path_that_cannot_be_used_is_an_error_at_the_start(path):
    """And nothing stays open."""
    os.mkdir(path)
    with pytest.raises(HotReloadError, match="it is a directory, not a socket$"):
        with serving(path):
            pass
    assert os.path.isdir(path)


@pytest.fixture
def watchful(monkeypatch):
    """Look after the file often, so that a test does not take a second."""
    monkeypatch.setattr(server_module, "WATCH_INTERVAL_S", 0.01)


def test_a_file_that_vanished_is_made_again(path, watchful, log):
    """As after the exit of a Rust predecessor, which removes whatever is at the path."""
    with serving(path) as server:
        os.unlink(path)
        wait_until(lambda: os.path.exists(path))
        assert is_serving(path, server.host)
        again = f"the hot reload socket {path} was gone and has been made again"
        assert log.messages.count(again) == 1


def test_a_connection_made_before_the_file_vanished_is_served(path):
    """The old socket's queue is not lost."""
    with serving(path) as server, connect(path) as early:
        os.unlink(path)
        server._look_after_file(server._control)
        early.send(b'"Nonsense"')
        assert early.recv(10) == b""
        assert is_serving(path, server.host)


def test_another_program_at_the_path_is_left_in_peace(path, watchful):
    """It is looked at once, not every time."""
    with serving(path) as server, socket.socket(socket.AF_UNIX) as other:
        os.unlink(path)
        other.bind(path)
        other.listen()
        other.setblocking(False)
        wait_until(lambda: server._complaint)
        looked = time.monotonic()
        wait_until(lambda: time.monotonic() > looked + 0.05)
        other.accept()[0].close()
        with pytest.raises(BlockingIOError):
            other.accept()
        assert "type is not SOCK_SEQPACKET" in server._complaint


def test_the_stale_file_of_another_process_is_replaced(path, watchful):
    """Its process has ended: nobody could be reloaded through it."""
    with serving(path) as server:
        other = ControlSocket.bind(path)
        wait_until(lambda: server._complaint)
        other.close()
        wait_until(lambda: server._control.is_in_place())
        assert is_serving(path, server.host)


def test_the_live_socket_of_another_process_is_left_alone(path, watchful, log):
    """One warning says that this process cannot be reached."""
    with serving(path) as server:
        other = ControlSocket.bind(path)
        wait_until(lambda: server._complaint)
        looked = time.monotonic()
        wait_until(lambda: time.monotonic() > looked + 0.05)
        found = other.is_in_place(), [
            each for each in log.messages if each.startswith("this process cannot be reloaded")]
        other.close()
        assert found == (True, [
            f"this process cannot be reloaded for now: {path} is now the socket of another process"])


def test_another_file_at_the_path_is_left_alone(path, watchful, log):
    """Until it has gone."""
    with serving(path) as server:
        os.unlink(path)
        os.mkdir(path)
        wait_until(lambda: server._complaint)
        os.rmdir(path)
        wait_until(lambda: server._control.is_in_place())
        assert is_serving(path, server.host)


def test_a_retired_process_leaves_the_path_alone(path, watchful):
    """It belongs to the successor, who may not have come to it yet."""
    with serving(path) as server, Successor(path) as successor:
        successor.ask(SEND)
        successor.ask(SHUTDOWN)
        os.unlink(path)
        looked = time.monotonic()
        wait_until(lambda: time.monotonic() > looked + 0.05)
        assert (server.host.is_retired, inspect(path)) == (True, Absent())


def test_no_descriptors_are_left_by_hundreds_of_errors(path):
    """Bad requests, refusals and silent ends leave nothing."""
    with serving(path):
        ask(path, b"x")
        before = open_count()
        for _ in range(100):
            ask(path, b"x")
            ask(path, SHUTDOWN)
            connect(path).close()
        assert wait_until(lambda: open_count() == before)


def test_a_file_left_by_a_killed_process_is_stale(path):
    """What is closed without being removed stops nobody."""
    ControlSocket.bind(path).close()
    assert inspect(path) == Stale()
    with serving(path) as server:
        assert is_serving(path, server.host)


def test_what_a_server_is_doing_can_be_read(path):
    """Its repr names the path, its state and the lease."""
    with serving(path) as server:
        assert repr(server) == f"<HotReloadServer {path} serving, <Lender without a lease>>"
        _, sockets = ask(path, SEND)
        close_all(sockets)
        assert repr(server) == (
            f"<HotReloadServer {path} serving, <Lender <Lease of process {os.getpid()}: held>>>")
