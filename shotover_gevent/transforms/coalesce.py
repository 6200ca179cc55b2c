"""Coalesce: requests are gathered, and go down together.

Nothing inside of a chain can keep requests back when one run answers them all. So this says how long they
are to be gathered, and whoever runs the chain does it, before the first transform sees them
(:mod:`shotover_gevent.chain.gathering`). Of several in a chain, the most patient one decides.

Rules:
 1. Requests go down when ``flush_when_buffered_message_count`` of them have come, or when a period of
    ``flush_when_millis_since_last_flush`` is over. Periods begin with a flush, and follow each other
    while nothing comes, so that no request waits for longer than one.
 2. What is gathered goes down at once when its client has ended, when the session is told to end, or when
    it is asked to move.
 3. Messages that nobody asked for do not wait.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from time import monotonic
from typing import Any, ClassVar

from pydantic import Field

from shotover_gevent.chain import (
    Batch,
    BuildContext,
    Next,
    SessionContext,
    Transform,
    TransformConfig,
)
from shotover_gevent.chain.handoff import REBUILT

logger = logging.getLogger(__name__)

MORE = "  Check https://shotover.io/docs/latest/transforms.html#coalesce for more information."


class Coalesce(TransformConfig):
    """Gathers requests until there are enough of them, or until a time is over."""

    # Those whose sessions gather.
    protocols: ClassVar[tuple[str, ...] | None] = ("Valkey",)
    gathers: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = {
        "flush_when_buffered_message_count": 2000, "flush_when_millis_since_last_flush": 100}

    flush_when_buffered_message_count: int | None = Field(
        default=None, ge=0, le=2**64 - 1, description="How many requests are enough")
    flush_when_millis_since_last_flush: int | None = Field(
        default=None, ge=0, le=2**64 - 1, description="How long to wait for more, in milliseconds")

    def problems(self) -> list[str]:
        """Something must end the gathering."""
        if self.flush_when_millis_since_last_flush == 0:
            return [
                "Coalesce:", "  flush_when_millis_since_last_flush must be greater than 0 when set.", MORE]
        if self.flush_when_buffered_message_count is None and self.flush_when_millis_since_last_flush is None:
            return [
                "Coalesce:", "  Provide at least one of:", "  * flush_when_buffered_message_count",
                "  * flush_when_millis_since_last_flush (must be greater than 0)", "",
                "  But none of them were provided.", MORE]
        return []

    def build(self, context: BuildContext) -> None:
        """Warn of clients that would wait for ever."""
        if context.is_awaited and self.flush_when_millis_since_last_flush is None:
            logger.warning(
                "Coalesce named %s gathers until %d requests have come: a client that waits for an answer "
                "before it has sent so many waits for ever. Set flush_when_millis_since_last_flush as well.",
                self.name, self.flush_when_buffered_message_count)

    def session(self, context: SessionContext) -> Transform:
        """The times of one session."""
        return _Coalesce(self)


class _Coalesce(Transform):
    fates = {"_count": REBUILT, "_period_s": REBUILT, "_flushed_at": REBUILT}

    def __init__(self, config: Coalesce) -> None:
        count, millis = config.flush_when_buffered_message_count, config.flush_when_millis_since_last_flush
        self._count = math.inf if count is None else count
        self._period_s = math.inf if millis is None else millis / 1000
        self._flushed_at = monotonic()

    def patience_s(self, count: int, since: float) -> float:
        """Until there are enough, or until the end of the period in which the first one came."""
        if count >= self._count:
            return 0.0
        if self._period_s == math.inf:
            return math.inf
        periods = (since - self._flushed_at) // self._period_s + 1
        return self._flushed_at + periods * self._period_s - monotonic()

    def transform(self, requests: Batch, next: Next) -> Batch:
        if requests:
            self._flushed_at = monotonic()
        return next(requests)
