"""The transforms that need no database, through a running proxy."""

from __future__ import annotations

import re
import urllib.request

import pytest

from shotover_gevent.testing.server import RealServer
from tests.harness import CONFIG, Client, ProxyProcess, command, eventually, free_port

NULL_ERROR = b"-ERR Handled by shotover null transform\r\n"
FILTERED = b"-ERR Message was filtered out by shotover\r\n"

# What Shotover exports for QueryCounter and NullSink, before and after its first client. Its chain
# latency has the IP of the client for a label; here it has not, and is there from the start.
FAMILIES = {
    "connections_opened", "shotover_available_connections_count", "shotover_chain_failures_count",
    "shotover_chain_total_count", "shotover_chain_requests_batch_size",
    "shotover_chain_responses_batch_size", "shotover_query_count",
    "shotover_sink_to_source_latency_seconds", "shotover_connections_accept_failures_count",
    "shotover_listener_create_failures_count", "shotover_transform_failures_count",
    "shotover_transform_latency_seconds", "shotover_transform_total_count",
    "shotover_chain_latency_seconds",
}
# Ours: the event loop, the reload, and what every program exports about its process.
MORE_FAMILIES = {
    "shotover_gevent_sessions", "shotover_gevent_sessions_ended_count",
    "shotover_gevent_bytes_received_count", "shotover_gevent_bytes_sent_count",
    "shotover_gevent_protocol_errors_count", "shotover_gevent_build_info", "shotover_gevent_ready",
    "shotover_gevent_reload_timestamp_seconds", "shotover_gevent_reloads_count",
    "shotover_gevent_reload_sessions_count", "shotover_gevent_reload_longest_pause_seconds",
    "shotover_hub_lag_seconds", "process_virtual_memory_bytes", "process_resident_memory_bytes",
    "process_start_time_seconds", "process_cpu_seconds_total", "process_open_fds", "process_max_fds",
}


def topology(port: int, *steps: str) -> str:
    """A Valkey source named ``valkey`` with these steps."""
    chain = "".join(f"        - {step}\n" for step in steps)
    return f"""
sources:
  - Valkey:
      name: "valkey"
      listen_addr: "127.0.0.1:{port}"
      chain:
{chain}"""


def samples(port: int) -> tuple[set[str], dict[str, float]]:
    """The families on ``/metrics``, and the value of each sample."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        text = response.read().decode()
    families = set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return families, {name: float(value) for name, _, value in lines}


def test_the_metrics_are_those_of_shotover_and_some_of_ours() -> None:
    """The names before the first client and the numbers after it."""
    port, admin = free_port(), free_port()
    steps = ['QueryCounter: {name: "count", counter_name: "valkey-chain"}', 'NullSink: {name: "null"}']
    config = CONFIG + f'observability_interface: "127.0.0.1:{admin}"\n'
    with ProxyProcess(topology(port, *steps), config) as proxy:
        proxy.wait_ready()
        families, before = eventually(lambda: samples(admin))
        with Client(port) as client:
            client.ask(command("CLIENT", "SETINFO", "x", "y"), NULL_ERROR)
            client.ask(command("set", "k", "v") + command("GET", "k"), NULL_ERROR * 2)
            after = eventually(lambda: samples(admin)[1])
    wanted = {
        'connections_opened{source="valkey"}': (0, 1),
        'shotover_available_connections_count{source="valkey"}': (512, 511),
        'shotover_connections_accept_failures_count{source="valkey"}': (0, 0),
        'shotover_listener_create_failures_count{source="valkey"}': (0, 0),
        'shotover_chain_total_count{chain="valkey"}': (0, 2),
        'shotover_chain_failures_count{chain="valkey"}': (0, 0),
        'shotover_chain_requests_batch_size_sum{chain="valkey"}': (0, 3),
        'shotover_chain_responses_batch_size_sum{chain="valkey"}': (0, 3),
        'shotover_chain_latency_seconds_count{chain="valkey"}': (0, 2),
        'shotover_transform_total_count{transform="QueryCounter"}': (0, 2),
        'shotover_transform_total_count{transform="NullSink"}': (0, 2),
        'shotover_transform_failures_count{transform="QueryCounter"}': (0, 0),
        'shotover_transform_failures_count{transform="NullSink"}': (0, 0),
        'shotover_transform_latency_seconds_count{transform="QueryCounter"}': (0, 2),
        'shotover_transform_latency_seconds_count{transform="NullSink"}': (0, 2),
        'shotover_query_count{name="valkey-chain"}': (0, 0),
        'shotover_query_count{name="valkey-chain",query="CLIENT",type="valkey"}': (None, 1),
        'shotover_query_count{name="valkey-chain",query="SET",type="valkey"}': (None, 1),
        'shotover_query_count{name="valkey-chain",query="GET",type="valkey"}': (None, 1),
    }
    found = {name: (before.get(name), after.get(name)) for name in wanted}
    counted = {name for name in after if name.startswith("shotover_query_count")}
    assert (families, found, counted) == (
        FAMILIES | MORE_FAMILIES, wanted, {name for name in wanted if name.startswith("shotover_query_count")})


def test_a_printer_shows_requests_and_responses() -> None:
    """In Shotover's words, under its target, and nothing is changed."""
    port = free_port()
    steps = ['DebugPrinter: {name: "print"}', 'DebugReturner: {name: "return", Valkey: "42"}']
    with ProxyProcess(topology(port, *steps)) as proxy, Client(port) as client:
        client.ask(command("GET", "k") + b"ping\r\n", b"$2\r\n42\r\n" * 2)
        proxy.wait_log("^Response", count=2)
        said = [event for event in proxy.events if event.message.startswith(("Request", "Response"))]
    assert [(event.level, event.target, event.message) for event in said] == [
        ("INFO", "shotover::transforms::debug_printer", f"{what}: Valkey {text}") for what, text in (
            ("Request", 'Array([BulkString(b"GET"), BulkString(b"k")])'),
            ("Request", 'Array([BulkString(b"ping")])'),
            ("Response", 'BulkString(b"42")'), ("Response", 'BulkString(b"42")'))]


def test_a_returner_that_fails_closes_the_client() -> None:
    """Each request gets the error, one line is logged."""
    port = free_port()
    with ProxyProcess(
        topology(port, 'DebugReturner: {name: "fail", Fail: null}'),
        expect=["connection was unexpectedly terminated"],
    ) as proxy, Client(port) as client:
        client.send(command("GET", "k") * 2)
        client.expect(
            b"-ERR Internal shotover (or custom transform) bug (chain: valkey): Failed to send and/or receive "
            b"messages, the connection will now be closed.  Caused by:     0: Transform DebugReturner named "
            b"fail failed in chain valkey     1: Intentional Fail!\r\n" * 2)
        client.eof()
        event = proxy.wait_log("connection was unexpectedly terminated")
    assert event.message == (
        "connection was unexpectedly terminated\n\nCaused by:\n"
        "    0: Failed to send and/or receive messages, the connection will now be closed.\n"
        "    1: Transform DebugReturner named fail failed in chain valkey\n    2: Intentional Fail!")


@pytest.mark.parametrize(
    ("lists", "allowed"),
    [("DenyList: [Write]", "read"), ("AllowList: [Write]", "write"), ("AllowList: []", ""),
     ("DenyList: [SchemaChange]", "read write")])
def test_a_filter_lets_some_requests_pass(
    redis_server: RealServer, mode: str, lists: str, allowed: str
) -> None:
    """Each request of a pipeline has its own answer, at its place; two filters may follow each other."""
    port = free_port()
    steps = [
        f'QueryTypeFilter: {{name: "filter", {lists}}}',
        'QueryTypeFilter: {name: "second", DenyList: [ReadWrite]}',
        f'ValkeySinkSingle: {{name: "sink", remote_address: "127.0.0.1:{redis_server.port}",'
        f" connect_timeout_ms: 3000, connection_mode: {mode}}}",
    ]
    with ProxyProcess(topology(port, *steps)), Client(redis_server.port) as direct, Client(port) as client:
        direct.send(command("DEL", "filtered"))
        assert direct.receive(4) in (b":0\r\n", b":1\r\n")
        direct.ask(command("SET", "other", "x"), b"+OK\r\n")
        reads = b"$1\r\nx\r\n" if "read" in allowed else FILTERED
        writes = b"+OK\r\n" if "write" in allowed else FILTERED
        client.ask(
            command("GET", "other") + command("SET", "filtered", "y") + command("GET", "other"),
            reads + writes + reads)
        direct.ask(command("EXISTS", "filtered"), b":1\r\n" if "write" in allowed else b":0\r\n")
