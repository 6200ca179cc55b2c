"""Retry asks again what is known not to have been done, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shotover_gevent.chain import Batch, BuildContext, Message
from shotover_gevent.chain.handoff import Luggage
from shotover_gevent.codecs.resp import RESP, RequestDecoder
from shotover_gevent.errors import (
    ClientGone,
    NothingSent,
    ShotoverError,
    TransformError,
    UpstreamClosed,
    UpstreamError,
)
from shotover_gevent.metrics import MetricStore
from shotover_gevent.transforms import retry as module
from shotover_gevent.transforms.retry import Retry
from tests.client import command
from tests.inprocess import session_context

LOADING = b"-LOADING Redis is loading the dataset in memory\r\n"


class Lab:
    """A retry above a server that fails the requests that ``failing`` says, attempt by attempt."""

    def __init__(self, failing: dict[str, int] | None = None, **fields: object) -> None:
        self.config = Retry(name="r", **{"base_delay_ms": 1, "max_delay_ms": 1, **fields})
        self.metrics = MetricStore()
        self.config.build(BuildContext(self.metrics, "c", "Valkey"))
        self.context = session_context()
        self.retrier = self.config.session(self.context)
        self.failing = dict(failing or {})
        self.error = LOADING
        #: What is raised instead of an answer, one for each run.
        self.failures: list[Exception | None] = []
        self.asked: list[str] = []

    def below(self, requests: Batch) -> Batch:
        """The server: the first so many times that a request comes, it fails."""
        self.asked.append(";".join(b" ".join(m.frame).decode() for m in requests))
        for message in requests:
            message.frame = [b"changed"]  # as a transform below may
        if self.failures and (failure := self.failures.pop(0)) is not None:
            raise failure
        return Batch.of(RESP, [Message(RESP, self._answer(text)) for text in self.asked[-1].split(";")])

    def _answer(self, text: str) -> bytes:
        self.failing[text] = self.failing.get(text, 0) - 1
        return self.error if self.failing[text] >= 0 else b"+" + text.encode() + b"\r\n"

    def ask(self, text: str) -> list[bytes]:
        """The answers to requests that are separated by ``;``."""
        raw = b"".join(command(*words.split()) for words in text.split(";"))
        return [m.raw for m in self.retrier.transform(RequestDecoder().feed(raw), self.below)]

    def numbers(self) -> dict[str, float]:
        """How many retries there were for each reason, and how many were denied; without zeros."""
        return {
            dict(key).get("reason", "denied"): metric.value  # type: ignore[union-attr]
            for family in self.metrics.families() for key, metric in family.children.items()
            if metric.value}  # type: ignore[union-attr]


def lost(cause: ShotoverError, *between: str) -> TransformError:
    """How a step that failed by ``cause`` is seen through the steps ``between``."""
    error = TransformError("the sink failed")
    error.__cause__ = cause
    for text in between:
        outer = TransformError(text)
        outer.__cause__, error = error, outer
    return error


@pytest.mark.parametrize(
    ("failing", "text", "asked", "failed"),
    [
        ({"GET a": 1}, "GET a", ["GET a", "GET a"], 0),
        ({"GET a": 2}, "GET a", ["GET a"] * 3, 0),
        ({"GET a": 9}, "GET a", ["GET a"] * 3, 1),
        ({"INCR a": 1}, "INCR a", ["INCR a"], 1),
        ({"GET b": 1}, "GET a;GET b;GET c", ["GET a;GET b;GET c", "GET b"], 0),
        ({"GET a": 1, "GET b": 1}, "GET a;GET b", ["GET a;GET b", "GET a;GET b"], 0),
        # What is behind was done, and may have changed what is read, or would be undone.
        ({"GET a": 1}, "GET a;SET a 1", ["GET a;SET a 1"], 1),
        ({"SET a 1": 1}, "SET a 1;GET a", ["SET a 1;GET a"], 1),
        ({"SET a 1": 1, "SET a 2": 1}, "GET a;SET a 1;SET a 2", ["GET a;SET a 1;SET a 2", "SET a 1;SET a 2"], 0),
        ({"SET a 1": 1, "INCR b": 1}, "SET a 1;INCR b", ["SET a 1;INCR b", "SET a 1"], 1),
        # Commands that change what replies mean, and those that wait.
        ({"GET a": 1}, "GET a;SUBSCRIBE c", ["GET a;SUBSCRIBE c"], 1),
        ({"BLPOP a 1": 1}, "BLPOP a 1", ["BLPOP a 1"], 1),
        ({"GET a": 1}, "MULTI;GET a;EXEC", ["MULTI;GET a;EXEC"], 1),
    ])
def test_what_was_not_done_is_asked_again_where_the_order_stays(
    failing: dict[str, int], text: str, asked: list[str], failed: int
) -> None:
    """Idempotent requests, at their places; never more often than allowed."""
    lab = Lab(failing)
    answers = lab.ask(text)
    assert (lab.asked, answers.count(LOADING)) == (asked, failed)
    assert [a for a in answers if a != LOADING] == [
        b"+" + part.encode() + b"\r\n" for part, answer in zip(text.split(";"), answers) if answer != LOADING]


def test_nothing_is_asked_again_inside_a_transaction_also_after_a_move() -> None:
    """Between MULTI and EXEC, in whatever process."""
    lab, other = Lab({"GET a": 1}), Lab({"GET a": 1, "GET b": 1})
    assert [lab.ask(text)[0] for text in ("MULTI", "GET a")] == [b"+MULTI\r\n", LOADING]
    other.retrier.adopt(lab.retrier.export(Luggage()), Luggage())
    assert [other.ask(text)[0] for text in ("GET a", "EXEC", "GET b")] == [
        LOADING, b"+EXEC\r\n", b"+GET b\r\n"]


@pytest.mark.parametrize(("codes", "retried"), [(["LOADING"], True), (["BUSY"], False), ([], False)])
def test_the_codes_are_those_of_the_configuration(codes: list[str], retried: bool) -> None:
    """Others are answers like any."""
    lab = Lab({"GET a": 1}, on_errors=codes)
    assert (len(lab.ask("GET a")), len(lab.asked)) == (1, 1 + retried)


def test_a_run_of_which_nothing_was_sent_is_asked_again() -> None:
    """Whatever is in it, and as often as a request is."""
    lab = Lab()
    nothing = lost(NothingSent("refused"))
    lab.failures = [nothing, nothing]
    assert (lab.ask("MULTI;INCR a"), lab.asked) == (
        [b"+MULTI\r\n", b"+INCR a\r\n"], ["MULTI;INCR a"] * 3)
    lab.failures = [nothing] * 3
    with pytest.raises(TransformError) as caught:
        lab.ask("GET a")
    assert (caught.value is nothing, len(lab.asked), lab.numbers()) == (True, 6, {"connect": 6})


def test_connecting_and_asking_share_the_number_of_retries() -> None:
    """Two in all."""
    lab = Lab({"GET a": 9})
    lab.failures = [lost(NothingSent("refused"))]
    assert (lab.ask("GET a"), len(lab.asked), lab.numbers()) == (
        [LOADING], 3, {"connect": 1, "LOADING": 1})


@pytest.mark.parametrize(
    ("failure", "fields"),
    [
        (lost(UpstreamError("lost")), {}),
        (lost(NothingSent("refused"), "a step between"), {}),
        (lost(NothingSent("refused")), {"on_connect_failure": False}),
        (UpstreamClosed("end"), {}),
    ], ids=["lost", "between", "switched off", "end"])
def test_what_may_have_been_done_is_not_asked_again(failure: Exception, fields: dict[str, object]) -> None:
    """A connection that was lost, a step in between that may have done something, the end of a session."""
    lab = Lab(**fields)
    lab.failures = [failure]
    with pytest.raises(type(failure)):
        lab.ask("GET a")
    assert (len(lab.asked), lab.numbers()) == (1, {})


def test_a_connection_that_is_lost_while_asking_again_ends_the_session() -> None:
    """As it does at any other time."""
    lab = Lab({"GET a": 1})
    failure = lost(UpstreamError("lost"))
    lab.failures = [None, failure]
    with pytest.raises(TransformError) as caught:
        lab.ask("GET a")
    assert caught.value is failure


def test_retries_are_paid_from_the_budget_of_all_sessions() -> None:
    """What is denied is counted, and answered as it was."""
    lab = Lab({"GET a": 1, "GET b": 9}, budget_ratio=0, budget_per_second=1, max_retries=10)
    answers = [lab.ask("GET a"), lab.ask("GET b")]
    assert (answers, lab.numbers()) == (
        [[b"+GET a\r\n"], [b"+GET b\r\n"]], {"LOADING": 10})
    lab.failing["GET c"] = 1
    assert (lab.ask("GET c"), lab.numbers()) == ([LOADING], {"LOADING": 10, "denied": 1})


def test_the_waits_grow_and_come_from_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two programs with the same seed wait alike."""
    slept: list[float] = []
    monkeypatch.setattr(module.gevent, "sleep", slept.append)
    for _ in range(2):
        Lab({"GET a": 9}, base_delay_ms=100, max_delay_ms=60_000, max_retries=4, seed=3).ask("GET a")
    assert (slept[:4], all(0 <= s <= 0.1 * 2**n for n, s in enumerate(slept[:4])), max(slept) > 0.1) == (
        slept[4:], True, True)


def test_nobody_is_asked_for_a_client_that_has_gone() -> None:
    """It is looked for after each wait."""
    lab = Lab({"GET a": 1})
    gone: Callable[[], bool] = lambda: True
    lab.context.client_is_gone = gone
    with pytest.raises(ClientGone):
        lab.ask("GET a")
    assert lab.asked == ["GET a"]


def test_problems_are_told_together() -> None:
    """A code that is none, and waits that contradict each other."""
    assert Retry(name="r", on_errors=["x"], base_delay_ms=300).problems() == [
        "Retry:", '  on_errors: "x" is no first word of an error reply; write it as LOADING',
        "  base_delay_ms must not be more than max_delay_ms"]
