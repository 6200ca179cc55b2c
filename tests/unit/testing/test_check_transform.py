"""The check fails a transform for each rule that it breaks, with a sentence that says which and how."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import gevent
import pytest
from gevent import socket as gsocket
from pydantic import PrivateAttr

from shotover_gevent.chain import (
    Batch, BuildContext, Message, Next, SessionContext, Sink, Steps, Transform, TransformConfig,
)
from shotover_gevent.chain.chain import ChainConfig
from shotover_gevent.chain.handoff import EXPORTED, PINS, REBUILT, Luggage
from shotover_gevent.errors import ShotoverError, TransformError, UpstreamError, UsageError
from shotover_gevent.testing import closing
from shotover_gevent.testing import AnsweringUpstream, check_transform, command
from tests.client import Client


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left open is told sooner than an author is."""
    monkeypatch.setattr(closing, "SETTLE_S", 0.2)


class Made(TransformConfig):
    """Makes the transform that a test gives."""

    kind: type[Transform]

    def model_dump_json(self, **options: Any) -> str:
        """A class is no JSON."""
        return "{}"

    def session(self, context: SessionContext) -> Transform:
        """One of that kind; it may want to know its configuration."""
        made = self.kind()
        made_for = getattr(made, "made_for", None)
        if made_for is not None:
            made_for(self, context)
        return made


class MadeSink(Made):
    """The same for a sink."""

    terminating: ClassVar[bool] = True


def complaint(kind: type[Transform], config: type[Made] = Made, **options: Any) -> str:
    """What the check says of a transform."""
    with pytest.raises(AssertionError) as caught:
        check_transform(config(name="bad", kind=kind), **options)
    return str(caught.value)


class Counting(Transform):
    """Answers INCR by itself, from a field that travels: a good one, with state."""

    fates = {"count": EXPORTED}

    def __init__(self) -> None:
        self.count = 0

    def transform(self, requests: Batch, next: Next) -> Batch:
        """Add up the requests of the session."""
        responses = next(requests)
        for index in range(len(requests)):
            self.count += 1
            responses[index].frame = self.count
        return responses


class Dropping(Transform):
    """Forgets the last response."""

    def transform(self, requests: Batch, next: Next) -> Batch:
        """Return one too few."""
        return next(requests)[:-1]


class Returning(Transform):
    """Forgets to return."""

    def transform(self, requests: Batch, next: Next) -> Batch:
        """Return nothing."""
        next(requests)
        return None  # type: ignore[return-value]


class Reversing(Transform):
    """Mixes up the order."""

    def transform(self, requests: Batch, next: Next) -> Batch:
        """Return the last one first."""
        return next(requests)[::-1]


class Hanging(Transform):
    """Waits for what never comes."""

    def transform(self, requests: Batch, next: Next) -> Batch:
        """Wait in the hub."""
        gevent.sleep(60)
        return next(requests)


class Stumbling(Transform):
    """Fails for requests without arguments."""

    def transform(self, requests: Batch, next: Next) -> Batch:
        """Look at the second word of each."""
        for value in requests.values:
            value[1]
        return next(requests)


class Meddling(Transform):
    """Changes what it was given in an earlier run."""

    fates = {"last": REBUILT}

    def __init__(self) -> None:
        self.last: Batch | None = None

    def transform(self, requests: Batch, next: Next) -> Batch:
        """Wipe the requests of the run before."""
        if self.last is not None:
            self.last.messages.clear()
        self.last = requests
        return next(requests)


class Sharing(Transform):
    """Answers PING twice with one and the same message."""

    fates = {"kept": REBUILT}

    def __init__(self) -> None:
        self.kept: Message | None = None

    def transform(self, requests: Batch, next: Next) -> Batch:
        """Give away what it keeps."""
        responses = next(requests)
        for index, name in enumerate(requests.names):
            if name == b"SET":
                self.kept = self.kept or responses[index]
                responses[index] = self.kept
        return responses


class Swallowing(Transform):
    """Forwards no push."""

    def push(self, pushes: Batch, forward: Callable[[Batch], None]) -> None:
        """Forget it."""


class Hiding(Transform):
    """Answers failures."""

    error: type[Exception] = TransformError

    def transform(self, requests: Batch, next: Next) -> Batch:
        """Answer everything, whatever happens below."""
        try:
            return next(requests)
        except self.error:
            codec = requests.codec
            return Batch.of(codec, [Message(codec, codec.error("no")) for _ in range(len(requests))])


class Wrapping(Transform):
    """Raises an error of its own instead of the one from below."""

    def transform(self, requests: Batch, next: Next) -> Batch:
        """Say it in other words."""
        try:
            return next(requests)
        except UpstreamError:
            raise
        except ShotoverError as error:
            raise ValueError("something") from error


class Unused(Transform):
    """Can be closed only after an answer."""

    fates = {"answered": REBUILT}

    def __init__(self) -> None:
        self.answered: Batch | None = None

    def transform(self, requests: Batch, next: Next) -> Batch:
        """Remember the answer."""
        self.answered = next(requests)
        return self.answered

    def close(self) -> None:
        """Rely on an answer."""
        if self.answered is None:
            raise ValueError("never answered")


class Fragile(Transform):
    """Cannot be closed after a failure."""

    fates = {"is_waiting": REBUILT}

    def __init__(self) -> None:
        self.is_waiting = False

    def transform(self, requests: Batch, next: Next) -> Batch:
        """Wait for the answer, and never tidy up."""
        self.is_waiting = True
        responses = next(requests)
        self.is_waiting = False
        return responses

    def close(self) -> None:
        """Rely on not waiting."""
        assert_not_waiting = {False: None}
        assert_not_waiting[self.is_waiting]


class SelfClosing(Transform):
    """Closes itself at ECHO."""

    def transform(self, requests: Batch, next: Next) -> Batch:
        """Close too early."""
        if b"ECHO" in requests.names:
            self.close()
        return next(requests)


class Leaking(Transform):
    """Opens a file, and does not close it."""

    fates = {"opened": REBUILT}

    def __init__(self) -> None:
        self.opened = os.open(os.devnull, os.O_RDONLY)
        OPENED.append(self.opened)


OPENED: list[int] = []


class Running(Transform):
    """Leaves a greenlet behind."""

    def transform(self, requests: Batch, next: Next) -> Batch:
        """Begin something that nobody ends."""
        LEFT.append(gevent.spawn(gevent.sleep, 60))
        gevent.sleep(0)
        return next(requests)


LEFT: list[gevent.Greenlet] = []


class Shared(Counting):
    """Counts on the class, for all sessions, and exports nothing."""

    fates = {}
    total = 0

    def __init__(self) -> None:
        pass

    def transform(self, requests: Batch, next: Next) -> Batch:
        """Answer ECHO by how many there were in all sessions since the last PING."""
        responses = next(requests)
        for index, name in enumerate(requests.names):
            if name == b"PING":
                type(self).total = 0
            type(self).total += 1
            responses[index].frame = type(self).total
        return responses


class Undeclared(Counting):
    """Says nothing of its field."""

    fates = {}


class Forgetful(Counting):
    """Starts at 0 again elsewhere."""

    fates = {"count": REBUILT}


class Pinning(Counting):
    """Stays where it is."""

    fates = {"count": PINS}


class NotJson(Transform):
    """Exports what JSON does not have."""

    fates = {"last": EXPORTED}

    def __init__(self) -> None:
        self.last = b""

    def transform(self, requests: Batch, next: Next) -> Batch:
        """Keep some bytes."""
        self.last = requests.raw
        return next(requests)


class Consuming(Counting):
    """Loses its state by exporting it."""

    def export(self, luggage: Luggage) -> Any:
        """Start again at 0."""
        state = super().export(luggage)
        self.count = 0
        return state


class Refusing(Counting):
    """Cannot read its own export."""

    def adopt(self, state: Any, luggage: Luggage) -> None:
        """Look for a field that is not there."""
        self.count = state["total"]


MIDDLE: dict[type[Transform], str] = {
    Dropping: "Made breaks the rule 'one response per request': expected 1 responses to 1 requests, saw 0",
    Returning: "Made breaks the rule 'one response per request': expected a Batch of 1 responses, saw None; "
               "return what next() returned",
    Reversing: "Made breaks the rule 'responses[i] answers requests[i], however requests are cut into "
               "batches': expected in batches of 2, response 0 to be b'$4\\r\\nPING\\r\\n', saw "
               "b'$7\\r\\nSET k v\\r\\n'",
    Hanging: "Made breaks the rule 'every request is answered': expected an end within 0.5 s, saw none; "
             "every wait has a deadline",
    Stumbling: "Made breaks the rule 'every request is answered': expected no exception, saw "
               "IndexError: list index out of range",
    Meddling: "Made breaks the rule 'a transform changes nothing that belongs to others by then': expected "
              "the requests of an earlier run to stay",
    Sharing: "Made breaks the rule 'responses that were given away are not given again': expected the second "
             "time, response 1 to be b'$7\\r\\nSET k v\\r\\n', saw b'$28\\r\\nchanged by a transform "
             "above\\r\\n'; a message may be changed by those above: give a copy",
    Swallowing: "Made breaks the rule 'pushes are forwarded': expected 1 push at the client, saw none; "
                "call forward(pushes), or declare swallows_pushes=True",
    Hiding: "Made breaks the rule 'an error from below passes as it is': expected TransformError: the step "
            "below failed, saw 11 responses; catch it only to answer it, and then declare answers_errors=True",
    Wrapping: "Made breaks the rule 'an error from below passes as it is': expected TransformError: the step "
              "below failed, saw ValueError: something; catch it only to answer it, and then declare "
              "answers_errors=True",
    Unused: "Made breaks the rule 'close() works before the first request': expected no exception, saw "
            "ValueError: never answered",
    Fragile: "Made breaks the rule 'close() works after a failure': expected no exception, saw KeyError: True",
    SelfClosing: "Made breaks the rule 'a transform is closed once, by the chain': expected one call of "
                 "close(), saw 2; a transform does not close itself",
    Shared: "Made breaks the rule 'sessions share nothing by accident': expected beside another session, in "
            "session 0 response 1 to be b':2\\r\\n', saw b':3\\r\\n'; keep the state of a session on the "
            "transform; if answers may depend on others: varies=True",
    Undeclared: "Made breaks the rule 'every field says in fates what happens to it when the session moves': "
                "expected Undeclared.fates to have count, saw no fates; each is EXPORTED, REBUILT or PINS",
    Forgetful: "Made breaks the rule 'a session goes on elsewhere as if it had not moved': expected after "
               "the move, response 5 to be b':6\\r\\n', saw b':1\\r\\n'; export in fates what later answers "
               "depend on",
    Pinning: "Made breaks the rule 'a session between requests can move': expected its state, saw Pinned: "
             "the session cannot move: Pinning keeps count; export the state, or declare pins=True",
    NotJson: "Made breaks the rule 'the exported state is JSON': expected values that JSON has, saw "
             "TypeError: Object of type bytes is not JSON serializable; for bytes there is pack_bytes()",
    Consuming: "Made breaks the rule 'exporting changes nothing': expected the second export's character 10 "
               "to be '5', saw '0'",
    Refusing: "Made breaks the rule 'adopt() takes what export() gives': expected no exception, saw "
              "KeyError: 'total'",
}


@pytest.mark.parametrize("kind", MIDDLE, ids=lambda kind: kind.__name__)
def test_each_broken_rule_is_told(kind: type[Transform]) -> None:
    """The sentence names the transform, the rule, what was expected, what was seen, and a way out."""
    said = complaint(kind, timeout_s=0.5)
    assert said[: len(MIDDLE[kind])] == MIDDLE[kind]
    assert kind is Meddling or said == MIDDLE[kind]


class HidingTheEnd(Hiding):
    """Answers even when the session is over."""

    error = Exception


class NotASink(Transform):
    """Is no sink, whatever its configuration says."""


class CallingNext(Sink):
    """Is a sink, and calls next."""

    def transform(self, requests: Batch, next: Next) -> Batch:
        """Ask nobody."""
        return next(requests)


class Asking(Sink):
    """A sink with one connection, which a test makes worse."""

    fates = {"client": REBUILT}

    def __init__(self) -> None:
        self.client: Client | None = None

    def made_for(self, config: Asks, context: SessionContext) -> None:
        """Connect for each session."""
        self.client = Client(gsocket.create_connection(("127.0.0.1", config.port), timeout=5))

    def transform(self, requests: Batch, next: Next) -> Batch:
        """Ask, one request after the other."""
        assert self.client is not None
        codec, answers = requests.codec, []
        for message in requests:
            self.client.send(message.raw)
            head = self.client.until(b"\r\n")
            answers.append(Message(codec, head + self.client.receive(int(head[1:]) + 2)))
        return Batch.of(codec, answers)

    def close(self) -> None:
        """Close the connection."""
        assert self.client is not None
        self.client.close()


class Asks(MadeSink):
    """Asks the upstream at a port."""

    port: int


def test_a_good_transform_passes() -> None:
    """State that travels, and nothing to declare."""
    check_transform(Made(name="good", kind=Counting))


def test_a_failure_may_be_answered_if_that_is_declared() -> None:
    """But not the end of a session, which is no failure."""
    check_transform(Made(name="good", kind=Hiding), answers_errors=True)
    assert complaint(HidingTheEnd, answers_errors=True) == (
        "Made breaks the rule 'the end of a session passes as it is': expected UpstreamClosed: the database "
        "closed the connection, saw 11 responses; a SessionEnd is no failure")


@pytest.mark.parametrize(
    ("kind", "declared"),
    [(Swallowing, "swallows_pushes"), (Shared, "varies"), (Forgetful, "varies"), (Pinning, "pins")], ids=str)
def test_what_is_declared_is_not_a_fault(kind: type[Transform], declared: str) -> None:
    """Each declaration allows what it says."""
    check_transform(Made(name="declared", kind=kind), **{declared: True})


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (NotASink, "MadeSink breaks the rule 'session() returns a Sink': expected a Sink, saw a NotASink; "
                   "what is terminating answers by itself"),
        (CallingNext, "MadeSink breaks the rule 'every request is answered': expected no exception, saw "
                      "AssertionError: CallingNext called next, but it is the sink: nothing stands below it"),
    ], ids=lambda value: getattr(value, "__name__", ""))
def test_a_sink_is_one(kind: type[Transform], said: str) -> None:
    """A terminating configuration makes a sink, which answers by itself."""
    assert complaint(kind, MadeSink) == said


def test_a_sink_tells_of_a_lost_database_by_an_error_of_its_family() -> None:
    """A bare ``OSError`` looks like a fault of the client's connection."""
    with AnsweringUpstream() as upstream, pytest.raises(AssertionError) as caught:
        check_transform(
            Asks(name="bad", kind=Asking, port=upstream.port), upstream=upstream, swallows_pushes=True)
    assert str(caught.value) == (
        "Asks breaks the rule 'a sink tells of a database whose connection ends after 0 bytes of an answer': "
        "expected an UpstreamError, saw ConnectionResetError: [Errno 104] Connection reset by peer; raise "
        "UpstreamError(...) from the error, or declare answers_errors=True")


class Careful(Asking):
    """Connects late, and tells of what is lost afterwards only."""

    fates = Asking.fates | {"port": REBUILT}

    def __init__(self) -> None:
        super().__init__()
        self.port = 0

    def made_for(self, config: Asks, context: SessionContext) -> None:
        """Remember where."""
        self.port = config.port

    def transform(self, requests: Batch, next: Next) -> Batch:
        """Connect for the first request."""
        self.client = self.client or Client(gsocket.create_connection(("127.0.0.1", self.port), timeout=5))
        try:
            return super().transform(requests, next)
        except OSError as error:
            raise UpstreamError("lost") from error

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self.client is not None:
            self.client.close()


def test_a_sink_tells_of_a_database_that_does_not_listen() -> None:
    """By an error of the same family."""
    with AnsweringUpstream() as upstream, pytest.raises(AssertionError) as caught:
        check_transform(
            Asks(name="bad", kind=Careful, port=upstream.port), upstream=upstream, swallows_pushes=True)
    assert str(caught.value) == (
        "Asks breaks the rule 'a sink tells of a database that does not listen': expected an UpstreamError, "
        "saw ConnectionRefusedError: [Errno 111] Connection refused; raise UpstreamError(...) from the error, "
        "or declare answers_errors=True")


def test_a_sink_that_hears_nothing_unasked_is_told() -> None:
    """Unless it declares that it swallows pushes."""
    with AnsweringUpstream() as upstream, pytest.raises(AssertionError) as caught:
        check_transform(
            Asks(name="bad", kind=Careful, port=upstream.port), upstream=upstream, timeout_s=0.3)
    assert str(caught.value) == (
        "Asks breaks the rule 'a sink pushes what its database says unasked': expected an end within 0.3 s, saw "
        "none; every wait has a deadline")


class Invalid(Made):
    """Has a problem."""

    def problems(self) -> list[str]:
        """One."""
        return ["Invalid:", "  no"]


class NoJson(Made):
    """Has a field that is no JSON."""

    def model_dump_json(self, **options: Any) -> str:
        """As pydantic does for the field ``kind``."""
        return TransformConfig.model_dump_json(self, **options)


class Unbuildable(Made):
    """Cannot be built."""

    def build(self, context: BuildContext) -> None:
        """Fail."""
        raise KeyError("nothing")


class Unclosable(Made):
    """Cannot be closed."""

    def close(self) -> None:
        """Fail."""
        raise KeyError("nothing")


class Holding(Made):
    """Opens a file for all sessions, and does not close it."""

    def build(self, context: BuildContext) -> None:
        """Open it."""
        OPENED.append(os.open(os.devnull, os.O_RDONLY))


class Total(Made):
    """Counts for all sessions, and forgets to take over what it exports."""

    _total: list[int] = PrivateAttr(default_factory=lambda: [0])

    def export(self) -> Any:
        """The number."""
        return self._total[0]

    def adopt(self, state: Any) -> None:
        """Expect something else."""
        self._total[0] = state["total"]


class Silent(Made):
    """Exports what JSON does not have."""

    def export(self) -> Any:
        """Bytes."""
        return b"state"


class Nested(Made):
    """A sub-chain that nobody closes."""

    chain: Steps
    _chain: ChainConfig = PrivateAttr()

    def subchains(self) -> Sequence[tuple[str, Sequence[TransformConfig]]]:
        """One."""
        return [(self.name, self.chain)]

    def build(self, context: BuildContext) -> None:
        """Build it."""
        self._chain = ChainConfig(self.name, context.protocol, self.chain, context.metrics)

    def session(self, context: SessionContext) -> Transform:
        """Make it, and forget it."""
        self._chain.session(SessionContext(
            source="s", chain="c", session_id=1, client_address="", park=context.park,
            buffer=context.buffer, emit=context.emit))
        return Transform()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (Invalid(name="i", kind=Transform),
         "Invalid breaks the rule 'the configuration that is checked is valid': expected no problems(), saw "
         "Invalid:;   no"),
        (NoJson(name="j", kind=Transform),
         "NoJson breaks the rule 'the fields of a configuration can be written as JSON (sessions move to equal "
         "chains)': expected no exception, saw PydanticSerializationError: Unable to serialize unknown type"),
        (Unbuildable(name="u", kind=Transform),
         "Unbuildable breaks the rule 'build() raises nothing on a valid configuration': expected no "
         "exception, saw KeyError: 'nothing'"),
        (Total(name="t", kind=Transform),
         "Total breaks the rule 'adopt() of a configuration takes what export() gives': expected no exception, "
         "saw TypeError: 'int' object is not subscriptable"),
        (Silent(name="s", kind=Transform),
         "Silent breaks the rule 'the exported state is JSON': expected values that JSON has, saw TypeError: "
         "Object of type bytes is not JSON serializable; for bytes there is pack_bytes()"),
        (Unclosable(name="u", kind=Transform),
         "Unclosable breaks the rule 'close() of a configuration raises nothing': expected no exception, saw "
         "KeyError: 'nothing'"),
        (Nested(name="n", kind=Transform, chain=(MadeSink(name="inside", kind=CallingNext),)),
         "Nested breaks the rule 'a transform is closed once, by the chain': expected every transform of the "
         "session's sub-chains to be closed, saw CallingNext, CallingNext open; close() closes the chains "
         "inside"),
    ], ids=lambda value: getattr(value, "type_name", ""))
def test_a_configuration_keeps_rules_too(config: TransformConfig, said: str) -> None:
    """It is valid, can be compared, can be built, and what it makes closes what is inside."""
    with pytest.raises(AssertionError) as caught:
        check_transform(config)
    assert str(caught.value)[: len(said)] == said


def test_requests_that_are_none_are_the_mistake_of_the_test() -> None:
    """Each is one complete request."""
    for requests in ([command("GET", "k")[:-1]], [command("GET", "k") * 2]):
        with pytest.raises(UsageError):
            check_transform(Made(name="good", kind=Transform), requests=requests)


def test_the_classes_are_as_before() -> None:
    """Counting the closings leaves nothing behind."""
    before = (Made.session, Counting.close)
    check_transform(Made(name="good", kind=Counting))
    assert (Made.session, Counting.close, "close" in vars(Counting)) == (*before, False)


@pytest.fixture
def opened() -> Iterator[list[int]]:
    """The descriptors that transforms have opened; they are closed afterwards."""
    yield OPENED
    for descriptor in OPENED:
        os.close(descriptor)
    OPENED.clear()


@pytest.mark.usefixtures("opened")
@pytest.mark.parametrize(
    ("kind", "config", "options", "said"),
    [
        (Leaking, Made, {},
         "Made breaks the rule 'close() gives back what the session holds': expected N open descriptors as "
         "before it, saw N; or declare keeps_connections=True"),
        (Leaking, Made, {"keeps_connections": True},
         "Made breaks the rule 'close() of a configuration gives back what is left': expected N open "
         "descriptors as before it was built, saw N"),
        (Transform, Holding, {},
         "Holding breaks the rule 'close() of a configuration gives back what is left': expected N open "
         "descriptors as before it was built, saw N"),
    ], ids=["session", "kept for ever", "configuration"])
def test_descriptors_are_given_back(
    kind: type[Transform], config: type[Made], options: dict[str, Any], said: str
) -> None:
    """What a session opened is closed with it, or, if that is declared, with the configuration."""
    assert re.sub(r"\d+", "N", complaint(kind, config, **options)) == said


def test_what_runs_for_a_session_ends_with_it() -> None:
    """A greenlet that is left behind is told."""
    try:
        said = complaint(Running)
    finally:
        gevent.killall(LEFT)
        LEFT.clear()
    assert said == (
        "Made breaks the rule 'close() ends what runs for the session': expected no greenlet to run on, saw "
        "one that does; or declare keeps_connections=True")


class Pooling(Made):
    """Keeps a file for each session, until the end."""

    def close(self) -> None:
        """Close all."""
        for descriptor in OPENED:
            os.close(descriptor)
        OPENED.clear()


def test_descriptors_may_stay_open_if_that_is_declared() -> None:
    """For a transform that keeps connections for other sessions; at the end they are closed."""
    check_transform(Pooling(name="declared", kind=Leaking), keeps_connections=True)
    assert OPENED == []
