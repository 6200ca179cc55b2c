"""The arithmetic of a comparison: medians of rounds, ratios of medians, percentiles of latencies."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def median(values: Sequence[float]) -> float | None:
    """The median; ``None`` of no values."""
    return statistics.median(values) if values else None


def ratio(value: float | None, base: float | None) -> float | None:
    """``value / base``; ``None`` if either is missing or the base is zero."""
    return None if value is None or not base else value / base


def spread(values: Sequence[float]) -> float | None:
    """The largest value over the smallest: 1.2 is "flat within 20 %". ``None`` if there is no such number."""
    return ratio(max(values), min(values)) if values else None


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of sorted values: the smallest that ``share`` (0..1) of them do not exceed.

    Nothing is interpolated, so the result is a latency that really occurred. Raises ``ValueError`` if
    there are no values.
    """
    if not ordered:
        raise ValueError("a percentile of nothing")
    # Rounded first: 0.999 * 1000 is a hair above 999.
    return ordered[max(0, math.ceil(round(share * len(ordered), 9)) - 1)]
