"""QueryCounter: counts requests by their command name."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, PrivateAttr

from shotover_gevent.chain import (
    Batch,
    BuildContext,
    Next,
    SessionContext,
    Transform,
    TransformConfig,
)
from shotover_gevent.chain.handoff import REBUILT
from shotover_gevent.metrics import Counter, MetricStore

METRIC = "shotover_query_count"
HELP = "Requests by command name"

# Names come from clients: beyond this many different ones (the servers have about 400 commands),
# further names are counted together, so that nobody can fill the memory with them.
MAX_NAMES = 1000
# For the same reason; the longest of their names has 21 letters.
MAX_NAME_BYTES = 64
OTHER = "other"


class QueryCounter(TransformConfig):
    """Counts into ``shotover_query_count`` with the labels name, query and type."""

    protocols: ClassVar[tuple[str, ...] | None] = ("Valkey",)

    counter_name: str = Field(description="The value of the label ``name``")
    _counts: dict[bytes, Counter] = PrivateAttr(default_factory=dict)
    _metrics: MetricStore = PrivateAttr()

    def build(self, context: BuildContext) -> None:
        """Register the counter, so that it is exported as 0 before the first request."""
        self._metrics = context.metrics
        context.metrics.counter(METRIC, HELP, name=self.counter_name)

    def session(self, context: SessionContext) -> Transform:
        """The counter of one session; what it counts is shared by all."""
        return _Counter(self)

    def counter(self, name: bytes) -> Counter:
        """The counter of one command name, made at the first call."""
        counter = self._counts.get(name)
        if counter is None:
            if len(self._counts) >= MAX_NAMES or len(name) > MAX_NAME_BYTES:
                return self._metrics.counter(
                    METRIC, HELP, name=self.counter_name, query=OTHER, type="valkey")
            label = name.decode("utf-8", "backslashreplace")
            counter = self._counts[name] = self._metrics.counter(
                METRIC, HELP, name=self.counter_name, query=label, type="valkey")
        return counter


class _Counter(Transform):
    fates = {"_counts": REBUILT, "_counter": REBUILT}

    def __init__(self, config: QueryCounter) -> None:
        self._counts = config._counts
        self._counter = config.counter

    def transform(self, requests: Batch, next: Next) -> Batch:
        counts, names = self._counts, requests.names
        if len(names) > 1 and names.count(names[0]) == len(names):
            name = names[0]
            (counts.get(name) or self._counter(name)).value += len(names)
            return next(requests)
        for name in names:
            try:
                counts[name].value += 1
            except KeyError:
                self._counter(name).value += 1
        return next(requests)
