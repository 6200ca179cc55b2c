"""The heads of strings, by the length of their bytes."""

import pytest

from shotover_gevent.codecs.resp_heads import LONGEST, heads_of


def test_each_string_has_its_head_up_to_the_longest():
    """An empty one too; what is longer has none."""
    assert heads_of([b"", b"ab", b"x" * LONGEST]) == [b"$0", b"$2", b"$%d" % LONGEST]
    with pytest.raises(IndexError):
        heads_of([b"", b"x" * (LONGEST + 1)])
