"""Coalesce has requests gathered until there are enough, or until a time is over."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from time import monotonic

import gevent
import pytest
from gevent.event import Event

from shotover_gevent.chain import Batch, Message, SessionContext
from shotover_gevent.chain.gathering import GATHER_BYTES
from shotover_gevent.codecs.resp import RESP
from shotover_gevent.config.topology import parse_topology
from shotover_gevent.deadline import Deadline
from shotover_gevent.errors import ConfigError
from shotover_gevent.sinks.valkey_single import ValkeySinkSingle
from shotover_gevent.sources.source import Source
from shotover_gevent.transforms.coalesce import Coalesce
from shotover_gevent.transforms.connection_pool import ConnectionBalanceAndPool
from shotover_gevent.transforms.tee import Tee
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

PING = command("PING")
PONG = b"+PONG\r\n"
# Longer than any test takes, and shorter than a client waits for an answer.
LONG_MS, SHORT_MS = 60_000, 50


@pytest.fixture(autouse=True)
def descriptors_are_kept() -> Iterator[None]:
    """As many descriptors are open after a test as before."""
    with keeps_descriptors():
        yield


class Pongs:
    """A sink that answers PONG, and notes how many requests each run had."""

    def __init__(self) -> None:
        self.runs: list[int] = []
        self.sink = Answerer(name="sink", answer=self.answer)

    def answer(self, requests: Batch) -> Batch:
        """Answer a run."""
        self.runs.append(len(requests))
        return Batch.of(RESP, [Message(RESP, PONG) for _ in range(len(requests))])


def coalesce(count: int | None = None, millis: int | None = None, name: str = "c") -> Coalesce:
    """One that flushes by these."""
    return Coalesce(
        name=name, flush_when_buffered_message_count=count, flush_when_millis_since_last_flush=millis)


def is_silent(client: Client) -> bool:
    """Whether nothing comes for a moment."""
    with gevent.Timeout(0.05, False):
        assert client.receive(1) == b""
    return True


def test_requests_go_down_when_there_are_enough() -> None:
    """However they were cut; all of them in one run, whose responses come in their order."""
    pongs = Pongs()
    with serving(coalesce(5, LONG_MS), pongs.sink) as source, connect(source) as client:
        client.send(PING * 2)
        client.send(PING * 2)
        assert is_silent(client)
        client.ask(PING * 3, PONG * 7)
        assert pongs.runs == [7]


def test_requests_go_down_when_the_time_is_over() -> None:
    """A request that comes alone waits for one period at most."""
    pongs = Pongs()
    with serving(coalesce(None, SHORT_MS), pongs.sink) as source, connect(source) as client:
        for _ in range(3):
            started = monotonic()
            client.ask(PING, PONG)
            assert monotonic() - started < 10 * SHORT_MS / 1000
        assert pongs.runs == [1, 1, 1]


def test_a_gathered_run_is_not_cut() -> None:
    """What was gathered on purpose goes down as one, from the first run on."""
    pongs = Pongs()
    with serving(coalesce(2000, LONG_MS), pongs.sink) as source, connect(source) as client:
        for _ in range(20):
            client.send(PING * 100)
        client.expect(PONG * 2000)
        assert pongs.runs == [2000]


def test_the_most_patient_of_several_decides() -> None:
    """The last one gets what it wants; the others are content with more."""
    pongs = Pongs()
    with serving(coalesce(2, LONG_MS), coalesce(4, LONG_MS, "d"), pongs.sink) as source:
        with connect(source) as client:
            client.send(PING * 3)
            assert is_silent(client)
            client.ask(PING, PONG * 4)
    assert pongs.runs == [4]


@pytest.mark.parametrize("ending", ["half-close", "malformed", "stop", "much"])
def test_what_was_gathered_goes_down_when_nothing_more_can_come(ending: str) -> None:
    """The client gets its answers, and everything was sent on before the end."""
    pongs = Pongs()
    with serving(coalesce(1000, LONG_MS), pongs.sink) as source, connect(source) as client:
        client.send(PING * 3)
        assert is_silent(client)
        if ending == "half-close":
            client.socket.shutdown(1)
        elif ending == "malformed":
            client.send(PING + b"*1\r\n!x\r\n")
        elif ending == "much":
            big = command("ECHO", "x" * (GATHER_BYTES // 8))
            for _ in range(9):
                client.send(big)
        else:
            gevent.spawn(source.stop, Deadline.after(5))
        client.expect(PONG * 3)
        if ending == "malformed":
            client.expect(PONG)
            assert client.until(b"\r\n").startswith(b"-ERR Protocol error")
    assert pongs.runs[0] >= 3


def test_a_client_that_was_lost_has_what_it_sent_sent_on() -> None:
    """As the database would have got it without this."""
    pongs = Pongs()
    with serving(coalesce(1000, LONG_MS), pongs.sink) as source:
        client = connect(source)
        client.send(PING * 3)
        assert is_silent(client)
        client.close()
        until(lambda: not source.sessions)
    assert pongs.runs == [3]


def test_nothing_is_answered_behind_the_request_that_ends_the_session() -> None:
    """As in a session that gathers nothing: a client has asked for its end by QUIT."""
    pongs = Pongs()
    contexts: list[SessionContext] = []

    def end(requests: Batch, next: Callable[[Batch], Batch]) -> Batch:
        contexts[0].end()
        client.send(PING)
        return next(requests)

    chain = [coalesce(2, LONG_MS), Step(name="s", made=contexts.append, run=end), pongs.sink]
    with serving(*chain) as source, connect(source) as client:
        client.ask(PING * 2, PONG * 2)
        client.eof()
    assert pongs.runs == [2]


def test_a_session_that_has_gathered_something_runs_it_before_it_is_held() -> None:
    """It is busy until then; afterwards it can move, and released it goes on."""
    pongs = Pongs()
    with serving(coalesce(10, LONG_MS), pongs.sink) as source, connect(source) as client:
        client.send(PING * 3)
        (session,) = until(lambda: list(source.sessions))
        until(lambda: session.park is not None and session.park.is_idle and not session.is_idle)
        assert not session.hold()
        until(lambda: session.is_held)
        client.expect(PONG * 3)
        state, luggage = session.export()
        session.release()
        client.send(PING * 10)
        client.expect(PONG * 10)
        assert (pongs.runs, state["chain"][0], len(luggage.sockets)) == ([3, 10], {}, 1)


def test_pushes_do_not_wait() -> None:
    """What nobody asked for arrives while requests are gathered."""
    subscribed = b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"
    message = b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\n1\r\n"
    gathered = Event()

    def script(client: Client) -> None:
        client.expect(command("SUBSCRIBE", "a"))
        client.send(subscribed)
        gathered.wait()
        client.send(message)
        client.expect(PING * 2)
        client.send(PONG * 2)

    with ScriptedServer(script) as server:
        sink = ValkeySinkSingle(name="v", remote_address=str(server.address), connect_timeout_ms=1000)
        with serving(coalesce(2, 200), sink) as source, connect(source) as client:
            client.ask(command("SUBSCRIBE", "a"), subscribed)
            gathered.set()
            client.expect(message)
            client.ask(PING * 2, PONG * 2)


def tee_of(*steps: Coalesce | Answerer) -> Tee:
    """A Tee that waits for nothing."""
    return Tee(name="t", buffer_size=2, chain=steps)


def test_a_sub_chain_gathers_for_itself() -> None:
    """The client of a Tee is answered at once; the copies go down together, and at its end."""
    regular, copies = Pongs(), Pongs()
    with serving(tee_of(coalesce(10), copies.sink), regular.sink) as source:
        with connect(source) as client:
            for _ in range(24):
                client.ask(PING, PONG)
            assert copies.runs == [10, 10]
        until(lambda: not source.sessions)
    assert (copies.runs, regular.runs) == ([10, 10, 4], [1] * 24)


def test_whoever_waits_for_a_sub_chain_gets_its_own_part() -> None:
    """Of a run that the batches of several clients share."""
    runs: list[int] = []

    def answer(requests: Batch) -> Batch:
        runs.append(len(requests))
        return Batch.of(RESP, [Message(RESP, frame=value[-1]) for value in requests.values])

    sink = Answerer(name="sink", answer=answer)
    shared = ConnectionBalanceAndPool(name="p", max_connections=1, chain=[coalesce(3, LONG_MS), sink])
    with serving(shared) as source, connect(source) as one, connect(source) as other:
        one.send(command("GET", "a") + command("GET", "b"))
        assert is_silent(one)
        other.ask(command("GET", "c"), b"$1\r\nc\r\n")
        one.expect(b"$1\r\na\r\n$1\r\nb\r\n")
    assert runs == [3]


@pytest.mark.parametrize(
    ("make", "is_told"),
    [(lambda sink: [coalesce(10), sink], True), (lambda sink: [coalesce(10, 100), sink], False),
     (lambda sink: [tee_of(coalesce(10), sink), sink], False),
     (lambda sink: [Tee(name="t", behavior="FailOnMismatch", chain=[coalesce(10), sink]), sink], True)])
def test_a_client_that_might_wait_for_ever_is_warned_of(
    make: Callable[[Answerer], list[object]], is_told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """At the start; not where nobody waits."""
    with serving(*make(Pongs().sink)):  # type: ignore[arg-type]
        pass
    assert [r.getMessage()[:51] for r in caplog.records if r.levelno == logging.WARNING] == [
        "Coalesce named c gathers until 10 requests have com"] * is_told


def test_what_cannot_end_is_refused_in_the_words_of_shotover() -> None:
    """Neither field, or no time."""
    with pytest.raises(ConfigError) as caught:
        parse_topology("""
sources:
  - Valkey:
      name: "foo"
      listen_addr: "127.0.0.1:0"
      chain:
        - Coalesce: {name: "c"}
        - Coalesce: {name: "d", flush_when_millis_since_last_flush: 0}
        - NullSink: {name: "sink"}
""")
    assert caught.value.chain == ("""Topology errors
foo source:
  foo chain:
    Coalesce:
      Provide at least one of:
      * flush_when_buffered_message_count
      * flush_when_millis_since_last_flush (must be greater than 0)
    
      But none of them were provided.
      Check https://shotover.io/docs/latest/transforms.html#coalesce for more information.
    Coalesce:
      flush_when_millis_since_last_flush must be greater than 0 when set.
      Check https://shotover.io/docs/latest/transforms.html#coalesce for more information.
""",)


def sessions_of(source: Source) -> list[str]:
    """The types of the sessions of a source."""
    return [type(each).__name__ for each in source.sessions]


def test_a_chain_without_it_has_ordinary_sessions() -> None:
    """It costs those nothing who do not use it, and a Tee's is the Tee's alone."""
    found = []
    for chain in ([Pongs().sink], [tee_of(coalesce(10), Pongs().sink), Pongs().sink],
                  [coalesce(1), Pongs().sink]):
        with serving(*chain) as source, connect(source) as client:
            client.ask(PING, PONG)
            found += sessions_of(source)
    assert found == ["Session", "Session", "GatheringSession"]
