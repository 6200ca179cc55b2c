"""The last minutes of each source, a sample a second, for the pictures of the status page.

Rules:
 1. A sample is the difference of numbers that the data path counts anyway; it costs some
    microseconds per source.
 2. The memory is bounded: :data:`LENGTH` samples of six small numbers for each source.
"""

from __future__ import annotations

import json
import math
import os
from array import array
from collections.abc import Sequence
from time import monotonic

import gevent

from shotover_gevent.observability.quantile import quantile
from shotover_gevent.sources.source import Source

# Five minutes: what one looks back to after a deployment, in one screen.
LENGTH = 300
# Some more, so that those that are taken while an answer is made overwrite nothing of it.
_RING = LENGTH + 10

#: What a sample has, in this order.
COLUMNS = (
    "requests_per_s", "p50_ms", "p99_ms", "received_per_s", "sent_per_s", "sessions",
)
_DIGITS = (1, 3, 3, 0, 0, 0)
NOTHING = math.nan


class Track:
    """The samples of one source: a ring for each column."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.columns = [array("f", [NOTHING]) * _RING for _ in COLUMNS]
        self._totals = self._read()

    def _read(self) -> tuple[float, int, int, list[int]]:
        source, latency = self.source, self.source.chain.latency
        return (
            source.chain.requests_size.total, source.bytes_received.value, source.bytes_sent.value,
            list(latency.counts))

    def sample(self, place: int, seconds: float) -> None:
        """Put what has happened in the last ``seconds`` at ``place`` of the rings."""
        before, self._totals = self._totals, self._read()
        requests, received, sent, counts = self._totals
        bounds = self.source.chain.latency.bounds
        runs = [now - then for now, then in zip(counts, before[3], strict=True)]
        values = (
            (requests - before[0]) / seconds, _ms(quantile(0.5, bounds, runs)),
            _ms(quantile(0.99, bounds, runs)), (received - before[1]) / seconds,
            (sent - before[2]) / seconds, float(len(self.source.sessions)))
        for column, value in zip(self.columns, values, strict=True):
            column[place] = value

    def text(self, places: Sequence[int]) -> str:
        """Those samples as JSON: the name of the source, and an object with a list for each column."""
        columns = {
            name: [_rounded(column[place], digits) for place in places]
            for name, column, digits in zip(COLUMNS, self.columns, _DIGITS, strict=True)}
        return f"{json.dumps(self.source.name)}:{json.dumps(columns, separators=(',', ':'))}"


class History:
    """The samples of all sources. ``sample()`` is to be called about once a second."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._tracks = [Track(source) for source in sources]
        self._lags = array("f", [NOTHING]) * _RING
        self._at = monotonic()
        #: How many samples have been taken; the number of the next one.
        self.count = 0

    def sample(self, lag_s: float) -> None:
        """Take a sample of everything; ``lag_s`` is how late the hub is."""
        now = monotonic()
        place = self.count % _RING
        for track in self._tracks:
            track.sample(place, max(now - self._at, 1e-3))
        self._lags[place] = lag_s * 1000
        self._at = now
        self.count += 1

    def since(self, number: int) -> bytes:
        """The samples from ``number`` on, as JSON: ``next`` is the number to ask for later.

        Other greenlets may run meanwhile; samples that are taken then are left for the next time.
        """
        end = self.count
        first = max(number if number <= end else 0, end - LENGTH)
        places = [each % _RING for each in range(first, end)]
        pieces = []
        for track in self._tracks:
            pieces.append(track.text(places))
            gevent.sleep(0)
        lags = json.dumps([_rounded(self._lags[place], 2) for place in places], separators=(",", ":"))
        return (
            f'{{"pid":{os.getpid()},"first":{first},"next":{end},"length":{LENGTH},'
            f'"lag_ms":{lags},"sources":{{{",".join(pieces)}}}}}'
        ).encode()


def _ms(seconds: float | None) -> float:
    return NOTHING if seconds is None else seconds * 1000


def _rounded(value: float, digits: int) -> float | None:
    return None if math.isnan(value) else round(value, digits)
