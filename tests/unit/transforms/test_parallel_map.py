"""ParallelMap asks several copies of a chain at once, and answers in the order of the requests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gevent.event import Event

from shotover_gevent.chain import Batch, Message, SessionContext, TransformConfig
from shotover_gevent.chain.chain import ChainConfig
from shotover_gevent.codecs.resp import RESP
from shotover_gevent.metrics import MetricStore
from shotover_gevent.transforms.parallel_map import ParallelMap
from shotover_gevent.transforms.query_counter import QueryCounter
from tests.client import command
from tests.inprocess import Answerer, Step, connect, keeps_descriptors, serving


@pytest.fixture(autouse=True)
def descriptors_are_kept() -> Iterator[None]:
    """As many descriptors are open after a test as before."""
    with keeps_descriptors():
        yield


def key(requests: Batch) -> Batch:
    """Each request answered by its key."""
    return Batch.of(RESP, [Message(RESP, frame=value[-1]) for value in requests.values])


def mapped(*steps: TransformConfig, parallelism: int = 3, ordered: bool = True) -> ParallelMap:
    """Copies of that chain."""
    return ParallelMap(name="m", parallelism=parallelism, ordered_results=ordered, chain=steps)


def gets(*keys: str) -> bytes:
    """Requests that arrive together."""
    return b"".join(command("GET", each) for each in keys)


def bulk(*keys: str) -> bytes:
    """Their answers."""
    return b"".join(b"$%d\r\n%b\r\n" % (len(each), each.encode()) for each in keys)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_round_is_asked_at_once_and_answered_in_order(ordered: bool) -> None:
    """The first request is answered last; the next round begins when all of the first are answered."""
    asked: list[bytes] = []
    second = Event()

    def answer(requests: Batch) -> Batch:
        asked.append(requests.values[0][1])
        if requests.values[0][1] == b"a":
            second.wait()
        elif requests.values[0][1] == b"b":
            second.set()
        return key(requests)

    sink = Answerer(name="sink", answer=answer)
    with serving(mapped(sink, parallelism=2, ordered=ordered)) as source, connect(source) as client:
        client.ask(gets("a", "b", "c", "d", "e"), bulk("a", "b", "c", "d", "e"))
    assert asked == [b"a", b"b", b"c", b"d", b"e"]


def test_a_copy_that_fails_fails_the_run() -> None:
    """Each request of it gets the error, when all of the round have ended."""
    ended: list[bytes] = []

    def answer(requests: Batch) -> Batch:
        if requests.values[0][1] == b"b":
            raise ValueError("broken")
        ended.append(requests.values[0][1])
        return key(requests)

    sink = Answerer(name="sink", answer=answer)
    with serving(mapped(sink)) as source, connect(source) as client:
        client.send(gets("a", "b", "c", "d"))
        lines = [client.until(b"\r\n") for _ in range(4)]
        client.eof()
    assert (len(set(lines)), ended) == (1, [b"a", b"c"])
    assert lines[0].endswith(b"Transform Answerer named sink failed in chain m[1]     2: broken\r\n")


def test_copies_are_made_when_they_are_needed() -> None:
    """A client that sends single requests has one."""
    made: list[str] = []

    def note(context: SessionContext) -> None:
        made.append(context.chain)

    chain = mapped(Step(name="s", made=note), Answerer(name="sink", answer=key))
    with serving(chain) as source, connect(source) as client:
        for _ in range(2):
            client.ask(gets("a"), bulk("a"))
        assert made == ["m[0]"]
        client.ask(gets("a", "b"), bulk("a", "b"))
        assert made == ["m[0]", "m[1]"]


def test_each_copy_has_its_own_chain_metrics_and_shares_what_has_one_name() -> None:
    """The chains are counted apart, under their numbers."""
    metrics = MetricStore()
    ChainConfig("v", "Valkey", [mapped(
        QueryCounter(name="q", counter_name="main"), Answerer(name="sink", answer=key))], metrics)
    family = {f.name: f for f in metrics.families()}
    chains = [dict(labels)["chain"] for labels in family["shotover_chain_total_count"].children]
    assert (chains, len(family["shotover_query_count"].children)) == (["v", "m[0]", "m[1]", "m[2]"], 1)


@pytest.mark.parametrize(
    ("parallelism", "problem"),
    [(1, []), (1024, []), (0, ["ParallelMap:", "  parallelism must be greater than 0"]),
     (4_000_000_000, ["ParallelMap:", "  parallelism must be at most 1024"])])
def test_a_parallelism_that_cannot_be_meant_is_refused(parallelism: int, problem: list[str]) -> None:
    """Without copies nothing is answered; each copy is a connection of every client."""
    assert mapped(parallelism=parallelism).problems() == problem
