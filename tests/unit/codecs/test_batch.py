"""A batch is bytes until somebody looks at its messages."""

from __future__ import annotations

from typing import Any

import pytest

from shotover_gevent.codecs.batch import Batch, Message
from shotover_gevent.codecs.resp import RESP, RequestDecoder
from shotover_gevent.codecs.resp_frames import SimpleString

GET = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"
SET = b"*3\r\n$3\r\nset\r\n$1\r\nk\r\n$1\r\nv\r\n"
PING = b"ping\r\n"


class CountingCodec:
    """RESP that writes down what it was asked for."""

    name = "Valkey"

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        return getattr(RESP, name)


def requests() -> Batch:
    """Three requests, one of them inline."""
    batch = RequestDecoder().feed(GET + SET + PING)
    batch.received_at = 1.5
    return batch


def responses(*leads: bytes) -> Batch:
    """Responses ``:0``, ``:1``, ... with these leads."""
    return Batch.of(RESP, [Message(RESP, b":%d\r\n" % i, lead=lead) for i, lead in enumerate(leads)])


def test_an_untouched_batch_is_the_same_bytes() -> None:
    """Counting, names and values do not split a batch: its bytes are the object that arrived."""
    raw, codec = b"".join([GET, SET]), CountingCodec()
    batch = Batch(codec, raw, [[b"GET", b"k"], [b"set", b"k", b"v"]])  # type: ignore[arg-type]
    found = (len(batch), bool(batch), batch.names, batch.names, batch.values, batch.raw is raw, codec.calls)
    assert found == (
        2, True, [b"GET", b"SET"], [b"GET", b"SET"], [[b"GET", b"k"], [b"set", b"k", b"v"]], True, ["names"])


def test_an_unparsed_message_is_the_same_bytes() -> None:
    """Splitting parses nothing, and a message that was only looked at keeps its bytes."""
    codec = CountingCodec()
    batch = Batch(codec, GET + b"*-1\r\n", [[b"GET", b"k"], None])  # type: ignore[arg-type]
    before = [message.raw for message in batch]
    split = list(codec.calls)
    frames = [message.frame for message in batch]
    assert (split, before, frames, batch.raw) == (
        ["split"], [GET, b"*-1\r\n"], [[b"GET", b"k"], None], GET + b"*-1\r\n")


def test_a_frame_is_parsed_once_and_encoded_once() -> None:
    """A frame that was assigned counts; it is encoded when its bytes are asked for."""
    codec = CountingCodec()
    message = Message(codec, GET)  # type: ignore[arg-type]
    first = message.frame is message.frame
    message.frame = [b"GET", b"other"]
    changed = (message.frame, message.raw, message.raw)
    raw = b"*2\r\n$3\r\nGET\r\n$5\r\nother\r\n"
    assert (first, changed, codec.calls) == (True, ([b"GET", b"other"], raw, raw), ["parse", "encode"])


def test_a_changed_message_changes_the_bytes_the_values_and_the_names_of_its_batch() -> None:
    """What is encoded again is the message that was changed, and no other."""
    batch = requests()
    names = batch.names
    batch[1].frame = [b"DEL", b"k"]
    assert (names, batch.raw, batch.names, list(batch.values)) == (
        [b"GET", b"SET", b"PING"],
        GET + b"*2\r\n$3\r\nDEL\r\n$1\r\nk\r\n" + PING,
        [b"GET", b"DEL", b"PING"],
        [[b"GET", b"k"], [b"DEL", b"k"], [b"ping"]],
    )


def test_a_null_frame_is_a_frame() -> None:
    """Assigning None is not taken for a frame that was not parsed."""
    message = Message(RESP, b"+OK\r\n")
    message.frame = None
    assert (message.frame, message.raw) == (None, b"$-1\r\n")


@pytest.mark.parametrize("is_split", [False, True])
@pytest.mark.parametrize(
    "part", [slice(None), slice(0, 1), slice(1, 3), slice(2, 2), slice(3, 9), slice(2, 1), slice(-1, None),
             slice(None, None, 2), slice(None, None, -1)], ids=str)
def test_a_slice_is_a_batch_of_its_messages(part: slice, is_split: bool) -> None:
    """Bytes, values, names, the moment of reading and further slices are those of the messages."""
    batch = requests()
    if is_split:
        assert len(batch.messages) == 3
    cut = batch[part]
    raws = [GET, SET, PING][part]
    values = [[b"GET", b"k"], [b"set", b"k", b"v"], [b"ping"]][part]
    found = (cut.raw, list(cut.values), len(cut), cut.names, cut.received_at, [m.raw for m in cut],
             [cut[i : i + 1].raw for i in range(len(cut))])
    assert found == (
        b"".join(raws), values, len(raws), [v[0].upper() for v in values], 1.5, raws, raws)


def test_a_slice_of_an_untouched_batch_does_not_split_it() -> None:
    """The ends of messages are found once; no message is made."""
    codec = CountingCodec()
    batch = Batch(codec, GET + SET, [[b"GET", b"k"], [b"set", b"k", b"v"]])  # type: ignore[arg-type]
    parts = [batch[0:1].raw, batch[1:2].raw]
    assert (parts, codec.calls, batch.bounds) == ([GET, SET], ["split"], [len(GET), len(GET + SET)])


def test_a_message_of_a_slice_is_the_message_of_the_batch() -> None:
    """Once split, a batch and its slices share messages, so that a change shows in both."""
    batch = requests()
    batch.messages[0].frame = [b"X"]
    batch[0:1][0].frame = [b"Y"]
    assert batch.names == [b"Y", b"SET", b"PING"]


@pytest.mark.parametrize("is_split", [False, True])
def test_joined_batches_are_one_batch_of_their_messages(is_split: bool) -> None:
    """Bytes, values, names and ends follow each other; the first one was read first."""
    parts = [requests(), RequestDecoder().feed(GET), requests()]
    if is_split:
        assert len(parts[1].messages) == 1
    joined = Batch.join(parts)
    raws = [GET, SET, PING, GET, GET, SET, PING]
    assert (joined.raw, len(joined), joined.names, joined.received_at, [m.raw for m in joined]) == (
        b"".join(raws), 7, [b"GET", b"SET", b"PING", b"GET", b"GET", b"SET", b"PING"], 1.5, raws)


def test_the_ends_of_joined_messages_are_found_when_they_are_needed() -> None:
    """Not before, unless a batch knows its own already."""
    codec = CountingCodec()
    parts = [Batch(codec, raw, [[b"X"]]) for raw in (GET, SET)]  # type: ignore[arg-type]
    joined = Batch.join(parts)
    assert (joined.raw, codec.calls, [m.raw for m in joined], codec.calls) == (
        GET + SET, ["split"], [GET, SET], ["split"])


def test_a_batch_alone_is_joined_as_it_is() -> None:
    """There is nothing to copy."""
    batch = requests()
    assert Batch.join([batch]) is batch


@pytest.mark.parametrize("is_split", [False, True])
def test_a_copy_is_not_changed_with_its_original(is_split: bool) -> None:
    """Nor the other way round."""
    batch = requests()
    if is_split:
        assert len(batch.messages) == 3
    copy = batch.copy()
    batch[0].frame = [b"X"]
    copy[1].frame = [b"Y"]
    assert (batch.names, copy.names, copy.received_at) == (
        [b"X", b"SET", b"PING"], [b"GET", b"Y", b"PING"], 1.5)


def test_a_copy_has_no_pushes() -> None:
    """They have one place, and leave once."""
    batch = responses(b">p", b"")
    assert (batch.copy().raw, batch.raw) == (b":0\r\n:1\r\n", b">p:0\r\n:1\r\n")


def test_an_empty_batch_is_nothing() -> None:
    """A batch of no messages is false and has no bytes."""
    batch = Batch.of(RESP, [])
    assert (bool(batch), len(batch), batch.raw, list(batch.values), batch.names, list(batch)) == (
        False, 0, b"", [], [], [])


def test_a_message_is_replaced_and_its_lead_stays() -> None:
    """A push leads whatever stands at its place, before the pushes that the new message brings."""
    batch = responses(b">a", b">b")
    batch[0] = Message(RESP, b"+new\r\n", lead=b">c")
    batch[1] = batch[1]
    assert batch.raw == b">a>c+new\r\n>b:1\r\n"


def test_one_message_in_several_places_repeats_no_push() -> None:
    """A transform may answer several requests by the same message; each push leaves once."""
    batch, error = responses(b">a", b">b", b""), Message(RESP, b"-ERR no\r\n")
    for index in range(3):
        batch[index] = error
    assert (batch.raw, error.lead) == (b">a-ERR no\r\n>b-ERR no\r\n-ERR no\r\n", b"")


def test_exchanged_messages_repeat_no_push() -> None:
    """Each push leaves once, in the order of arrival."""
    batch = responses(b">a", b">b")
    batch[0], batch[1] = batch[1], batch[0]
    assert batch.raw == b">a>b:1\r\n:0\r\n"


def test_a_mapped_batch_keeps_its_pushes_and_its_time() -> None:
    """Messages made anew are led by what led the old ones."""
    batch = responses(b">a", b"", b">b")
    batch.received_at = 2.5
    mapped = batch.map(lambda m: m if m.raw == b":2\r\n" else Message(RESP, frame=SimpleString(b"OK")))
    assert (mapped.raw, mapped.received_at) == (b">a+OK\r\n+OK\r\n>b:2\r\n", 2.5)


def test_messages_may_hold_several_values_or_none() -> None:
    """A response of no values still counts as one."""
    batch = Batch.of(RESP, [Message(RESP, b":1\r\n:2\r\n"), Message(RESP, b"")])
    assert (len(batch), list(batch.values), batch.raw) == (2, [[1, 2], []], b":1\r\n:2\r\n")


def test_a_batch_and_a_message_show_what_they_are() -> None:
    """Their repr is one line."""
    batch = requests()
    assert (repr(batch), repr(batch[2])) == (
        "<Batch of 3 Valkey messages>", "<Valkey message b'ping\\r\\n'>")


def test_sizes_are_those_of_the_messages() -> None:
    """Whether the batch was split or not, and without the pushes that lead them."""
    whole, split = requests(), requests()
    split[0].frame = [b"PING"]
    assert (whole.sizes, split.sizes, responses(b">push", b"").sizes, Batch(RESP, b"", ()).sizes) == (
        [len(GET), len(SET), len(PING)], [14, len(SET), len(PING)], [4, 4], [])


# -- what is made only when somebody asks ----------------------------------------------------------

VALUES = b"+OK\r\n", b"$1\r\nv\r\n", b":3\r\n"


def counted(codec: Any = RESP) -> Batch:
    """Three responses that were only counted, read at a moment."""
    batch = Batch.counted(codec, b"".join(VALUES), 3)
    batch.received_at = 2.5
    return batch


def test_a_counted_batch_decodes_nothing_until_it_is_asked() -> None:
    """Its bytes are the object that arrived; values are decoded once, and never split."""
    codec, raw = CountingCodec(), b"".join(VALUES)
    batch = Batch.counted(codec, raw, 3)  # type: ignore[arg-type]
    before = (len(batch), bool(batch), batch.raw is raw, repr(batch), list(codec.calls))
    values = [str(value) for value in batch.values]
    assert (before, values, batch.values is batch.values, batch.raw is raw, codec.calls) == (
        (3, True, True, "<Batch of 3 Valkey messages>", []), ["b'OK'", "b'v'", "3"], True, True, ["decode"])


def test_the_messages_of_a_counted_batch_are_split_without_decoding() -> None:
    """Each message has its bytes; a change shows in bytes and values."""
    codec = CountingCodec()
    batch = counted(codec)
    raws, calls = [message.raw for message in batch], list(codec.calls)
    batch[1].frame = b"changed"
    assert (raws, calls, batch.raw, list(batch.values)[1]) == (
        [*VALUES], ["split"], VALUES[0] + b"$7\r\nchanged\r\n" + VALUES[2], b"changed")


@pytest.mark.parametrize(
    "raw",
    [b"|1\r\n+ttl\r\n:9\r\n$1\r\nv\r\n", b"%1\r\n*1\r\n:1\r\n:2\r\n", b"~1\r\n*1\r\n:1\r\n", b"!5\r\nERR x\r\n"], ids=repr)
def test_any_value_of_the_protocol_can_be_decoded(raw: bytes) -> None:
    """Also what the fast reader cannot make: whoever asks must not fail because of the server."""
    assert len(Batch.counted(RESP, raw + b":1\r\n", 2).values) == 2


def test_names_are_made_once_and_are_those_that_were_given() -> None:
    """A decoder that knows them gives them; otherwise the codec is asked, once."""
    codec = CountingCodec()
    named = Batch(codec, GET, [[b"GET", b"k"]], names=[b"GIVEN"])  # type: ignore[arg-type]
    nameless = Batch(codec, GET, [[b"GET", b"k"]])  # type: ignore[arg-type]
    assert (named.names, nameless.names, nameless.names is nameless.names, codec.calls) == (
        [b"GIVEN"], [b"GET"], True, ["names"])


def kinds() -> dict[str, Batch]:
    """The same responses in every state that a batch can be in."""
    named, split, valued = counted(), counted(), counted()
    assert (len(named.names), len(split.messages), len(valued.values)) == (3, 3, 3)
    plain = Batch(RESP, b"".join(VALUES), RESP.decode(b"".join(VALUES), 3))
    plain.received_at = 2.5
    return {"counted": counted(), "named": named, "valued": valued, "split": split, "plain": plain}


@pytest.mark.parametrize("kind", kinds())
def test_a_copy_of_any_kind_is_the_same(kind: str) -> None:
    """Bytes, number, time and messages; a change to it does not show in the original."""
    batch = kinds()[kind]
    copy = batch.copy()
    found = (copy.raw, len(copy), copy.received_at, [m.raw for m in copy])
    copy[0].frame = b"x"
    assert (found, batch.raw) == ((b"".join(VALUES), 3, 2.5, [*VALUES]), b"".join(VALUES))


@pytest.mark.parametrize("kind", kinds())
def test_a_slice_of_any_kind_has_the_messages_of_its_place(kind: str) -> None:
    """And their values, number, and time."""
    cut = kinds()[kind][1:]
    assert (cut.raw, len(cut), cut.received_at, [str(v) for v in cut.values], [m.raw for m in cut]) == (
        VALUES[1] + VALUES[2], 2, 2.5, ["b'v'", "3"], [*VALUES[1:]])


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("other", kinds())
def test_batches_of_any_kinds_are_joined(kind: str, other: str) -> None:
    """All messages follow each other, whatever was known of which."""
    joined = Batch.join([kinds()[kind], kinds()[other], counted()])
    values = ["b'OK'", "b'v'", "3"] * 3
    assert (joined.raw, len(joined), joined.received_at, [str(v) for v in joined.values], joined.sizes) == (
        b"".join(VALUES) * 3, 9, 2.5, values, [5, 7, 4] * 3)
