"""Frames of RESP: parsed, encoded, and shown to people."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shotover_gevent.codecs.batch import Message
from shotover_gevent.codecs.resp import RESP
from shotover_gevent.codecs.resp_frames import (
    NULL3,
    Attribute,
    BigNumber,
    BlobError,
    Double,
    ErrorReply,
    Map,
    Push,
    Set,
    SimpleString,
    Values,
    Verbatim,
    encode,
    parse,
)
from shotover_gevent.codecs.resp_replies import ReplyScanner
from shotover_gevent.errors import PeerError

EXAMPLES: list[tuple[bytes, Any, str]] = [
    (b"$3\r\na\r\n\r\n", b"a\r\n", 'BulkString(b"a\\r\\n")'),
    (b"$0\r\n\r\n", b"", 'BulkString(b"")'),
    (b"+OK\r\n", SimpleString(b"OK"), 'SimpleString(b"OK")'),
    (b"-ERR x\r\n", ErrorReply(b"ERR x"), 'Error("ERR x")'),
    (b":-12\r\n", -12, "Integer(-12)"),
    (b"$-1\r\n", None, "Null"),
    (b"*0\r\n", [], "Array([])"),
    (
        b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", [b"GET", b"k"],
        'Array([BulkString(b"GET"), BulkString(b"k")])',
    ),
    (b"*1\r\n*1\r\n$-1\r\n", [[None]], "Array([Array([Null])])"),
    (b"_\r\n", NULL3, "Null"),
    (b"#t\r\n", True, "Boolean(true)"),
    (b"#f\r\n", False, "Boolean(false)"),
    (b",1.50\r\n", Double(b"1.50"), "Double(1.50)"),
    (b",-inf\r\n", Double(b"-inf"), "Double(-inf)"),
    (b"(-123\r\n", BigNumber(b"-123"), 'BigNumber(b"-123")'),
    (b"=6\r\ntxt:\xff\n\r\n", Verbatim(b"txt", b"\xff\n"), 'VerbatimString(b"txt", b"\\xff\\n")'),
    (b"!5\r\nERR x\r\n", BlobError(b"ERR x"), 'BlobError(b"ERR x")'),
    (b"%1\r\n*1\r\n:1\r\n%0\r\n", Map([([1], Map())]), "Map([(Array([Integer(1)]), Map([]))])"),
    (b"~2\r\n:1\r\n:1\r\n", Set([1, 1]), "Set([Integer(1), Integer(1)])"),
    (b">1\r\n+x\r\n", Push([SimpleString(b"x")]), 'Push([SimpleString(b"x")])'),
    (
        b"|1\r\n+a\r\n:1\r\n*1\r\n|0\r\n:2\r\n",
        Attribute([(SimpleString(b"a"), 1)], [Attribute([], 2)]),
        'Attribute(Map([(SimpleString(b"a"), Integer(1))]), Array([Attribute(Map([]), Integer(2))]))',
    ),
    (b":1\r\n+a\r\n", Values([1, SimpleString(b"a")]), 'Integer(1) SimpleString(b"a")'),
    (b"", Values(), ""),
]


@pytest.mark.parametrize(("raw", "frame", "text"), EXAMPLES, ids=[repr(e[0]) for e in EXAMPLES])
def test_each_type_is_parsed_encoded_and_rendered(raw: bytes, frame: Any, text: str):
    """Each type has its frame, its bytes, and its text."""
    parsed = parse(raw)
    assert (type(parsed), parsed, encode(frame), RESP.render(Message(RESP, raw))) == (
        type(frame), frame, raw, f"Valkey {text}",
    )


lines = st.binary(max_size=8).map(lambda line: line.replace(b"\r\n", b""))
scalars = st.one_of(
    st.binary(max_size=8), lines.map(SimpleString), lines.map(ErrorReply), st.integers(), st.none(),
    st.booleans(), st.just(NULL3), st.floats(allow_nan=False).map(lambda x: Double(repr(x).encode())),
    st.integers().map(lambda x: BigNumber(b"%d" % x)), st.binary(max_size=8).map(BlobError),
    st.builds(Verbatim, st.just(b"txt"), st.binary(max_size=8)),
)


def _nested(frames: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    items = st.lists(frames, max_size=4)
    pairs = st.lists(st.tuples(frames, frames), max_size=3)
    return st.one_of(
        items, items.map(Set), items.map(Push), pairs.map(Map), st.builds(Attribute, pairs, frames))


@given(st.recursive(scalars, _nested, max_leaves=12))
def test_frames_survive_encoding_and_parsing(frame: Any):
    """An encoded frame is one value on the wire, and parses to an equal frame of the same bytes."""
    raw = encode(frame)
    assert ReplyScanner().feed(raw) == [raw]
    assert (parse(raw), encode(parse(raw))) == (frame, raw)


def test_the_null_array_becomes_the_null_string():
    """Both nulls of RESP2 are None, which is encoded as the null string."""
    assert (parse(b"*-1\r\n"), encode(parse(b"*-1\r\n"))) == (None, b"$-1\r\n")


@pytest.mark.parametrize("head", [b"*1\r\n", b"~1\r\n", b"%1\r\n:1\r\n", b"|1\r\n:1\r\n:2\r\n"])
def test_nesting_may_be_as_deep_as_the_bytes_say(head: bytes):
    """A hundred thousand levels are parsed, encoded and rendered."""
    raw = head * 100_000 + b":7\r\n"
    frame = parse(raw)
    assert encode(frame) == raw
    assert RESP.render(Message(RESP, frame=frame)).count("Integer(7)") == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"$3\r\nab", b"*2\r\n:1\r\n", b"*1000000000\r\n", b"$1\r\nab\r\n", b"?\r\n", b":\r\n",
        b",x\r\n", b"=3\r\ntxt\r\n", b"$?\r\n", b"*x\r\n", b"*-2\r\n", b"+OK\r\n:",
    ],
)
def test_what_is_not_resp_is_refused(raw: bytes):
    """Bytes that are no value, or not all of it, raise an error, and are rendered as they are."""
    with pytest.raises(PeerError):
        parse(raw)
    assert RESP.render(Message(RESP, raw)) == f"Unparseable Valkey message {raw!r}"


@pytest.mark.parametrize("frame", [SimpleString(b"a\r\nb"), ErrorReply(b"\r\n"), Verbatim(b"t", b"")])
def test_a_frame_that_would_break_the_stream_is_not_encoded(frame: Any):
    """A line break within a line, or a wrong format, raises instead of corrupting the stream."""
    with pytest.raises(ValueError):
        encode(frame)


@pytest.mark.parametrize("frame", ["text", {b"a": 1}, object()])
def test_other_types_are_not_encoded(frame: Any):
    """What is no frame raises an error that names what is."""
    with pytest.raises(TypeError, match="is no type of RESP; use bytes, int, list or a frame class"):
        encode([frame])


def test_a_request_of_a_transform_is_a_list_of_bytes():
    """A transform may write a request as a list or tuple of bytes."""
    assert encode((b"GET", bytearray(b"k"))) == b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"


def test_numbers_can_be_reckoned_with():
    """Doubles and big numbers are numbers for Python, errors have a text."""
    assert (Double(b"1.50") + 1, int(BigNumber(b"-12")), ErrorReply(b"ERR \xff").text) == (
        2.5, -12, "ERR \ufffd",
    )


@pytest.mark.parametrize(
    ("values", "name", "query_type"),
    [
        ([b"get", b"k"], b"GET", "Read"), ([b"Append"], b"APPEND", "Read"),
        ([b"SET", b"k", b"v"], b"SET", "Write"), ([b"PING"], b"PING", "Write"),
        ([], b"unknown", "Write"), (b"GET", b"unknown", "Write"), (None, b"unknown", "Write"),
        ([1], b"unknown", "Write"), ([[b"GET"]], b"unknown", "Write"),
    ],
)
def test_requests_have_a_name_and_a_type(values: Any, name: bytes, query_type: str):
    """The command decides whether a request reads; what is no request is unknown, and writes."""
    assert (RESP.names([values]), RESP.query_type(values)) == ([name], query_type)


def test_an_error_is_one_line():
    """Each line break in an error text becomes one blank."""
    assert RESP.error("a\r\nb\nc\n\n  d") == b"-ERR a b c    d\r\n"


def test_an_inline_command_is_a_list_of_its_words():
    """The message of an inline command has the words of the line for its frame."""
    assert RESP.parse(b"GET k\r\n") == [b"GET", b"k"]
