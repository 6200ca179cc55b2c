"""A predecessor lends its sockets, gives way to whoever was lent them, and minds nobody else."""

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
    SEND, SHUTDOWN, SHUTDOWN_DONE, Host, Successor, ask, connect, cookie, error, open_count, receive,
    serving, wait_until,
)

from shotover_gevent.errors import HotReloadError, UsageError
from shotover_gevent.hotreload import lending, server as server_module
from shotover_gevent.hotreload.lending import process_request
from shotover_gevent.hotreload.protocol import (
    GradualShutdown, SendListeningSockets, ShutdownResponse,
)
from shotover_gevent.hotreload.server import HotReloadServer, State
from shotover_gevent.hotreload.socketfile import Absent, ControlSocket, Stale, inspect
from shotover_gevent.net.fdpass import close_all

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


def is_serving(path, host):
    """Whether a reload by this process is possible: the sockets are lent, and are the host's."""
    data, sockets = ask(path, SEND)
    found = data, [cookie(each) for each in sockets]
    close_all(sockets)
    return found == (SEND, [cookie(each) for each in host.listeners])


# -- lending ------------------------------------------------------------------------------------


def test_the_sockets_are_lent_in_order_and_stay_with_the_host(path):
    """The copies are the same sockets; what was lent is closed here, what the host has is not."""
    with serving(path, Host(3)) as server:
        data, sockets = ask(path, SEND)
        wanted = [cookie(each) for each in server.host.listeners]
        found = [cookie(each) for each in sockets]
        close_all(sockets)
        assert (data, found) == (SEND, wanted)
        wait_until(lambda: all(each.fileno() == -1 for each in server.host.lent))
        assert server.host.is_retired is False


def test_clients_are_still_accepted_while_the_sockets_are_lent(path):
    """Nobody waits for a successor to start."""
    with serving(path) as server, Successor(path) as successor:
        assert successor.ask(SEND) == (SEND, 1)
        (listener,) = server.host.listeners
        with socket.create_connection(listener.getsockname()):
            accepted, _ = wait_until(lambda: listener.accept())
            accepted.close()


def test_a_host_without_listeners_answers_without_descriptors(path):
    """As Shotover does when no source has one."""
    with serving(path, Host(0)):
        assert ask(path, SEND) == (SEND, [])


def test_the_connection_ends_after_one_answer(path):
    """One request per connection: a second packet is not read."""
    with serving(path), connect(path) as sock:
        sock.send(SEND)
        _, sockets = receive(sock)
        close_all(sockets)
        assert sock.recv(10) == b""


@pytest.mark.parametrize("count,fits", [(250, True), (251, False), (600, False)])
def test_more_than_fits_into_a_packet_is_refused(path, count, fits):
    """250 go; beyond, the refusal says how many there are, and nothing is lent."""
    host = Host(1)
    host.copies_per_listener = count
    with serving(path, host):
        data, sockets = ask(path, SEND)
        close_all(sockets)
        refused = error(f"{count} listening sockets do not fit into one packet: 250 do")
        assert (data, len(sockets)) == ((SEND, 250) if fits else (refused, 0))
        wait_until(lambda: all(each.fileno() == -1 for each in host.lent))


def test_a_host_that_cannot_lend_says_why(path):
    """Out of descriptors: the successor learns it, and this process goes on."""
    host = Host()
    host.lend_listeners = lambda: os.open("/nowhere", os.O_RDONLY)
    with serving(path, host):
        assert ask(path, SEND) == (
            error("the listening sockets cannot be lent: No such file or directory (os error 2)"), [])
        del host.lend_listeners
        assert is_serving(path, host)


def test_a_peer_that_has_left_gets_neither_sockets_nor_a_lease(path):
    """The send fails, the copies are closed, and another process can reload at once."""
    host = Host()
    with serving(path, host), Successor(path) as other:
        with connect(path) as sock:
            sock.send(SEND)
        wait_until(lambda: host.lent and all(each.fileno() == -1 for each in host.lent))
        assert other.ask(SEND) == (SEND, 1)


def test_a_process_request_answers_and_changes_nothing():
    """A confirmation retires nobody before it is answered."""
    host = Host()
    response, sockets = process_request(SendListeningSockets(), host)
    found = [each.listener for each in response.listeners] == sockets == host.lent
    close_all(sockets)
    assert process_request(GradualShutdown(1), host) == (ShutdownResponse(), [])
    assert (found, host.retired) == (True, [])
    host.close()


def test_descriptors_with_a_request_are_closed(path):
    """They are not let in, and the request counts, as with Shotover."""
    left, right = socket.socketpair()
    with serving(path) as server, connect(path) as sock, left:
        with right:
            socket.send_fds(sock, [b'"Nonsense"'], [right.fileno()])
        assert receive(sock) == (b"", [])
        assert left.recv(1) == b""
        assert is_serving(path, server.host)


# -- confirming ---------------------------------------------------------------------------------


def test_a_confirmation_retires_the_host(path, log):
    """The drain time is the successor's; the listeners are gone, the reply is Shotover's."""
    with serving(path) as server, Successor(path) as successor:
        found = successor.ask(SEND), successor.ask(SHUTDOWN)
        wait_until(lambda: server.host.retired)
        assert found == ((SEND, 1), (SHUTDOWN_DONE, 0))
        assert server.host.retired == [60.0]
        wait_until(lambda: f"process {successor.pid} has taken over" in log.messages)


def test_after_the_answer_nobody_else_accepts(path):
    """Between the answer and the retirement nothing waits."""
    host = Host()
    with serving(path, host):
        _, sockets = ask(path, SEND)
        with connect(path) as sock:
            sock.send(SHUTDOWN)
            sock.settimeout(0)
            while True:
                try:
                    found = sock.recv(100), host.is_retired
                    break
                except BlockingIOError:
                    gevent.sleep(0)
        close_all(sockets)
    assert found == (SHUTDOWN_DONE, True)


def test_an_answer_that_nobody_takes_leaves_everything_as_it_was(path, log):
    """A successor that died after confirming is not given way to."""
    host = Host()
    with serving(path, host), Successor(path) as other:
        _, sockets = ask(path, SEND)
        close_all(sockets)
        with connect(path) as sock:
            sock.send(SHUTDOWN)
        wait_until(lambda: "Error handling connection: Broken pipe (os error 32)" in log.messages)
        assert (host.retired, other.ask(SEND)[1]) == ([], 0)  # the lease is still ours
        assert ask(path, SHUTDOWN) == (SHUTDOWN_DONE, [])


def test_a_drain_time_is_bounded_by_what_a_timer_can_do(path):
    """The wire allows billions of years."""
    with serving(path) as server:
        _, sockets = ask(path, SEND)
        close_all(sockets)
        most = b'{"GradualShutdown":{"duration":{"secs":18446744073709551615,"nanos":0}}}'
        assert ask(path, most) == (SHUTDOWN_DONE, [])
        wait_until(lambda: server.host.retired == [lending.MAX_DRAIN_S])


def test_a_host_that_ends_at_once_may_close_the_server_meanwhile(path):
    """The answer has gone out, the file is removed, and nothing waits for itself."""
    host = Host()
    ended = []
    with serving(path, host) as server:
        retire = host.retire

        def retire_and_end(seconds):
            retire(seconds)
            server.close()
            ended.append(seconds)

        host.retire = retire_and_end
        _, sockets = ask(path, SEND)
        close_all(sockets)
        assert ask(path, SHUTDOWN) == (SHUTDOWN_DONE, [])
        wait_until(lambda: ended == [60.0])
        assert (server.state, inspect(path)) == (State.CLOSED, Absent())


# -- refusals -----------------------------------------------------------------------------------


def test_a_confirmation_before_any_lending_is_refused(path):
    """Alone, it would be an outage that anybody could order."""
    with serving(path) as server:
        assert ask(path, SHUTDOWN) == (
            error("nobody was lent the listening sockets: ask for them first"), [])
        assert server.host.retired == []


def test_only_the_process_that_was_lent_the_sockets_may_confirm(path, log):
    """Another one is refused, and the first one's confirmation still works."""
    with serving(path) as server, Successor(path) as first:
        first.ask(SEND)
        refused = f"the listening sockets were lent to pid {first.pid}, not to pid {os.getpid()}"
        assert ask(path, SHUTDOWN) == (error(refused), [])
        assert server.host.retired == []
        assert f"hot reload by process {os.getpid()} refused: {refused}" in log.messages
        assert first.ask(SHUTDOWN) == (SHUTDOWN_DONE, 0)


def test_of_two_successors_the_second_is_refused(path):
    """It learns who is before it."""
    with serving(path), Successor(path) as first, Successor(path) as second:
        assert first.ask(SEND) == (SEND, 1)
        refused = error(
            f"another reload is in progress: pid {first.pid} has the listening sockets")
        assert second.ask(SEND) == (refused, 0)
        assert first.ask(SHUTDOWN) == (SHUTDOWN_DONE, 0)


def test_the_same_successor_may_ask_again(path):
    """A retry after a lost answer gets the sockets, and may confirm."""
    with serving(path), Successor(path) as successor:
        found = [successor.ask(SEND), successor.ask(SEND), successor.ask(SHUTDOWN)]
        assert found == [(SEND, 1), (SEND, 1), (SHUTDOWN_DONE, 0)]


@pytest.mark.parametrize("request_", [SEND, SHUTDOWN])
def test_after_the_hand_over_everything_is_refused(path, request_):
    """To its successor and to others, until it has ended."""
    with serving(path), Successor(path) as successor:
        successor.ask(SEND)
        successor.ask(SHUTDOWN)
        refused = error(f"already handed over to pid {successor.pid}")
        assert (successor.ask(request_), ask(path, request_)) == ((refused, 0), (refused, []))


def test_a_host_that_is_shutting_down_lends_nothing(path):
    """Its listeners are gone."""
    with serving(path) as server:
        server.host.is_retired = True
        assert ask(path, SEND) == (error("this process is shutting down"), [])


@needs_root
def test_another_user_is_refused(path, log):
    """Even where the file would let it in."""
    with serving(path) as server, Successor(path, uid=65534) as other:
        os.chmod(path, 0o666)
        text = "user 65534 may not reload a process of another user"
        assert other.ask(SEND) == (error(text), 0)
        assert f"hot reload by process {other.pid} refused: {text}" in log.messages
        assert is_serving(path, server.host)


@needs_root
def test_the_mode_of_the_file_keeps_other_users_out(path):
    """They do not even get a connection."""
    with serving(path), Successor(path, uid=65534) as other:
        assert other.ask(SEND) == (b"PermissionError(13, 'Permission denied')", -1)


# -- leases -------------------------------------------------------------------------------------


def test_a_successor_that_is_killed_leaves_room_for_the_next_at_once(path, log):
    """The end of its process ends the lease."""
    with serving(path, lease_s=60) as server, Successor(path) as successor:
        successor.ask(SEND)
        successor.kill()
        assert is_serving(path, server.host)
        assert log.messages.count(
            f"process {successor.pid}, which was lent the listening sockets, has ended without "
            "taking over; this process goes on serving") == 1


def test_the_end_of_a_successor_is_noticed_without_being_asked(path, log):
    """The log says it when it happens."""
    with serving(path, lease_s=60), Successor(path) as successor:
        successor.ask(SEND)
        successor.kill()
        wait_until(lambda: any("has ended without taking over" in each for each in log.messages))


def test_a_lease_that_was_renewed_ends_once(path, log):
    """The one before it is given up in silence."""
    with serving(path), Successor(path) as successor:
        successor.ask(SEND)
        successor.ask(SEND)
        successor.kill()
        wait_until(lambda: any("has ended without taking over" in each for each in log.messages))
        gevent.sleep(0.01)  # both would be noticed in the same turn of the loop
        assert len([each for each in log.messages if "without taking over" in each]) == 1


def test_a_successor_that_is_too_slow_loses_its_lease(path, log):
    """Its confirmation is refused, another reload works, and the log says so once."""
    with serving(path, lease_s=0.05) as server, Successor(path) as slow, Successor(path) as next_:
        slow.ask(SEND)
        wait_until(lambda: any("has not taken over within 0.05s" in each for each in log.messages))
        refused = error(f"the lease of pid {slow.pid} has ended: its time is over")
        assert slow.ask(SHUTDOWN) == (refused, 0)
        assert next_.ask(SEND) == (SEND, 1)
        assert server.host.retired == []


def test_an_ended_server_gives_up_its_lease(path):
    """Nothing of it stays open."""
    with serving(path), Successor(path) as successor:
        successor.ask(SEND)


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
        (b'{"Hello":{"protocol":1}}',
         "unknown variant `Hello`, expected `SendListeningSockets` or `GradualShutdown`"),
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


def test_no_descriptors_are_left_by_a_thousand_errors(path):
    """Bad requests, refusals and silent ends leave nothing."""
    with serving(path):
        ask(path, b"x")
        before = open_count()
        for _ in range(100):
            ask(path, b"x")
            ask(path, SHUTDOWN)
            connect(path).close()
        wait_until(lambda: open_count() == before)


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
    assert isinstance(server, HotReloadServer)
