"""The samples of the last minutes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shotover_gevent.net.address import Address
from shotover_gevent.observability import history as module
from shotover_gevent.observability.history import COLUMNS, LENGTH, History
from shotover_gevent.sinks.debug_returner import DebugReturner
from shotover_gevent.sources.source import Runtime, Source


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the samples see; write to its only element."""
    now = [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def source() -> Source:
    """A source that is not started; the tests count for it."""
    return Source(
        Runtime(), type_name="Valkey", name="v", listen_addr=Address("127.0.0.1", 0),
        chain=(DebugReturner(name="sink", Valkey="x"),))


def since(history: History, number: int = 0) -> dict[str, Any]:
    """What the page would be told."""
    return dict(json.loads(history.since(number)))


def test_a_sample_is_what_has_happened_since_the_one_before(source: Source, clock: list[float]) -> None:
    """Rates by the second, latency of just those runs, and nothing where nothing ran."""
    history = History([source])
    clock[0] += 2
    source.chain.requests_size.observe(10)
    source.bytes_received.value += 100
    source.bytes_sent.value += 4000
    source.chain.latency.observe(0.0002)
    history.sample(0.0015)
    clock[0] += 1
    history.sample(0.0)
    told = since(history)
    assert (told["first"], told["next"], told["lag_ms"]) == (0, 2, [1.5, 0.0])
    assert told["sources"] == {"v": dict(zip(COLUMNS, (
        [5.0, 0.0], [0.175, None], [0.249, None], [50.0, 0.0], [2000.0, 0.0], [0.0, 0.0],
    ), strict=True))}


def test_only_what_is_new_is_told(source: Source, clock: list[float]) -> None:
    """From the number that the last answer named; all of it for a number of another process."""
    history = History([source])
    for _ in range(3):
        history.sample(0.0)
    counts = [(told["first"], len(told["lag_ms"])) for told in (since(history, n) for n in (0, 2, 3, 4))]
    assert counts == [(0, 3), (2, 1), (3, 0), (0, 3)]


def test_the_memory_is_bounded(source: Source, clock: list[float]) -> None:
    """The oldest samples make room."""
    history = History([source])
    for number in range(LENGTH + 25):
        history.sample(number / 1000)
    told = since(history)
    assert (told["first"], told["next"], told["lag_ms"][0], told["lag_ms"][-1]) == (
        25, LENGTH + 25, 25.0, LENGTH + 24.0)
