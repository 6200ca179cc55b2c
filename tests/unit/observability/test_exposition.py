"""The text of the metrics, name by name."""

from __future__ import annotations

import math
import time

import gevent
import pytest
from gevent.event import AsyncResult
from prometheus_client import CollectorRegistry, generate_latest

from shotover_gevent.metrics import MetricStore
from shotover_gevent.observability.metrics import (
    HubLag,
    ProcessMetrics,
    StoreCollector,
    exposition,
)


@pytest.fixture
def store() -> MetricStore:
    """One metric of each kind, with labels that need care."""
    store = MetricStore()
    store.counter("connections_opened", "Connections accepted", source="v").value += 3
    store.counter("shotover_query_count", "Queries", name="q", query="GET", type="valkey").value += 1
    store.counter("shotover_query_count", "Queries", name='a"b\\c\nd')
    store.gauge("shotover_available_connections_count", "Free\nslots \\", lambda: 511, source="v")
    sizes = store.histogram("shotover_chain_requests_batch_size", "Sizes", (1.0, 2.0), chain="v")
    for value in (1, 1, 2, 7):
        sizes.observe(value)
    store.histogram("shotover_bare_seconds", "No labels", (0.00005,))
    return store


TEXT = r"""# HELP connections_opened Connections accepted
# TYPE connections_opened counter
connections_opened{source="v"} 3
# HELP shotover_query_count Queries
# TYPE shotover_query_count counter
shotover_query_count{name="q",query="GET",type="valkey"} 1
shotover_query_count{name="a\"b\\c\nd"} 0
# HELP shotover_available_connections_count Free\nslots \\
# TYPE shotover_available_connections_count gauge
shotover_available_connections_count{source="v"} 511
# HELP shotover_chain_requests_batch_size Sizes
# TYPE shotover_chain_requests_batch_size histogram
shotover_chain_requests_batch_size_bucket{chain="v",le="1.0"} 2
shotover_chain_requests_batch_size_bucket{chain="v",le="2.0"} 3
shotover_chain_requests_batch_size_bucket{chain="v",le="+Inf"} 4
shotover_chain_requests_batch_size_sum{chain="v"} 11.0
shotover_chain_requests_batch_size_count{chain="v"} 4
# HELP shotover_bare_seconds No labels
# TYPE shotover_bare_seconds histogram
shotover_bare_seconds_bucket{le="5e-05"} 0
shotover_bare_seconds_bucket{le="+Inf"} 0
shotover_bare_seconds_sum 0.0
shotover_bare_seconds_count 0
"""


def test_the_text_has_shotovers_names(store: MetricStore) -> None:
    """Names have no suffix, labels are in the order of declaration, values are escaped."""
    assert "".join(exposition(store)) == TEXT


def test_numbers_that_are_none(store: MetricStore) -> None:
    """What is not a number is written as Prometheus reads it."""
    store = MetricStore()
    for name, value in (("a", math.inf), ("b", -math.inf), ("c", math.nan), ("d", 0.5)):
        store.gauge("g", "h", lambda value=value: value, which=name)  # type: ignore[misc]
    assert "".join(exposition(store)).splitlines()[2:] == [
        'g{which="a"} +Inf', 'g{which="b"} -Inf', 'g{which="c"} NaN', 'g{which="d"} 0.5']


def test_a_metric_may_appear_while_the_text_is_made(store: MetricStore) -> None:
    """Other greenlets run between two pieces, and may add metrics."""
    seen = []
    for number, piece in enumerate(exposition(store)):
        seen.append(piece)
        store.counter(f"new{number}", "help")
        if number:  # the children of a family are taken when their turn comes
            store.counter("connections_opened", "Connections accepted", source=f"new{number}")
    assert "".join(seen) == TEXT


def test_a_host_can_collect_into_its_own_registry(store: MetricStore) -> None:
    """The collector gives the library the same samples under the same names."""
    registry = CollectorRegistry()
    registry.register(StoreCollector(store))
    lines = generate_latest(registry).decode().replace("untyped", "counter").splitlines()
    assert [line.replace(".0", "") for line in sorted(lines)] == [
        line.replace(".0", "") for line in sorted(TEXT.splitlines())]


def test_the_numbers_of_the_process() -> None:
    """Memory, descriptors, CPU time and start time, under the names of the library."""
    lines = ProcessMetrics().exposition().splitlines()
    assert sorted(line.split()[0] for line in lines if not line.startswith("#")) == [
        "process_cpu_seconds_total", "process_max_fds", "process_open_fds",
        "process_resident_memory_bytes", "process_start_time_seconds",
        "process_virtual_memory_bytes",
    ]


def test_the_lag_is_how_late_the_hub_is() -> None:
    """A greenlet that runs without waiting shows in the next measurement."""
    measured: AsyncResult[float] = AsyncResult()
    lag = HubLag(measured.set, interval_s=0.001)
    lag.start()
    gevent.sleep(0)
    time.sleep(0.05)
    late = measured.get(timeout=5)
    lag.close()
    assert 0.04 < late < 5
