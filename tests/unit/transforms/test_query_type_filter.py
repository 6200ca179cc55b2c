"""QueryTypeFilter answers what may not pass, and leaves everything else at its place."""

from __future__ import annotations

import pytest

from shotover_gevent.chain import Batch, Message, Transform
from shotover_gevent.codecs.resp import RESP, RequestDecoder
from shotover_gevent.transforms.query_type_filter import QueryTypeFilter
from tests.client import command
from tests.inprocess import session_context, summary

FILTERED = b"-ERR Message was filtered out by shotover\r\n"
REQUESTS = [command("GET", "a"), command("SET", "a", "1"), b"get b\r\n", command("PING"), command("MGET", "c")]


def a_filter(**lists: list[str]) -> Transform:
    """The filter of one session."""
    return QueryTypeFilter(name="f", **lists).session(session_context())  # type: ignore[arg-type]


class Below:
    """What stands below: answers ``+<number>`` with a push before it, and writes down what it got."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, float]] = []

    def __call__(self, requests: Batch) -> Batch:
        self.asked.append((requests.raw, requests.received_at))
        answers = Batch.of(RESP, [
            Message(RESP, b"+%d\r\n" % index, lead=b">p%d" % index) for index in range(len(requests))])
        answers.received_at = 2.0
        return answers


def ask(transform: Transform, below: Below, requests: list[bytes]) -> Batch:
    """Run the filter."""
    batch = RequestDecoder().feed(b"".join(requests))
    batch.received_at = 1.0
    return transform.transform(batch, below)


@pytest.mark.parametrize("lists", [{"DenyList": ["Write"]}, {"AllowList": ["Read", "SchemaChange"]}], ids=str)
def test_filtered_requests_are_answered_at_their_place(lists: dict[str, list[str]]) -> None:
    """What passes goes down as one batch, and each answer comes back to its request, push and all."""
    below = Below()
    responses = ask(a_filter(**lists), below, REQUESTS)
    assert (below.asked, summary(responses), responses.received_at) == (
        [(REQUESTS[0] + REQUESTS[2] + REQUESTS[4], 1.0)],
        [(b">p0", b"+0\r\n"), (b"", FILTERED), (b">p1", b"+1\r\n"), (b"", FILTERED), (b">p2", b"+2\r\n")],
        2.0)


def test_what_passes_as_a_whole_is_not_touched() -> None:
    """The very batch goes down, and the very answers come back."""
    seen: list[Batch] = []

    def below(requests: Batch) -> Batch:
        seen.append(requests)
        return requests

    requests = RequestDecoder().feed(REQUESTS[0])
    assert a_filter(DenyList=["Write"]).transform(requests, below) is requests is seen[0]


def test_nothing_is_asked_when_nothing_passes() -> None:
    """The transforms below do not hear of it."""
    below = Below()
    responses = ask(a_filter(AllowList=[]), below, REQUESTS)
    assert (below.asked, responses.raw) == ([], FILTERED * 5)


@pytest.mark.parametrize("count", [0, 2])
def test_a_wrong_number_of_answers_is_not_covered_up(count: int) -> None:
    """An answer too few or too many raises, instead of moving the others."""
    with pytest.raises(ValueError):
        ask(a_filter(DenyList=["Write"]), lambda requests: Batch.of(  # type: ignore[arg-type]
            RESP, [Message(RESP, b"+OK\r\n")] * count), REQUESTS[:2])


@pytest.mark.parametrize(
    ("lists", "problems"),
    [
        ({"AllowList": ["Read"]}, []), ({"DenyList": []}, []),
        ({}, ["QueryTypeFilter:", "  Provide exactly one of:", "  * AllowList", "  * DenyList"]),
        ({"AllowList": [], "DenyList": []},
         ["QueryTypeFilter:", "  Provide exactly one of:", "  * AllowList", "  * DenyList"]),
    ], ids=str)
def test_exactly_one_list_is_wanted(lists: dict[str, list[str]], problems: list[str]) -> None:
    """Neither and both are problems, in Shotover's words."""
    assert QueryTypeFilter(name="f", **lists).problems() == problems  # type: ignore[arg-type]
