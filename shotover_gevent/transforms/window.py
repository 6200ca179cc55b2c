"""Two sums over the last seconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic

# The window moves on in steps of a tenth: coarser would show, finer would cost.
STEPS = 10


class Window:
    """Counts things, and some of them, over the last ``seconds``; older ones drop out in ten steps."""

    __slots__ = ("_step_s", "_clock", "_steps", "_all", "_some")

    def __init__(self, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        self._step_s = seconds / STEPS
        self._clock = clock
        #: Number of the step, what was counted in it, and how much of that was some.
        self._steps: deque[list[int]] = deque()
        self._all = 0
        self._some = 0

    def add(self, count: int, some: int = 0) -> None:
        """Count ``count`` things, ``some`` of which are counted apart as well."""
        step = int(self._clock() / self._step_s)
        if not self._steps or self._steps[-1][0] != step:
            self._steps.append([step, 0, 0])
            self._forget(step)
        last = self._steps[-1]
        last[1] += count
        last[2] += some
        self._all += count
        self._some += some

    def sums(self) -> tuple[int, int]:
        """How many, and how many of those apart."""
        self._forget(int(self._clock() / self._step_s))
        return self._all, self._some

    def clear(self) -> None:
        """Forget all."""
        self._steps.clear()
        self._all = self._some = 0

    def _forget(self, step: int) -> None:
        while self._steps and self._steps[0][0] <= step - STEPS:
            _, count, some = self._steps.popleft()
            self._all -= count
            self._some -= some
