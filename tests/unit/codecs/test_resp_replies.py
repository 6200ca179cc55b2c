"""Replies of a server: where they end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resp_samples import cut, streams

from shotover_gevent.codecs import resp_replies
from shotover_gevent.codecs.resp import RESP, ReplyScanner, reply_ends
from shotover_gevent.codecs.resp_replies import kind_of
from shotover_gevent.errors import PeerError

VALUES = [
    b"+OK\r\n", b"+\r\n", b"-ERR a\rb\nc\r\n", b":-1\r\n", b"$0\r\n\r\n", b"$5\r\na\r\nb\xff\r\n",
    b"$-1\r\n", b"*-1\r\n", b"*0\r\n", b"*2\r\n*1\r\n:1\r\n$1\r\nx\r\n", b"_\r\n", b"#t\r\n", b"#f\r\n",
    b",1.5\r\n", b",-inf\r\n", b",nan\r\n", b",1e-9\r\n", b"(-123456789012345678901234567890\r\n",
    b"!5\r\nERR x\r\n", b"=5\r\ntxt:x\r\n", b"%2\r\n+a\r\n:1\r\n*1\r\n:2\r\n%0\r\n", b"~2\r\n:1\r\n:2\r\n",
    b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n", b"|1\r\n+ttl\r\n:9\r\n$1\r\nv\r\n",
    b"|1\r\n+a\r\n*2\r\n:1\r\n:2\r\n|1\r\n+b\r\n:3\r\n*2\r\n|1\r\n+c\r\n:4\r\n:5\r\n:6\r\n",
]
values = st.lists(st.sampled_from(VALUES), max_size=6)
places = st.lists(st.integers(0, 500))


def scan(scanner: ReplyScanner, chunks: list[bytes]) -> tuple[list[bytes], str]:
    """The values found in all chunks, and the error."""
    found: list[bytes] = []
    try:
        for chunk in chunks:
            found += scanner.feed(chunk)
    except PeerError as error:
        return found, type(error).__name__
    return found, ""


@given(values, places)
def test_values_are_found_however_they_are_cut(expected: list[bytes], places: list[int]):
    """Each value comes out whole and once, whatever pieces it came in."""
    scanner = ReplyScanner()
    assert scan(scanner, cut(b"".join(expected), places)) == (expected, "")
    assert scanner.pending == b""


@given(values, st.sampled_from(VALUES), st.integers(0, 500))
def test_a_connection_goes_on_in_another_scanner(whole: list[bytes], last: bytes, place: int):
    """A scanner made from the pending bytes of another goes on where that one was."""
    head, tail = last[: place % len(last)], last[place % len(last) :]
    first = ReplyScanner()
    assert first.feed(b"".join(whole) + head) == whole
    assert first.pending == head
    assert ReplyScanner(first.pending).feed(tail) == [last]


@given(values)
def test_ends_of_a_known_number_of_values(expected: list[bytes]):
    """Splitting gives the end of each value, an attribute being a part of what follows it."""
    raw, ends, at = b"".join(expected), [], 0
    for value in expected:
        at += len(value)
        ends.append(at)
    assert RESP.split(raw, len(expected)) == ends


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_wrong_number_of_values_is_refused(count: int):
    """Bytes that are not exactly so many values cannot be split into them."""
    with pytest.raises(PeerError):
        reply_ends(b"+OK\r\n+OK\r\n", count)


MALFORMED = {
    b"OK\r\n": "no value begins with b'O': b'OK\\r\\n'",
    b"\r\n": "no value begins with b'\\r': b'\\r\\n'",
    b"HTTP/1.1": "no value begins with b'H': b'HTTP/1.1'",
    b"$x\r\n": "b'x' is no length",
    b"$03\r\nabc\r\n": "b'03' is no length",
    b"$-2\r\n": "b'-2' is no length",
    b"*9223372036854775808\r\n": "b'9223372036854775808' is no length",
    b"~-1\r\n": "b'-1' is no length",
    b"$" + b"1" * 30: f"{b'$' + b'1' * 30!r} states no length",
    b"$1\r\nabc": "a string does not end where its length says",
    b":1x\r\n": "b':1x' is no value of RESP",
    b"#y\r\n": "b'#y' is no value of RESP",
    b"_x\r\n": "b'_x' is no value of RESP",
    b",one\r\n": "b',one' is no value of RESP",
    b"$?\r\n": "streamed values of RESP3 are not supported; no server sends them",
    b"*?\r\n": "streamed values of RESP3 are not supported; no server sends them",
}


@pytest.mark.parametrize("data", MALFORMED, ids=repr)
def test_what_is_not_resp_is_refused(data: bytes):
    """Bytes that are no value raise an error that says why."""
    with pytest.raises(PeerError) as caught:
        ReplyScanner().feed(b"*2\r\n:1\r\n" + data)
    assert str(caught.value) == MALFORMED[data]


@given(streams, places)
def test_any_bytes_are_values_or_refused(data: bytes, places: list[int]):
    """However any bytes are cut, the same happens, and no byte is lost or invented."""
    whole, cut_up = ReplyScanner(), ReplyScanner()
    found, error = scan(whole, [data])
    if not error:
        assert (*scan(cut_up, cut(data, places)), cut_up.pending) == (found, "", whole.pending)
        assert b"".join(found) + whole.pending == data


@pytest.mark.parametrize(
    "data",
    [
        b"$2000000\r\n" + bytes(2_000_000) + b"\r\n",
        b"*100000\r\n" + b"$3\r\nabc\r\n" * 100_000,
        b"*1\r\n" * 200_000 + b":1\r\n",
        b"+" + b"x" * 500_000 + b"\r\n",
    ],
    ids=["a large string", "many elements", "deep nesting", "a long line"],
)
def test_work_grows_with_the_data_only(data: bytes, monkeypatch: pytest.MonkeyPatch):
    """However many pieces a value comes in, each byte is looked at a few times only."""
    seen = []
    advance = resp_replies.advance

    def count(raw: bytes, at: int, lacking: int) -> tuple[int, int, int]:
        seen.append(len(raw) - at)
        return advance(raw, at, lacking)

    monkeypatch.setattr(resp_replies, "advance", count)
    chunks = [data[at : at + 1000] for at in range(0, len(data), 1000)]
    assert scan(ReplyScanner(), chunks) == ([data], "")
    assert sum(seen) < 3 * len(data)


def test_the_buffer_may_be_used_again():
    """Nothing refers to the receive buffer once feed() has returned."""
    scanner, buffer = ReplyScanner(), bytearray(b"+OK\r\n$5\r\na")
    found = scanner.feed(memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    assert (found, scanner.pending) == ([b"+OK\r\n"], b"$5\r\na")


@pytest.mark.parametrize(
    "raw", [b"+OK\r\n", b"|1\r\n+a\r\n*1\r\n:1\r\n+OK\r\n", b"|1\r\n+a\r\n:1\r\n|0\r\n+OK\r\n"])
def test_the_kind_is_that_of_the_value_behind_its_attributes(raw: bytes):
    """The kind of a value is its own, not that of the attributes that lead it."""
    assert kind_of(raw) == ord("+")
