"""A successor gets its predecessor's sockets, confirms to it alone, and leaves nothing open."""

import os
import socket
import subprocess
import sys

import gevent
import pytest
from gevent import socket as gsocket
from gevent.event import Event
from reload_kit import (
    SEND, SHUTDOWN, SHUTDOWN_DONE, Host, Successor, cookie, error, listener, serving, wait_until,
)

from shotover_gevent.errors import HotReloadError, UsageError, causes
from shotover_gevent.hotreload import client as client_module
from shotover_gevent.hotreload.client import request_listeners
from shotover_gevent.hotreload.protocol import ListenerResponse, encode_request
from shotover_gevent.hotreload.socketfile import ControlSocket, Live, inspect
from shotover_gevent.net.address import Address
from shotover_gevent.net.fdpass import close_all, recv_packet


class Predecessor:
    """A predecessor that gives one scripted answer per connection, and notes what it was asked.

    An answer is ``(bytes, sockets)``, ``None`` to close without one, or a function of the socket.
    """

    def __init__(self, path, *answers):
        self.asked = []
        self.socket = gsocket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.bind(path)
        self.socket.listen(4)
        self.greenlet = gevent.spawn(self.run, answers)

    def run(self, answers):
        """Serve the connections one after another, as Shotover does."""
        for answer in answers:
            sock, _ = self.socket.accept()
            with sock:
                self.asked.append(sock.recv(65536))
                if callable(answer):
                    answer(sock)
                elif answer is not None:
                    data, sockets = answer
                    if sockets:
                        socket.send_fds(sock, [data], [each.fileno() for each in sockets])
                    else:
                        sock.send(data)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.greenlet.kill()
        self.socket.close()


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


def refusal(call, *arguments):
    """The texts of the error that ``call`` raises."""
    with pytest.raises(HotReloadError) as caught:
        call(*arguments)
    return list(causes(caught.value))


def addresses(host):
    """Where the listeners of ``host`` listen."""
    return [Address.of(each.getsockname()) for each in host.listeners]


# -- asking -------------------------------------------------------------------------------------


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


# -- confirming ---------------------------------------------------------------------------------


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
    assert ListenerResponse(Address("::1", 1), None).listener is None
