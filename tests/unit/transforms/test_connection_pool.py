"""ConnectionBalanceAndPool lets all clients share a few connections."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from shotover_gevent.chain.handoff import Luggage, Pinned
from shotover_gevent.deadline import Deadline
from shotover_gevent.sinks.valkey_single import ValkeySinkSingle
from shotover_gevent.transforms.connection_pool import ConnectionBalanceAndPool
from tests.client import Client, command
from tests.inprocess import ScriptedServer, connect, keeps_descriptors, serving, until

PING = command("PING")


@pytest.fixture(autouse=True)
def descriptors_are_kept() -> Iterator[None]:
    """As many descriptors are open after a test as before."""
    with keeps_descriptors():
        yield


class Numbered:
    """A server that answers every request with the number of its connection."""

    def __init__(self) -> None:
        self.connections = 0

    def __call__(self, client: Client) -> None:
        self.connections += 1
        answer = b"+%d\r\n" % self.connections
        while client.receive(len(PING)):
            client.send(answer)


def pool(server: ScriptedServer, count: int) -> ConnectionBalanceAndPool:
    """That many connections to the server."""
    sink = ValkeySinkSingle(name="v", remote_address=str(server.address), connect_timeout_ms=1000)
    return ConnectionBalanceAndPool(name="p", max_connections=count, chain=[sink])


def test_the_first_clients_connect_and_later_ones_share_in_turn() -> None:
    """However many there are; a connection stays when its first client has gone."""
    with ScriptedServer(Numbered()) as server, serving(pool(server, 2)) as source, ExitStack() as stack:
        found = []
        for number in range(5):
            client = stack.enter_context(connect(source))
            client.send(PING)
            found.append(client.receive(4))
            if number == 0:
                client.close()
                until(lambda: not source.sessions)
        assert (found, server.connections) == ([b"+1\r\n", b"+2\r\n", b"+1\r\n", b"+2\r\n", b"+1\r\n"], 2)


def test_a_lost_connection_is_replaced() -> None:
    """Whoever was waiting is told; the next one is served."""
    answers = iter([b"", b"+ok\r\n"])

    def script(client: Client) -> None:
        client.expect(PING)
        if answer := next(answers):
            client.send(answer)
            client.eof()

    with ScriptedServer(script) as server, serving(pool(server, 1)) as source:
        with connect(source) as client:
            client.send(PING)
            assert client.until(b"\r\n").startswith(b"-ERR Internal shotover")
        with connect(source) as client:
            client.ask(PING, b"+ok\r\n")
        source.stop(Deadline.after(1))
        source.close()


def test_a_session_that_shares_stays_with_its_process() -> None:
    """The others use the connection."""
    with ScriptedServer(Numbered()) as server, serving(pool(server, 1)) as source, connect(source) as client:
        client.ask(PING, b"+1\r\n")
        (session,) = source.sessions
        assert session._chain is not None
        with pytest.raises(Pinned) as caught:
            session._chain.export(Luggage())
    assert caught.value.reason == "it shares its connection"


def test_at_least_one_connection_is_wanted() -> None:
    """Without one nothing would ever be answered."""
    none = ConnectionBalanceAndPool(name="p", max_connections=0, chain=[])
    assert none.problems() == ["ConnectionBalanceAndPool:", "  max_connections must be greater than 0"]
