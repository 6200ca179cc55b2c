"""The transforms that hold traffic back, fail it or write it down, through a running proxy."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from shotover_gevent.testing.server import RealServer
from tests.harness import CONFIG, Client, ProxyProcess, command, eventually, free_port
from tests.integration.test_transforms import samples, topology

OVERLOADED = b"-ERR Server overloaded\r\n"
ABORTED = b"-EXECABORT Transaction discarded because of previous errors.\r\n"


def sink(server: RealServer, mode: str) -> str:
    """The last step of a chain, in front of that server."""
    return (f'ValkeySinkSingle: {{name: "sink", remote_address: "127.0.0.1:{server.port}",'
            f" connect_timeout_ms: 3000, connection_mode: {mode}}}")


def observed(admin: int) -> str:
    """A configuration with metrics at that port."""
    return CONFIG + f'observability_interface: "127.0.0.1:{admin}"\n'


def test_requests_beyond_the_rate_are_answered_and_no_transaction_runs_in_part(
    redis_server: RealServer, tmp_path, mode: str
) -> None:
    """Of 300 at once 50 reach the server; a transaction that is cut off is discarded, also in a successor."""
    port, admin = free_port(), free_port()
    throttling = 'RequestThrottling: {name: "limit", max_requests_per_second: 50}'
    with ProxyProcess(
        topology(port, throttling, sink(redis_server, mode)), observed(admin),
        hotreload_socket=tmp_path / "control.sock",
    ) as proxy:
        proxy.wait_ready()
        with Client(redis_server.port) as direct, Client(port) as client:
            direct.send(command("DEL", "throttled"))
            direct.until(b"\r\n")
            # The bucket fills while the proxy works: somewhat more than 50 pass.
            client.send(command("MULTI") + command("INCR", "throttled") * 300)
            answers = client.receive(len(b"+OK\r\n")) + b"".join(client.until(b"\r\n") for _ in range(300))
            passed = answers.count(b"+QUEUED\r\n")
            assert (answers.startswith(b"+OK\r\n"), 49 <= passed < 300, answers.endswith(OVERLOADED)) == (
                True, True, True)
            assert json.loads(proxy.reload("--json").stdout)["sessions"]["moved"] == 1
            client.ask(command("EXEC"), ABORTED)
            direct.ask(command("EXISTS", "throttled"), b":0\r\n")
        name = 'shotover_request_throttled_count{chain="valkey",transform="RequestThrottling"}'
        # The successor counts anew; so the client asks again until it is refused.
        with Client(port) as client:
            client.send(command("PING") * 300)
            refused = b"".join(client.until(b"\r\n") for _ in range(300)).count(OVERLOADED)
            assert refused > 0
            assert eventually(lambda: samples(admin)[1][name]) == refused


def test_the_messages_of_a_client_are_in_files_also_after_a_reload(
    redis_server: RealServer, tmp_path, mode: str
) -> None:
    """Names and bytes, with every message parsed and encoded again on its way."""
    port = free_port()
    steps = [
        'DebugForceParse: {name: "parse", parse_requests: true, parse_responses: true}',
        'DebugForceEncode: {name: "encode", encode_requests: true, encode_responses: true}',
        'DebugLogToFile: {name: "files"}', sink(redis_server, mode),
    ]
    script = f"cd {tmp_path} && exec {' '.join(ProxyProcess.program)} \"$@\""
    proxy = ProxyProcess(topology(port, *steps), hotreload_socket=tmp_path / "control.sock")
    proxy.program = ("sh", "-c", script, "proxy")
    with proxy, Client(port) as client:
        client.ask(b"SET logged 1\r\n" + command("GET", "logged"), b"+OK\r\n$1\r\n1\r\n")
        assert json.loads(proxy.reload("--json").stdout)["sessions"]["moved"] == 1
        client.ask(command("DEL", "logged"), b":1\r\n")
    folder = tmp_path / "message-log"
    assert {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("*/*/*")} == {
        "1/requests/message1.bin": command("SET", "logged", "1"),
        "1/requests/message2.bin": command("GET", "logged"),
        "1/requests/message3.bin": command("DEL", "logged"),
        "1/responses/message1.bin": b"+OK\r\n", "1/responses/message2.bin": b"$1\r\n1\r\n",
        "1/responses/message3.bin": b":1\r\n",
    }


@contextmanager
def without_master(server: RealServer) -> Iterator[Client]:
    """The server refuses reads, as a replica that has lost its master; yields a client of it."""
    with Client(server.port) as direct:
        try:
            direct.ask(command("CONFIG", "SET", "replica-serve-stale-data", "no"), b"+OK\r\n")
            direct.ask(command("REPLICAOF", "127.0.0.1", "1"), b"+OK\r\n")
            yield direct
        finally:
            direct.ask(command("REPLICAOF", "NO", "ONE"), b"+OK\r\n")
            direct.ask(command("CONFIG", "SET", "replica-serve-stale-data", "yes"), b"+OK\r\n")


def test_a_breaker_opens_while_the_server_fails_and_closes_when_it_is_well(
    redis_server: RealServer, mode: str
) -> None:
    """While it is open every session is answered at once; a probe finds out that the server is well."""
    port, admin = free_port(), free_port()
    breaker = 'CircuitBreaker: {name: "cb", consecutive_failures: 2, open_ms: 2000}'
    config = observed(admin)
    refused = b"-ERR The circuit breaker cb is open: the database is not asked\r\n"
    read = command("GET", "no-such-key")
    with ProxyProcess(
        topology(port, breaker, sink(redis_server, mode)), config, expect=["circuit breaker cb is open"]
    ) as proxy:
        proxy.wait_ready()
        with without_master(redis_server), Client(port) as one, Client(port) as two:
            for client in (one, two):
                client.send(read)
                assert client.until(b"\r\n").startswith(b"-MASTERDOWN ")
            one.ask(read, refused)
            two.ask(read * 3, refused * 3)
            state = 'shotover_gevent_circuit_breaker_state{chain="valkey",name="cb"}'
            assert samples(admin)[1][state] == 2
        with Client(port) as client:

            def is_answered() -> bool:
                client.send(read)
                answer = client.until(b"\r\n")
                assert answer in (refused, b"$-1\r\n")
                return answer == b"$-1\r\n"

            eventually(is_answered)
            assert samples(admin)[1][state] == 0
        proxy.wait_log("circuit breaker cb is closed: the probes succeeded")


def retries(admin: int, reason: str) -> float:
    """How many requests were asked again for that reason."""
    return samples(admin)[1][f'shotover_gevent_retries_count{{chain="valkey",name="retry",reason="{reason}"}}']


RETRY = 'Retry: {name: "retry", max_retries: 10, base_delay_ms: 1000, max_delay_ms: 1000}'


def test_a_read_is_asked_again_until_the_server_is_well(redis_server: RealServer, mode: str) -> None:
    """The client waits and gets its answer; a request that is not idempotent is refused at once."""
    port, admin = free_port(), free_port()
    with ProxyProcess(topology(port, RETRY, sink(redis_server, mode)), observed(admin)) as proxy, \
            Client(redis_server.port) as direct:
        proxy.wait_ready()
        direct.ask(command("SET", "retried", "x"), b"+OK\r\n")
        with Client(port) as client:
            with without_master(redis_server):
                client.send(command("INCR", "retried"))
                assert client.until(b"\r\n").startswith(b"-READONLY ")
                client.send(command("GET", "retried"))
                eventually(lambda: retries(admin, "MASTERDOWN") >= 1)
            client.expect(b"$1\r\nx\r\n")
        direct.ask(command("DEL", "retried"), b":1\r\n")


def test_a_database_that_comes_late_is_waited_for(redis_server: RealServer, tmp_path, mode: str) -> None:
    """What could not be sent is sent when it can, whatever it is."""
    port, admin, path = free_port(), free_port(), tmp_path / "late.sock"
    late = (f'ValkeySinkSingle: {{name: "sink", remote_address: "unix:{path}", connect_timeout_ms: 3000,'
            f" connection_mode: {mode}}}")
    with ProxyProcess(topology(port, RETRY, late), observed(admin)) as proxy:
        proxy.wait_ready()
        with Client(port) as client:
            client.send(command("INCR", "late") * 2)
            eventually(lambda: retries(admin, "connect") >= 2)
            with RealServer(redis_server.binary, ["--unixsocket", str(path)]):
                client.expect(b":1\r\n:2\r\n")


def test_a_connection_that_was_lost_is_not_made_again(tmp_path, redis_server: RealServer, mode: str) -> None:
    """Its session ends, for the next one begins anew."""
    port, admin = free_port(), free_port()
    with RealServer(redis_server.binary) as server, ProxyProcess(
        topology(port, RETRY, sink(server, mode)), observed(admin),
        expect=["connection was unexpectedly terminated"],
    ) as proxy:
        proxy.wait_ready()
        with Client(port) as client, Client(server.port) as direct:
            client.send(command("BLPOP", "no-such-list", "0"))
            eventually(lambda: blocked(direct))
            direct.send(command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))
            assert b"The other side of this connection closed the connection" in client.until(b"\r\n")
            client.eof()
            assert retries(admin, "connect") == 0


def blocked(direct: Client) -> bool:
    """Whether a client of the server waits in a command."""
    direct.send(command("INFO", "clients") + command("ECHO", "|end|"))
    return b"blocked_clients:1" in direct.until(b"|end|\r\n")


def test_an_access_log_has_every_request_through_rotation_and_reload(
    redis_server: RealServer, tmp_path, mode: str
) -> None:
    """What was written before a file was moved is there; both processes write to the one at the path."""
    port, path = free_port(), tmp_path / "access.log"
    log = f'AccessLog: {{name: "access", path: "{path}", keys: "first", client_address: true}}'
    with ProxyProcess(
        topology(port, log, sink(redis_server, mode)), hotreload_socket=tmp_path / "control.sock"
    ) as proxy, Client(port) as client:
        client.ask(command("GET", "no-such-key"), b"$-1\r\n")
        eventually(lambda: path.read_bytes().endswith(b"\n"))
        path.rename(tmp_path / "moved")

        def is_there() -> bool:
            client.ask(command("ECHO", "x"), b"$1\r\nx\r\n")
            return path.exists()

        eventually(is_there)
        assert json.loads(proxy.reload("--json").stdout)["sessions"]["moved"] == 1
        client.ask(command("INCR", "no-such-key", "1"), b"-ERR wrong number of arguments for 'incr' command\r\n")
    moved, lines = (
        [json.loads(line) for line in file.read_text().splitlines()] for file in (tmp_path / "moved", path))
    assert {key: moved[0][key] for key in ("source", "client", "command", "key", "bytes_in", "bytes_out")} == {
        "source": "valkey", "client": "127.0.0.1", "command": "GET", "key": "no-such-key",
        "bytes_in": len(command("GET", "no-such-key")), "bytes_out": 5}
    assert {line["command"] for line in moved[1:] + lines[:-1]} == {"ECHO"}
    assert (lines[-1]["command"], lines[-1]["error"]) == (
        "INCR", "ERR wrong number of arguments for 'incr' command")


def switch(port: int, word: str) -> None:
    """Put the word to the switch of a fault injection."""
    urllib.request.urlopen(urllib.request.Request(
        f"http://127.0.0.1:{port}/transform/fault-injection/state", word.encode(), method="PUT"), timeout=10)


def test_faults_are_injected_while_they_are_switched_on(redis_server: RealServer, tmp_path, mode: str) -> None:
    """Over HTTP; errors are answered, connections closed, and a successor begins as the file says."""
    port, control = free_port(), free_port()
    faults = (
        f'FaultInjection: {{name: "chaos", enabled: false, switch_port: {control}, faults: ['
        '{kind: error, percentage: 100, commands: [GET], error: "LOADING injected"}, '
        '{kind: close, percentage: 100, commands: [SET], when: after}, '
        '{kind: delay, percentage: 100, commands: [ECHO], delay_ms: 300}]}')
    read, write = command("GET", "injected"), command("SET", "injected", "x")
    with ProxyProcess(
        topology(port, faults, sink(redis_server, mode)), hotreload_socket=tmp_path / "control.sock"
    ) as proxy, Client(port) as client, Client(port) as other, Client(redis_server.port) as direct:
        direct.send(command("DEL", "injected"))
        direct.until(b"\r\n")
        client.ask(read, b"$-1\r\n")
        eventually(lambda: switch(control, "on") is None)
        client.ask(read, b"-LOADING injected\r\n")
        before = time.monotonic()
        client.ask(command("ECHO", "x"), b"$1\r\nx\r\n")
        assert time.monotonic() - before > 0.29
        other.send(write)
        other.eof()
        direct.ask(read, b"$1\r\nx\r\n")
        # The other session still waits for its client to close.
        assert json.loads(proxy.reload("--json").stdout)["sessions"]["moved"] == 1
        client.ask(read, b"$1\r\nx\r\n")
        switch(control, "on")
        client.ask(read, b"-LOADING injected\r\n")
        direct.ask(command("DEL", "injected"), b":1\r\n")
