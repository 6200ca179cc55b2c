"""The check of the demo tells every kind of loss from a connection that moved."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from shotover_gevent.demo_check import Client, Lost, Reload, ask_server, command
from shotover_gevent.testing.server import RealServer
from tests.harness import free_port

# What a stand-in for the proxy does with one connection, given the client's side and the server's.
Behaviour = Callable[[socket.socket, socket.socket], None]


def forward(client: socket.socket, server: socket.socket) -> bytes:
    """Pass one small round on; returns the server's replies without passing them back."""
    server.sendall(client.recv(1 << 16))
    return server.recv(1 << 16)


def serve_once(client: socket.socket, server: socket.socket) -> None:
    """Answer one round, then close."""
    client.sendall(forward(client, server))


def serve_twice(client: socket.socket, server: socket.socket) -> None:
    """Answer two rounds, then close."""
    serve_once(client, server)
    serve_once(client, server)


def ignore(client: socket.socket, server: socket.socket) -> None:
    """Take a round, do not pass it on, close."""
    client.recv(1 << 16)


def swallow_reply(client: socket.socket, server: socket.socket) -> None:
    """Pass a round on, and close without its reply."""
    forward(client, server)


def cut_reply(client: socket.socket, server: socket.socket) -> None:
    """Close within the reply."""
    client.sendall(forward(client, server)[:-1])


def falsify_reply(client: socket.socket, server: socket.socket) -> None:
    """Change one byte."""
    client.sendall(forward(client, server).replace(b":1", b":7"))


def repeat_reply(client: socket.socket, server: socket.socket) -> None:
    """Answer twice."""
    client.sendall(forward(client, server) * 2)


@contextlib.contextmanager
def stand_in(server_port: int, *behaviours: Behaviour) -> Iterator[int]:
    """A port where each connection, in turn, is treated as listed."""
    def run(listener: socket.socket) -> None:
        for behave in behaviours:
            accepted, _ = listener.accept()
            with accepted, socket.create_connection(("127.0.0.1", server_port), timeout=5) as upstream:
                accepted.settimeout(5)
                behave(accepted, upstream)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        thread = threading.Thread(target=run, args=(listener,))
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


@pytest.fixture
def real(valkey_server: RealServer) -> Iterator[int]:
    """The port of a server without keys of earlier checks."""
    with socket.create_connection(("127.0.0.1", valkey_server.port), timeout=5) as sock:
        sock.sendall(command(b"DEL", b"check:0"))
        sock.recv(100)
    yield valkey_server.port


@contextlib.contextmanager
def client_of(port: int, server_port: int) -> Iterator[Client]:
    """A client that is closed at the end."""
    client = Client(0, port, server_port, pause_s=0)
    try:
        yield client
    finally:
        client._close()


def test_all_kinds_of_rounds_pass_where_nothing_is_lost(real: int) -> None:
    """Straight to a server every round passes, large values too, and its counter tells each."""
    with client_of(real, real) as client:
        for _ in range(40):
            client.play_round()
    assert (client.counter, client.connections, client.moved, ask_server(real, b"check:0")) == (40, 1, 0, 40)


def test_a_close_between_two_rounds_is_a_move(real: int) -> None:
    """A connection that was closed while nothing was under way is opened again, and counted."""
    with stand_in(real, serve_twice, serve_once) as port, client_of(port, real) as client:
        for _ in range(2):
            client.play_round()
        client._socket.recv(1, socket.MSG_PEEK)  # the end has arrived
        client.play_round()
    assert (client.counter, client.connections, client.moved, client.resent) == (3, 2, 1, 0)


def test_a_round_that_met_a_close_and_was_not_executed_is_sent_again(real: int) -> None:
    """A close before any reply is no loss if the server knows nothing of the round."""
    with stand_in(real, ignore, serve_once) as port, client_of(port, real) as client:
        client.play_round()
    assert (client.counter, client.resent, ask_server(real, b"check:0")) == (1, 1, 1)


@pytest.mark.parametrize(
    ("behaviour", "text"),
    [
        (swallow_reply, "round 1 was executed, and closed without a reply"),
        (cut_reply, "closed within a reply, after 3 of 4 bytes"),
        (falsify_reply, r"wrong reply: b'7\\r\\n' instead of b'1\\r\\n' at byte 1"),
        (repeat_reply, r"wrong reply: b':1\\r\\n' instead of b'' at byte 4"),
    ],
)
def test_a_spoiled_reply_is_a_loss(real: int, behaviour: Behaviour, text: str) -> None:
    """A reply that is missing, cut or false is a loss, and said to be which."""
    with stand_in(real, behaviour) as port, client_of(port, real) as client:
        with pytest.raises(Lost, match=text):
            client.play_round()


def test_bytes_that_nobody_asked_for_are_a_loss(real: int) -> None:
    """A byte that comes between two rounds is noticed before the next one."""
    has_played = threading.Event()

    def speak_up(client: socket.socket, server: socket.socket) -> None:
        serve_once(client, server)
        has_played.wait(5)
        client.sendall(b"+HELLO\r\n")

    with stand_in(real, speak_up) as port, client_of(port, real) as client:
        client.play_round()
        has_played.set()
        client._socket.recv(1, socket.MSG_PEEK)  # it has arrived
        with pytest.raises(Lost, match="bytes that nobody asked for: b'.HELLO"):
            client.play_round()


def test_a_refused_connection_is_a_loss(real: int) -> None:
    """Nobody at the port is a loss."""
    with client_of(free_port(), real) as client, pytest.raises(Lost, match="was not accepted"):
        client.play_round()


def test_a_client_keeps_its_first_loss(real: int) -> None:
    """A client ends with its first loss, which names it."""
    client = Client(0, free_port(), real, pause_s=None)
    client.run(threading.Event())
    assert client.loss is not None and client.loss.startswith("client 0: a connection was not accepted")


def test_a_reload_is_judged() -> None:
    """A failed command, a missing successor and a predecessor that stays are problems."""
    def problems(exit_code: int, successors: list[int], has_ended: bool) -> list[str]:
        return Reload(0.0, 1.0, exit_code, "the reason", [1], successors, has_ended).problems()

    found = [
        problems(0, [2], True), problems(75, [], False), problems(0, [], True), problems(0, [2], False)]
    assert found == [
        [],
        ["the reload command ended with code 75: the reason"],
        ["one process should have taken over, there are []"],
        ["the predecessor still runs 12 s after the reload"],
    ]
