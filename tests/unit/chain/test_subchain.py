"""A sub-chain runs beside its session, answers tickets, pushes by way of the session, and moves with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event

from shotover_gevent.chain import Batch, BuildContext, Message, SessionContext, TransformConfig
from shotover_gevent.chain import subchain as module
from shotover_gevent.chain.handoff import Luggage, Pinned
from shotover_gevent.chain.subchain import SubChain, SubChainConfig, join
from shotover_gevent.codecs.resp import RESP, RequestDecoder
from shotover_gevent.deadline import Deadline
from shotover_gevent.errors import TransformError, UpstreamClosed
from shotover_gevent.metrics import MetricStore
from shotover_gevent.sinks.valkey_single import ValkeySinkSingle
from shotover_gevent.transforms.parallel_map import ParallelMap
from tests.client import Client, command
from tests.inprocess import (
    Answerer,
    ScriptedServer,
    Step,
    connect,
    keeps_descriptors,
    serving,
    session_context,
    until,
)

PING = command("PING")
HELLO = b"%1\r\n$5\r\nproto\r\n:3\r\n"
INVALIDATE = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"


@pytest.fixture(autouse=True)
def descriptors_are_kept() -> Iterator[None]:
    """As many descriptors are open after a test as before."""
    with keeps_descriptors():
        yield


def echo(requests: Batch) -> Batch:
    """Each request answered by its own bytes."""
    return Batch.of(requests.codec, [Message(requests.codec, m.raw) for m in requests])


def sink(answer: Callable[[Batch], Batch] = echo) -> Answerer:
    """A sink of that function."""
    return Answerer(name="sink", answer=answer)


def config(*steps: TransformConfig, **options: Any) -> SubChainConfig:
    """A sub-chain of these steps, for all sessions."""
    return SubChainConfig(BuildContext(MetricStore(), "c", "Valkey"), "sub", steps, **options)


def requests(text: bytes, count: int = 1) -> Batch:
    """A batch of inline requests."""
    return RequestDecoder().feed((text + b"\r\n") * count)


@pytest.fixture
def context() -> SessionContext:
    """The parent of the sub-chains of a test; they are ended with it."""
    return session_context()


@pytest.fixture(autouse=True)
def ended(context: SessionContext) -> Iterator[None]:
    """Nothing runs on after a test."""
    yield
    for each in context.inner:
        each.close()
    join(context.inner, 5)


# -- tickets ------------------------------------------------------------------------------------


def test_a_ticket_gives_the_responses_to_its_batch(context: SessionContext) -> None:
    """Batches are run one by one, in their order, in another greenlet."""
    asked: list[tuple[bytes, bool]] = []
    here = gevent.getcurrent()

    def answer(batch: Batch) -> Batch:
        asked.append((batch.raw, gevent.getcurrent() is here))
        return echo(batch)

    chain = config(sink(answer), size=2).session(context)
    tickets = [chain.submit(requests(text)) for text in (b"A", b"B")]
    assert ([ticket.wait().raw for ticket in tickets], asked) == (
        [b"A\r\n", b"B\r\n"], [(b"A\r\n", False), (b"B\r\n", False)])


def test_a_full_queue_lets_nobody_in(context: SessionContext) -> None:
    """``offer`` says so at once, ``submit`` after its time, in the words of Shotover."""
    go_on = Event()
    chain = config(sink(lambda batch: go_on.wait() and echo(batch)), size=1).session(context)
    chain.submit(requests(b"A"))
    until(lambda: chain.offer(requests(b"B")))
    with pytest.raises(TransformError) as caught:
        chain.submit(requests(b"C"), timeout_s=0.01)
    offered = chain.offer(requests(b"D"))
    go_on.set()
    assert (str(caught.value), offered) == (
        "Couldn't send message to wrapped chain timed out waiting on send operation", None)


def test_a_failure_is_raised_where_somebody_waits(
    context: SessionContext, caplog: pytest.LogCaptureFixture
) -> None:
    """The next batch gets a chain of its own, and the failed one was closed."""
    closed: list[bytes] = []

    def answer(batch: Batch) -> Batch:
        if batch.raw.startswith(b"FAIL"):
            raise ValueError("broken")
        return echo(batch)

    chain = config(Step(name="s", closed=lambda: closed.append(b"closed")), sink(answer)).session(context)
    with pytest.raises(TransformError):
        chain.submit(requests(b"FAIL")).wait()
    answered = chain.submit(requests(b"A")).wait().raw
    assert (answered, closed, [r.getMessage().split(":")[0] for r in caplog.records]) == (
        b"A\r\n", [b"closed"], ['Internal error in buffered chain "sub"'])


def test_what_fails_again_and_again_is_logged_once_in_a_while(
    context: SessionContext, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that is down must not fill the log."""

    def fail(batch: Batch) -> Batch:
        raise ValueError("broken")

    chain = config(sink(fail)).session(context)
    for _ in range(20):
        with pytest.raises(TransformError):
            chain.submit(requests(b"A")).wait()
    assert len(caplog.records) == 1


def test_the_end_of_a_session_passes_unlogged(
    context: SessionContext, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that closes is no failure."""

    def end(batch: Batch) -> Batch:
        raise UpstreamClosed("closed")

    chain = config(sink(end)).session(context)
    with pytest.raises(UpstreamClosed):
        chain.submit(requests(b"A")).wait()
    assert caplog.records == []


# -- ends ---------------------------------------------------------------------------------------


def test_a_closed_sub_chain_finishes_what_is_queued(
    context: SessionContext, caplog: pytest.LogCaptureFixture
) -> None:
    """Then it closes its transforms, and takes nothing more."""
    caplog.set_level(logging.INFO, module.logger.name)
    asked: list[bytes] = []
    chain = config(
        Step(name="s", closed=lambda: asked.append(b"closed")),
        sink(lambda batch: asked.append(batch.raw) or echo(batch)), size=3,  # type: ignore[func-returns-value]
    ).session(context)
    for text in (b"A", b"B", b"C"):
        chain.submit(requests(text))
    chain.close()
    join([chain], 5)
    with pytest.raises(TransformError) as caught:
        chain.submit(requests(b"D"))
    assert (asked, caplog.messages, str(caught.value)) == (
        [b"A\r\n", b"B\r\n", b"C\r\n", b"closed"], ["Buffered chain sub was shutdown"],
        "Couldn't send message to wrapped chain channel closed")


def test_a_sub_chain_that_does_not_finish_is_ended(
    context: SessionContext, caplog: pytest.LogCaptureFixture
) -> None:
    """What it had is counted as dropped, and whoever waits is told."""
    closed: list[bytes] = []
    forever = config(
        Step(name="s", closed=lambda: closed.append(b"closed")), sink(lambda batch: Event().wait()), size=5)
    chain = forever.session(context)
    tickets = [chain.submit(requests(b"A")) for _ in range(3)]
    gevent.sleep(0)
    chain.close()
    join([chain], 0.0)
    for ticket in tickets:
        with pytest.raises(TransformError):
            ticket.wait()
    assert (forever.dropped.value, closed, caplog.messages) == (
        3, [b"closed"], ["Buffered chain sub was ended with 3 batches in it"])


def test_a_sub_chain_that_was_never_asked_is_closed_at_once(context: SessionContext) -> None:
    """It has no greenlet that would have to end."""
    closed: list[bytes] = []
    chain = config(Step(name="s", closed=lambda: closed.append(b"closed")), sink()).session(context)
    chain.close()
    assert closed == [b"closed"]


def test_a_stopped_source_ends_sub_chains_that_are_stuck() -> None:
    """A database that never answers does not keep the process."""
    with ScriptedServer(lambda client: client.expect(PING) or client.eof()) as server:
        stuck = ParallelMap(
            name="m", parallelism=1, ordered_results=True, chain=[valkey(server)])
        with serving(stuck) as source:
            client = connect(source)
            client.send(PING)
            until(lambda: server.connections)
            source.stop(Deadline.after(0.05))
            assert not source.sessions
            client.close()


# -- a database below ---------------------------------------------------------------------------


def valkey(server: ScriptedServer) -> ValkeySinkSingle:
    """A sink in front of the server."""
    return ValkeySinkSingle(name="v", remote_address=str(server.address), connect_timeout_ms=1000)


def one(*steps: TransformConfig) -> ParallelMap:
    """A transform that asks a single sub-chain, and waits for it."""
    return ParallelMap(name="m", parallelism=1, ordered_results=True, chain=steps)


def test_pushes_keep_their_place_and_leave_while_idle() -> None:
    """As if the database were asked by the session itself, and through the transforms above."""

    def script(client: Client) -> None:
        client.expect(command("HELLO", "3"))
        client.send(HELLO)
        client.expect(PING)
        client.send(INVALIDATE + b"+1\r\n" + INVALIDATE)
        go_on.wait()
        client.send(INVALIDATE * 2)
        client.expect(PING)
        client.send(INVALIDATE + b"+2\r\n")

    go_on, seen = Event(), []

    def pushed(pushes: Batch, forward: Callable[[Batch], None]) -> None:
        seen.append(pushes.raw)
        forward(pushes)

    with ScriptedServer(script) as server, serving(Step(name="a", pushed=pushed), one(valkey(server))) as source:
        with connect(source) as client:
            client.ask(command("HELLO", "3"), HELLO)
            client.ask(PING, INVALIDATE + b"+1\r\n" + INVALIDATE)
            go_on.set()
            client.expect(INVALIDATE * 2)
            client.ask(PING, INVALIDATE + b"+2\r\n")
    assert seen == [INVALIDATE] * 5


def test_a_push_does_not_wait_for_a_request_that_waits_for_others() -> None:
    """It leaves before the response that nobody knows the time of."""
    received = Event()

    def script(client: Client) -> None:
        client.expect(command("HELLO", "3"))
        client.send(HELLO)
        client.expect(command("BLPOP", "q", "0"))
        client.send(INVALIDATE)
        received.wait()
        client.send(b"_\r\n")

    with ScriptedServer(script) as server, serving(one(valkey(server))) as source, connect(source) as client:
        client.ask(command("HELLO", "3"), HELLO)
        client.send(command("BLPOP", "q", "0"))
        client.socket.settimeout(2)
        try:
            client.expect(INVALIDATE)
        finally:
            received.set()
        client.expect(b"_\r\n")


def test_pushes_through_two_sub_chains_arrive() -> None:
    """Each hands them to the one above it."""

    def script(client: Client) -> None:
        client.expect(command("HELLO", "3"))
        client.send(HELLO)
        client.send(INVALIDATE)

    with ScriptedServer(script) as server:
        outer = ParallelMap(name="o", parallelism=1, ordered_results=True, chain=[one(valkey(server))])
        with serving(outer) as source, connect(source) as client:
            client.ask(command("HELLO", "3"), HELLO + INVALIDATE)


def test_a_client_that_leaves_ends_a_request_that_waits_for_others() -> None:
    """Nobody would get what comes: the connection to the database is closed, and nothing is taken."""

    def script(client: Client) -> None:
        client.expect(command("BLPOP", "q", "0"))
        client.eof()

    with ScriptedServer(script) as server, serving(one(valkey(server))) as source:
        with connect(source) as client:
            client.send(command("BLPOP", "q", "0"))
            until(lambda: server.connections)
        until(lambda: not source.sessions)


def test_the_end_of_the_database_is_that_of_the_client() -> None:
    """Where the sub-chain is all that there is, as after QUIT; not where it is one of two."""

    def script(client: Client) -> None:
        client.expect(command("QUIT"))
        client.send(b"+OK\r\n")

    with ScriptedServer(script) as server, serving(one(valkey(server))) as source, connect(source) as client:
        client.ask(command("QUIT"), b"+OK\r\n")
        client.eof()


def test_pushes_that_the_client_does_not_take_hold_up_the_database() -> None:
    """What is not delivered is at most one read; the rest stays where it is."""
    sent = [0]

    def script(peer: Client) -> None:
        peer.expect(command("HELLO", "3"))
        peer.send(HELLO)
        peer.socket.settimeout(None)
        try:
            for _ in range(64):
                peer.send(INVALIDATE * 40_000)
                sent[0] += 1
        except OSError:
            pass

    with ScriptedServer(script) as server, serving(one(valkey(server))) as source:
        with connect(source) as client:
            client.ask(command("HELLO", "3"), HELLO)
            before = -1
            while before != sent[0]:
                before = sent[0]
                gevent.sleep(0.2)
            assert sent[0] < 64
        source.stop(Deadline.after(0.1))


# -- moving -------------------------------------------------------------------------------------


def test_a_busy_sub_chain_does_not_move(context: SessionContext) -> None:
    """Nor does one with something in its queue; when both are over, it does."""
    go_on = Event()
    chain = config(sink(lambda batch: go_on.wait() and echo(batch)), size=2).session(context)
    chain.submit(requests(b"A"))
    chain.hold()
    with pytest.raises(Pinned) as caught:
        chain.export(Luggage())
    go_on.set()
    until(lambda: chain.is_idle)
    assert (caught.value.reason, chain.export(Luggage())) == (
        "busy", {"chain": [{}], "is_set_up": False, "is_lost": False})


def test_a_sub_chain_goes_on_elsewhere_as_if_it_had_not_moved() -> None:
    """With its connection; a push that comes meanwhile arrives there. The other one says nothing."""
    steps: list[Any] = []
    seen: list[bytes] = []
    moved = Event()

    def script(client: Client) -> None:
        client.expect(command("HELLO", "3"))
        client.send(HELLO)
        moved.wait()
        client.send(INVALIDATE)
        client.expect(PING)
        client.send(b"+1\r\n")

    with ScriptedServer(script) as server:
        sub = SubChainConfig(BuildContext(MetricStore(), "c", "Valkey"), "sub", [valkey(server)])
        old_parent, new_parent = session_context(), session_context()
        new_parent.send_pushed = lambda: seen.append(new_parent.take_pushed())
        old = sub.session(old_parent)
        hello = Batch(RESP, command("HELLO", "3"), [[b"HELLO", b"3"]])
        assert old.submit(hello).wait().raw == HELLO
        old.hold()
        until(lambda: old.is_idle)
        luggage = Luggage()
        state = old.export(luggage)
        new = sub.session(new_parent)
        copies = Luggage([sock.dup() for sock in luggage.sockets])
        new.adopt(state, copies)
        new.hold()
        moved.set()
        gevent.sleep(0.05)
        steps.append((seen[:], old._context.pushed, new._context.pushed))
        old.close()
        join([old], 5)
        new.release()
        until(lambda: new._context.pushed)
        new_parent.deliver()
        steps.append(seen[:])
        steps.append(new.submit(Batch(RESP, PING, [[b"PING"]])).wait().raw)
        new.close()
        join([new], 5)
    assert steps == [([], [], []), [INVALIDATE], b"+1\r\n"]


def test_a_sub_chain_that_is_held_and_released_stays_what_it_was(context: SessionContext) -> None:
    """Being asked to move costs nothing but the moment."""
    chain: SubChain = config(sink()).session(context)
    for text in (b"A", b"B"):
        chain.hold()
        chain.release()
        assert chain.submit(requests(text)).wait().raw == text + b"\r\n"


# -- numbers ------------------------------------------------------------------------------------


def test_what_is_queued_and_under_way_is_counted() -> None:
    """Of all sessions together; nothing is left when they have ended, however they did."""
    metrics = MetricStore()
    go_on = Event()
    shared = SubChainConfig(
        BuildContext(metrics, "c", "Valkey"), "sub", [sink(lambda batch: go_on.wait() and echo(batch))],
        size=3)
    gauge = metrics.gauge("shotover_gevent_subchain_batches", "", lambda: shared.batches, chain="sub")
    one, other = (shared.session(session_context()) for _ in range(2))
    tickets = [one.submit(requests(b"A")) for _ in range(3)]
    other.submit(requests(b"B"))
    gevent.sleep(0)
    found = [gauge.value]
    other.close()
    join([other], 0.0)
    until(lambda: other.wait(0))
    found.append(gauge.value)
    go_on.set()
    for ticket in tickets:
        ticket.wait()
    one.close()
    join([one], 5)
    assert (found, gauge.value) == ([4, 3], 0)


def test_a_client_that_has_left_does_not_wait_for_a_place_for_ever(
    context: SessionContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that is stuck must not keep the sessions of all clients that come and go."""
    monkeypatch.setattr(module, "GONE_CHECK_S", 0.01)
    monkeypatch.setattr(module, "FINISH_S", 0.05)
    context.client_is_gone = lambda: True
    go_on = Event()
    chain = config(sink(lambda batch: go_on.wait() and echo(batch)), size=1).session(context)
    chain.submit(requests(b"A"))
    until(lambda: chain.offer(requests(b"B")))
    with gevent.Timeout(5), pytest.raises(TransformError) as caught:
        chain.submit(requests(b"C"))
    go_on.set()
    assert str(caught.value).endswith("timed out waiting on send operation")
