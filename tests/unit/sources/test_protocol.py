"""How a batch is cut into runs of the chain."""

from __future__ import annotations

import pytest

from shotover_gevent.codecs.batch import Batch
from shotover_gevent.codecs.raw import RAW
from shotover_gevent.codecs.resp import RequestDecoder
from shotover_gevent.sources.protocol import PROTOCOLS
from tests.client import command

VALKEY, TCP = PROTOCOLS["Valkey"], PROTOCOLS["Tcp"]


def batch(names: str) -> Batch:
    """One request per letter: ``b`` waits for other clients, anything else does not."""
    requests = [command("blpop", "k", "0") if name == "b" else command("GET", name) for name in names]
    return RequestDecoder().feed(b"".join(requests))


@pytest.mark.parametrize(
    ("names", "limit", "lengths"),
    [
        ("g", 1, [1]), ("b", 1, [1]), ("ggg", 3, [3]), ("gggg", 3, [3, 1]), ("gggggg", 3, [3, 3]),
        ("ggg", 1, [1, 1, 1]), ("bgg", 9, [1, 2]), ("ggb", 9, [2, 1]), ("gbg", 9, [1, 1, 1]),
        ("bb", 9, [1, 1]), ("gggbgggg", 2, [2, 1, 1, 2, 2]), ("ggbgg", 2, [2, 1, 2]),
    ])
def test_a_batch_is_cut_around_blocking_requests_and_at_the_limit(
    names: str, limit: int, lengths: list[int]
) -> None:
    """The parts follow each other and hold every request once."""
    whole = batch(names)
    parts = VALKEY.runs(whole, limit)
    assert ([len(part) for part in parts], b"".join(part.raw for part in parts)) == (lengths, whole.raw)


def test_a_batch_that_is_not_cut_is_not_touched() -> None:
    """It is the batch itself that runs."""
    whole = batch("ggg")
    raw = Batch(RAW, b"any", ())
    assert (VALKEY.runs(whole, 3)[0] is whole, TCP.runs(raw, 1)[0] is raw) == (True, True)


def test_parts_keep_the_moment_of_reading() -> None:
    """Latencies are measured from there."""
    whole = batch("gbg")
    whole.received_at = 1.5
    assert [part.received_at for part in VALKEY.runs(whole, 9)] == [1.5, 1.5, 1.5]
