"""A successor gets its predecessor's sockets, takes them by address, and leaves nothing open."""

import os
import socket

import gevent
import pytest
from gevent import socket as gsocket
from reload_kit import (
    SEND, SHUTDOWN, SHUTDOWN_DONE, Host, Predecessor, addresses, cookie, error, listener, refusal,
    serving, wait_until,
)

from shotover_gevent.hotreload.client import request_listeners
from shotover_gevent.hotreload.socketfile import ControlSocket
from shotover_gevent.net.address import Address
from shotover_gevent.net.fdpass import close_all


def test_a_successor_writes_what_shotover_writes(path):
    """Byte for byte, one request per connection, the whole reload."""
    with listener() as sock, Predecessor(
        path, (SEND, [sock]), (SHUTDOWN_DONE, [])
    ) as predecessor, request_listeners(path) as handover:
        handover.confirm(60)
        assert predecessor.asked == [SEND, SHUTDOWN]


def test_the_sockets_are_the_predecessors(path):
    """Identical to those of the host, not bound anew; close-on-exec and non-blocking."""
    with serving(path, Host(2)) as server, request_listeners(path) as handover:
        taken = [handover.take(each) for each in addresses(server.host)]
        found = [(cookie(each), each.gettimeout(), os.get_inheritable(each.fileno()))
                 for each in taken]
        close_all(taken)
        assert found == [(cookie(each), 0.0, False) for each in server.host.listeners]
        assert (handover.remaining, handover.predecessor_pid) == ([], os.getpid())


def test_a_client_in_the_queue_is_served_by_the_successor(path):
    """A connection made before the reload and not yet accepted is not lost."""
    with serving(path) as server, request_listeners(path) as handover:
        (address,) = addresses(server.host)
        with socket.create_connection((address.host, address.port)) as early:
            handover.confirm(1)
            with handover.take(address) as sock:
                accepted, _ = sock.accept()
                accepted.sendall(b"served")
                accepted.close()
            assert early.recv(10) == b"served"
        assert server.host.retired == [1.0]


def test_after_the_hand_over_the_port_is_bound_by_the_successor_alone(path):
    """With the successor's socket closed, nobody listens: the predecessor kept no copy."""
    with serving(path) as server:
        (address,) = addresses(server.host)
        with request_listeners(path) as handover:
            handover.confirm(1)
            wait_until(lambda: server.host.is_retired)
            handover.take(address).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address.host, address.port))


def test_what_is_taken_survives_the_handover(path):
    """close() closes what nobody took, and only that."""
    with serving(path, Host(2)) as server:
        first, second = addresses(server.host)
        handover = request_listeners(path)
        taken = handover.take(first)
        left = handover.remaining
        handover.close()
        handover.close()
        found = left, taken.fileno() >= 0, handover.remaining, handover.take(first)
        taken.close()
        assert found == ([second], True, [], None)


def test_a_socket_is_taken_once(path):
    """Two owners cannot exist."""
    with serving(path) as server, request_listeners(path) as handover:
        (address,) = addresses(server.host)
        taken = handover.take(address)
        assert handover.take(address) is None
        taken.close()


@pytest.mark.parametrize(
    "bound,asked,matches",
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "0.0.0.0", False),
        ("0.0.0.0", "127.0.0.1", False),
        ("0.0.0.0", "0.0.0.0", True),
        ("0.0.0.0", "::", False),
        ("::1", "0:0:0:0:0:0:0:1", True),
        ("::1", "127.0.0.1", False),
        ("::1", "::", False),
        ("127.0.0.1", "no.such.host.invalid", False),
        ("127.0.0.1", "bad..name", False),
    ],
)
def test_a_socket_is_taken_by_its_whole_address(path, bound, asked, matches):
    """One port on two addresses, a wildcard, and IPv4 and IPv6 are different listeners."""
    with listener(bound) as sock:
        port = sock.getsockname()[1]
        with Predecessor(path, (SEND, [sock])), request_listeners(path) as handover:
            taken = handover.take(Address(asked, port))
            assert (taken is not None) == matches
            if taken is not None:
                taken.close()
            assert handover.take(Address(bound, port + 1)) is None


def test_a_name_is_taken_by_the_address_that_it_would_be_bound_to(path):
    """``localhost`` in a topology finds its listener."""
    host = socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)[0][4][0]
    with listener(host) as sock, Predecessor(path, (SEND, [sock])):
        with request_listeners(path) as handover:
            taken = handover.take(Address("localhost", sock.getsockname()[1]))
            assert cookie(taken) == cookie(sock)
            taken.close()


def test_one_port_on_two_addresses_is_two_listeners(path):
    """Both are taken, each by its own address: neither replaces the other."""
    with listener("127.0.0.1") as one:
        port = one.getsockname()[1]
        with listener("127.0.0.2", port) as two, Predecessor(path, (SEND, [one, two])):
            with request_listeners(path) as handover:
                taken = [handover.take(Address(host, port)) for host in ("127.0.0.2", "127.0.0.1")]
                found = [cookie(each) for each in taken]
                close_all(taken)
                assert found == [cookie(two), cookie(one)]


def test_a_socket_of_the_wrong_kind_is_closed_with_a_warning(path, log):
    """What does not listen, or is not TCP, is not used; the others are."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    left, right = socket.socketpair()
    bound = socket.create_server(("127.0.0.1", 0))
    plain = socket.socket()
    with udp, left, right, plain, bound, open(os.devnull) as file, Predecessor(
        path, (SEND, [udp, left, plain, file, bound])
    ), request_listeners(path) as handover:
        assert handover.remaining == [Address.of(bound.getsockname())]
    assert [each for each in log.messages if "descriptor" in each or "FD" in each] == [
        "a received descriptor was closed: Socket operation on non-socket (os error 88)",
        "Failed to create listener from FD: it is no TCP socket",
        "Failed to create listener from FD: it is no TCP socket",
        "Failed to create listener from FD: it does not listen",
    ]


def test_no_listeners_are_worth_a_warning(path, log):
    """As from a Shotover that has given them away already: start, and bind."""
    with Predecessor(path, (SEND, [])), request_listeners(path) as handover:
        assert handover.remaining == []
        assert "No listeners received during hot reload" in log.messages


def test_the_most_listeners_of_a_packet_arrive(path):
    """As many as the kernel lets another process send."""
    with listener() as sock, Predecessor(path, (SEND, [sock] * 253)):
        with request_listeners(path) as handover:
            assert len(handover.remaining) == 253


# -- what goes wrong when asking ----------------------------------------------------------------


def test_a_refusal_is_shown(path):
    """With Shotover's words before it, and its sockets, if any, closed."""
    with listener() as sock, Predecessor(path, (error("not now"), [sock])):
        assert refusal(request_listeners, path) == ["Hot reload server returned error: not now"]


@pytest.mark.parametrize(
    "answer,texts",
    [
        (None, ["Failed to parse JSON from packet",
                "EOF while parsing a value at line 1 column 0"]),
        ((b"{}", []), ["Failed to parse JSON from packet",
                       "expected the name of a variant, or an object with one as its only key"]),
        ((SHUTDOWN_DONE, []), ["Unexpected response to SendListeningSockets"]),
        ((b" " * 65_537, []), ["a packet is longer than 65536 bytes"]),
    ],
)
@pytest.mark.parametrize("count", [0, 2])
def test_an_answer_that_is_none_is_an_error(path, answer, texts, count):
    """Closed, not understood, out of turn, too long: and its sockets are closed."""
    with listener() as sock:
        scripted = answer and (answer[0], [sock] * count)
        with Predecessor(path, scripted):
            assert refusal(request_listeners, path) == texts


def test_nobody_there_is_an_error(path):
    """In Shotover's words."""
    failed = f"Failed to connect to hot reload server at: {path}"
    assert refusal(request_listeners, path) == [failed, "No such file or directory (os error 2)"]
    ControlSocket.bind(path).close()
    assert refusal(request_listeners, path) == [failed, "Connection refused (os error 111)"]


def test_a_silent_predecessor_costs_the_time_given(path):
    """One limit for the whole request."""
    with Predecessor(path, lambda sock: sock.recv(1)):
        assert refusal(request_listeners, path, 0.1) == [
            "Hot reload request timed out after 100ms", "no time is left"]


def test_a_full_queue_is_tried_again(path):
    """A predecessor that is busy for a moment is no failure."""
    with listener() as sock, gsocket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
        control.bind(path)
        control.listen(0)
        with gsocket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as before:
            before.connect(path)
            asking = gevent.spawn(request_listeners, path)
            gevent.sleep(0)
            control.accept()[0].close()
            accepted, _ = control.accept()
            with accepted:
                accepted.recv(100)
                socket.send_fds(accepted, [SEND], [sock.fileno()])
            with asking.get() as handover:
                assert len(handover.remaining) == 1


def test_a_full_queue_ends_at_the_deadline(path):
    """With the system's reason."""
    with gsocket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
        control.bind(path)
        control.listen(0)
        with gsocket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as before:
            before.connect(path)
            assert refusal(request_listeners, path, 0.05) == [
                f"Failed to connect to hot reload server at: {path}",
                "Resource temporarily unavailable (os error 11)"]


def test_a_reload_that_is_killed_while_asking_leaves_nothing_open(path):
    """A greenlet may end anywhere."""
    with Predecessor(path, lambda sock: sock.recv(1)) as predecessor:
        asking = gevent.spawn(request_listeners, path)
        wait_until(lambda: predecessor.asked)
        asking.kill()
        assert asking.dead
