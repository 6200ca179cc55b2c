"""What is left of a session: transforms that nobody closed, open descriptors, greenlets that run on."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import gevent
from greenlet import getcurrent, greenlet

from shotover_gevent.chain.steps import all_steps
from shotover_gevent.chain.transform import Transform, TransformConfig

# What is closed by another greenlet, or by the other end, is closed within this time.
SETTLE_S = 2.0

# Looking for greenlets goes through all objects, which takes some milliseconds.
_POLL_S = 0.002


@dataclass(slots=True)
class Closings:
    """The transforms that were made, and how often each was closed."""

    made: list[Transform] = field(default_factory=list)
    counts: dict[int, int] = field(default_factory=dict)
    _closing: set[int] = field(default_factory=set)

    def closed(self, times: int) -> list[str]:
        """The types of those that were closed exactly so many times."""
        return [type(each).__name__ for each in self.made if self.counts.get(id(each), 0) == times]

    def most(self) -> int:
        """How often the one was closed that was closed most often."""
        return max(self.counts.values(), default=0)


@contextmanager
def counting_closings(config: TransformConfig) -> Iterator[Closings]:
    """Count, until the end of the block; the classes are as before afterwards."""
    counted = Closings()
    with ExitStack() as stack:
        seen: set[type] = set()

        def once(kind: type) -> bool:
            is_new = kind not in seen
            seen.add(kind)
            return is_new

        def watch(kind: type[TransformConfig]) -> None:
            original = kind.session

            def session(self: TransformConfig, context: Any) -> Transform:
                made = original(self, context)
                if isinstance(made, Transform):
                    counted.made.append(made)
                    if once(type(made)):
                        stack.enter_context(patch.object(type(made), "close", _counted(type(made), counted)))
                return made

            stack.enter_context(patch.object(kind, "session", session))

        for step in all_steps([config]):
            if once(type(step)):
                watch(type(step))
        yield counted


def _counted(kind: type[Transform], counted: Closings) -> Any:
    original = kind.close

    def close(self: Transform) -> None:
        is_outermost = id(self) not in counted._closing  # a close() that calls its parent's is one
        if is_outermost:
            counted._closing.add(id(self))
            counted.counts[id(self)] = counted.counts.get(id(self), 0) + 1
        try:
            original(self)
        finally:
            if is_outermost:
                counted._closing.discard(id(self))

    return close


def descriptors() -> int:
    """How many descriptors the process has open."""
    return len(os.listdir("/proc/self/fd"))


def running_greenlets() -> int:
    """How many greenlets of this thread have begun and not ended; those of a thread pool are its own."""
    found = [each for each in gc.get_objects() if issubclass(type(each), greenlet) and each]
    here = _root(getcurrent())
    return sum(1 for each in found if _root(each) is here)


def _root(each: greenlet) -> greenlet:
    while each.parent is not None:
        each = each.parent
    return each


def settles(check: Callable[[], bool]) -> bool:
    """Whether ``check`` becomes true in time, while other greenlets get their turn."""
    with gevent.Timeout(SETTLE_S, False):
        while not check():
            gevent.sleep(_POLL_S)
        return True
    return False
