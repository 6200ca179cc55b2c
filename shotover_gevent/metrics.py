"""Counters that the data path adds to, as plain numbers.

Rules:
 1. The hot path does an integer addition or one ``bisect``; it takes no lock and formats nothing.
 2. A store belongs to one :class:`~shotover_gevent.Proxy`; nothing is global.
 3. Whoever exports the numbers (``observability.metrics``) reads them when it is asked to.

Names and labels are Shotover's (its summaries are histograms here).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator

# From 50 us (a local reply) to 10 s; each step is about twice the one before.
LATENCY_BUCKETS_S = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01,
    0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)
# Messages of one batch: from one request to a deep pipeline.
SIZE_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0)


class Counter:
    """A number that only grows; add to ``value`` directly."""

    __slots__ = ("value",)
    kind = "counter"

    def __init__(self) -> None:
        self.value = 0


class Gauge:
    """A number that goes up and down; ``read`` is called when it is exported."""

    __slots__ = ("read",)
    kind = "gauge"

    def __init__(self, read: Callable[[], float] = lambda: 0) -> None:
        self.read = read

    @property
    def value(self) -> float:
        """The number now."""
        return self.read()


class Histogram:
    """Counts per bucket (the last one is everything above), and the sum.

    Who counts adds to ``own`` and ``own_total``. What is counted in several places at once is counted in
    one histogram, and the others have it among their ``parts``: they are added up when somebody reads.
    """

    __slots__ = ("bounds", "own", "own_total", "parts")
    kind = "histogram"

    def __init__(self, bounds: tuple[float, ...] = LATENCY_BUCKETS_S) -> None:
        self.bounds = bounds
        self.own = [0] * (len(bounds) + 1)
        self.own_total = 0.0
        self.parts: list[Histogram] = []

    def observe(self, value: float) -> None:
        """Count one value."""
        self.own[bisect_left(self.bounds, value)] += 1
        self.own_total += value

    @property
    def counts(self) -> list[int]:
        """How many values there were in each bucket."""
        return [sum(each) for each in zip(self.own, *(part.counts for part in self.parts))]

    @property
    def total(self) -> float:
        """The sum of all values."""
        return self.own_total + sum(part.total for part in self.parts)


Metric = Counter | Gauge | Histogram


class Family:
    """All metrics of one name; ``children`` maps label values to the metric."""

    __slots__ = ("name", "kind", "help", "children")

    def __init__(self, name: str, kind: str, help: str) -> None:
        self.name = name
        self.kind = kind
        self.help = help
        self.children: dict[tuple[tuple[str, str], ...], Metric] = {}


class MetricStore:
    """The metrics of one proxy. Asking twice for the same name and labels gives the same metric."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}

    def counter(self, name: str, help: str, /, **labels: str) -> Counter:
        """The counter of that name and those labels, made at the first call."""
        return self._metric(name, help, labels, Counter)  # type: ignore[return-value]

    def gauge(
        self, name: str, help: str, read: Callable[[], float], /, **labels: str
    ) -> Gauge:
        """The gauge of that name and those labels; ``read`` replaces an earlier reader."""
        gauge: Gauge = self._metric(name, help, labels, Gauge)  # type: ignore[assignment]
        gauge.read = read
        return gauge

    def histogram(
        self, name: str, help: str, bounds: tuple[float, ...] = LATENCY_BUCKETS_S, /, **labels: str
    ) -> Histogram:
        """The histogram of that name and those labels, made at the first call."""
        return self._metric(name, help, labels, lambda: Histogram(bounds), "histogram")  # type: ignore

    def _metric(
        self, name: str, help: str, labels: dict[str, str], make: Callable[[], Metric],
        kind: str | None = None,
    ) -> Metric:
        kind = kind or make.kind  # type: ignore[attr-defined]
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = Family(name, kind, help)
        if family.kind != kind:
            raise ValueError(f"metric {name} is a {family.kind}, not a {kind}")
        key = tuple(labels.items())
        metric = family.children.get(key)
        if metric is None:
            metric = family.children[key] = make()
        return metric

    def families(self) -> Iterator[Family]:
        """Every family, in the order of first use."""
        return iter(list(self._families.values()))
