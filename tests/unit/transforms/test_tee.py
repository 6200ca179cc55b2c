"""A Tee asks two chains, and gives the client the responses of one of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import gevent
import pytest
from gevent.event import Event

from shotover_gevent.chain import Batch, Message
from shotover_gevent.chain.chain import ChainConfig
from shotover_gevent.chain.handoff import Luggage
from shotover_gevent.codecs.resp import RESP
from shotover_gevent.metrics import MetricStore
from shotover_gevent.sinks.valkey_single import ValkeySinkSingle
from shotover_gevent.sources.source import Source
from shotover_gevent.transforms.tee import ResultSource, Tee
from tests.client import Client, command
from tests.inprocess import (
    Answerer,
    ScriptedServer,
    Step,
    connect,
    keeps_descriptors,
    serving,
    until,
)

MISMATCH = (
    b"-ERR The responses from the Tee subchain and down-chain did not match and behavior is set to "
    b"fail on mismatch\r\n")


@pytest.fixture(autouse=True)
def descriptors_are_kept() -> Iterator[None]:
    """As many descriptors are open after a test as before."""
    with keeps_descriptors():
        yield


def answering(text: bytes, asked: list[bytes] | None = None, before: Callable[[], object] = int) -> Answerer:
    """A sink that answers every request by that status; what it is asked goes to ``asked``."""

    def answer(requests: Batch) -> Batch:
        before()
        if asked is not None:
            asked.append(requests.raw)
        return Batch.of(RESP, [Message(RESP, b"+" + text + b"\r\n") for _ in range(len(requests))])

    return Answerer(name=f"answers-{text.decode()}", answer=answer)


def failing(error: Exception) -> Answerer:
    """A sink that fails."""

    def answer(requests: Batch) -> Batch:
        raise error

    return Answerer(name="fails", answer=answer)


def dropped(source: Source) -> int:
    """How many batches the Tees of a source have dropped."""
    return source.runtime.metrics.counter(
        "shotover_tee_dropped_messages_count", "", chain="Tee").value


def runs(source: Source, chain: str) -> int:
    """How often a chain has run."""
    return source.runtime.metrics.counter("shotover_chain_total_count", "", chain=chain).value


@pytest.mark.parametrize(
    "behavior", [None, "Ignore", "LogWarningOnMismatch", "FailOnMismatch",
                 {"SubchainOnMismatch": {"chain": [failing(ValueError("not asked"))]}}], ids=str)
def test_equal_chains_answer_as_one(behavior: object) -> None:
    """Both are asked, the client is answered once, whatever is to be done about a mismatch."""
    asked: list[bytes] = []
    tee = Tee(name="t", behavior=behavior, chain=[answering(b"a", asked)])
    with serving(tee, answering(b"a")) as source, connect(source) as client:
        client.ask(command("GET", "k") * 2, b"+a\r\n" * 2)
        client.ask(command("PING"), b"+a\r\n")
        until(lambda: len(asked) == 2)
    assert asked == [command("GET", "k") * 2, command("PING")]


@pytest.mark.parametrize(
    ("result_source", "answer"), [(ResultSource.REGULAR, b"a"), (ResultSource.TEE, b"b")], ids=str)
@pytest.mark.parametrize("behavior", ["Ignore", "LogWarningOnMismatch"])
def test_the_result_source_answers(
    behavior: str, result_source: ResultSource, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The client gets the responses of the chain that is chosen; a mismatch is told in three lines."""
    tee = Tee(name="t", behavior=behavior, chain=[answering(b"b")])
    with serving(tee, answering(b"a")) as source, connect(source) as client:
        tee.switch_to(result_source)
        client.ask(command("GET", "k"), b"+" + answer + b"\r\n")
    other = "ba"["ab".index(answer.decode())]
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert told == ([] if behavior == "Ignore" else [
        f'Tee mismatch:\nresult-source response: Valkey SimpleString(b"{answer.decode()}")\n'
        f'other response: Valkey SimpleString(b"{other}")'])


def test_a_mismatch_fails_its_request_only() -> None:
    """The others of the batch keep their responses."""

    def by_name(requests: Batch) -> Batch:
        return Batch.of(RESP, [Message(RESP, b"+%s\r\n" % name) for name in requests.names])

    tee = Tee(name="t", behavior="FailOnMismatch", chain=[answering(b"GET")])
    with serving(tee, Answerer(name="names", answer=by_name)) as source, connect(source) as client:
        client.ask(command("GET", "k") + command("SET", "k", "v") + command("GET", "k"),
                   b"+GET\r\n" + MISMATCH + b"+GET\r\n")


def test_requests_of_a_mismatch_go_down_the_mismatch_chain() -> None:
    """As they were when they came to the Tee, whatever the chains made of them; nobody sees the answers."""
    asked: list[bytes] = []

    def spoil(requests: Batch, next: Callable[[Batch], Batch]) -> Batch:
        for request in requests:
            request.frame = [b"SPOILED"]
        return next(requests)

    def by_name(requests: Batch) -> Batch:
        return Batch.of(RESP, [Message(RESP, b"+%s\r\n" % name) for name in requests.names])

    behavior = {"SubchainOnMismatch": {"chain": [answering(b"unseen", asked)]}}
    tee = Tee(name="t", behavior=behavior, chain=[
        Step(name="spoils", run=spoil), Answerer(name="names", answer=by_name)])
    with serving(tee, answering(b"SPOILED")) as source, connect(source) as client:
        client.ask(command("GET", "k"), b"+SPOILED\r\n")
        tee.switch_to(ResultSource.TEE)
        client.ask(command("GET", "k"), b"+SPOILED\r\n")
        assert asked == []
    tee = Tee(name="t", behavior=behavior, chain=[answering(b"GET")])
    with serving(tee, Step(name="spoils", run=spoil), Answerer(name="names", answer=by_name)) as source:
        with connect(source) as client:
            client.ask(command("GET", "k"), b"+SPOILED\r\n")
        assert (asked, runs(source, "t.mismatch")) == ([command("GET", "k")], 1)


def test_a_stuck_tee_chain_holds_up_nobody_with_a_timeout() -> None:
    """What does not fit into its queue is dropped and counted."""
    go_on = Event()
    asked: list[bytes] = []
    tee = Tee(name="t", timeout_micros=1000, buffer_size=2, chain=[answering(b"b", asked, go_on.wait)])
    with serving(tee, answering(b"a")) as source:
        with connect(source) as client:
            for number in range(6):
                client.ask(command("SET", "k", str(number)), b"+a\r\n")
            assert dropped(source) == 3
            go_on.set()
        until(lambda: not source.sessions)
    assert asked == [command("SET", "k", str(number)) for number in range(3)]


def test_a_stuck_tee_chain_holds_up_its_client_without_a_timeout() -> None:
    """When its queue is full, the client waits; nothing is dropped."""
    go_on = Event()
    asked: list[bytes] = []
    tee = Tee(name="t", buffer_size=1, chain=[answering(b"b", asked, go_on.wait)])
    with serving(tee, answering(b"a")) as source, connect(source) as client:
        for _ in range(2):
            client.ask(command("PING"), b"+a\r\n")
        client.send(command("PING"))
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.05):
            client.receive(1)
        go_on.set()
        client.expect(b"+a\r\n")
        until(lambda: len(asked) == 3)
        assert dropped(source) == 0


def test_a_tee_chain_that_fails_is_no_matter_of_the_client(caplog: pytest.LogCaptureFixture) -> None:
    """With Ignore it is logged, in Shotover's words, and the next batch gets a new chain."""
    made: list[object] = []
    tee = Tee(name="t", chain=[Step(name="made", made=made.append), failing(ConnectionRefusedError(111, "x"))])
    with serving(tee, answering(b"a")) as source, connect(source) as client:
        client.ask(command("PING"), b"+a\r\n")
        until(lambda: len(made) == 2)
        client.ask(command("PING"), b"+a\r\n")
        until(lambda: len(made) == 3)
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert told == [
        'Internal error in buffered chain "t": Transform Step named made failed in chain t\n\nCaused by:\n'
        "    0: Transform Answerer named fails failed in chain t\n    1: Connection refused (os error 111)"]


@pytest.mark.parametrize("setup", [("SELECT", "3"), ("CLIENT", "REPLY", "OFF"), ("HELLO", "3")], ids=str)
def test_a_connection_that_was_set_up_is_not_replaced(setup: tuple[str, ...]) -> None:
    """What follows a SELECT would be written to another database: it is dropped and counted instead."""
    asked: list[bytes] = []

    def fail_once(requests: Batch) -> Batch:
        asked.append(requests.raw)
        if b"fail" in requests.raw:
            raise ConnectionResetError(104, "x")
        return Batch.of(RESP, [Message(RESP, b"+b\r\n")])

    tee = Tee(name="t", chain=[Answerer(name="x", answer=fail_once)])
    with serving(tee, answering(b"a")) as source, connect(source) as client:
        for request in (command(*setup), command("SET", "fail", "x"), command("SET", "k", "v")):
            client.ask(request, b"+a\r\n")
        until(lambda: dropped(source) == 1)
    assert asked == [command(*setup), command("SET", "fail", "x")]


def test_a_regular_chain_that_fails_is_no_matter_of_a_client_of_the_other() -> None:
    """It is not asked again, and counted; switched back, the session fails."""
    asked: list[bytes] = []

    def fail(requests: Batch) -> Batch:
        asked.append(requests.raw)
        raise ValueError("broken")

    tee = Tee(name="t", chain=[answering(b"b")])
    with serving(tee, Answerer(name="x", answer=fail)) as source, connect(source) as client:
        tee.switch_to(ResultSource.TEE)
        for _ in range(3):
            client.ask(command("PING"), b"+b\r\n")
        assert (len(asked), dropped(source)) == (1, 3)
        tee.switch_to(ResultSource.REGULAR)
        client.send(command("PING"))
        assert client.until(b"\r\n").endswith(b"the regular chain has failed before     2: "
                                              b"Transform Answerer named x failed in chain s     3: broken\r\n")


@pytest.mark.parametrize("behavior", ["LogWarningOnMismatch", "FailOnMismatch"])
@pytest.mark.parametrize("is_tee", [True, False])
def test_whoever_compares_needs_both(behavior: str, is_tee: bool) -> None:
    """A failure of either chain ends the session; the client is told which."""
    chains = [[failing(ValueError("broken"))], [answering(b"a")]]
    tee = Tee(name="t", behavior=behavior, chain=chains[not is_tee])
    with serving(tee, *chains[is_tee]) as source, connect(source) as client:
        client.send(command("PING"))
        said = client.until(b"\r\n")
        client.eof()
    where = "t" if is_tee else "s"
    assert said.endswith(
        b"0: Transform Tee named t failed in chain s     1: Transform Answerer named fails failed in chain "
        + where.encode() + b"     2: broken\r\n")


def test_what_is_queued_is_run_after_the_client_has_left() -> None:
    """A session has ended when the tee chain has answered everything that it was given."""
    go_on = Event()
    asked: list[bytes] = []
    tee = Tee(name="t", chain=[answering(b"b", asked, go_on.wait)])
    with serving(tee, answering(b"a")) as source:
        with connect(source) as client:
            for number in range(4):
                client.ask(command("SET", "k", str(number)), b"+a\r\n")
        assert asked == []
        go_on.set()
        until(lambda: not source.sessions)
        assert asked == [command("SET", "k", str(number)) for number in range(4)]


class Echoes:
    """A server that answers each line by itself and the number of its connection."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def __call__(self, client: Client) -> None:
        while line := client.receive(len(command("PING"))):
            self.lines.append(line)
            client.send(b"+%d\r\n" % len(self.lines))


def sink(name: str, server: ScriptedServer) -> ValkeySinkSingle:
    """A sink in front of the server."""
    return ValkeySinkSingle(name=name, remote_address=str(server.address), connect_timeout_ms=1000)


@pytest.mark.parametrize("behavior", ["Ignore", "FailOnMismatch"])
def test_a_session_moves_with_the_connections_of_both_chains(behavior: str) -> None:
    """The servers notice nothing: no new connection, and each request once."""
    first, second = Echoes(), Echoes()
    with ScriptedServer(first) as one, ScriptedServer(second) as other, ExitStack() as stack:
        here, there = [stack.enter_context(serving(
            Tee(name="t", behavior=behavior, chain=[sink("b", other)]), sink("a", one))) for _ in range(2)]
        client = stack.enter_context(connect(here))
        for number in range(1, 4):
            client.ask(command("PING"), b"+%d\r\n" % number)
        (session,) = here.sessions
        session.hold()
        until(lambda: session.is_held)
        state, luggage = session.export()
        moved = there.adopt(json.loads(json.dumps(state)), Luggage([s.dup() for s in luggage.sockets]))
        assert moved is not None
        moved.begin()
        session.moved()
        until(lambda: not here.sessions)
        for number in range(4, 7):
            client.ask(command("PING"), b"+%d\r\n" % number)
        until(lambda: len(second.lines) == 6)
        assert (one.connections, other.connections, len(first.lines)) == (1, 1, 6)


def test_a_session_whose_tee_chain_is_stuck_stays_and_goes_on() -> None:
    """It is busy until that has answered; its client notices nothing of being asked."""
    go_on = Event()
    tee = Tee(name="t", chain=[answering(b"b", before=go_on.wait)])
    with serving(tee, answering(b"a")) as source, connect(source) as client:
        client.ask(command("PING"), b"+a\r\n")
        (session,) = source.sessions
        assert not session.hold()
        session.release()
        client.ask(command("PING"), b"+a\r\n")
        session.hold()
        go_on.set()
        until(lambda: session.is_held)
        session.release()
        client.ask(command("PING"), b"+a\r\n")


def test_chains_have_the_names_of_their_tee() -> None:
    """Metrics of all chains are there from the start."""
    metrics = MetricStore()
    behavior = {"SubchainOnMismatch": {"chain": [answering(b"m")]}}
    ChainConfig("v", "Valkey", [Tee(name="t", behavior=behavior, chain=[answering(b"a")])], metrics)
    family = next(f for f in metrics.families() if f.name == "shotover_chain_total_count")
    assert [dict(labels)["chain"] for labels in family.children] == ["v", "t", "t.mismatch"]


def test_a_queue_without_a_place_is_refused() -> None:
    """Nothing would ever get into it."""
    tee = Tee(name="t", buffer_size=0, chain=[answering(b"a")])
    assert tee.problems() == ["Tee:", "  buffer_size must be greater than 0"]
