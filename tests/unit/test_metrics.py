"""The store of metrics: plain numbers under names and labels."""

from __future__ import annotations

import pytest

from shotover_gevent.metrics import Histogram, MetricStore


def test_the_same_name_and_labels_are_the_same_metric() -> None:
    """Asking again gives the metric that is there; other labels give another."""
    store = MetricStore()
    first = store.counter("c", "help", source="a")
    first.value += 2
    again, other = store.counter("c", "help", source="a"), store.counter("c", "help", source="b")
    assert (again is first, again.value, other.value) == (True, 2, 0)


def test_a_gauge_reads_when_it_is_asked() -> None:
    """A later reader replaces the earlier one."""
    store = MetricStore()
    gauge = store.gauge("g", "help", lambda: 1, source="a")
    before = gauge.value
    store.gauge("g", "help", lambda: 2, source="a")
    assert (before, gauge.value) == (1, 2)


def test_a_histogram_counts_into_the_first_bound_that_holds() -> None:
    """A bound belongs to its own bucket; what is above all of them goes to the last."""
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.5):
        histogram.observe(value)
    assert (histogram.counts, histogram.total) == ([2, 1, 1], 5.5)


def test_a_name_has_one_kind() -> None:
    """A counter's name cannot be used for a histogram."""
    store = MetricStore()
    store.counter("c", "help")
    with pytest.raises(ValueError) as caught:
        store.histogram("c", "help")
    assert str(caught.value) == "metric c is a counter, not a histogram"


def test_families_come_in_the_order_of_first_use() -> None:
    """A family may be added while they are gone through."""
    store = MetricStore()
    store.counter("z", "help")
    store.counter("a", "help")
    names = []
    for family in store.families():
        names.append(family.name)
        store.counter("later", "help")
    assert names == ["z", "a"]
