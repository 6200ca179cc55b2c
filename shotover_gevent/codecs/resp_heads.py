"""What stands before the bytes of a string: their length, as servers write it."""

from __future__ import annotations

from collections.abc import Iterable

# Cutting looks at every byte, and is slower for strings that are longer than this than stepping over them.
LONGEST = 2048

#: The heads of strings of 0, 1, 2, ... bytes.
HEADS = [b"$%d" % size for size in range(LONGEST + 1)]
_head_of = HEADS.__getitem__


def heads_of(strings: Iterable[bytes]) -> list[bytes]:
    """The head of each. Raises ``IndexError`` if one is longer than :data:`LONGEST`."""
    return [*map(_head_of, map(len, strings))]
