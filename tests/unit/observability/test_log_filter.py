"""The log filter, for good and for a while."""

from __future__ import annotations

import gevent
import pytest

from shotover_gevent.observability.log_filter import LogFilter
from tests.inprocess import until


class Target:
    """What is filtered."""

    def __init__(self) -> None:
        self.text = "info"

    def write(self, text: str) -> None:
        """Replace the filter; one word is refused."""
        if text == "wrong":
            raise ValueError("invalid filter")
        self.text = text


@pytest.fixture
def target() -> Target:
    """A filter that says ``info``."""
    return Target()


@pytest.fixture
def log(target: Target) -> LogFilter:
    """Its switch."""
    return LogFilter(lambda: target.text, target.write)


def test_a_filter_stays_until_the_next(log: LogFilter, target: Target) -> None:
    """Nothing is said of an end."""
    log.set("debug")
    assert (target.text, log.text, log.expires_s, log.returns_to) == ("debug", "debug", None, None)


def test_a_filter_with_an_end_gives_way(log: LogFilter, target: Target) -> None:
    """To the one before it."""
    log.set("debug", 0.05)
    expires_s = log.expires_s
    during = (target.text, log.returns_to, expires_s is not None and 0 < expires_s <= 0.05)
    until(lambda: target.text == "info")
    assert (during, log.expires_s, log.returns_to) == (("debug", "info", True), None, None)


def test_the_last_lasting_filter_returns(log: LogFilter, target: Target) -> None:
    """However many others there were, each with its own end."""
    log.set("debug", 0.05)
    log.set("trace", 0.1)
    gevent.sleep(0.06)
    during = target.text
    until(lambda: target.text == "info")
    assert during == "trace"


def test_a_lasting_filter_ends_the_one_with_an_end(log: LogFilter, target: Target) -> None:
    """It is not taken back later."""
    log.set("debug", 0.02)
    log.set("warn")
    gevent.sleep(0.04)
    assert (target.text, log.expires_s) == ("warn", None)


def test_a_wrong_filter_changes_nothing(log: LogFilter, target: Target) -> None:
    """Neither the filter nor its end."""
    log.set("debug", 5)
    with pytest.raises(ValueError, match="invalid filter"):
        log.set("wrong", 1)
    expires_s = log.expires_s
    log.close()
    assert (target.text, log.returns_to, expires_s is not None and expires_s > 1) == ("debug", None, True)
