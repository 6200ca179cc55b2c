"""RequestThrottling: answers requests beyond a rate by an error.

The rate is that of the entry: all its sessions together. Nothing is delayed. The limiter is a generic
cell rate algorithm (ITU-T I.371, annex A), as in Shotover: in any second as many requests may come at
once as come in a second at the allowed rate, and the bucket is full at the start.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import ClassVar

from pydantic import Field, PrivateAttr

from shotover_gevent.chain import (
    Batch,
    BuildContext,
    Next,
    SessionContext,
    Transform,
    TransformConfig,
)
from shotover_gevent.chain.handoff import REBUILT
from shotover_gevent.metrics import Counter
from shotover_gevent.transforms.refusing import RefusingTransform

TEXT = "Server overloaded"

# Shotover's. What a driver sends to open a connection counts too: with fewer it would never get in.
MIN_REQUESTS_PER_SECOND = 50


class RateLimiter:
    """A bucket of ``rate`` requests that fills with ``rate`` requests per second."""

    __slots__ = ("_interval_s", "_clock", "_used_until")

    def __init__(self, rate: int, clock: Callable[[], float] = monotonic) -> None:
        self._interval_s = 1.0 / rate
        self._clock = clock
        #: When the bucket is full again; the theoretical arrival time of the next request.
        self._used_until = 0.0

    def take(self, count: int = 1) -> bool:
        """Take that many requests if the bucket has them; nothing otherwise."""
        now = self._clock()
        used_until = max(now, self._used_until) + count * self._interval_s
        # The bucket holds one second. The tolerance is for the rounding of sums of floats.
        if used_until - now > 1.0 + self._interval_s / 2:
            return False
        self._used_until = used_until
        return True

    def force(self) -> None:
        """Take one whether the bucket has it or not: those that follow wait for it."""
        self._used_until = max(self._clock(), self._used_until) + self._interval_s


class RequestThrottling(TransformConfig):
    """Lets ``max_requests_per_second`` requests of all sessions pass."""

    # Those with a codec that has an error to say it by.
    protocols: ClassVar[tuple[str, ...] | None] = ("Valkey",)

    max_requests_per_second: int = Field(
        ge=1, le=2**32 - 1, description="How many requests of all sessions pass, at least 50")
    _limiter: RateLimiter = PrivateAttr()
    _throttled: Counter = PrivateAttr(default_factory=Counter)

    def problems(self) -> list[str]:
        """The rate must leave room for what drivers send to open a connection."""
        if self.max_requests_per_second >= MIN_REQUESTS_PER_SECOND:
            return []
        return [
            "RequestThrottling:",
            f"  max_requests_per_second has a minimum allowed value of {MIN_REQUESTS_PER_SECOND}"]

    def build(self, context: BuildContext) -> None:
        """Fill the bucket and register the counter."""
        self._limiter = RateLimiter(self.max_requests_per_second)
        self._throttled = context.metrics.counter(
            "shotover_request_throttled_count", "Requests answered by an error instead of being sent",
            chain=context.chain, transform=self.type_name)

    def session(self, context: SessionContext) -> Transform:
        """The throttle of one session; the limiter is that of all."""
        return _Throttle(self._limiter, self._throttled)


class _Throttle(RefusingTransform):
    fates = RefusingTransform.fates | {
        "_limiter": REBUILT,  # of the process: a successor begins with a full bucket
        "_throttled": REBUILT,
    }

    def __init__(self, limiter: RateLimiter, throttled: Counter) -> None:
        super().__init__()
        self._limiter = limiter
        self._throttled = throttled

    def transform(self, requests: Batch, next: Next) -> Batch:
        limiter, throttled = self._limiter, self._throttled
        if self.is_ordinary(requests) and limiter.take(len(requests)):
            return next(requests)
        error = requests.codec.error(TEXT)

        def judge(index: int, may_refuse: bool) -> bytes | None:
            if limiter.take():
                return None
            if not may_refuse:
                limiter.force()
                return None
            throttled.value += 1
            return error

        return self.refuse(requests, next, judge)
