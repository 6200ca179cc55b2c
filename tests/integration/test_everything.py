"""One topology with every transform for Valkey and TLS on both sides: it serves, and it reloads."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from shotover_gevent.config.registry import BUILT_IN
from shotover_gevent.testing.server import RealServer
from tests.certificates import Authority
from tests.harness import Client, ProxyProcess, command, eventually, free_port
from tests.integration.load import Load
from tests.integration.test_tls import acceptor, connector, tls_server

# They end a chain instead of a sink, or are for another protocol.
NOT_IN_IT = {"DebugReturner", "NullSink", "TcpSinkSingle"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs everything here."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls_redis(redis_server: RealServer, authority: Authority) -> Iterator[int]:
    """The port of a Redis that speaks TLS."""
    yield from tls_server(redis_server, authority, "no")


def chain(upstream: int, mirror: int, authority: Authority, folder: Path, mode: str) -> list[Any]:
    """Every transform, each doing something, above one sink with TLS."""

    def sink(name: str, **fields: Any) -> dict[str, Any]:
        return {"ValkeySinkSingle": {
            "name": name, "remote_address": f"localhost:{upstream}", "connect_timeout_ms": 3000,
            "connection_mode": mode, "tls": connector(authority), **fields}}

    to_mirror = sink("mirror", remote_address=f"127.0.0.1:{mirror}")
    del to_mirror["ValkeySinkSingle"]["tls"]
    return [
        {"AccessLog": {"name": "access", "path": str(folder / "access.log"), "sample_rate": 0.01}},
        {"QueryCounter": {"name": "count", "counter_name": "main"}},
        {"QueryTypeFilter": {"name": "filter", "DenyList": ["SchemaChange"]}},
        {"RequestThrottling": {"name": "limit", "max_requests_per_second": 4_000_000_000}},
        {"Coalesce": {
            "name": "batcher", "flush_when_buffered_message_count": 4,
            "flush_when_millis_since_last_flush": 1}},
        {"FaultInjection": {"name": "chaos", "enabled": False, "faults": [{"kind": "error", "percentage": 1}]}},
        {"CircuitBreaker": {"name": "breaker"}},
        {"Retry": {"name": "retry"}},
        {"DebugForceParse": {"name": "parse", "parse_requests": True, "parse_responses": True}},
        {"DebugForceEncode": {"name": "encode", "encode_requests": True, "encode_responses": True}},
        {"Tee": {"name": "tee", "behavior": "Ignore", "buffer_size": 1000, "chain": [
            {"DebugPrinter": {"name": "print"}},
            {"DebugLogToFile": {"name": "files"}},
            {"ParallelMap": {
                "name": "parallel", "parallelism": 1, "ordered_results": True, "chain": [to_mirror]}},
        ]}},
        {"ConnectionBalanceAndPool": {
            "name": "pool", "max_connections": 50, "chain": [sink("pooled")]}},
    ]


class Everything:
    """The proxy in front of a server, and a client of it."""

    def __init__(self, port: int, authority: Authority) -> None:
        self.port = port
        self._context = authority.client_context()

    def wrap(self, sock: socket.socket) -> ssl.SSLSocket:
        """A socket of a client, with TLS."""
        return self._context.wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False)

    def client(self) -> Client:
        """A client with TLS."""
        return Client(self.wrap(socket.create_connection(("127.0.0.1", self.port), timeout=15)))


def kinds(chain_of: list[Any]) -> set[str]:
    """The types of all steps, those of sub-chains too."""
    found: set[str] = set()
    for step in chain_of:
        ((kind, fields),) = step.items()
        found |= {kind} | kinds(fields.get("chain", []))
    return found


def test_every_transform_serves_and_reloads_under_load(
    tls_redis: int, valkey_server: RealServer, authority: Authority, tmp_path: Path, mode: str,
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """redis-benchmark ends without an error, and no reply is lost or wrong in two reloads."""
    monkeypatch.chdir(tmp_path)  # DebugLogToFile writes beside where the process was started
    port = free_port()
    steps = chain(tls_redis, valkey_server.port, authority, tmp_path, mode)
    assert kinds(steps) == set(BUILT_IN) - NOT_IN_IT
    source = {
        "name": "all", "listen_addr": f"127.0.0.1:{port}", "tls": acceptor(authority.issue()),
        "chain": steps}
    everything = Everything(port, authority)
    with ProxyProcess(
        yaml.safe_dump({"sources": [{"Valkey": source}]}), config='main_log_level: "warn"\n',
        hotreload_socket=tmp_path / "control.sock", args=["--hotreload-gradual-shutdown-seconds", "3"],
    ) as proxy:
        proxy.wait_port(port)
        benchmark(port, authority, pytestconfig)
        with Load(port, clients=4, connect_rate_s=0.05, wrap=everything.wrap) as load:
            for _ in range(2):
                load.wait_requests(40)
                result = proxy.reload()
                assert result.returncode == 0, result.stderr
            load.wait_requests(40)
        assert load.errors == []
        with everything.client() as client:
            client.ask(command("SET", "mirrored", mode), b"+OK\r\n")
        with Client(valkey_server.port) as mirror:
            expected = b"$%d\r\n%b\r\n" % (len(mode), mode.encode())
            eventually(lambda: got(mirror, "mirrored") == expected)


def got(client: Client, key: str) -> bytes:
    """The reply to GET."""
    client.send(command("GET", key))
    head = client.until(b"\r\n")
    return head if head == b"$-1\r\n" else head + client.until(b"\r\n")


def benchmark(port: int, authority: Authority, pytestconfig: pytest.Config) -> None:
    """Some tests of redis-benchmark over TLS, pipelined and not."""
    program = shutil.which("redis-benchmark")
    if program is None:
        reason = "redis-benchmark is not on PATH: apt-get install redis-tools"
        if pytestconfig.getoption("--require-servers"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    for pipeline in ("1", "16"):
        result = subprocess.run(
            [program, "-p", str(port), "--tls", "--cacert", authority.path, "--sni", "localhost",
             "-c", "10", "-n", "300", "-P", pipeline, "-q", "-t", "ping,set,get,incr,lpush,mset"],
            capture_output=True, text=True, timeout=60, env={**os.environ, "LC_ALL": "C"})
        assert (result.returncode, "Error" in result.stdout + result.stderr) == (0, False), result.stdout
