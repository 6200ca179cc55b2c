"""RequestThrottling lets a number of requests per second pass, of all sessions together."""

from __future__ import annotations

import pytest

from shotover_gevent.chain import Batch, BuildContext, Message
from shotover_gevent.codecs.resp import RESP, RequestDecoder
from shotover_gevent.metrics import MetricStore
from shotover_gevent.transforms.request_throttling import RateLimiter, RequestThrottling
from tests.client import command
from tests.inprocess import session_context

OVERLOADED = b"-ERR Server overloaded\r\n"


def limiter(rate: int) -> tuple[RateLimiter, list[float]]:
    """A limiter, and the time that it sees."""
    now = [1000.0]
    return RateLimiter(rate, lambda: now[0]), now


def test_the_bucket_is_full_at_first_and_fills_at_the_rate() -> None:
    """A second's worth at once, then one for each interval."""
    bucket, now = limiter(50)
    at_once = sum(bucket.take() for _ in range(60))
    now[0] += 0.1
    assert (at_once, sum(bucket.take() for _ in range(60))) == (50, 5)


@pytest.mark.parametrize("rate", [1, 50, 333, 20_000])
def test_the_bucket_never_holds_more_than_a_second(rate: int) -> None:
    """However long nothing came."""
    bucket, now = limiter(rate)
    now[0] += 86_400
    assert sum(bucket.take() for _ in range(2 * rate)) == rate


def test_many_are_taken_together_or_not_at_all() -> None:
    """What is refused uses nothing up."""
    bucket, _ = limiter(50)
    assert [bucket.take(40), bucket.take(11), bucket.take(10), bucket.take()] == [True, False, True, False]


def test_what_may_not_be_refused_is_made_up_for() -> None:
    """Those behind it wait for the bucket to fill for it, too."""
    bucket, now = limiter(50)
    bucket.take(50)
    bucket.force()
    now[0] += 0.021
    too_early = bucket.take()
    now[0] += 0.02
    assert (too_early, bucket.take()) == (False, True)


def below(requests: Batch) -> Batch:
    """Answers everything."""
    return Batch.of(RESP, [Message(RESP, b"+OK\r\n") for _ in range(len(requests))])


def test_sessions_share_the_rate_and_what_is_beyond_is_answered_and_counted(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of a batch pass, the rest are answered at their places."""
    monkeypatch.setattr("shotover_gevent.transforms.request_throttling.RateLimiter", lambda rate: limiter(rate)[0])
    metrics = MetricStore()
    config = RequestThrottling(name="t", max_requests_per_second=50)
    config.build(BuildContext(metrics, "c", "Valkey"))
    (family,) = metrics.families()
    ((labels, counter),) = family.children.items()
    at_start = counter.value
    requests = RequestDecoder().feed(command("GET", "a") * 30)
    first, second = (config.session(session_context()).transform(requests, below).raw for _ in range(2))
    assert (first, second, family.name, labels, at_start, counter.value) == (
        b"+OK\r\n" * 30, b"+OK\r\n" * 20 + OVERLOADED * 10, "shotover_request_throttled_count",
        (("chain", "c"), ("transform", "RequestThrottling")), 0, 10)


@pytest.mark.parametrize(
    ("rate", "problems"),
    [(50, []), (49, ["RequestThrottling:", "  max_requests_per_second has a minimum allowed value of 50"])])
def test_the_rate_has_a_minimum(rate: int, problems: list[str]) -> None:
    """In Shotover's words."""
    assert RequestThrottling(name="t", max_requests_per_second=rate).problems() == problems
