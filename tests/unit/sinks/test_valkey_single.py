"""ValkeySinkSingle where there is no server."""

from __future__ import annotations

import pytest

from shotover_gevent.chain.chain import ChainConfig
from shotover_gevent.codecs.resp import RequestDecoder
from shotover_gevent.errors import NothingSent, ShotoverError, causes
from shotover_gevent.metrics import MetricStore
from shotover_gevent.sinks.valkey_single import ValkeySinkSingle
from tests.client import Client, command
from tests.inprocess import ScriptedServer, session_context

GET = command("GET", "k")


def test_a_server_that_cannot_be_reached_is_an_error() -> None:
    """The texts are Shotover's; nothing is left open."""
    with ScriptedServer(lambda client: None) as server:
        address = server.address
    sink = ValkeySinkSingle(name="v", remote_address=str(address), connect_timeout_ms=1000)
    chain = ChainConfig("c", "Valkey", [sink], MetricStore()).session(session_context())
    with pytest.raises(ShotoverError) as caught:
        chain.run(RequestDecoder().feed(GET))
    chain.close()
    assert list(causes(caught.value)) == [
        "Transform ValkeySinkSingle named v failed in chain c",
        f"Failed to connect to destination {address}", "Connection refused (os error 111)"]


def test_a_sink_that_could_not_connect_may_be_asked_again() -> None:
    """It says that nothing was sent, and asks the server when there is one."""
    with ScriptedServer(lambda client: None) as gone:
        address = gone.address

    def serve(client: Client) -> None:
        client.expect(GET)
        client.send(b"+late\r\n")

    config = ValkeySinkSingle(name="v", remote_address=str(address), connect_timeout_ms=1000)
    sink = config.session(session_context())
    for _ in range(2):
        with pytest.raises(NothingSent):
            sink.transform(RequestDecoder().feed(GET), lambda requests: requests)
    with ScriptedServer(serve, address.port):
        assert sink.transform(RequestDecoder().feed(GET), lambda requests: requests).raw == b"+late\r\n"
        sink.close()
