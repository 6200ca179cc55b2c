"""DebugForceParse and DebugForceEncode take every message through the codec."""

from __future__ import annotations

import pytest

from shotover_gevent.chain import Batch, Message, Transform, TransformConfig
from shotover_gevent.codecs.raw import RAW
from shotover_gevent.codecs.resp import RESP, RequestDecoder
from shotover_gevent.transforms.debug_force import DebugForceEncode, DebugForceParse
from tests.inprocess import session_context

# In a form that no encoder writes, so that what was encoded again shows.
REQUEST, ENCODED_REQUEST = b"get  k\r\n", b"*2\r\n$3\r\nget\r\n$1\r\nk\r\n"
RESPONSE, ENCODED_RESPONSE = b"*-1\r\n", b"$-1\r\n"


def forcer(config: TransformConfig) -> Transform:
    """The transform of one session."""
    return config.session(session_context())


def both_ways(transform: Transform, response: bytes = RESPONSE) -> tuple[bytes, bytes, bytes]:
    """What reaches the server, the client, and the client unasked."""
    asked: list[bytes] = []

    def below(requests: Batch) -> Batch:
        asked.append(requests.raw)
        return Batch.of(RESP, [Message(RESP, response)])

    answer = transform.transform(RequestDecoder().feed(REQUEST), below).raw
    transform.push(Batch(RESP, response, (None,), [len(response)]), lambda pushes: asked.append(pushes.raw))
    return asked[0], answer, asked[1]


@pytest.mark.parametrize(
    ("requests", "responses", "expected"),
    [
        (False, False, (REQUEST, RESPONSE, RESPONSE)), (True, False, (ENCODED_REQUEST, RESPONSE, RESPONSE)),
        (False, True, (REQUEST, ENCODED_RESPONSE, ENCODED_RESPONSE)),
    ])
def test_messages_are_encoded_again(requests: bool, responses: bool, expected: tuple[bytes, ...]) -> None:
    """Requests, or responses and pushes."""
    config = DebugForceEncode(name="e", encode_requests=requests, encode_responses=responses)
    assert both_ways(forcer(config)) == expected


def test_parsing_changes_no_byte() -> None:
    """Whatever is parsed."""
    config = DebugForceParse(name="p", parse_requests=True, parse_responses=True)
    assert both_ways(forcer(config)) == (REQUEST, RESPONSE, RESPONSE)


@pytest.mark.parametrize("config", [
    DebugForceParse(name="p", parse_requests=False, parse_responses=True),
    DebugForceEncode(name="e", encode_requests=False, encode_responses=True)])
def test_what_cannot_be_parsed_is_logged_and_passes(
    config: TransformConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """As it is."""
    assert both_ways(forcer(config), b"?\r\n") == (REQUEST, b"?\r\n", b"?\r\n")
    assert caplog.messages == ["Failed to parse frame: b'?' is no value of RESP"] * 2


def test_parsing_happens_only_where_it_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    """What nobody parses does not fail."""
    both_ways(forcer(DebugForceParse(name="p", parse_requests=True, parse_responses=False)), b"?\r\n")
    assert caplog.messages == []


def test_bytes_without_messages_pass() -> None:
    """A Tcp chain has nothing to parse."""
    config = DebugForceEncode(name="e", encode_requests=True, encode_responses=True)
    pushed: list[bytes] = []
    answer = forcer(config).transform(Batch(RAW, b"x", ()), lambda requests: requests).raw
    forcer(config).push(Batch(RAW, b"y", ()), lambda pushes: pushed.append(pushes.raw))
    assert (answer, pushed) == (b"x", [b"y"])
