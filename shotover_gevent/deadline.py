"""A point in monotonic time until which something may take."""

from __future__ import annotations

import math
import time


class Deadline:
    """An absolute monotonic time, carried across the steps of one operation.

    Steps ask :meth:`left` for their own timeout, so that ten steps of one operation
    share its time instead of having it ten times.
    """

    __slots__ = ("at",)

    def __init__(self, at: float) -> None:
        self.at = at

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """The deadline that many seconds from now; ``None`` is never."""
        return cls(math.inf if seconds is None else time.monotonic() + seconds)

    def left(self) -> float | None:
        """Seconds left, at least 0; ``None`` without a limit (as gevent's timeouts take it)."""
        return None if self.at == math.inf else max(0.0, self.at - time.monotonic())

    @property
    def is_over(self) -> bool:
        """Whether no time is left."""
        return time.monotonic() >= self.at

    def __repr__(self) -> str:
        left = self.left()
        return "<Deadline never>" if left is None else f"<Deadline in {left:.3f}s>"
