"""A transform alone, with everything that a session gives it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shotover_gevent.chain import Batch, Next, SessionContext, Transform, TransformConfig
from shotover_gevent.chain.handoff import EXPORTED
from shotover_gevent.errors import UpstreamError, UsageError
from shotover_gevent.sinks.valkey_single import ValkeySinkSingle
from shotover_gevent.testing import AnsweringUpstream, TransformSession, command


class Numbered(TransformConfig):
    """Puts the number of the run before every response."""

    def session(self, context: SessionContext) -> Transform:
        """Its transform."""
        return _Numbered()


class _Numbered(Transform):
    fates = {"runs": EXPORTED}

    def __init__(self) -> None:
        self.runs = 0

    def transform(self, requests: Batch, next: Next) -> Batch:
        self.runs += 1
        responses = next(requests)
        for response in responses:
            response.frame = b"%d: %b" % (self.runs, response.frame)
        return responses

    def push(self, pushes: Batch, forward: Callable[[Batch], None]) -> None:
        forward(pushes)
        forward(pushes)


def test_a_transform_is_asked_and_asks() -> None:
    """The responses come back as bytes; what was asked below is written down."""
    with TransformSession(Numbered(name="n")) as session:
        answers = [session.ask(b"PING\r\n", command("GET", "k")), session.ask(b"PING\r\n")]
    assert (answers, session.below.asked) == (
        [[b"$7\r\n1: PING\r\n", b"$8\r\n1: GET k\r\n"], [b"$7\r\n2: PING\r\n"]],
        [b"PING\r\n" + command("GET", "k"), b"PING\r\n"])


def test_pushes_go_through_the_transform() -> None:
    """What arrives at the client is written down."""
    with TransformSession(Numbered(name="n")) as session:
        session.push(b">1\r\n+x\r\n")
    assert session.pushed == [b">1\r\n+x\r\n"] * 2


def test_what_is_below_may_fail() -> None:
    """The error passes through the transform."""
    with TransformSession(Numbered(name="n")) as session, pytest.raises(UpstreamError):
        session.below.failure = UpstreamError("lost")
        session.ask(b"PING\r\n")


def test_a_session_moves() -> None:
    """The state goes through JSON into another one."""
    with TransformSession(Numbered(name="n")) as old, TransformSession(Numbered(name="n")) as new:
        old.ask(b"PING\r\n")
        new.adopt(*old.export())
        assert new.ask(b"PING\r\n") == [b"$7\r\n2: PING\r\n"]


def test_a_sink_asks_a_fake_upstream_and_moves_with_its_connection() -> None:
    """Its connection travels with the state."""
    with AnsweringUpstream() as upstream:
        def session() -> TransformSession:
            return TransformSession(ValkeySinkSingle(
                name="v", remote_address=upstream.address, connect_timeout_ms=1000))

        old = session()
        answers = old.ask(command("GET", "a"))
        with session() as new:
            new.adopt(*old.export())
            old.close()
            answers += new.ask(command("GET", "b"))
    assert (answers, upstream.received) == (
        [b"$5\r\nGET a\r\n", b"$5\r\nGET b\r\n"], [command("GET", "a") + command("GET", "b")])


def test_half_a_request_is_the_mistake_of_the_test() -> None:
    """Each is complete."""
    with TransformSession(Numbered(name="n")) as session, pytest.raises(UsageError):
        session.ask(b"PING")
