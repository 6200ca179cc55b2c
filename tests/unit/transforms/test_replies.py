"""Errors are found among responses in whatever form a batch has them."""

from __future__ import annotations

import hiredis
import pytest

from shotover_gevent.chain import Batch, Message
from shotover_gevent.codecs.resp import RESP
from shotover_gevent.transforms.replies import code_of, code_problems, errors

RAW = [b"+OK\r\n", b"-LOADING Redis is loading\r\n", b"$3\r\na-b\r\n", b"*1\r\n-ERR inside\r\n", b"-BARE\r\n"]
FOUND = [(1, "LOADING Redis is loading"), (4, "BARE")]


def decoded(raw: list[bytes]) -> Batch:
    """A batch with the values of hiredis."""
    reader = hiredis.Reader()
    reader.feed(b"".join(raw))
    return Batch(RESP, b"".join(raw), [reader.gets() for _ in raw])


@pytest.mark.parametrize("batch", [
    decoded(RAW), Batch.of(RESP, [Message(RESP, raw) for raw in RAW])], ids=["decoded", "messages"])
def test_errors_are_found(batch: Batch) -> None:
    """Those that answer a request, not those within an answer."""
    assert (errors(batch), [code_of(text) for _, text in errors(batch)]) == (FOUND, ["LOADING", "BARE"])


def test_errors_of_resp3_are_found() -> None:
    """They may have line breaks."""
    assert errors(Batch.of(RESP, [Message(RESP, b"!7\r\nERR a\nb\r\n")])) == [(0, "ERR a\nb")]


def test_a_batch_without_errors_is_not_split() -> None:
    """Its values are not even looked at."""
    assert errors(Batch(RESP, b"+OK\r\n", (object(),))) == []


def test_a_code_is_one_word_in_capitals() -> None:
    """Anything else would never be met."""
    assert code_problems("T", "codes", ["LOADING", "OK2", "loading", "A B", ""]) == [
        "T:", '  codes: "loading" is no first word of an error reply; write it as LOADING',
        '  codes: "A B" is no first word of an error reply; write it as LOADING',
        '  codes: "" is no first word of an error reply; write it as LOADING']
