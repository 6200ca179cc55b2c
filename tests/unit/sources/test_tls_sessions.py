"""Sessions with TLS: who gets in, who does not, and how both are told of."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from gevent import ssl as gssl

from shotover_gevent.chain.handoff import Pinned
from shotover_gevent.net.tls_settings import TlsAcceptor, TlsConnector
from shotover_gevent.sinks.debug_returner import DebugReturner
from shotover_gevent.sinks.tcp_single import TcpSinkSingle
from shotover_gevent.sinks.valkey_single import ValkeySinkSingle
from shotover_gevent.sources.base import EndReason
from shotover_gevent.sources.source import Source
from tests.certificates import Authority
from tests.client import Client, command
from tests.inprocess import ScriptedServer, connect, serving, until

PING, PONG = command("PING"), b"$4\r\npong\r\n"
SINK = DebugReturner(name="sink", Valkey="pong")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs everything here."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    """No test waits for ever in the hub."""
    with gevent.Timeout(30):
        yield


def acceptor(authority: Authority, ca: str | None = None) -> TlsAcceptor:
    """The ``tls`` of a source."""
    certificate, key = authority.issue()
    return TlsAcceptor(
        certificate_path=certificate, private_key_path=key, certificate_authority_path=ca)


def connector(authority: Authority) -> TlsConnector:
    """The ``tls`` of a sink."""
    return TlsConnector(certificate_authority_path=authority.path, verify_hostname=True)


def secured(source: Source, authority: Authority, **options: Any) -> Client:
    """A client with TLS that lets the hub run while it waits."""
    context = gssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.path)
    return Client(context.wrap_socket(
        connect(source).socket, server_hostname="localhost", suppress_ragged_eofs=False, **options))


@contextmanager
def tls_server(authority: Authority, answers: dict[bytes, bytes]) -> Iterator[ScriptedServer]:
    """A database with TLS that answers whole requests."""
    context = gssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue())

    def answer(client: Client) -> None:
        with Client(context.wrap_socket(client.socket, server_side=True)) as inner:
            while request := inner.socket.recv(65536):
                inner.send(answers[request])

    with ScriptedServer(answer) as server:
        yield server


def failures(source: Source) -> dict[str, int]:
    """The handshakes that failed, by reason."""
    (family,) = (f for f in source.runtime.metrics.families()
                 if f.name == "shotover_gevent_tls_handshake_failures_count")
    return {dict(labels)["reason"]: metric.value  # type: ignore[misc]
            for labels, metric in family.children.items() if metric.value}


def test_a_client_is_served_over_tls(authority: Authority) -> None:
    """And closed in order when the source is told to stop."""
    with serving(SINK, tls=acceptor(authority)) as source, secured(source, authority) as client:
        client.ask(PING * 3, PONG * 3)
        (session,) = source.sessions
        session.stop(EndReason.DRAIN)
        client.eof()
    assert (source.ended[EndReason.DRAIN].value, failures(source)) == (1, {})


def test_requests_right_behind_the_handshake_are_answered(authority: Authority) -> None:
    """What came in one packet with the end of the handshake waits for nothing more."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.path)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with serving(SINK, tls=acceptor(authority)) as source, connect(source) as client:
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        client.send(outgoing.read())
        while True:
            incoming.write(client.socket.recv(65536))
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                client.send(outgoing.read())
        tls.write(PING)
        client.send(outgoing.read())  # the end of the handshake and the first request
        received = b""
        while received != PONG:
            try:
                received += tls.read(100)
            except ssl.SSLWantReadError:
                incoming.write(client.socket.recv(65536))


def test_a_silent_client_is_closed_at_the_deadline(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """It has no place for longer than the handshake may take."""
    with serving(SINK, tls=acceptor(authority), tls_handshake_s=0.05) as source, \
            connect(source) as client:
        client.eof()
        until(lambda: not source.sessions)
        assert failures(source) == {"timeout": 1}
    assert (source.ended[EndReason.HANDSHAKE].value, caplog.messages) == (
        1, ["[s] TLS handshake with 127.0.0.1 failed: not done within 0.05 s"])


def test_who_only_looks_is_no_failure(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    """A connection without a byte is that of a health check."""
    with serving(SINK, tls=acceptor(authority)) as source:
        connect(source).close()
        until(lambda: source.opened.value == 1 and not source.sessions)
    assert (failures(source), source.ended[EndReason.CLIENT].value, caplog.messages) == ({}, 1, [])


def test_who_goes_away_in_the_middle_is_one(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted as closed."""
    with serving(SINK, tls=acceptor(authority)) as source:
        with connect(source) as client:
            client.send(b"\x16\x03\x01\x02\x00")
            until(lambda: source.sessions and next(iter(source.sessions)).is_idle)
        until(lambda: failures(source))
    assert failures(source) == {"closed": 1}
    assert caplog.messages == [
        "[s] TLS handshake with 127.0.0.1 failed: the connection was cut off: its TLS has not ended"]


def test_a_stop_ends_who_has_said_nothing(authority: Authority) -> None:
    """At once; nothing that was begun is lost."""
    with serving(SINK, tls=acceptor(authority)) as source, connect(source) as client:
        until(lambda: source.sessions)
        (session,) = source.sessions
        session.stop(EndReason.SHUTDOWN)
        client.eof()
    assert source.ended[EndReason.SHUTDOWN].value == 1


def test_a_failed_handshake_tells_the_client_why(authority: Authority) -> None:
    """The alert arrives before the end, although nobody reads what the client still sends."""
    with serving(SINK, tls=acceptor(authority, authority.path)) as source:
        with secured(source, authority) as client, pytest.raises(ssl.SSLError) as caught:
            client.socket.recv(1)  # with TLS 1.3 the client has finished before it is refused
        assert caught.value.reason == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
        until(lambda: not source.sessions)
        assert failures(source) == {"certificate": 1}


def test_sessions_with_tls_are_pinned(authority: Authority) -> None:
    """A client with TLS before its first request and after; exporting says why."""
    with serving(SINK, tls=acceptor(authority)) as source, secured(source, authority) as client:
        client.ask(PING, PONG)
        (session,) = source.sessions
        assert session.pinned_by == "tls"
        until(session.hold)
        with pytest.raises(Pinned) as caught:
            session.export()
        session.release()
        client.ask(PING, PONG)
    assert caught.value.reason == "tls"


def test_a_plain_client_is_pinned_by_its_database(authority: Authority) -> None:
    """From its first request on; until then nothing of it is secret."""
    with tls_server(authority, {PING: PONG}) as server:
        sink = ValkeySinkSingle(
            name="sink", remote_address=f"localhost:{server.address.port}", connect_timeout_ms=3000,
            tls=connector(authority))
        with serving(sink) as source, connect(source) as client:
            until(lambda: source.sessions and next(iter(source.sessions)).is_idle)
            (session,) = source.sessions
            assert session.pinned_by is None
            client.ask(PING, PONG)
            until(session.hold)
            with pytest.raises(Pinned) as caught:
                session.export()
            session.release()
            assert (session.pinned_by, caught.value.reason) == ("tls", "tls")


def test_shared_connections_speak_tls_and_pin_nobody(authority: Authority) -> None:
    """The keys of a shared connection are not the session's."""
    with tls_server(authority, {PING: PONG}) as server:
        sink = ValkeySinkSingle(
            name="sink", remote_address=f"localhost:{server.address.port}", connect_timeout_ms=3000,
            connection_mode="shared", tls=connector(authority))
        with serving(sink) as source, connect(source) as client:
            client.ask(PING, PONG)
            (session,) = source.sessions
            assert session.pinned_by is None


def test_bytes_pass_tls_both_ways(authority: Authority) -> None:
    """A Tcp source with TLS in front of a server with TLS, larger than any buffer."""
    data = os.urandom(2_000_000)
    context = gssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue())
    read = bytearray()

    def answer(client: Client) -> None:
        with Client(context.wrap_socket(client.socket, server_side=True)) as inner:
            while len(read) < len(data):
                read.extend(inner.socket.recv(65536))
            inner.send(bytes(read))
            inner.socket.unwrap()

    with ScriptedServer(answer) as server:
        sink = TcpSinkSingle(
            name="sink", remote_address=f"localhost:{server.address.port}", connect_timeout_ms=3000,
            tls=connector(authority))
        with serving(sink, type_name="Tcp", tls=acceptor(authority)) as source, \
                secured(source, authority) as client:
            sender = gevent.spawn(client.send, data)
            assert client.receive(len(data)) == data
            assert client.socket.recv(1) == b""
            sender.get()


def test_the_identity_of_a_source_has_its_tls(authority: Authority) -> None:
    """A source that gets TLS, or another certificate, is another one."""
    settings = acceptor(authority)
    identities = []
    for tls in (None, settings, settings, acceptor(authority)):
        with serving(SINK, tls=tls) as source:
            identities.append(source.state_identity)
    assert len(set(identities)) == 3


def test_files_that_vanish_before_the_build_are_an_error(authority: Authority) -> None:
    """Between the check of a topology and the build of its source."""
    settings = acceptor(authority)
    os.unlink(settings.certificate_path)
    with pytest.raises(Exception) as caught, serving(SINK, tls=settings):
        pass
    assert str(caught.value) == (
        f"certificate_path: {settings.certificate_path}: No such file or directory (os error 2)")
