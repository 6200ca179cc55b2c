"""TLS streams do what plain ones do, and never take a stream that was cut off for a whole one."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from shotover_gevent.deadline import Deadline
from shotover_gevent.metrics import MetricStore
from shotover_gevent.net import tls_context
from shotover_gevent.net.park import HubPark, Park
from shotover_gevent.net.stream import ReceiveBuffer, close_gently
from shotover_gevent.net.tls import CLOSED, STEP_BYTES, TlsError, TlsStream, Truncated
from shotover_gevent.net.tls_context import ClientTls, ServerTls
from shotover_gevent.net.tls_settings import TlsAcceptor, TlsConnector
from tests.certificates import Authority
from tests.inprocess import keeps_descriptors, until

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class Pair:
    """Two streams with TLS between them, both of the greenlet that made them."""

    def __init__(self, authority: Authority) -> None:
        certificate, key = authority.issue()
        self.server_tls = ServerTls(
            TlsAcceptor(certificate_path=certificate, private_key_path=key), "s", MetricStore())
        self.client_tls = ClientTls(
            TlsConnector(certificate_authority_path=authority.path, verify_hostname=True), "c",
            MetricStore(), {})
        self.park = Park()
        self.buffer = ReceiveBuffer()

    def limit(self, version: ssl.TLSVersion) -> None:
        """Speak no newer version."""
        self.client_tls._files.current().context.maximum_version = version

    def connect(self, small: bool = False) -> tuple[TlsStream, TlsStream]:
        """The server's and the client's side, after the handshake."""
        left, right = socket.socketpair()
        if small:
            for sock in (left, right):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return self.shake(left, right)

    def shake(self, left: socket.socket, right: socket.socket) -> tuple[TlsStream, TlsStream]:
        """The same over these sockets."""
        server = self.server_tls.stream(left, Park(), self.buffer)
        right.setblocking(False)

        def accept() -> None:
            server.park = Park()
            while not server.shake():
                server.park.wait(server)

        greenlet = gevent.spawn(accept)
        client = self.client_tls.shake(
            right, Deadline.after(10), self.park, self.buffer, host="localhost")
        greenlet.get(timeout=10)
        server.park = self.park
        self.park.streams.append(server)
        client.receive()  # the tickets of TLS 1.3, which are no bytes for anybody
        return server, client


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority with its files."""
    return Authority(tmp_path)


@pytest.fixture
def pair(authority: Authority) -> Iterator[Pair]:
    """Both sides; nothing of them may be left open."""
    with gevent.Timeout(30), keeps_descriptors():
        yield Pair(authority)


def read_all(stream: TlsStream, count: int) -> bytes:
    """Exactly that many bytes."""
    received = bytearray()
    while len(received) < count and (got := stream.read()):
        received += stream.buffer.view[:got]
    return bytes(received)


@pytest.mark.parametrize("version", VERSIONS, ids=str)
@pytest.mark.parametrize("size", [1, 16384, STEP_BYTES + 1, 3_000_000])
def test_bytes_arrive_as_they_were_sent(pair: Pair, version: ssl.TLSVersion, size: int) -> None:
    """Both ways, of any size."""
    pair.limit(version)
    server, client = pair.connect()
    data = os.urandom(size)
    for source, target in ((client, server), (server, client)):
        sender = gevent.spawn(source.send, data)
        assert read_all(target, size) == data
        sender.get()
    assert client.version == server.version == version.name.replace("_", ".")
    client.close()
    server.close()


def test_what_openssl_holds_wakes_the_greenlet(pair: Pair) -> None:
    """A read that takes less than there is leaves a stream that is readable, though the socket is not."""
    server, client = pair.connect()
    client.send(b"abc")
    server.read()
    client.send(b"0123456789" * 1000)
    pieces = []
    while sum(map(len, pieces)) < 10_000:
        assert pair.park.wait_any(5) is server
        count = server.receive(700)
        pieces.append(bytes(server.buffer.view[:max(0, count)]))
    assert b"".join(pieces) == b"0123456789" * 1000
    assert pair.park.wait_any(0.01) is None
    client.close()
    server.close()


def test_a_stream_of_the_hub_sees_the_end_behind_the_last_bytes(pair: Pair) -> None:
    """Nobody waits there: what OpenSSL holds is told in the next turn of the hub."""
    server, client = pair.connect()
    seen: list[bytes | int] = []

    def on_readable(stream: Any) -> None:
        if (count := stream.receive(3)) >= 0:
            seen.append(bytes(stream.buffer.view[:count]) or 0)
            if not count:
                stream.pause()

    server.move(HubPark(on_readable))
    client.send(b"abcdef")
    until(lambda: seen == [b"abc", b"def"])
    client.send(b"ghi")
    client.close()
    until(lambda: seen == [b"abc", b"def", b"ghi", 0])
    server.close()


def test_a_paused_stream_does_not_fire_for_what_openssl_holds(pair: Pair) -> None:
    """It waits for resume(), and loses nothing."""
    server, client = pair.connect()
    client.send(b"xyz")
    assert pair.park.wait_any(5) is server
    assert server.receive(1) == 1
    server.pause()
    assert pair.park.wait_any(0.02) is None
    server.resume()
    assert pair.park.wait_any(5) is server
    assert (server.receive(), bytes(server.buffer.view[:2])) == (2, b"yz")
    client.close()
    server.close()


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_a_half_close_is_one_way(pair: Pair, version: ssl.TLSVersion) -> None:
    """After shutdown_send() the peer sees the end, and its bytes still arrive."""
    pair.limit(version)
    server, client = pair.connect()
    client.send(b"request")
    client.shutdown_send()
    assert (read_all(server, 7), server.read(), server.has_ended()) == (b"request", 0, True)
    server.send(b"answer")
    server.shutdown_send()
    assert (read_all(client, 6), client.read()) == (b"answer", 0)
    client.close()
    server.close()


def test_what_came_before_a_half_close_is_kept(pair: Pair) -> None:
    """What is decrypted, or not yet, when we end our side is read afterwards."""
    server, client = pair.connect()
    data = os.urandom(60_000)
    server.send(data)
    assert pair.park.wait_any(5) is client
    first = client.receive(100)
    received = bytes(client.buffer.view[:first])
    client.shutdown_send()
    received += read_all(client, len(data) - first)
    assert (received == data, server.read()) == (True, 0)
    server.close()
    assert client.read() == 0
    client.close()


def test_a_stream_that_was_cut_off_is_not_taken_for_ended(pair: Pair) -> None:
    """Without close_notify the end of the connection is an error, after everything that came."""
    server, client = pair.connect()
    client.send(b"half")
    client.detach().close()
    assert read_all(server, 4) == b"half"
    with pytest.raises(Truncated) as caught:
        server.read()
    assert isinstance(caught.value, ConnectionError)
    assert str(caught.value) == "the connection was cut off: its TLS has not ended"
    server.close()


def test_close_ends_the_stream(pair: Pair) -> None:
    """close() sends close_notify; a reset sends none."""
    server, client = pair.connect()
    client.close()
    assert server.read() == 0
    server.close()
    server, client = pair.connect()
    client._is_reset = True  # a reset proper needs TCP
    client.close()
    with pytest.raises(Truncated):
        server.read()
    server.close()


def test_try_send_counts_what_the_kernel_has(pair: Pair) -> None:
    """What it does not take is offered again, and nothing is doubled or lost."""
    server, client = pair.connect(small=True)
    data = os.urandom(400_000)
    rest = memoryview(data)
    writable: list[int] = []
    client.call_when_writable(lambda: writable.append(1))
    received = bytearray()
    while rest or len(received) < len(data):
        rest = rest[client.try_send(rest):] if rest else rest
        if pair.park.wait_any(0.05) is server:
            count = server.receive()
            received += server.buffer.view[:max(0, count)]
    assert bytes(received) == data
    until(lambda: writable)
    client.stop_writable()
    client.close()
    server.close()


def test_a_blocked_sender_waits_for_the_reader(pair: Pair) -> None:
    """send() returns when the kernel has everything."""
    server, client = pair.connect(small=True)
    sender = gevent.spawn(client.send, b"x" * 300_000)
    gevent.sleep(0.01)
    assert not sender.ready()
    assert client.blocked_since
    assert read_all(server, 300_000) == b"x" * 300_000
    sender.get()
    assert not client.blocked_since
    client.close()
    server.close()


def test_the_end_follows_what_the_kernel_had_no_room_for(pair: Pair) -> None:
    """A half-close behind a full buffer arrives, and after everything else."""
    server, client = pair.connect(small=True)
    rest = memoryview(bytes(500_000))
    while (count := client.try_send(rest)):
        rest = rest[count:]
    sent = 500_000 - len(rest)
    client.shutdown_send()
    # What try_send did not count may have gone out all the same; it is followed by the end.
    received = 0
    while got := server.read():
        received += got
    assert sent <= received <= sent + STEP_BYTES
    pair.park.wait(server)
    assert server.discard() == 0  # the connection has ended in that direction, too
    client.close()
    server.close()


def test_a_closed_stream_says_nothing_more_of_itself(pair: Pair) -> None:
    """Bytes that OpenSSL holds do not fire after close()."""
    server, client = pair.connect()
    client.send(b"12")
    assert pair.park.wait_any(5) is server
    server.receive(1)
    server.resume()
    server.close()
    assert pair.park.wait_any(5) is client  # its end
    client.close()
    assert (repr(server), server.is_closed) == ("<TlsStream closed>", True)


def test_closing_gently_lets_the_peer_read_everything(pair: Pair) -> None:
    """What the peer sends meanwhile is read and forgotten."""
    server, client = pair.connect()
    server.send(b"last words")
    client.send(b"nobody reads this")
    client.park = other = Park()
    closing = gevent.spawn(lambda: _close_in_own_park(server))
    gevent.sleep(0)
    client.park.streams = [client]
    assert (read_all(client, 10), client.read()) == (b"last words", 0)
    client.close()
    closing.get()
    assert other.streams == []


def _close_in_own_park(stream: TlsStream) -> None:
    stream.park = Park()
    close_gently(stream, 5)


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_a_session_is_resumed(pair: Pair, version: ssl.TLSVersion) -> None:
    """The session of a host is remembered at its first bytes, and used for the next connection."""
    pair.limit(version)
    resumed = []
    for _ in range(3):
        server, client = pair.connect()
        server.send(b"hello")
        client.read()
        resumed.append((client.is_resumed, server.is_resumed))
        client.close()
        server.close()
    assert resumed == [(False, False), (True, True), (True, True)]


def test_changed_files_end_the_sessions_of_before(
    pair: Pair, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was trusted then may not be trusted now: the next connection verifies everything again."""
    monkeypatch.setattr(tls_context, "CHECK_S", 0.0)
    resumed = []
    for _ in range(3):
        server, client = pair.connect()
        server.send(b"hello")
        client.read()
        resumed.append(client.is_resumed)
        client.close()
        server.close()
        if len(resumed) == 2:
            Path(authority.path).write_bytes(Path(authority.path).read_bytes() + b"\n")
    assert resumed == [False, True, False]


def test_a_handshake_that_fails_says_why(pair: Pair, authority: Authority, tmp_path: Path) -> None:
    """An authority that is not trusted: the client says so, and the server is told."""
    (tmp_path / "other").mkdir()
    stranger = ClientTls(
        TlsConnector(certificate_authority_path=Authority(tmp_path / "other").path, verify_hostname=True),
        "c", MetricStore(), {})
    pair.client_tls = stranger
    told: list[BaseException] = []
    left, right = socket.socketpair()
    right.setblocking(False)

    def accept() -> None:
        park = Park()
        server = pair.server_tls.stream(left, park, ReceiveBuffer())
        try:
            while not server.shake():
                park.wait(server)
        except OSError as error:
            told.append(error)
        server.close()

    greenlet = gevent.spawn(accept)
    with pytest.raises(TlsError) as caught:
        stranger.shake(right, Deadline.after(10), pair.park, pair.buffer, host="localhost")
    greenlet.get()
    assert (caught.value.kind, str(caught.value)) == (
        "certificate",
        "the certificate of the peer is refused: unable to get local issuer certificate")
    assert [str(error) for error in told] == ["the peer refused TLS: unknown ca"]


def test_what_a_peer_said_before_it_broke_the_connection_is_told(pair: Pair) -> None:
    """A sender gets the alert that waits to be read, not the error of the system."""
    listener = socket.create_server(("127.0.0.1", 0))
    right = socket.create_connection(listener.getsockname())
    left, _ = listener.accept()
    listener.close()
    server, client = pair.shake(left, right)
    client.send(b"never read")
    server.socket.send(b"\x15\x03\x03\x00\x02\x02\x28")  # what is no TLS any more: answered by an alert
    with pytest.raises(TlsError):
        client.read()
    client.reset_at_close()
    client.detach().close()
    until(lambda: server.has_ended())
    with pytest.raises(OSError) as caught:
        for _ in range(3):
            server.send(b"x" * 100)
    server.close()
    assert isinstance(caught.value, TlsError), caught.value


def test_plain_text_is_not_tls(pair: Pair) -> None:
    """A client that speaks something else is told apart."""
    left, right = socket.socketpair()
    server = pair.server_tls.stream(left, pair.park, pair.buffer)
    right.send(b"PING\r\n" * 10)
    with pytest.raises(TlsError) as caught:
        server.shake()
    server.close()
    right.close()
    assert (caught.value.kind, str(caught.value)) == ("not_tls", "the peer does not speak TLS")


def test_a_database_that_says_nothing_is_given_up(pair: Pair) -> None:
    """The handshake shares the deadline of connecting."""
    left, right = socket.socketpair()
    right.setblocking(False)
    with pytest.raises(TlsError) as caught:
        pair.client_tls.shake(right, Deadline.after(0.05), pair.park, pair.buffer, host="localhost")
    left.close()
    assert caught.value.kind == "timeout"


def test_damaged_bytes_break_the_stream(pair: Pair) -> None:
    """What was changed on the way is never passed on."""
    server, client = pair.connect()
    client.socket.send(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(TlsError) as caught:
        server.read()
    assert caught.value.kind != CLOSED
    client.close()
    server.close()
    assert not isinstance(caught.value, ConnectionError)
