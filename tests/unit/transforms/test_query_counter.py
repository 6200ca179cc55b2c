"""QueryCounter counts requests by command name, within bounds."""

from __future__ import annotations

import pytest

from shotover_gevent.chain.chain import ChainConfig
from shotover_gevent.codecs.resp import RequestDecoder
from shotover_gevent.metrics import MetricStore
from shotover_gevent.sinks.null import NullSink
from shotover_gevent.transforms import query_counter
from shotover_gevent.transforms.debug_printer import DebugPrinter
from shotover_gevent.transforms.query_counter import QueryCounter
from tests.client import command
from tests.inprocess import session_context


def counts(metrics: MetricStore) -> dict[tuple[str, ...], float]:
    """The label values of each counter, and its number."""
    family = next(f for f in metrics.families() if f.name == "shotover_query_count")
    return {tuple(value for _, value in key): metric.value for key, metric in family.children.items()}  # type: ignore


@pytest.mark.parametrize("before", [[], [DebugPrinter(name="p")]], ids=["alone", "behind a printer"])
def test_requests_are_counted_by_name(before: list[DebugPrinter]) -> None:
    """In upper case, for all sessions together, beginning at 0 without a name."""
    metrics = MetricStore()
    config = ChainConfig(
        "c", "Valkey", [*before, QueryCounter(name="q", counter_name="main"), NullSink(name="n")], metrics)
    at_start = counts(metrics)
    for requests in (command("get", "k") + command("SET", "k", "v"), b"GET k\r\n" + command(b"\xff\n")):
        config.session(session_context()).run(RequestDecoder().feed(requests))
    assert (at_start, counts(metrics)) == (
        {("main",): 0},
        {("main",): 0, ("main", "GET", "valkey"): 2, ("main", "SET", "valkey"): 1,
         ("main", "\\xff\n", "valkey"): 1})


def test_two_counters_of_one_chain_count_for_themselves() -> None:
    """Counters of the same name add to the same numbers, others do not."""
    metrics = MetricStore()
    steps = [QueryCounter(name=n, counter_name=c) for n, c in (("a", "x"), ("b", "x"), ("c", "y"))]
    chain = ChainConfig("c", "Valkey", [*steps, NullSink(name="n")], metrics).session(session_context())
    chain.run(RequestDecoder().feed(command("PING")))
    assert counts(metrics) == {
        ("x",): 0, ("y",): 0, ("x", "PING", "valkey"): 2, ("y", "PING", "valkey"): 1}


def test_clients_cannot_fill_the_memory_with_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names beyond a number, and names beyond a length, are counted together."""
    monkeypatch.setattr(query_counter, "MAX_NAMES", 2)
    metrics = MetricStore()
    config = ChainConfig("c", "Valkey", [QueryCounter(name="q", counter_name="m"), NullSink(name="n")], metrics)
    chain = config.session(session_context())
    for name in ("X" * 65, "A", "Y" * 64, "B", "C", "A", "C"):
        chain.run(RequestDecoder().feed(command(name)))
    assert counts(metrics) == {
        ("m",): 0, ("m", "other", "valkey"): 4, ("m", "A", "valkey"): 2, ("m", "Y" * 64, "valkey"): 1}
