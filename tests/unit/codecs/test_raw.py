"""Byte streams have no messages."""

from __future__ import annotations

import pytest

from shotover_gevent.codecs.batch import Batch, Message
from shotover_gevent.codecs.raw import RAW, RawDecoder


def test_a_batch_of_bytes_counts_no_messages():
    """What one read brought is a batch with bytes and without messages, free of the buffer."""
    buffer = bytearray(b"abc")
    batch = RawDecoder().feed(memoryview(buffer))
    buffer[:] = b"xyz"
    assert (batch.raw, len(batch), bool(batch), batch.values, batch.names, batch.bounds) == (
        b"abc", 0, False, (), [], [],
    )


def test_nothing_is_ever_incomplete():
    """A decoder of bytes keeps none, and takes none over."""
    assert RawDecoder().pending == b""
    with pytest.raises(ValueError):
        RawDecoder(b"x")


def test_a_message_of_bytes_is_its_bytes():
    """A message made by a transform is what its frame is; there is no error message."""
    batch = Batch.of(RAW, [Message(RAW, frame=b"ab"), Message(RAW, b"c")])
    assert (batch.raw, batch[1].frame, RAW.error("no")) == (b"abc", b"c", None)


def test_other_types_are_not_encoded():
    """A byte stream carries bytes only."""
    with pytest.raises(TypeError):
        RAW.encode("text")


def test_bytes_are_shown_up_to_a_length():
    """A line for a person shows the first bytes and the number of all."""
    assert RAW.render(Message(RAW, b"\0a\n")) == "Tcp 3 bytes b'\\x00a\\n'"
    assert RAW.render(Message(RAW, bytes(1000))) == f"Tcp 1000 bytes {bytes(64)!r}..."


def test_looking_for_messages_loses_no_bytes():
    """A transform that goes through the messages of a batch finds none, and the bytes pass all the same."""
    batch = RawDecoder().feed(b"abc")
    assert (list(batch), batch.messages, batch.raw, len(batch)) == ([], [], b"abc", 0)
