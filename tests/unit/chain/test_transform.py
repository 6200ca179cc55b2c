"""What a transform is given, and the way of pushes through those above it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import ValidationError

from shotover_gevent.chain import Batch, Message, SessionContext, Sink, Transform, TransformConfig
from shotover_gevent.chain.chain import ChainConfig
from shotover_gevent.codecs.resp import RESP
from shotover_gevent.metrics import MetricStore
from tests.inprocess import Answerer, Step, session_context


def batch(*raws: bytes) -> Batch:
    """A batch of these messages."""
    return Batch.of(RESP, [Message(RESP, raw) for raw in raws])


class Pusher(TransformConfig):
    """A sink that tells how it can push."""

    terminating = True
    tell: Callable[[Callable[[Batch], None]], None]

    def session(self, context: SessionContext) -> Sink:
        """A sink that does nothing."""
        self.tell(context.pusher())
        return Sink()


def push_through(*steps: Step) -> tuple[Callable[[Batch], None], list[bytes]]:
    """How a sink below these steps pushes, and what arrives at the top."""
    arrived: list[bytes] = []
    pushers: list[Callable[[Batch], None]] = []
    config = ChainConfig("c", "Valkey", [*steps, Pusher(name="sink", tell=pushers.append)], MetricStore())
    config.session(session_context(emit=lambda pushes: arrived.append(pushes.raw)))
    return pushers[0], arrived


def test_a_push_goes_through_the_transforms_above_from_below() -> None:
    """Each sees what the one below it forwards; one that does not care costs nothing."""

    def add(text: bytes) -> Callable[[Batch, Callable[[Batch], None]], None]:
        return lambda pushes, forward: forward(batch(pushes.raw + text))

    push, arrived = push_through(
        Step(name="a", pushed=add(b"a")), Step(name="b"), Step(name="c", pushed=add(b"c")))
    push(batch(b"x"))
    assert arrived == [b"xca"]


def test_a_transform_may_swallow_pushes() -> None:
    """What is not forwarded is seen by nobody above, and the next push is not affected."""
    seen: list[bytes] = []

    def only_even(pushes: Batch, forward: Callable[[Batch], None]) -> None:
        if len(pushes) % 2 == 0:
            forward(pushes)

    def see(pushes: Batch, forward: Callable[[Batch], None]) -> None:
        seen.append(pushes.raw)
        forward(pushes)

    push, arrived = push_through(Step(name="a", pushed=see), Step(name="b", pushed=only_even))
    push(batch(b"1"))
    push(batch(b"2", b"3"))
    assert (seen, arrived) == ([b"23"], [b"23"])


def test_a_transform_may_push_several_times_for_one() -> None:
    """Forwarding is an ordinary call."""

    def twice(pushes: Batch, forward: Callable[[Batch], None]) -> None:
        forward(pushes)
        forward(pushes)

    push, arrived = push_through(Step(name="a", pushed=twice))
    push(batch(b"x"))
    assert arrived == [b"x", b"x"]


def test_transforms_that_do_not_care_are_not_in_the_way_of_a_push() -> None:
    """Without an override, what a sink calls is the top itself."""
    context = session_context()
    context.above.append(Transform())
    assert context.pusher() is context.emit


def test_a_push_that_fails_is_seen_by_the_sink() -> None:
    """The exception of a transform passes through to whoever pushed."""

    def fail(pushes: Batch, forward: Callable[[Batch], None]) -> None:
        raise ValueError("no")

    push, arrived = push_through(Step(name="a", pushed=fail))
    with pytest.raises(ValueError):
        push(batch(b"x"))
    assert arrived == []


def test_what_was_pushed_is_taken_once() -> None:
    """Taking gives the bytes in the order of arrival and leaves nothing."""
    context = session_context()
    context.pushed += [b"a", b"b"]
    assert (context.take_pushed(), context.take_pushed()) == (b"ab", b"")


def test_the_default_transform_passes_everything_on() -> None:
    """Requests go down, pushes go up, and there is nothing to close."""
    forwarded: list[Batch] = []
    requests, transform = batch(b"+x\r\n"), Transform()
    answered = transform.transform(requests, lambda below: below)
    transform.push(requests, forwarded.append)
    transform.close()
    assert (answered is requests, forwarded == [requests]) == (True, True)


def test_a_configuration_is_strict_and_frozen() -> None:
    """Unknown fields and other types are refused; nothing changes after the start."""

    class Limit(TransformConfig):
        limit: int

    for fields in ({"name": "a", "limit": "1"}, {"name": "a", "limit": 1, "more": 2}, {"limit": 1}):
        with pytest.raises(ValidationError):
            Limit(**fields)
    config = Limit(name="a", limit=1)
    with pytest.raises(ValidationError):
        config.limit = 2
    assert (config.type_name, config.problems(), config.subchains()) == ("Limit", [], ())


def test_the_type_name_is_that_of_the_class_unless_it_says_otherwise() -> None:
    """A subclass has its own name, not its parent's."""

    class Named(TransformConfig):
        type_name = "Other"

    class Below(Named):
        pass

    assert (Named.type_name, Below.type_name) == ("Other", "Below")


def test_a_configuration_without_a_session_says_so() -> None:
    """What its author forgot is named."""

    class Half(TransformConfig):
        pass

    with pytest.raises(NotImplementedError) as caught:
        Half(name="a").session(session_context())
    assert str(caught.value) == "Half does not define session()"


def test_the_transforms_above_are_known_while_one_is_made() -> None:
    """``above`` holds those that were made before, the top first."""
    above: list[int] = []
    steps = [Step(name=name, made=lambda context: above.append(len(context.above))) for name in "abc"]
    sink = Answerer(name="sink", answer=lambda requests: requests)
    ChainConfig("c", "Valkey", [*steps, sink], MetricStore()).session(session_context())
    assert above == [0, 1, 2]
