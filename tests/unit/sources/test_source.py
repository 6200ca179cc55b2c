"""A source counts its clients, keeps to its limit, and ends its sessions at a pace."""

from __future__ import annotations

import logging
import socket

import gevent
import pytest
from gevent.event import Event

from shotover_gevent.chain import Batch
from shotover_gevent.deadline import Deadline
from shotover_gevent.metrics import Histogram
from shotover_gevent.net.address import Address
from shotover_gevent.net.listener import bind
from shotover_gevent.sinks.debug_returner import DebugReturner
from shotover_gevent.sources import source as module
from shotover_gevent.sources.source import Runtime, Source
from tests.client import Client, command
from tests.inprocess import Answerer, Step, connect, serving, until

PING, PONG = command("PING"), b"$4\r\npong\r\n"
SINK = DebugReturner(name="sink", Valkey="pong")


def clients(source: Source, count: int) -> list[Client]:
    """Clients that were served, in the order in which they came."""
    made = []
    for _ in range(count):
        client = connect(source)
        client.ask(PING, PONG)
        made.append(client)
    return made


def numbers(source: Source) -> dict[str, float]:
    """The metrics of the source itself."""
    return {
        family.name: sum(metric.counts) if isinstance(metric, Histogram) else metric.value
        for family in source.runtime.metrics.families() for metric in family.children.values()
        if not family.name.startswith(("shotover_chain", "shotover_transform"))}


def test_the_metrics_of_a_source_follow_its_clients() -> None:
    """All are there from the start; what is left below the limit goes down and up again."""
    with serving(SINK, connection_limit=3) as source:
        before = numbers(source)
        first, second = clients(source, 2)
        during = numbers(source)
        first.close()
        until(lambda: len(source.sessions) == 1)
        after = numbers(source)
        second.close()
    assert before == {
        "connections_opened": 0, "shotover_connections_accept_failures_count": 0,
        "shotover_listener_create_failures_count": 0, "shotover_sink_to_source_latency_seconds": 0,
        "shotover_available_connections_count": 3, "shotover_gevent_sessions": 0,
        "shotover_gevent_bytes_received_count": 0, "shotover_gevent_bytes_sent_count": 0,
        "shotover_gevent_protocol_errors_count": 0, "shotover_gevent_sessions_ended_count": 0}
    assert [
        (each["connections_opened"], each["shotover_available_connections_count"]) for each in (during, after)
    ] == [(2, 1), (2, 2)]


def test_bytes_ends_and_protocol_errors_are_counted() -> None:
    """What is read from clients and sent to them, whatever it is, and why sessions end."""
    refusal = b"-ERR Protocol error: expected '$', got '!'\r\n"
    with serving(SINK) as source:
        first, second = clients(source, 2)
        first.close()
        second.ask(b"*1\r\n!x\r\n", refusal)
        second.eof()
        second.close()
        until(lambda: not source.sessions)
    ended = {reason.value: counter.value for reason, counter in source.ended.items() if counter.value}
    assert ended == {"client closed": 1, "malformed request": 1}
    assert source.protocol_errors.value == 1
    assert source.bytes_received.value == 2 * len(PING) + 8
    assert source.bytes_sent.value == 2 * len(PONG) + len(refusal)


def test_a_drain_goes_chunk_by_chunk_oldest_first(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The lines are Shotover's; between two chunks lies the pace."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module, "DRAIN_CHUNK_S", 0.0625)
    with serving(SINK) as source:
        found = clients(source, 5)
        listener = source.address
        source.retire(has_successor=True)
        caplog.clear()
        draining = gevent.spawn(source.drain, 0.1875)
        for client in found:
            client.eof()
            client.close()
        draining.get(timeout=5)
        ended = [r.fields["id"] for r in caplog.records if r.message == "session closed"]  # type: ignore
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", listener.port))
    said = [r for r in caplog.records if r.message.startswith("[s]")]
    times = [r.created for r in said if " Draining " in r.message]
    assert [r.message for r in said] == [
        "[s] Gradual shutdown initiated - draining connections over 187.5ms",
        "[s] Will drain 2 connections per chunk over 3 chunks (200ms per chunk)",
        "[s] Draining 2 out of 5 connections", "[s] 3 connections remaining after drain",
        "[s] Draining 2 out of 3 connections", "[s] 1 connections remaining after drain",
        "[s] Draining 1 out of 1 connections", "[s] 0 connections remaining after drain",
        "[s] All connections drained, shutting down"]
    chunks = [sorted(ended[:2]), sorted(ended[2:4]), ended[4:]]
    assert (chunks, [later - earlier >= 0.06 for earlier, later in zip(times, times[1:])]) == (
        [[1, 2], [3, 4], [5]], [True, True])


def test_a_drain_without_clients_ends_at_once() -> None:
    """There is nothing to wait for."""
    with serving(SINK) as source, gevent.Timeout(1.0):
        source.drain(60)


def test_sessions_that_leave_by_themselves_do_not_hold_up_a_drain() -> None:
    """A client may go before its turn comes."""
    with serving(SINK) as source:
        found = clients(source, 3)
        draining = gevent.spawn(source.drain, 0.6)
        for client in found:
            client.close()
        draining.get(timeout=5)
    assert source.sessions == {}


def test_a_drain_is_bounded(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A session that never comes to a boundary is ended when the time is over."""
    monkeypatch.setattr(module, "CHUNK_WAIT_S", 0.1)

    def hang(requests: Batch) -> Batch:
        Event().wait()
        return requests

    with serving(Answerer(name="h", answer=hang)) as source, connect(source) as client:
        client.send(PING)
        until(lambda: source.sessions)
        draining = gevent.spawn(source.drain, 0)
        client.eof()
        draining.get(timeout=5)
    assert caplog.messages == ["1 sessions did not end in time and are closed"]


def test_a_source_that_was_never_started_closes_its_listener() -> None:
    """The address can be bound at once."""
    source = Source(
        Runtime(), type_name="Valkey", name="s", listen_addr=Address("127.0.0.1", 0), chain=(SINK,))
    source.open()
    address = source.address
    source.close()
    bind(address).close()


def test_an_adopted_listener_is_served(caplog: pytest.LogCaptureFixture) -> None:
    """The socket of a predecessor is taken as it is, and owned."""
    caplog.set_level(logging.INFO)
    sock = bind(Address("127.0.0.1", 0))
    address = Address.of(sock.getsockname())
    source = Source(Runtime(), type_name="Valkey", name="s", listen_addr=address, chain=(SINK,))
    source.open(sock)
    source.start()
    with connect(source) as client:
        client.ask(PING, PONG)
    source.stop(Deadline.after(1.0))
    source.close()
    assert (source.address, caplog.messages[:2]) == (
        address, [f"Starting Valkey source on [{address}]",
                  f"Using hot reloaded listener for s source on [{address}]"])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed")
def test_a_transform_that_hangs_while_it_closes_keeps_nothing_open() -> None:
    """The session is ended at the deadline, and its client is closed explicitly."""
    closing = Event()
    seen = []

    def hang() -> None:
        closing.set()
        Event().wait()

    with serving(Step(name="a", closed=hang), SINK) as source:
        with connect(source) as client:
            client.ask(PING, PONG)
            seen.append(next(iter(source.sessions))._client)
        closing.wait()
        source.stop(Deadline.after(0))
        is_closed = seen[0].is_closed
        seen.pop().close()
    assert is_closed
