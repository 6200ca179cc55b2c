"""A predecessor lends its sockets, and gives way to whoever was lent them, and to nobody else."""

import os
import socket

import gevent
import pytest
from reload_kit import (
    SEND, SHUTDOWN, SHUTDOWN_DONE, Host, Successor, ask, connect, cookie, error, is_serving, receive,
    serving, wait_until,
)

from shotover_gevent.hotreload import lending
from shotover_gevent.hotreload.lending import process_request
from shotover_gevent.hotreload.protocol import (
    GradualShutdown, SendListeningSockets, ShutdownResponse,
)
from shotover_gevent.hotreload.server import State
from shotover_gevent.hotreload.socketfile import Absent, inspect
from shotover_gevent.net.fdpass import close_all

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


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
        text = "user 65534 may not reload or control a process of another user"
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
        assert wait_until(
            lambda: any("has ended without taking over" in each for each in log.messages))


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
