"""Packets carry sockets to a new owner, and nothing stays open where something goes wrong."""

import errno
import fcntl
import os
import resource
import socket

import gevent
import pytest

from shotover_gevent.deadline import Deadline
from shotover_gevent.errors import HotReloadError, UsageError
from shotover_gevent.net.fdpass import MAX_SOCKETS, close_all, recv_packet, send_packet

SO_COOKIE = 57


def soon():
    """A deadline that a passing test never reaches."""
    return Deadline.after(5)


def cookie(sock):
    """The kernel's identity of a socket: equal for all descriptors of one socket."""
    return sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8)


def open_count():
    """How many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def pair():
    """Two connected non-blocking SOCK_SEQPACKET sockets."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    left.setblocking(False)
    right.setblocking(False)
    yield left, right
    left.close()
    right.close()


@pytest.fixture
def listener():
    """A listening, non-blocking TCP socket."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        yield sock


@pytest.fixture
def no_leak(pair, listener):
    """The test leaves as many descriptors open as it found."""
    gevent.sleep(0)
    before = open_count()
    yield
    assert open_count() == before


def test_a_packet_brings_its_bytes_and_its_sockets(pair, listener, no_leak):
    """What arrives is the same socket under another number, and the sender still has its own."""
    send_packet(pair[0], b"hello", [listener], soon())
    data, sockets = recv_packet(pair[1], 100, 1, soon())
    found = (data, [cookie(each) for each in sockets], sockets[0].fileno() != listener.fileno())
    close_all(sockets)
    assert found == (b"hello", [cookie(listener)], True)
    assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1


def test_a_received_socket_is_close_on_exec_and_non_blocking(pair, listener, no_leak):
    """No child inherits it, and the flag that both processes share stays set."""
    send_packet(pair[0], b"x", [listener], soon())
    _, (sock,) = recv_packet(pair[1], 100, 1, soon())
    with sock:
        found = os.get_inheritable(sock.fileno()), sock.gettimeout()
        flags = fcntl.fcntl(sock, fcntl.F_GETFL), fcntl.fcntl(listener, fcntl.F_GETFL)
    assert found == (False, 0.0)
    assert all(each & os.O_NONBLOCK for each in flags)


def test_a_blocking_socket_is_made_non_blocking(pair, no_leak):
    """A sender that forgot the flag does not stop the hub of the receiver."""
    with socket.create_server(("127.0.0.1", 0)) as blocking:
        send_packet(pair[0], b"x", [blocking], soon())
        _, (sock,) = recv_packet(pair[1], 100, 1, soon())
        with sock:
            assert fcntl.fcntl(sock, fcntl.F_GETFL) & os.O_NONBLOCK


def test_packets_keep_their_borders(pair, no_leak):
    """Two packets arrive as two, then the end of the connection as no bytes."""
    send_packet(pair[0], b"one", [], soon())
    send_packet(pair[0], b"two", [], soon())
    pair[0].close()
    found = [recv_packet(pair[1], 100, 1, soon()) for _ in range(3)]
    pair[0].__init__(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # for the count of descriptors
    assert found == [(b"one", []), (b"two", []), (b"", [])]


def test_the_most_sockets_of_a_packet(pair, listener, no_leak):
    """The kernel's limit fits, both ways."""
    send_packet(pair[0], b"x", [listener] * MAX_SOCKETS, soon())
    _, sockets = recv_packet(pair[1], 100, MAX_SOCKETS, soon())
    close_all(sockets)
    assert (MAX_SOCKETS, len(sockets)) == (253, 253)


def test_one_socket_more_is_refused_before_sending(pair, listener, no_leak):
    """The caller learns it as its own mistake; the connection can still be used."""
    with pytest.raises(UsageError, match="^254 sockets do not fit into a packet: 253 do$"):
        send_packet(pair[0], b"x", [listener] * 254, soon())
    with pytest.raises(UsageError):
        recv_packet(pair[1], 100, 254, soon())
    send_packet(pair[0], b"y", [], soon())
    assert recv_packet(pair[1], 100, 0, soon()) == (b"y", [])


def test_an_empty_packet_is_not_sent(pair):
    """It would look like the end of the connection."""
    with pytest.raises(UsageError):
        send_packet(pair[0], b"", [], soon())


@pytest.mark.parametrize("sent", [2, 3, 253])
def test_more_sockets_than_asked_for_are_closed(pair, listener, no_leak, sent):
    """The truncated ones by the kernel, the others by us; one too many already counts."""
    send_packet(pair[0], b"x", [listener] * sent, soon())
    with pytest.raises(HotReloadError, match="it has more than 1"):
        recv_packet(pair[1], 100, 1, soon())


def test_no_descriptor_is_let_in_where_none_is_wanted(pair, no_leak):
    """With no room for descriptors the packet counts, and what came with it is closed."""
    reader, writer = os.pipe()
    socket.send_fds(pair[0], [b"x"], [writer])
    os.close(writer)
    found = recv_packet(pair[1], 100, 0, soon())
    at_end = os.read(reader, 1)
    os.close(reader)
    assert (found, at_end) == ((b"x", []), b"")


def test_a_packet_that_is_too_long_is_refused_with_its_sockets(pair, listener, no_leak):
    """Its sockets are closed: nobody could say what they were for."""
    send_packet(pair[0], b"x" * 101, [listener], soon())
    with pytest.raises(HotReloadError, match="^a packet is longer than 100 bytes$"):
        recv_packet(pair[1], 100, 1, soon())


def test_what_is_no_socket_is_closed_and_reported(pair, listener, no_leak, caplog):
    """A pipe among the descriptors does not take the sockets beside it along."""
    reader, writer = os.pipe()
    socket.send_fds(pair[0], [b"x"], [writer, listener.fileno()])
    os.close(writer)
    _, sockets = recv_packet(pair[1], 100, 2, soon())
    found = [cookie(each) for each in sockets], os.read(reader, 1), caplog.messages
    close_all(sockets)
    os.close(reader)
    assert found == (
        [cookie(listener)], b"",
        ["a received descriptor was closed: Socket operation on non-socket (os error 88)"],
    )


def test_descriptors_beyond_the_limit_of_open_files_are_an_error(pair, listener, no_leak):
    """Those that fitted are closed again."""
    send_packet(pair[0], b"x", [listener] * 50, soon())
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 10, limits[1]))
    try:
        with pytest.raises(HotReloadError, match="limit of open files$"):
            recv_packet(pair[1], 100, 50, soon())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_receiving_waits_without_stopping_others(pair, no_leak):
    """The packet comes from a greenlet that runs while the receiver waits."""
    sender = gevent.spawn(send_packet, pair[0], b"late", [], soon())
    assert recv_packet(pair[1], 100, 0, soon()) == (b"late", [])
    sender.get()


def test_receiving_ends_at_its_deadline(pair, no_leak):
    """A silent peer costs the time given, not more."""
    with pytest.raises(TimeoutError):
        recv_packet(pair[1], 100, 1, Deadline.after(0.02))
    with pytest.raises(TimeoutError):
        recv_packet(pair[1], 100, 1, Deadline.after(0))


def fill(sock):
    """Send until no more fits; the number of packets."""
    count = 0
    try:
        while True:
            sock.send(b"x" * 1000)
            count += 1
    except BlockingIOError:
        return count


def test_sending_waits_for_room(pair, no_leak):
    """It goes on when the peer has read."""
    count = fill(pair[0])
    sender = gevent.spawn(send_packet, pair[0], b"last", [], soon())
    received = [recv_packet(pair[1], 2000, 0, soon())[0] for _ in range(count + 1)]
    sender.get()
    assert received[-1] == b"last"


def test_sending_ends_at_its_deadline(pair, no_leak):
    """A peer that does not read costs the time given."""
    fill(pair[0])
    with pytest.raises(TimeoutError):
        send_packet(pair[0], b"x", [], Deadline.after(0.02))


@pytest.mark.parametrize("size,code", [(10_000_000, errno.EMSGSIZE), (1, errno.EPIPE)])
def test_the_systems_refusals_pass_as_they_are(pair, no_leak, size, code):
    """Too large, and nobody there: no signal, an error with its number."""
    if code == errno.EPIPE:
        pair[1].close()
        pair[1].__init__(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # for the count of descriptors
    with pytest.raises(OSError) as caught:
        send_packet(pair[0], b"x" * size, [], soon())
    assert caught.value.errno == code
