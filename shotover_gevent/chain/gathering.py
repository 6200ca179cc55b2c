"""Requests that are kept back until enough have come, as ``Coalesce`` asks for.

In synchronous style one run of a chain answers all its requests. So nothing inside of a chain can keep
requests back: whoever runs it does, and asks the chain how long (:meth:`Chain.patience_s`).
"""

from __future__ import annotations

from time import monotonic

from shotover_gevent.chain.chain import Chain
from shotover_gevent.codecs.batch import Batch

# What is gathered before a chain is run, at most: more would be memory that nobody has asked for.
GATHER_BYTES = 4 * 1024 * 1024


class Gathering:
    """Batches on their way to become one. True while it holds any."""

    __slots__ = ("count", "_batches", "_bytes", "_since")

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.count = 0
        self._batches: list[Batch] = []
        self._bytes = 0
        self._since = 0.0

    def add(self, requests: Batch) -> None:
        """Keep back what has come just now."""
        if not self._batches:
            self._since = monotonic()
        self._batches.append(requests)
        self.count += len(requests)
        self._bytes += len(requests.raw)

    def patience_s(self, chain: Chain) -> float:
        """How much longer to wait for more; 0 is not at all, ``math.inf`` for ever."""
        if self._bytes >= GATHER_BYTES:
            return 0.0
        return max(0.0, chain.patience_s(self.count, self._since))

    def take(self) -> Batch:
        """All of it as one batch; nothing is kept any more."""
        requests = Batch.join(self._batches)
        self._clear()
        return requests

    def __bool__(self) -> bool:
        return bool(self._batches)
