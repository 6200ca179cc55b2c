"""Commands over the control socket, from both sides."""

import os

import gevent
import pytest

from shotover_gevent.errors import HotReloadError
from shotover_gevent.hotreload import control
from shotover_gevent.hotreload.control import CommandRefused, ask
from shotover_gevent.hotreload.dialect import Refused
from shotover_gevent.hotreload.server import HotReloadServer
from tests.unit.hotreload.reload_kit import Host


@pytest.fixture
def serve(tmp_path):
    """Start a server with a handler of commands; returns its path."""
    started = []

    def start(handler=None):
        path = str(tmp_path / f"{len(started)}.sock")
        host = Host()
        server = HotReloadServer(path, host, control=handler)
        server.start()
        started.append((server, host))
        return path

    yield start
    for server, host in started:
        server.close()
        host.close()


def test_an_answer_comes_in_parts(serve):
    """The handler gets the command and its arguments; what it yields arrives, a packet each."""
    def handler(command, arguments):
        yield {"command": command}
        yield {"arguments": dict(arguments)}

    path = serve(handler)
    assert list(ask(path, "sessions", {"source": None})) == [
        {"command": "sessions"}, {"arguments": {"source": None}}]


def test_an_answer_may_have_no_parts(serve):
    """It ends all the same."""
    assert list(ask(serve(lambda command, arguments: iter(())), "status")) == []


def test_a_refusal_is_told(serve):
    """Also after the first part; the words are those of the handler."""
    def handler(command, arguments):
        yield {}
        raise CommandRefused("not now")

    parts = ask(serve(handler), "drain")
    assert next(parts) == {}
    with pytest.raises(Refused, match="^not now$"):
        next(parts)


def test_a_server_without_commands_says_so(serve):
    """A program that embeds it has its own."""
    with pytest.raises(Refused, match="this process takes no commands"):
        list(ask(serve(), "status"))


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"command":7}', b"null"])
def test_a_command_needs_a_name(serve, body):
    """What has none is refused, and the server goes on."""
    import socket

    path = serve(lambda command, arguments: iter(()))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(path)
        sock.send(b'{"Control":' + body + b"}")
        sock.setblocking(False)
        gevent.socket.wait_read(sock.fileno(), 5)
        told = sock.recv(1000)
    assert told == b'{"Error":"field command of a message is missing or of the wrong type"}'
    assert list(ask(path, "status")) == []


def test_a_process_of_before_takes_no_commands(serve, monkeypatch):
    """It closes the connection without a word, and the text says what that means."""
    from shotover_gevent.hotreload import server

    path = serve(lambda command, arguments: iter(()))
    monkeypatch.setattr(server, "is_ours", lambda data: False)
    with pytest.raises(HotReloadError, match="takes no commands: it is older, or a Shotover Proxy"):
        list(ask(path, "status"))


def test_the_socket_of_another_user_is_not_trusted(serve, monkeypatch):
    """Whoever listens there could tell anything."""
    path = serve(lambda command, arguments: iter(()))
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.setattr(control, "credentials", lambda sock: type("C", (), {"uid": 42})())
    with pytest.raises(HotReloadError, match="is the socket of user 42"):
        list(ask(path, "status"))


def test_nobody_there_is_an_error(tmp_path):
    """With the text that a reload has."""
    with pytest.raises(HotReloadError, match="Failed to connect"):
        list(ask(str(tmp_path / "no.sock"), "status"))
