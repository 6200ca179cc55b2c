"""Quantiles of counts in buckets, as Prometheus estimates them in ``histogram_quantile``."""

from __future__ import annotations

from collections.abc import Sequence


def quantile(share: float, bounds: Sequence[float], counts: Sequence[int]) -> float | None:
    """The value below which ``share`` (0 to 1) of all lie; ``None`` without any.

    ``counts`` has one number per bound, and a last one for everything above. Within a bucket the values
    are taken as spread evenly; of those above the highest bound nothing is known but that bound.
    """
    total = sum(counts)
    if not total:
        return None
    rank = share * total
    below = 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if count and rank <= count:
            return below + (bound - below) * rank / count
        rank -= count
        below = bound
    return bounds[-1]
