"""TLS toward clients and databases: real processes, a real server, and the clients that people use."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from shotover_gevent.testing.server import RealServer
from tests.certificates import LONG_AGO, Authority, replace
from tests.harness import CONFIG, Client, ProxyProcess, command, eventually, free_port
from tests.integration.load import Load
from tests.integration.test_tcp_source import upstream

PING, PONG = b"PING\r\n", b"+PONG\r\n"
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
MUCH = os.urandom(3_000_000)

Settings = dict[str, Any]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs everything here, unless a test says otherwise."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody trusts."""
    return Authority(tmp_path_factory.mktemp("stranger"))


def tls_server(server: RealServer, authority: Authority, clients: str) -> Iterator[int]:
    """The port of a Redis that speaks TLS; ``clients`` says whether they must show a certificate."""
    port, (certificate, key) = free_port(), authority.issue()
    args = ("--tls-port", str(port), "--tls-cert-file", certificate, "--tls-key-file", key,
            "--tls-ca-cert-file", authority.path, "--tls-auth-clients", clients)
    with RealServer(server.binary, args):
        yield port


@pytest.fixture(scope="module")
def tls_redis(redis_server: RealServer, authority: Authority) -> Iterator[int]:
    """A Redis that asks nobody for a certificate."""
    yield from tls_server(redis_server, authority, "no")


@pytest.fixture(scope="module")
def mutual_redis(redis_server: RealServer, authority: Authority) -> Iterator[int]:
    """A Redis that asks everybody for a certificate."""
    yield from tls_server(redis_server, authority, "yes")


def topology(
    port: int, upstream: int, source: Settings | None = None, sink: Settings | None = None,
    protocol: str = "Valkey", host: str = "127.0.0.1", mode: str = "dedicated",
) -> str:
    """One source in front of one server, each with its ``tls``."""
    end: Settings = {"name": "sink", "remote_address": f"{host}:{upstream}", "connect_timeout_ms": 3000}
    if protocol == "Valkey":
        end["connection_mode"] = mode
    edge = {"name": "edge", "listen_addr": f"127.0.0.1:{port}"}
    return yaml.safe_dump({"sources": [{protocol: {
        **edge, **({"tls": source} if source else {}),
        "chain": [{f"{protocol}SinkSingle": {**end, **({"tls": sink} if sink else {})}}],
    }}]})


def acceptor(files: tuple[str, str], ca: Authority | None = None) -> Settings:
    """The ``tls`` of a source."""
    more = {} if ca is None else {"certificate_authority_path": ca.path}
    return {"certificate_path": files[0], "private_key_path": files[1], **more}


def connector(
    ca: Authority, files: tuple[str, str] | None = None, verify_hostname: bool = True
) -> Settings:
    """The ``tls`` of a sink."""
    more = {} if files is None else {"certificate_path": files[0], "private_key_path": files[1]}
    return {"certificate_authority_path": ca.path, "verify_hostname": verify_hostname, **more}


def secured(
    port: int, context: ssl.SSLContext, host: str = "localhost", session: ssl.SSLSession | None = None
) -> Client:
    """A client with TLS that takes no end without close_notify for an end."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=15)
    return Client(context.wrap_socket(
        sock, server_hostname=host, suppress_ragged_eofs=False, session=session))


class Edge:
    """A proxy with TLS toward its clients in front of a plain server."""

    def __init__(self, server: RealServer, authority: Authority, **options: Any) -> None:
        self.port, self.admin = free_port(), free_port()
        self.files = options.pop("files", None) or authority.issue()
        self.authority = authority
        self.proxy = ProxyProcess(
            topology(self.port, server.port, acceptor(self.files, options.pop("ca", None))),
            CONFIG + f'observability_interface: "127.0.0.1:{self.admin}"\n', **options)

    def __enter__(self) -> Edge:
        self.proxy.__enter__()
        self.proxy.wait_ready()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.proxy.__exit__(*exc_info)

    def client(self, **options: Any) -> Client:
        """A client that trusts the authority."""
        return secured(self.port, options.pop("context", None) or self.authority.client_context(), **options)

    def metrics(self, part: str) -> dict[str, float]:
        """The samples that have ``part`` in their name."""
        url = f"http://127.0.0.1:{self.admin}/metrics"
        with urllib.request.urlopen(url, timeout=10) as response:
            lines = response.read().decode().splitlines()
        found = dict(line.rsplit(" ", 1) for line in lines if part in line and line[0] != "#")
        return {name: float(value) for name, value in found.items()}

    def failures(self, reason: str) -> float:
        """How many handshakes have failed for that reason."""
        name = "shotover_gevent_tls_handshake_failures_count"
        return self.metrics(name)[f'{name}{{source="edge",reason="{reason}"}}']


# -- toward clients -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_clients_speak_either_version(
    redis_server: RealServer, authority: Authority, version: ssl.TLSVersion
) -> None:
    """TLS 1.2 and 1.3; large values both ways, a deep pipeline, and a resumed session."""
    context = authority.client_context()
    context.minimum_version = context.maximum_version = version
    with Edge(redis_server, authority) as edge:
        with edge.client(context=context) as client:
            assert client.socket.version() == version.name.replace("_", ".")
            client.ask(command("SET", "much", MUCH), b"+OK\r\n")
            client.ask(command("GET", "much"), b"$%d\r\n%b\r\n" % (len(MUCH), MUCH))
            client.ask(PING * 5000, PONG * 5000)
            session, was_reused = client.socket.session, client.socket.session_reused
        with edge.client(context=context, session=session) as client:
            client.ask(PING, PONG)
            assert (was_reused, client.socket.session_reused) == (False, True)


def test_versions_of_before_are_refused(redis_server: RealServer, authority: Authority) -> None:
    """TLS 1.1 gets an alert, is counted, and told of in the log."""
    context = authority.client_context()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with Edge(redis_server, authority, expect=["TLS handshake with 127.0.0.1 failed: the peer offers no"]) as edge:
        with pytest.raises(ssl.SSLError):
            edge.client(context=context)
        assert eventually(lambda: edge.failures("protocol")) == 1


def test_pushes_arrive_over_tls(redis_server: RealServer, authority: Authority) -> None:
    """A subscriber gets what another client publishes, without asking for anything."""
    with Edge(redis_server, authority) as edge, edge.client() as listener, edge.client() as speaker:
        listener.ask(command("SUBSCRIBE", "news"), b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n")
        for text in (b"one", b"two"):
            speaker.ask(command("PUBLISH", "news", text), b":1\r\n")
            listener.expect(b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$3\r\n%b\r\n" % text)


def test_a_slow_reader_holds_up_nobody_else(redis_server: RealServer, authority: Authority) -> None:
    """Its responses wait in the kernel and the server, not in the proxy, and arrive complete."""
    with Edge(redis_server, authority) as edge, edge.client() as slow, edge.client() as other:
        other.ask(command("SET", "slow", MUCH), b"+OK\r\n")
        before = edge.proxy.rss_bytes()
        slow.send(command("GET", "slow") * 20)
        other.ask(PING * 100, PONG * 100)
        reply = b"$%d\r\n%b\r\n" % (len(MUCH), MUCH)
        assert edge.proxy.rss_bytes() - before < 20 * len(reply)
        for _ in range(20):
            slow.expect(reply)


def test_redis_cli_speaks_tls(redis_server: RealServer, authority: Authority) -> None:
    """The command line client with --tls."""
    cli = shutil.which("redis-cli")
    if cli is None:
        pytest.skip("redis-cli is not on PATH: apt-get install redis-tools")
    with Edge(redis_server, authority) as edge:
        result = subprocess.run(
            [cli, "-p", str(edge.port), "--tls", "--cacert", authority.path, "ECHO", "secret"],
            capture_output=True, text=True, check=True, timeout=20)
    assert result.stdout == "secret\n"


def test_the_python_client_speaks_tls(redis_server: RealServer, authority: Authority) -> None:
    """redis-py, which reconnects and pipelines."""
    with Edge(redis_server, authority) as edge, redis.Redis(
            "localhost", edge.port, ssl=True, ssl_ca_certs=authority.path, socket_timeout=15) as client:
        pipeline = client.pipeline()
        for number in range(100):
            pipeline.set(f"py-{number}", number)
        assert (pipeline.execute(), client.get("py-99")) == ([True] * 100, b"99")


def test_a_key_update_is_answered(redis_server: RealServer, authority: Authority) -> None:
    """TLS 1.3 changes keys in the middle of a stream, here because s_client asks for it."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not on PATH: apt-get install openssl")
    with Edge(redis_server, authority) as edge:
        process = subprocess.Popen(
            [openssl, "s_client", "-connect", f"127.0.0.1:{edge.port}", "-CAfile", authority.path,
             "-verify_return_error", "-tls1_3"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert process.stdin is not None and process.stdout is not None
        try:
            for line in (b"ECHO first\n", b"K\n", b"ECHO second\n", b"k\n", b"ECHO third\n"):
                process.stdin.write(line)
                process.stdin.flush()
                word = line.split()[1] if line.startswith(b"ECHO") else b"KEYUPDATE"
                while (told := process.stdout.readline()).strip() != word:
                    assert told, "s_client has ended"
        finally:
            process.kill()
            process.communicate()


def test_mutual_tls_wants_a_certificate(
    redis_server: RealServer, authority: Authority, stranger: Authority
) -> None:
    """With an authority for clients, those that it has not signed are refused, and counted."""
    ours, theirs = authority.issue("client"), stranger.issue("client")
    with Edge(redis_server, authority, ca=authority, expect=[
        "failed: the peer showed no certificate",
        "failed: the certificate of the peer is refused: unable to get local issuer certificate",
    ]) as edge:
        with edge.client(context=authority.client_context(ours)) as client:
            client.ask(PING, PONG)
        for certificate in (None, theirs):
            with pytest.raises(ssl.SSLError), \
                    edge.client(context=authority.client_context(certificate)) as client:
                client.ask(PING, PONG)
        assert eventually(lambda: edge.failures("certificate") == 2)


def test_a_client_that_says_nothing_is_closed(redis_server: RealServer, authority: Authority) -> None:
    """After the deadline, and its slot is free; one that only looks is no failure."""
    program = (*ProxyProcess.program[:1], "-m", "shotover_gevent.testing.stop_points", "serve")
    environ = {"SHOTOVER_GEVENT_CONSTANTS": "net.tls_context.HANDSHAKE_S=0.3"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProxyProcess, "program", program)
        with Edge(redis_server, authority, env=environ, expect=["failed: not done within 0.3 s"]) as edge:
            Client(edge.port).close()
            with Client(edge.port) as silent:
                silent.eof()
            with Client(edge.port) as half:
                half.send(b"\x16\x03\x01\x02\x00\x01")
                half.eof()
            with edge.client() as client:
                client.ask(PING, PONG)
            assert eventually(lambda: edge.failures("timeout") == 2)
            assert edge.failures("closed") == 0


def test_a_stop_does_not_wait_for_silent_clients(redis_server: RealServer, authority: Authority) -> None:
    """Who has not begun the handshake is closed at once."""
    with Edge(redis_server, authority) as edge, Client(edge.port) as silent:
        edge.proxy.wait_log("New connection from 127.0.0.1")
        edge.proxy.terminate()
        silent.eof()
        assert edge.proxy.wait(5) == 0


def test_plain_text_is_refused(redis_server: RealServer, authority: Authority) -> None:
    """A client without TLS gets an alert or the end, and nothing of the database."""
    with Edge(redis_server, authority, expect=["failed: the peer does not speak TLS"]) as edge:
        with Client(edge.port) as client:
            client.send(PING)
            assert PONG not in client.receive(100)
        assert eventually(lambda: edge.failures("not_tls")) == 1


# -- toward databases ---------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["Valkey", "Tcp"])
@pytest.mark.parametrize("with_client_tls", [False, True], ids=["plain", "tls"])
def test_the_database_is_reached_over_tls(
    tls_redis: int, authority: Authority, protocol: str, with_client_tls: bool, mode: str
) -> None:
    """From plain clients and from those with TLS, by either source, however it is connected."""
    port = free_port()
    source = acceptor(authority.issue()) if with_client_tls else None
    text = topology(port, tls_redis, source, connector(authority), protocol, host="localhost", mode=mode)
    with ProxyProcess(text):
        client = secured(port, authority.client_context()) if with_client_tls else Client(port)
        with client:
            client.ask(command("SET", "much", MUCH), b"+OK\r\n")
            client.ask(command("GET", "much"), b"$%d\r\n%b\r\n" % (len(MUCH), MUCH))
            client.ask(PING * 5000, PONG * 5000)


def test_pushes_of_a_database_with_tls_arrive(tls_redis: int, authority: Authority, mode: str) -> None:
    """What nobody asked for wakes a session that is parked."""
    port = free_port()
    with ProxyProcess(topology(port, tls_redis, sink=connector(authority), mode=mode)), \
            Client(port) as listener, Client(port) as speaker:
        listener.ask(command("SUBSCRIBE", "news"), b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n")
        speaker.ask(command("PUBLISH", "news", b"one"), b":1\r\n")
        listener.expect(b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$3\r\none\r\n")


def refused(text: str, port: int, reason: str) -> str:
    """What a client is told when the database cannot be reached, which must have ``reason``."""
    with ProxyProcess(text, expect=["connection was unexpectedly terminated"]) as proxy, \
            Client(port) as client:
        client.send(PING)
        told = client.until(b"\r\n").decode()
        assert reason in told, told
        assert "Failed to establish TLS connection to destination" in told
        return proxy.log


def test_an_unknown_authority_is_refused(
    tls_redis: int, authority: Authority, stranger: Authority
) -> None:
    """The database shows a certificate that nobody whom we trust has signed."""
    port = free_port()
    refused(topology(port, tls_redis, sink=connector(stranger)), port,
            "the certificate of the peer is refused: self-signed certificate in certificate chain")


def test_the_host_name_is_verified_if_wanted(redis_server: RealServer, authority: Authority) -> None:
    """A certificate for another host is refused with verify_hostname, and taken without."""
    port, server, files = free_port(), free_port(), authority.issue("elsewhere.example")
    args = ("--tls-port", str(server), "--tls-cert-file", files[0], "--tls-key-file", files[1],
            "--tls-ca-cert-file", authority.path, "--tls-auth-clients", "no")
    with RealServer(redis_server.binary, args):
        refused(topology(port, server, sink=connector(authority)), port, "IP address mismatch")
        with ProxyProcess(topology(port, server, sink=connector(authority, verify_hostname=False))), \
                Client(port) as client:
            client.ask(PING, PONG)


def test_we_show_a_certificate_to_a_database_that_wants_one(
    mutual_redis: int, authority: Authority
) -> None:
    """Mutual TLS toward the database; without a certificate the client is told why."""
    port, ours = free_port(), authority.issue("proxy")
    with ProxyProcess(topology(port, mutual_redis, sink=connector(authority, ours))), \
            Client(port) as client:
        client.ask(PING, PONG)
    with ProxyProcess(topology(port, mutual_redis, sink=connector(authority)),
                      expect=["unexpectedly terminated"]), Client(port) as client:
        client.send(PING)
        assert "certificate required" in client.until(b"\r\n").decode()


def test_a_database_without_tls_is_told_apart(redis_server: RealServer, authority: Authority) -> None:
    """Its plain answer to a handshake is no TLS; one that says nothing is given up in time."""
    port = free_port()
    with upstream(lambda client: client.send(b"-ERR what?\r\n")) as server:
        refused(topology(port, server, sink=connector(authority)), port, "the peer does not speak TLS")
    # Redis waits for the end of what it takes for a command.
    text = topology(port, redis_server.port, sink=connector(authority)).replace("3000", "300")
    with ProxyProcess(text, expect=["unexpectedly terminated"]), Client(port) as client:
        client.send(PING)
        assert "did not respond to connection attempt within 300ms" in client.until(b"\r\n").decode()


def test_the_session_with_the_database_is_resumed(authority: Authority) -> None:
    """The second client's connection to the database needs no full handshake."""
    context, reused = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), []
    context.load_cert_chain(*authority.issue())

    def answer(client: Client) -> None:
        with Client(context.wrap_socket(client.socket, server_side=True)) as inner:
            reused.append(inner.socket.session_reused)
            inner.expect(PING)
            inner.send(PONG)
            inner.socket.recv(1)

    port = free_port()
    with upstream(answer) as server, ProxyProcess(topology(port, server, sink=connector(authority))):
        for _ in range(3):
            with Client(port) as client:
                client.ask(PING, PONG)
        eventually(lambda: len(reused) == 3)
    assert reused == [False, True, True]


# -- Tcp, and its ends --------------------------------------------------------------------------


def test_a_half_close_passes_both_tls_ends(authority: Authority) -> None:
    """The client's close_notify ends the server's input; the answer still arrives, and its end."""
    context, read = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), bytearray()
    context.load_cert_chain(*authority.issue())

    def answer(client: Client) -> None:
        sock = context.wrap_socket(client.socket, server_side=True, suppress_ragged_eofs=False)
        with Client(sock) as inner:
            while data := inner.socket.recv(1 << 16):
                read.extend(data)
            inner.send(MUCH)
            _end_of_output(inner)

    port = free_port()
    with upstream(answer) as server:
        text = topology(
            port, server, acceptor(authority.issue()), connector(authority), protocol="Tcp")
        with ProxyProcess(text), secured(port, authority.client_context()) as client:
            client.send(MUCH)
            _end_of_output(client)
            assert client.receive(len(MUCH)) == MUCH
            with pytest.raises(ssl.SSLZeroReturnError):  # how a socket that has ended itself tells the end
                client.socket.recv(1)
    assert read == MUCH


def _end_of_output(client: Client) -> None:
    """Send close_notify, and go on reading: unwrap() of a socket that must not wait for the peer's."""
    sock = client.socket
    assert isinstance(sock, ssl.SSLSocket)
    sock.setblocking(False)
    try:
        sock._sslobj.shutdown()  # type: ignore[attr-defined]
    except ssl.SSLWantReadError:
        pass
    sock.settimeout(15)


def test_a_connection_that_is_cut_off_is_not_ended_in_order(authority: Authority) -> None:
    """The server goes away without close_notify: the client must not take that for the end."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue())

    def cut(client: Client) -> None:
        sock = context.wrap_socket(client.socket, server_side=True)
        sock.recv(4)
        sock.send(b"half")
        os.close(sock.detach())  # a FIN, without a word of TLS

    port = free_port()
    with upstream(cut) as server, ProxyProcess(topology(
            port, server, acceptor(authority.issue()), connector(authority), protocol="Tcp")), \
            secured(port, authority.client_context()) as client:
        client.send(b"ask!")
        with pytest.raises(OSError):
            assert client.receive(4) == b"half"
            client.socket.recv(1)


# -- files --------------------------------------------------------------------------------------


def test_a_certificate_that_is_replaced_is_served_to_the_next_client(
    redis_server: RealServer, authority: Authority
) -> None:
    """Without a reload; broken files keep the certificate of before, and say so once."""
    with Edge(redis_server, authority, expect=["source edge: the changed TLS files cannot be used"]) as edge:
        def shown() -> bytes | None:
            with edge.client() as client:
                client.ask(PING, PONG)
                return client.socket.getpeercert(binary_form=True)

        with edge.client() as old:
            first = shown()
            expiry = eventually(lambda: edge.metrics("tls_certificate_expiry_seconds"))
            replace(authority.issue(not_after=LONG_AGO.replace(year=2040)), edge.files)
            eventually(lambda: shown() != first)
            second = shown()
            assert edge.metrics("tls_certificate_expiry_seconds") != expiry
            Path(edge.files[1]).write_text("no key at all")
            eventually(lambda: edge.metrics("tls_reload_failures_count") == {
                'shotover_gevent_tls_reload_failures_count{source="edge"}': 1.0})
            assert shown() == second
            old.ask(PING, PONG)


def test_an_expired_certificate_is_a_warning(redis_server: RealServer, authority: Authority) -> None:
    """It is used all the same, and its expiry is a metric."""
    files = authority.issue(not_after=LONG_AGO)
    with Edge(redis_server, authority, files=files,
              expect=["has expired on 2020-01-02 03:04:05 UTC"]) as edge:
        found = eventually(lambda: edge.metrics("certificate_expiry"))
        assert found == {
            'shotover_gevent_tls_certificate_expiry_seconds{source="edge"}': LONG_AGO.timestamp()}
        with pytest.raises(ssl.SSLCertVerificationError):
            edge.client()
        edge.proxy.tolerate.append("the peer refused TLS: certificate expired")


# -- a reload -----------------------------------------------------------------------------------


def test_a_reload_drains_tls_sessions_between_requests(
    redis_server: RealServer, authority: Authority, tmp_path: Path
) -> None:
    """Under load, no request is lost and none answered twice; who is drained connects again."""
    context = authority.client_context()

    def wrap(sock: socket.socket) -> ssl.SSLSocket:
        return context.wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False)

    with Edge(redis_server, authority, hotreload_socket=tmp_path / "control.sock",
              args=["--hotreload-gradual-shutdown-seconds", "3"]) as edge, \
            Load(edge.port, clients=6, connect_rate_s=0.02, wrap=wrap) as load:
        load.wait_requests(200)
        result = edge.proxy.reload()
        assert result.returncode == 0, result.stderr
        load.wait_requests(200)
        eventually(lambda: edge.proxy.returncode is not None, 15)
        load.wait_requests(200)
        load.stop()
        kept = edge.metrics("reload_sessions_count")
    assert (load.errors, load.reconnects >= 6) == ([], True)
    assert kept['shotover_gevent_reload_sessions_count{result="kept",reason="tls"}'] >= 6


def test_a_plain_client_with_a_database_over_tls_stays(
    tls_redis: int, authority: Authority, tmp_path: Path
) -> None:
    """Its connection to the database cannot move; one that has none yet moves."""
    port = free_port()
    with ProxyProcess(topology(port, tls_redis, sink=connector(authority)),
                      hotreload_socket=tmp_path / "control.sock",
                      args=["--hotreload-gradual-shutdown-seconds", "1"]) as proxy, \
            Client(port) as served, Client(port) as fresh:
        served.ask(PING, PONG)
        eventually(lambda: len([e for e in proxy.events if "New connection" in e.message]) == 2)
        result = proxy.reload("--json")
        assert (result.returncode, yaml.safe_load(result.stdout)["reasons"]) == (0, {"tls": 1})
        served.eof()
        fresh.ask(PING, PONG)


def test_a_plan_knows_that_tls_sessions_stay(
    redis_server: RealServer, authority: Authority, tmp_path: Path
) -> None:
    """``reload --plan`` counts them as drained."""
    with Edge(redis_server, authority, hotreload_socket=tmp_path / "control.sock") as edge, \
            edge.client() as client:
        client.ask(PING, PONG)
        result = edge.proxy.reload("--plan")
    assert "1 would be drained: tls" in result.stdout, result.stdout


def test_a_successor_without_its_certificate_changes_nothing(
    redis_server: RealServer, authority: Authority, tmp_path: Path
) -> None:
    """It fails before it asks for anything; the old process serves on with what it has loaded."""
    with Edge(redis_server, authority, hotreload_socket=tmp_path / "control.sock",
              tolerate=["the changed TLS files cannot be used", "Failed to start shotover"]) as edge, \
            edge.client() as client:
        os.unlink(edge.files[0])
        result = edge.proxy.reload()
        assert (result.returncode, "certificate_path" in result.stderr + result.stdout) == (75, True)
        client.ask(PING, PONG)
        with edge.client() as other:
            other.ask(PING, PONG)
