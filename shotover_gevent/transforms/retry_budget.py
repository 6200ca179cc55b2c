"""How many requests may be asked again, and how long to wait before.

Both are for the worst moment: when everything fails, retries must not multiply the load. The budget is
that of Finagle and Linkerd (``RetryBudget``: a share of the requests of the last ten seconds, and a minimum
per second for those who ask little); Envoy's retry budget is of the same kind. The wait is the *full
jitter* of Marc Brooker ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015): evenly
distributed from nothing to a limit that doubles.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from time import monotonic

from shotover_gevent.transforms.window import Window

# As Finagle and Linkerd.
WINDOW_S = 10.0


class RetryBudget:
    """Allows ``ratio`` of the requests of the last ten seconds, and ``per_second`` besides."""

    __slots__ = ("_ratio", "_reserve", "_window")

    def __init__(
        self, ratio: float, per_second: int, clock: Callable[[], float] = monotonic
    ) -> None:
        self._ratio = ratio
        self._reserve = per_second * WINDOW_S
        self._window = Window(WINDOW_S, clock)

    def deposit(self, count: int) -> None:
        """So many requests have come."""
        self._window.add(count)

    def withdraw(self, count: int) -> bool:
        """Ask so many again, if the budget has them; nothing otherwise."""
        requests, retries = self._window.sums()
        if retries + count > self._ratio * requests + self._reserve:
            return False
        self._window.add(0, count)
        return True


def full_jitter(random: Random, base_s: float, limit_s: float, attempt: int) -> float:
    """How long to wait before the ``attempt``-th retry, counted from 1."""
    return random.uniform(0.0, min(limit_s, base_s * 2.0 ** (attempt - 1)))
