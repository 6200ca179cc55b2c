"""A listening socket has one owner at a time, and accepting survives what accepting meets."""

import errno
import os
import socket

import gevent
import pytest

from shotover_gevent.errors import UsageError
from shotover_gevent.metrics import Counter
from shotover_gevent.net.address import Address
from shotover_gevent.net.listener import Listener, ListenerState, bind

SO_COOKIE = 57


def cookie(sock):
    """The kernel's identity of a socket, the same for every descriptor of it."""
    return sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8)


def descriptors():
    """How many descriptors the process holds."""
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def accepted():
    """The sockets that the handler was given."""
    found = []
    yield found
    for sock, _ in found:
        sock.close()


@pytest.fixture
def listener(accepted):
    """A listener on a free port, not started."""
    made = Listener("s", bind(Address("127.0.0.1", 0)), lambda *args: accepted.append(args))
    yield made
    made.close()


def connect(listener):
    """A client of the listener."""
    sock = socket.create_connection((listener.address.host, listener.address.port), timeout=5)
    return sock


def wait_for(condition, seconds=5.0):
    """Run the hub until the condition holds."""
    with gevent.Timeout(seconds):
        while not condition():
            gevent.sleep(0.005)


def test_clients_are_handed_to_the_handler(listener, accepted):
    """Each accepted socket goes to the handler, with its peer."""
    listener.start()
    with connect(listener) as client:
        wait_for(lambda: accepted)
        assert accepted[0][1] == client.getsockname()


def test_a_lent_descriptor_is_the_same_socket_and_accepting_goes_on(listener, accepted):
    """Lending leaves the owner as it is: its clients do not wait for the borrower."""
    listener.start()
    lent = listener.lend()
    server_socket = listener._server.socket
    assert cookie(lent) == cookie(server_socket) and lent.fileno() != server_socket.fileno()
    with connect(listener):
        wait_for(lambda: accepted)
    lent.close()
    assert listener.state is ListenerState.ACCEPTING


def test_taking_moves_the_socket_out_of_its_server(listener):
    """After take() the caller is the only owner, the descriptor is the same, and a second take finds none."""
    listener.start()
    server = listener._server
    before = (server.socket.fileno(), cookie(server.socket), descriptors())
    taken = listener.take()
    after = (taken.fileno(), cookie(taken), descriptors())
    # The loop's own descriptors do not count: the number is the same before and after.
    assert after == before
    assert (listener.take(), listener.lend(), server.closed) == (None, None, True)
    taken.close()


def test_a_taken_listener_parks_its_serve_greenlet(listener):
    """The greenlet neither ends nor binds again."""
    serving = gevent.spawn(listener.serve)
    gevent.sleep(0)
    listener.take().close()
    gevent.sleep(0.02)
    with pytest.raises(ConnectionRefusedError):
        connect(listener)
    assert not serving.dead and listener.state is ListenerState.TAKEN
    serving.kill()


def test_a_taken_listener_does_not_start(listener):
    """There is nothing to accept on."""
    listener.take().close()
    with pytest.raises(UsageError) as caught:
        listener.start()
    assert str(caught.value) == "listener s has no socket: it is taken"


def test_closing_releases_the_port(listener):
    """The port can be bound again at once."""
    listener.start()
    address = listener.address
    listener.close()
    bind(address).close()
    assert listener.state is ListenerState.CLOSED


def test_a_soft_limit_leaves_clients_in_the_queue(accepted):
    """A client beyond the limit connects and is served when a slot is free."""
    limited = Listener(
        "s", bind(Address("127.0.0.1", 0)), lambda *args: accepted.append(args),
        is_full=lambda: len(accepted) >= 1,
    )
    limited.start()
    with connect(limited), connect(limited):
        wait_for(lambda: accepted)
        gevent.sleep(0.02)
        while_full = len(accepted)
        accepted.pop()[0].close()
        limited.slot_freed()
        wait_for(lambda: accepted)
    limited.close()
    assert while_full == 1


def test_a_hard_limit_refuses_and_binds_again(accepted):
    """While the limit is reached nobody listens; afterwards the address is served again."""
    limited = Listener(
        "s", bind(Address("127.0.0.1", 0)), lambda *args: accepted.append(args),
        is_full=lambda: len(accepted) >= 1, is_limit_hard=True,
    )
    limited.start()
    with connect(limited):
        wait_for(lambda: limited.state is ListenerState.REFUSING)
        with pytest.raises(ConnectionRefusedError):
            connect(limited)
        obstacle = limited.obstacle
        accepted.pop()[0].close()
        wait_for(lambda: limited.state is ListenerState.ACCEPTING)
        after = limited.obstacle
        with connect(limited):
            wait_for(lambda: accepted)
    limited.close()
    assert (len(accepted), obstacle, after) == (
        1, "connections are refused: the connection limit is reached", "")


def test_a_stolen_port_is_tried_again_with_back_off(accepted, caplog):
    """A port that somebody took while the hard limit had it closed is counted and logged."""
    failures = Counter()
    limited = Listener(
        "s", bind(Address("127.0.0.1", 0)), lambda *args: accepted.append(args),
        is_full=lambda: len(accepted) >= 1, is_limit_hard=True, create_failures=failures,
    )
    limited.start()
    with connect(limited):
        wait_for(lambda: limited.state is ListenerState.REFUSING)
        thief = bind(limited.address)
        accepted.pop()[0].close()
        wait_for(lambda: failures.value)
        thief.close()
        wait_for(lambda: limited.state is ListenerState.ACCEPTING)
    limited.close()
    address = limited.address
    assert (
        f"[s] Failed to create listener on [{address}] with error: Address already in use "
        f"(os error 98) address={address}, retrying with backoff of 1s"
    ) in caplog.messages


def test_running_out_of_descriptors_is_survived(listener, accepted, caplog):
    """EMFILE is counted and logged, and clients that waited are served afterwards."""
    import resource

    caplog.set_level("INFO")
    listener.start()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with connect(listener):
        wait_for(lambda: accepted)
        client = socket.socket()
        client.settimeout(5)
        highest = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
        blockers = []
        try:
            while True:
                blockers.append(os.open("/dev/null", os.O_RDONLY))
        except OSError as error:
            assert error.errno == errno.EMFILE
        client.connect((listener.address.host, listener.address.port))
        try:
            wait_for(lambda: listener._accept_failures.value)
            obstacle = listener.obstacle
        finally:
            for blocker in blockers:
                os.close(blocker)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        wait_for(lambda: len(accepted) == 2)
        client.close()
    assert (obstacle, listener.obstacle) == ("accepting has failed and is tried again", "")
    assert (
        f"[s] Accept on listener [{listener.address}] recovered and is now accepting new connections"
        in caplog.messages
    )


def test_a_listener_that_is_closed_while_it_refuses_does_not_bind_again(accepted, monkeypatch):
    """Closing may come in the very moment in which it looks whether clients have left."""
    from shotover_gevent.net import listener as module

    monkeypatch.setattr(module, "HARD_LIMIT_POLL_S", 0.01)
    looked = []

    def is_full():
        if limited.state is ListenerState.REFUSING:
            limited.close()
            looked.append(True)
            return False
        return bool(accepted)

    limited = Listener(
        "s", bind(Address("127.0.0.1", 0)), lambda *args: accepted.append(args), is_full=is_full,
        is_limit_hard=True)
    limited.start()
    with connect(limited):
        wait_for(lambda: looked)
        with pytest.raises(ConnectionRefusedError):
            connect(limited)
    assert limited.state is ListenerState.CLOSED
