"""The numbers of a :class:`~shotover_gevent.metrics.MetricStore`, for Prometheus.

The text is written here and not by ``prometheus_client``, which appends ``_total`` to the names of
counters and sorts labels: Shotover's names and the order of its labels are what dashboards know.
The library supplies the numbers of the process (memory, descriptors, CPU, start time); it is
imported when that is asked for, since it costs 80 ms.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

import gevent

from shotover_gevent.metrics import Family, Histogram, Metric, MetricStore

#: The text format of Prometheus, version 0.0.4.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

HUB_LAG = "shotover_hub_lag_seconds"
HUB_LAG_HELP = "How late the event loop wakes a greenlet that asked to sleep for a second"
# Often enough to catch a stall that lasts, seldom enough to cost nothing.
HUB_LAG_INTERVAL_S = 1.0

Labels = tuple[tuple[str, str], ...]

_LABEL_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_HELP_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n"})


def exposition(store: MetricStore) -> Iterator[str]:
    """The text of all metrics, in pieces of one metric each.

    Between two pieces the caller may let other greenlets run: a proxy with many clients has tens
    of thousands of lines. Each piece is consistent in itself.
    """
    for family in store.families():
        yield (
            f"# HELP {family.name} {family.help.translate(_HELP_ESCAPES)}\n"
            f"# TYPE {family.name} {family.kind}\n"
        )
        for labels, metric in list(family.children.items()):
            yield _lines(family.name, labels, metric)


def _lines(name: str, labels: Labels, metric: Metric) -> str:
    text = ",".join(f'{key}="{value.translate(_LABEL_ESCAPES)}"' for key, value in labels)
    braces = f"{{{text}}}" if text else ""
    if not isinstance(metric, Histogram):
        return f"{name}{braces} {_number(metric.value)}\n"
    prefix = f"{text}," if text else ""
    counts = list(accumulate(metric.counts))
    buckets = [
        f'{name}_bucket{{{prefix}le="{_number(bound)}"}} {count}\n'
        for bound, count in zip((*metric.bounds, math.inf), counts, strict=True)
    ]
    sums = f"{name}_sum{braces} {_number(metric.total)}\n{name}_count{braces} {counts[-1]}\n"
    return "".join(buckets) + sums


def _number(value: float) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    return repr(value)


class ProcessMetrics:
    """Memory, descriptors, CPU time and start time of this process, in a registry of their own."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

        self._registry = CollectorRegistry()
        self._generate = generate_latest
        ProcessCollector(registry=self._registry)

    def exposition(self) -> str:
        """Their text."""
        return self._generate(self._registry).decode()


class StoreCollector:
    """For a program that embeds a proxy and has its own ``prometheus_client`` registry::

        registry.register(StoreCollector(proxy.metrics))

    All names are the same as on ``/metrics``; the library writes the labels in its own order.
    """

    def __init__(self, store: MetricStore) -> None:
        self._store = store

    def collect(self) -> Iterator[Any]:
        """The families of the store, as ``prometheus_client`` wants them."""
        from prometheus_client import Metric as ClientMetric

        for family in self._store.families():
            # The library appends "_total" to the TYPE line of a counter, so that its samples would
            # have no type; "unknown" keeps the line and the samples together.
            kind = "unknown" if family.kind == "counter" else family.kind
            metric = ClientMetric(family.name, family.help, kind)
            for sample in _samples(family):
                metric.add_sample(*sample)
            yield metric


def _samples(family: Family) -> Iterator[tuple[str, dict[str, str], float]]:
    for key, metric in family.children.items():
        labels = dict(key)
        if not isinstance(metric, Histogram):
            yield family.name, labels, metric.value
            continue
        counts = list(accumulate(metric.counts))
        for bound, count in zip((*metric.bounds, math.inf), counts, strict=True):
            yield family.name + "_bucket", labels | {"le": _number(bound)}, count
        yield family.name + "_sum", labels, metric.total
        yield family.name + "_count", labels, counts[-1]


class HubLag:
    """Measures how late the hub is, in a greenlet: all that runs too long without waiting.

    ``observe`` gets seconds, at least 0.
    """

    def __init__(
        self, observe: Callable[[float], None], interval_s: float = HUB_LAG_INTERVAL_S
    ) -> None:
        self._observe = observe
        self._interval_s = interval_s
        self._greenlet: gevent.Greenlet | None = None

    def start(self) -> None:
        """Measure from now on."""
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)

    def close(self) -> None:
        """Measure no more."""
        if self._greenlet is not None:
            self._greenlet.kill(block=False)
            self._greenlet = None

    def _run(self) -> None:
        while True:
            due = time.monotonic() + self._interval_s
            gevent.sleep(self._interval_s)
            self._observe(max(0.0, time.monotonic() - due))
