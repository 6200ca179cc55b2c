"""DebugReturner answers with its value, or fails."""

from __future__ import annotations

import pytest

from shotover_gevent.codecs.resp import RequestDecoder
from shotover_gevent.errors import TransformError
from shotover_gevent.sinks.debug_returner import DebugReturner
from tests.client import command
from tests.inprocess import session_context

PROBLEMS = ["DebugReturner:", "  Provide exactly one of:", '  * Valkey: "text"', "  * Fail: null"]


@pytest.mark.parametrize("text", ["42", "", "ä\r\n"])
def test_each_request_is_answered_by_the_text(text: str) -> None:
    """As a bulk string of its own, whatever the text holds."""
    sink = DebugReturner(name="r", Valkey=text).session(session_context())
    responses = sink.transform(RequestDecoder().feed(command("GET", "k") * 2), lambda requests: requests)
    data = text.encode()
    assert (responses.raw, responses[0] is responses[1]) == (b"$%d\r\n%b\r\n" % (len(data), data) * 2, False)


def test_every_request_fails() -> None:
    """A run without requests does not."""
    sink = DebugReturner(name="r", Fail=None).session(session_context())
    nothing = sink.transform(RequestDecoder().feed(b""), lambda requests: requests)
    with pytest.raises(TransformError) as caught:
        sink.transform(RequestDecoder().feed(command("GET", "k")), lambda requests: requests)
    assert (nothing.raw, str(caught.value)) == (b"", "Intentional Fail!")


@pytest.mark.parametrize(
    ("fields", "problems"),
    [
        ({"Valkey": "x"}, []), ({"Valkey": ""}, []), ({"Fail": None}, []), ({}, PROBLEMS),
        ({"Valkey": None}, PROBLEMS), ({"Valkey": "x", "Fail": None}, PROBLEMS),
    ], ids=str)
def test_exactly_one_way_to_answer_is_wanted(fields: dict[str, str | None], problems: list[str]) -> None:
    """What counts for Fail is that it is there."""
    assert DebugReturner(name="r", **fields).problems() == problems  # type: ignore[arg-type]
