"""Sub-chains with real servers: mirrored, compared, gathered, and moved by reloads."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from shotover_gevent.testing.server import RealServer
from tests.harness import CONFIG, Client, ProxyProcess, command, eventually, free_port
from tests.integration.load import Load
from tests.integration.test_live_sessions import STATES

PONG = b"+PONG\r\n"


@pytest.fixture
def servers(redis_server: RealServer) -> Iterator[tuple[RealServer, RealServer]]:
    """Two empty servers that say what is in them."""
    binary, arguments = redis_server.binary, ["--enable-debug-command", "yes"]
    with RealServer(binary, arguments) as first, RealServer(binary, arguments) as second:
        yield first, second


def sink(name: str, server: RealServer | int, mode: str) -> dict[str, Any]:
    """A sink in front of a server, or of a port."""
    port = server if isinstance(server, int) else server.port
    return {"ValkeySinkSingle": {
        "name": name, "remote_address": f"127.0.0.1:{port}", "connect_timeout_ms": 3000,
        "connection_mode": mode}}


def topology(port: int, *chain: dict[str, Any]) -> str:
    """A source with that chain. YAML is a superset of JSON."""
    source = {"name": "v", "listen_addr": f"127.0.0.1:{port}", "chain": list(chain)}
    return json.dumps({"sources": [{"Valkey": source}]})


def tee(*chain: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A Tee into that chain."""
    return {"Tee": {"name": "tee", "chain": list(chain), **fields}}


def digest(server: RealServer) -> bytes:
    """What is in a server, in one word; the same for the same data only."""
    with Client(server.port) as client:
        client.send(command("DEBUG", "DIGEST"))
        return client.until(b"\r\n")


def get(server: RealServer, key: str) -> bytes:
    """The number at a key."""
    with Client(server.port) as client:
        client.send(command("GET", key))
        client.until(b"\r\n")
        return client.until(b"\r\n")


def reload(proxy: ProxyProcess) -> dict[str, Any]:
    """Reload; returns the report."""
    result = proxy.reload("--json")
    assert result.returncode == 0, result.stdout + result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


class Counting:
    """Clients that increment, each its own key, several times in a pipeline; they check every answer."""

    def __init__(self, port: int, clients: int = 4) -> None:
        self.port = port
        self.counts = [0] * clients
        self.errors: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._client, args=(n,)) for n in range(clients)]

    def _client(self, number: int) -> None:
        try:
            with Client(self.port) as client:
                while not self._stop.is_set():
                    before = self.counts[number]
                    client.ask(
                        command("INCR", f"n{number}") * 10,
                        b"".join(b":%d\r\n" % value for value in range(before + 1, before + 11)))
                    self.counts[number] += 10
        except Exception as error:
            self.errors.append(repr(error))

    def wait(self, count: int) -> None:
        """Wait until each client has counted so much further."""
        targets = [each + count for each in self.counts]
        eventually(lambda: self.errors or all(c >= t for c, t in zip(self.counts, targets)))

    def __enter__(self) -> Counting:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)


# -- mirroring ----------------------------------------------------------------------------------


@pytest.mark.parametrize("behavior", ["Ignore", "LogWarningOnMismatch"])
@pytest.mark.parametrize("gathered", [False, True])
def test_a_mirrored_load_leaves_both_servers_with_the_same_data(
    servers: tuple[RealServer, RealServer], behavior: str, gathered: bool, mode: str
) -> None:
    """Whether it is waited for or not, one by one or gathered; nothing is lost when clients leave."""
    first, second = servers
    port = free_port()
    coalesce = {"Coalesce": {
        "name": "c", "flush_when_buffered_message_count": 50, "flush_when_millis_since_last_flush": 20}}
    chain = [*([coalesce] if gathered else []), sink("second", second, mode)]
    with ProxyProcess(topology(port, tee(*chain, behavior=behavior), sink("first", first, mode))) as proxy:
        with Load(port, clients=4, connect_rate_s=0.05) as load:
            load.wait_requests(200 if gathered and behavior != "Ignore" else 2000)
        assert load.errors == []
        assert eventually(lambda: digest(first) == digest(second))
    assert proxy.returncode == 0


def test_a_mirrored_load_loses_nothing_in_reloads(
    servers: tuple[RealServer, RealServer], tmp_path: Any, mode: str
) -> None:
    """Every write arrives once at both servers; sessions move with both of their connections."""
    first, second = servers
    port = free_port()
    text = topology(port, tee(sink("second", second, mode), buffer_size=100), sink("first", first, mode))
    with ProxyProcess(text, hotreload_socket=tmp_path / "control.sock") as proxy:
        moved = 0
        with Counting(port) as load:
            for _ in range(5):
                load.wait(500)
                moved += reload(proxy)["sessions"]["moved"]
            load.wait(500)
        assert load.errors == []
        wanted = [b"%d\r\n" % count for count in load.counts]
        assert [get(first, f"n{number}") for number in range(4)] == wanted
        eventually(lambda: [get(second, f"n{number}") for number in range(4)] == wanted)
        assert moved > 0
        assert digest(first) == digest(second)


@pytest.mark.parametrize("kind", ["tee", "map"])
def test_sessions_with_sub_chains_move_in_every_state(
    servers: tuple[RealServer, RealServer], tmp_path: Any, kind: str, mode: str
) -> None:
    """As those without do: twelve connections in twelve states go on where they were."""
    first, second = servers
    port = free_port()
    if kind == "tee":
        chain = [tee(sink("second", second, mode)), sink("first", first, mode)]
    else:
        chain = [{"ParallelMap": {
            "name": "map", "parallelism": 1, "ordered_results": True, "chain": [sink("first", first, mode)]}}]
    with ProxyProcess(topology(port, *chain), hotreload_socket=tmp_path / "control.sock") as proxy, \
            ExitStack() as stack:
        clients = {name: stack.enter_context(Client(port)) for name in STATES}
        steps = {name: STATES[name](client, first) for name, client in clients.items()}
        for step in steps.values():
            next(step)
        eventually(lambda: len(clients) == sum("New connection" in e.message for e in proxy.events))
        reports = [reload(proxy)["sessions"] for _ in range(3)]
        for step in steps.values():
            next(step, None)
    assert [(each["moved"], each["drained"]) for each in reports] == [(len(STATES), 0)] * 3


@contextmanager
def stopped(server: RealServer) -> Iterator[None]:
    """The server does nothing until the end of the block."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def metric(admin: int, name: str) -> float:
    """The value of a metric."""
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=10) as response:
        text = response.read().decode()
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else -1.0


def test_a_second_server_that_is_stuck_holds_up_nobody(servers: tuple[RealServer, RealServer], mode: str) -> None:
    """With a timeout; what it does not take is counted, and it goes on when the server does."""
    first, second = servers
    port, admin = free_port(), free_port()
    config = CONFIG + f'observability_interface: "127.0.0.1:{admin}"\n'
    text = topology(
        port, tee(sink("second", second, mode), timeout_micros=1000, buffer_size=3), sink("first", first, mode))
    with ProxyProcess(text, config) as proxy:
        proxy.wait_ready()
        with Client(port) as client:
            client.ask(command("SET", "before", "x"), b"+OK\r\n")
            eventually(lambda: get(second, "before") == b"x\r\n")
            with stopped(second):
                started = time.monotonic()
                for number in range(300):
                    client.ask(command("SET", f"k{number}", "x"), b"+OK\r\n")
                assert time.monotonic() - started < 10
            # One under way, three queued.
            assert metric(admin, 'shotover_tee_dropped_messages_count{chain="Tee"}') == 296
            client.ask(command("SET", "after", "x"), b"+OK\r\n")
            eventually(lambda: get(second, "after") == b"x\r\n")


def test_a_second_server_that_cuts_a_connection_gets_another(
    servers: tuple[RealServer, RealServer], mode: str
) -> None:
    """Clients notice nothing of it, and need not connect again."""
    first, second = servers
    port = free_port()
    text = topology(port, tee(sink("second", second, mode)), sink("first", first, mode))
    with ProxyProcess(text, tolerate=['Internal error in buffered chain "tee"']), Client(port) as client:
        for number in range(3):

            def is_mirrored(number: int = number) -> bool:
                """What is under way when the connection is cut is lost; what comes later is not."""
                client.ask(command("SET", "a", str(number)), b"+OK\r\n")
                return get(second, "a") == b"%d\r\n" % number

            eventually(is_mirrored)
            with Client(second.port) as direct:
                direct.ask(command("CLIENT", "KILL", "TYPE", "normal"), b":1\r\n")


# -- comparing ----------------------------------------------------------------------------------


@pytest.fixture
def differing(servers: tuple[RealServer, RealServer]) -> tuple[RealServer, RealServer]:
    """Two servers that have the key ``same`` in common, and differ at ``k``."""
    for server, value in zip(servers, ("a", "b"), strict=True):
        with Client(server.port) as client:
            client.ask(command("MSET", "same", "s", "k", value), b"+OK\r\n")
    return servers


GETS = command("GET", "same") + command("GET", "k") + command("GET", "same")
A, B, SAME = b"$1\r\na\r\n", b"$1\r\nb\r\n", b"$1\r\ns\r\n"
MISMATCH = (
    b"-ERR The responses from the Tee subchain and down-chain did not match and behavior is set to "
    b"fail on mismatch\r\n")


@pytest.mark.parametrize(
    ("behavior", "answer"), [("Ignore", A), ("LogWarningOnMismatch", A), ("FailOnMismatch", MISMATCH),
                             ("SubchainOnMismatch", A)])
def test_each_behavior_does_what_it_says(
    differing: tuple[RealServer, RealServer], behavior: str, answer: bytes, mode: str
) -> None:
    """With chains that agree on the first and the last request, and not on the one between them."""
    first, second = differing
    port = free_port()
    mismatch = {"SubchainOnMismatch": {"chain": [
        {"DebugPrinter": {"name": "print"}}, {"DebugReturner": {"name": "x", "Valkey": "unseen"}}]}}
    text = topology(
        port, tee(sink("second", second, mode), behavior=mismatch if behavior in mismatch else behavior),
        sink("first", first, mode))
    with ProxyProcess(text, tolerate=["^Tee mismatch:"]) as proxy, Client(port) as client:
        client.ask(GETS, SAME + answer + SAME)
    warned = [(e.level, e.target, e.message) for e in proxy.events if e.message.startswith("Tee")]
    printed = [e.message for e in proxy.events if e.message.startswith("Request")]
    assert (warned, printed) == (
        [("WARN", "shotover::transforms::tee",
          'Tee mismatch:\nresult-source response: Valkey BulkString(b"a")\n'
          'other response: Valkey BulkString(b"b")')] * (behavior == "LogWarningOnMismatch"),
        ['Request: Valkey Array([BulkString(b"GET"), BulkString(b"k")])'] * (behavior in mismatch))


def ask_switch(port: int, value: str | None = None) -> tuple[int, str]:
    """The result source, or the answer to setting it."""
    url = f"http://127.0.0.1:{port}/transform/tee/result-source"
    request = urllib.request.Request(
        url, None if value is None else value.encode(), method="GET" if value is None else "PUT")
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize("behavior", ["Ignore", "LogWarningOnMismatch"])
def test_the_result_source_is_switched_over_http(
    differing: tuple[RealServer, RealServer], behavior: str, tmp_path: Any, mode: str
) -> None:
    """For clients that are connected, too; a reload keeps it, and the port open."""
    first, second = differing
    port, switch = free_port(), free_port()
    text = topology(
        port, tee(sink("second", second, mode), behavior=behavior, switch_port=switch), sink("first", first, mode))
    with ProxyProcess(
        text, hotreload_socket=tmp_path / "control.sock", tolerate=["^Tee mismatch:"]
    ) as proxy, Client(port) as client:
        found = [eventually(lambda: ask_switch(switch))]
        client.ask(command("GET", "k"), A)
        found += [ask_switch(switch, "tee-chain"), ask_switch(switch)]
        client.ask(command("GET", "k"), B)
        assert reload(proxy)["sessions"]["moved"] == 1
        found.append(ask_switch(switch))
        client.ask(command("GET", "k"), B)
        found += [ask_switch(switch, "both"), ask_switch(switch, "regular-chain")]
        client.ask(command("GET", "k"), A)
    assert found == [
        (200, "regular-chain"), (200, ""), (200, "tee-chain"), (200, "tee-chain"),
        (500, 'HTTP 500 error: Invalid value for result source: "both", should be '
              "'tee-chain' or 'regular-chain'"), (200, "")]


# -- the others ---------------------------------------------------------------------------------


def test_copies_of_a_chain_work_at_the_same_time(servers: tuple[RealServer, RealServer], mode: str) -> None:
    """Each has a connection of its own; when the server is away, every request is told."""
    first, _ = servers
    port = free_port()
    text = topology(port, {"ParallelMap": {
        "name": "map", "parallelism": 4, "ordered_results": False, "chain": [sink("first", first, mode)]}})
    with ProxyProcess(text, expect=["Internal error in buffered chain", "unexpectedly terminated"]):
        with Client(port) as client:
            client.ask(b"".join(command("SET", f"k{n}", str(n)) for n in range(10)), b"+OK\r\n" * 10)
            client.ask(b"".join(command("GET", f"k{n}") for n in range(10)),
                       b"".join(b"$1\r\n%d\r\n" % n for n in range(10)))
            client.send(command("CLIENT", "ID") * 4)
            assert len({client.until(b"\r\n") for _ in range(4)}) == 4
        first.stop()
        with Client(port) as client:
            client.send(command("PING") * 3)
            lines = [client.until(b"\r\n") for _ in range(3)]
            client.eof()
    assert all(line.endswith(b"Connection refused (os error 111)\r\n") for line in lines)


COALESCE = {"Coalesce": {
    "name": "c", "flush_when_buffered_message_count": 1000, "flush_when_millis_since_last_flush": 60_000}}


def test_gathered_requests_are_answered_before_their_session_moves(
    servers: tuple[RealServer, RealServer], tmp_path: Any, mode: str
) -> None:
    """A reload does not wait for the time of a Coalesce, and the client goes on in the new process."""
    first, _ = servers
    port = free_port()
    with ProxyProcess(
        topology(port, COALESCE, sink("first", first, mode)), hotreload_socket=tmp_path / "control.sock"
    ) as proxy, Client(port) as client:
        client.send(command("INCR", "n") * 3)
        time.sleep(0.1)
        report = reload(proxy)
        client.expect(b":1\r\n:2\r\n:3\r\n")
        client.ask(command("INCR", "n") * 1000, b"".join(b":%d\r\n" % n for n in range(4, 1004)))
    assert report["sessions"]["moved"] == 1


def test_pushes_do_not_wait_for_what_is_gathered(servers: tuple[RealServer, RealServer], mode: str) -> None:
    """A subscriber hears messages at once."""
    first, _ = servers
    port = free_port()
    chain = [{"Coalesce": {"name": "c", "flush_when_millis_since_last_flush": 300}}, sink("first", first, mode)]
    with ProxyProcess(topology(port, *chain)), Client(port) as client, Client(first.port) as direct:
        client.ask(command("SUBSCRIBE", "a"), b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n")
        for number in range(3):
            direct.ask(command("PUBLISH", "a", str(number)), b":1\r\n")
            client.expect(b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\n%d\r\n" % number)


def test_clients_share_the_connections_of_a_pool(
    servers: tuple[RealServer, RealServer], tmp_path: Any, mode: str
) -> None:
    """Two connections for all of them; their sessions stay with their process, and end with it."""
    first, _ = servers
    port = free_port()
    text = topology(port, {"ConnectionBalanceAndPool": {
        "name": "pool", "max_connections": 2, "chain": [sink("first", first, mode)]}})
    with ProxyProcess(text, hotreload_socket=tmp_path / "control.sock") as proxy:
        with Load(port, clients=6, connect_rate_s=0.05) as load:
            load.wait_requests(500)
        ids = set()
        with Client(port) as one, Client(port) as other, Client(port) as third:
            for client in (one, other, third):
                client.send(command("CLIENT", "ID"))
                ids.add(client.until(b"\r\n"))
            report = reload(proxy)
            assert (report["sessions"]["moved"], report["reasons"]) == (0, {"it shares its connection": 3})
        assert (load.errors, len(ids)) == ([], 2)
