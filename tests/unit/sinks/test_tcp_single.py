"""TcpSinkSingle keeps what comes down for the relay, and pushes what the relay gives it."""

from __future__ import annotations

import pytest

from shotover_gevent.chain import Batch
from shotover_gevent.chain.chain import ChainConfig
from shotover_gevent.codecs.raw import RAW
from shotover_gevent.errors import UpstreamError, causes
from shotover_gevent.metrics import MetricStore
from shotover_gevent.sinks.tcp_single import TcpSink, TcpSinkSingle
from tests.inprocess import ScriptedServer, Step, session_context


def test_bytes_go_down_and_up_through_the_chain() -> None:
    """What came down is taken once; what is pushed arrives at the top, changed on the way."""
    arrived: list[bytes] = []
    louder = Step(
        name="l", run=lambda requests, next: next(Batch(RAW, requests.raw.upper(), ())),
        pushed=lambda pushes, forward: forward(Batch(RAW, pushes.raw + b"!", ())))
    sink_config = TcpSinkSingle(name="t", remote_address="127.0.0.1:1", connect_timeout_ms=1)
    config = ChainConfig("c", "Tcp", [louder, sink_config], MetricStore())
    chain = config.session(session_context(emit=lambda pushes: arrived.append(pushes.raw)))
    sink = chain.transforms[-1]
    assert isinstance(sink, TcpSink)
    answers = [len(chain.run(Batch(RAW, raw, ()))) for raw in (b"ab", b"c")]
    taken = [sink.take_outgoing(), sink.take_outgoing()]
    sink.push_bytes(b"up")
    chain.close()
    assert (answers, taken, arrived) == ([0, 0], [b"ABC", b""], [b"up!"])


def test_the_sink_owns_the_connection() -> None:
    """It closes what it has opened, once."""
    with ScriptedServer(lambda client: client.expect(b"")) as server:
        sink = TcpSinkSingle(name="t", remote_address=str(server.address), connect_timeout_ms=1000).session(
            session_context())
        stream = sink.connect()
        before = (sink.stream is stream, stream.is_closed)
        sink.close()
        sink.close()
    assert (before, stream.is_closed) == ((True, False), True)


def test_a_server_that_cannot_be_reached_is_an_error() -> None:
    """Nothing is left open, and the texts are Shotover's."""
    with ScriptedServer(lambda client: None) as server:
        address = server.address
    sink = TcpSinkSingle(name="t", remote_address=str(address), connect_timeout_ms=1000).session(session_context())
    with pytest.raises(UpstreamError) as caught:
        sink.connect()
    sink.close()
    assert list(causes(caught.value)) == [
        f"Failed to connect to destination {address}", "Connection refused (os error 111)"]


def test_the_address_needs_a_host_and_a_port() -> None:
    """What is wrong with it is a problem of the field."""
    texts = [
        TcpSinkSingle(name="t", remote_address=text, connect_timeout_ms=1).problems()
        for text in ("db:1", "db")]
    assert texts == [
        [], ["TcpSinkSingle:", "  remote_address: 'db' has no port; write host:port, e.g. 10.0.0.1:9042"]]
