"""Quantiles of counts in buckets."""

from __future__ import annotations

import pytest

from shotover_gevent.observability.quantile import quantile

BOUNDS = (1.0, 2.0, 4.0)


@pytest.mark.parametrize(
    ("share", "counts", "wanted"),
    [
        (0.5, [0, 0, 0, 0], None),
        (0.5, [4, 0, 0, 0], 0.5),
        (0.5, [0, 2, 0, 0], 1.5),
        (0.99, [0, 0, 100, 0], 3.98),
        (0.5, [1, 0, 1, 0], 1.0),
        (0.75, [1, 0, 1, 0], 3.0),
        (0.99, [1, 0, 0, 9], 4.0),
        (0.0, [0, 3, 0, 0], 1.0),
    ],
)
def test_values_are_spread_evenly_in_their_bucket(
    share: float, counts: list[int], wanted: float | None
) -> None:
    """As ``histogram_quantile`` has it; above the last bound there is only that bound."""
    assert quantile(share, BOUNDS, counts) == wanted
