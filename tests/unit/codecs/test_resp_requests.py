"""Requests of a client: bytes in, batches out."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from resp_samples import ECHO, PING, command, cut, good_streams, read_all, streams

from shotover_gevent.codecs import resp_request_scanner
from shotover_gevent.codecs.batch import Batch
from shotover_gevent.codecs.resp import RESP, MalformedRequest, RequestDecoder
from shotover_gevent.codecs.resp_canonical import take_canonical
from shotover_gevent.codecs.resp_request_scanner import (
    MAX_BULK_BYTES,
    MAX_LINE_BYTES,
    RequestScanner,
)

TRANSCRIPTS = {
    "one": (PING, PING, [[b"PING"]]),
    "pipelined": (PING + ECHO, PING + ECHO, [[b"PING"], [b"ECHO", b"a\r\n"]]),
    "an empty argument": (command([b""]), command([b""]), [[b""]]),
    "nothing": (b"", b"", []),
    "empty lines": (b"\r\n\n" + PING + b"\r\n", PING, [[b"PING"]]),
    "blank lines": (b" \t\r\n" + PING, PING, [[b"PING"]]),
    "empty arrays": (b"*0\r\n*-1\r\n*-9\r\n" + PING + b"*0\r\n", PING, [[b"PING"]]),
    "inline": (b"PING\r\nget k\n", b"PING\r\nget k\n", [[b"PING"], [b"get", b"k"]]),
    "inline among arrays": (
        PING + b"GET k\r\n" + ECHO, PING + b"GET k\r\n" + ECHO,
        [[b"PING"], [b"GET", b"k"], [b"ECHO", b"a\r\n"]],
    ),
    "inline with quotes": (b"ECHO 'a b'\r\n", command([b"ECHO", b"a b"]), [[b"ECHO", b"a b"]]),
    "inline with a high byte": (b"GET \xff\n", command([b"GET", b"\xff"]), [[b"GET", b"\xff"]]),
    "inline like a value": (b"$4\r\nPING\r\n", command([b"$4"]) + b"PING\r\n", [[b"$4"], [b"PING"]]),
    "elements like values of a server": (
        command([b"+a", b"=5", b"(1", b"~", b">1", b"*2"]),
        command([b"+a", b"=5", b"(1", b"~", b">1", b"*2"]),
        [[b"+a", b"=5", b"(1", b"~", b">1", b"*2"]],
    ),
}


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_requests_are_read_and_passed_on(name: str):
    """Requests come out with their arguments and bytes; what a server ignores does not."""
    data, raw, values = TRANSCRIPTS[name]
    assert read_all(RequestDecoder(), [data]) == (raw, values, "")


REFUSED = {
    b"*x\r\n": b"invalid multibulk length",
    b"*\r\n": b"invalid multibulk length",
    b"*01\r\n": b"invalid multibulk length",
    b"*+1\r\n": b"invalid multibulk length",
    b"*-0\r\n": b"invalid multibulk length",
    b"*2147483648\r\n": b"invalid multibulk length",
    b"*1\0\r\n": b"invalid multibulk length",
    b"*1\rX": b"invalid CRLF in request",
    b"*" + b"1" * MAX_LINE_BYTES: b"too big mbulk count string",
    b"*1\r\n$-1\r\n": b"invalid bulk length",
    b"*1\r\n$ 4\r\n": b"invalid bulk length",
    b"*1\r\n$%d\r\n" % (MAX_BULK_BYTES + 1): b"invalid bulk length",
    b"*1\r\n$4\r\nPINGxx": b"invalid CRLF in request",
    b"*1\r\n" + b"$" * (MAX_LINE_BYTES + 1): b"too big bulk count string",
    b"*1\r\n:4\r\n": b"expected '$', got ':'",
    b"*1\r\n+PING\r\n": b"expected '$', got '+'",
    b"*1\r\n=8\r\ntxt:PING\r\n": b"expected '$', got '='",
    b"*1\r\n*1\r\n$1\r\nx\r\n": b"expected '$', got '*'",
    b"*1\r\n\r\n": b"expected '$', got ' '",
    b"*1\r\n\xff\r\n": b"expected '$', got '\xff'",
    b"x" * (MAX_LINE_BYTES + 1): b"too big inline request",
    b"ECHO 'a\r\n": b"unbalanced quotes in request",
    b'ECHO "a"b\r\n': b"unbalanced quotes in request",
    b"PING\0\r\n": b"NUL byte in inline request",
}


@pytest.mark.parametrize("data", REFUSED, ids=lambda data: repr(data[:30]))
def test_what_is_malformed_is_refused_in_the_words_of_redis(data: bytes):
    """A malformed request raises the server's own error, with the requests before it."""
    error = (b"-ERR Protocol error: " + REFUSED[data] + b"\r\n").decode("latin-1")
    assert read_all(RequestDecoder(), [ECHO + data + PING]) == (ECHO, [[b"ECHO", b"a\r\n"]], error)


@pytest.mark.parametrize(
    "data",
    [
        b"*1", b"*1\r", b"*2147483647\r\n", b"*1\r\n", b"*1\r\n$%d\r\n" % MAX_BULK_BYTES, b"*1\r\n:4",
        b"*1\r\n$4\r\nPING", b"*1\r\n$4\r\nPING\r", b"*1\r\n$4\r\nPINGx", b"PING", b"PING\r", b"'",
        b"x" * MAX_LINE_BYTES,
    ],
    ids=lambda data: repr(data[:30]),
)
def test_an_incomplete_request_is_kept(data: bytes):
    """What may still become a request is held, byte for byte, and not passed on."""
    decoder = RequestDecoder()
    batch = decoder.feed(PING + data)
    assert (batch.raw, batch.values, decoder.pending) == (PING, [[b"PING"]], data)


@given(st.one_of(streams, good_streams), st.lists(st.integers(0, 300)))
@example(ECHO * 2 + b"PING\r\n*0\r\n", list(range(100)))
def test_how_the_data_is_cut_makes_no_difference(data: bytes, places: list[int]):
    """Any pieces of a stream give the same requests, error and rest as the whole."""
    whole, cut_up = RequestDecoder(), RequestDecoder()
    expected = (*read_all(whole, [data]), whole.pending)
    assert (*read_all(cut_up, cut(data, places)), cut_up.pending) == expected


@given(streams, st.integers(0, 300))
def test_a_connection_goes_on_in_another_decoder(data: bytes, place: int):
    """A decoder made from the pending bytes of another goes on where that one was."""
    head, tail = data[: place % (len(data) + 1)], data[place % (len(data) + 1) :]
    first = RequestDecoder()
    raw, values, error = read_all(first, [head])
    if error:
        return
    more_raw, more_values, error = read_all(RequestDecoder(first.pending), [tail])
    assert (raw + more_raw, values + more_values, error) == read_all(RequestDecoder(), [data])


@given(st.one_of(streams, good_streams))
def test_the_fast_way_and_the_careful_way_agree(data: bytes):
    """What is taken as canonical is what the scanner reads at that place."""
    values, end = take_canonical(data)
    scanner, careful = RequestScanner(), []
    while scanner.at < end:
        careful.append(scanner.next(data))
    assert (careful, scanner.at) == (values, end)


@given(st.lists(st.lists(st.binary(max_size=9), min_size=1, max_size=4), max_size=9))
def test_canonical_requests_are_taken_fast(requests: list[list[bytes]]):
    """Requests without line ends in their arguments are all taken the fast way."""
    requests = [[word.replace(b"\r\n", b"") for word in words] for words in requests]
    data = b"".join(map(command, requests))
    assert take_canonical(data) == (requests, len(data))


@given(st.one_of(streams, good_streams))
def test_what_is_passed_on_reads_the_same_again(data: bytes):
    """The bytes passed on are, for a second decoder, the same requests and nothing else."""
    raw, values, _ = read_all(RequestDecoder(), [data])
    second = RequestDecoder()
    assert (*read_all(second, [raw]), second.pending) == (raw, values, "", b"")


@given(st.one_of(streams, good_streams))
def test_every_message_is_its_request(data: bytes):
    """A batch splits into messages whose frames are the arguments of its requests."""
    try:
        batch = RequestDecoder().feed(data)
    except MalformedRequest as error:
        batch = error.batch
    messages = batch[:].messages
    assert [message.frame for message in messages] == batch.values
    assert b"".join(message.raw for message in messages) == batch.raw


def test_the_buffer_may_be_used_again():
    """Nothing refers to the receive buffer once feed() has returned."""
    decoder, buffer = RequestDecoder(), bytearray(PING + PING[:6])
    batch = decoder.feed(memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    assert (batch.raw, decoder.pending) == (PING, PING[:6])


def test_a_decoder_that_refused_reads_nothing_more():
    """After a malformed request every feed raises it again, without requests."""
    decoder = RequestDecoder()
    for data in (PING + b"*x\r\n", PING):
        with pytest.raises(MalformedRequest) as caught:
            decoder.feed(data)
    assert (caught.value.reply, len(caught.value.batch), decoder.pending) == (
        b"-ERR Protocol error: invalid multibulk length\r\n", 0, b"",
    )


@pytest.mark.parametrize(
    "data",
    [command([b"SET", b"k", bytes(3_000_000)]), command([b"DEL", *[b"key"] * 60_000])],
    ids=["a large value", "many arguments"],
)
def test_work_grows_with_the_data_only(data: bytes, monkeypatch: pytest.MonkeyPatch):
    """However many pieces a request comes in, each byte is looked at a few times only."""
    seen = []
    read = RequestScanner.next

    def count(scanner: RequestScanner, piece: bytes) -> list[bytes] | None:
        seen.append(len(piece) - scanner.at)
        return read(scanner, piece)

    monkeypatch.setattr(RequestScanner, "next", count)
    decoder = RequestDecoder()
    chunks = [data[at : at + 1000] for at in range(0, len(data), 1000)]
    assert read_all(decoder, chunks)[0] == data
    assert sum(seen) < 3 * len(data)


def test_a_huge_head_costs_nothing():
    """A head of two billion arguments allocates none."""
    decoder = RequestDecoder()
    decoder.feed(b"*2147483647\r\n$1\r\nx\r\n")
    assert decoder.pending == b"*2147483647\r\n$1\r\nx\r\n"


def test_a_batch_knows_its_codec_and_names():
    """A batch of requests names its commands in upper case."""
    batch: Batch = RequestDecoder().feed(command([b"get", b"k"]) + PING)
    assert (batch.codec, batch.names) == (RESP, [b"GET", b"PING"])


def test_a_request_has_a_largest_size(monkeypatch: pytest.MonkeyPatch):
    """A request that states more bytes than a server keeps is refused before they come."""
    monkeypatch.setattr(resp_request_scanner, "MAX_REQUEST_BYTES", 100)
    decoder = RequestDecoder()
    decoder.feed(b"*9\r\n$40\r\n" + bytes(40) + b"\r\n$50\r\n" + bytes(20))
    with pytest.raises(MalformedRequest, match="Protocol error: too big request"):
        decoder.feed(bytes(30) + b"\r\n$9\r\n")
