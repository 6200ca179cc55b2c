"""Many requests at once, and only those that every server reads alike.

Cut at every line end, a canonical request of *n* arguments is ``*n`` and *n* pairs of ``$length`` and
argument. If the pieces are these, and each argument has the length that stands before it, then the
bytes *are* the canonical encoding of those arguments: pieces without line ends, put together again
with line ends, can be read in no other way. So there is nothing to parse, only to compare.
Whatever compares unequal (an argument with a line end in it, an inline command, a mistake) is left to
:class:`shotover_gevent.codecs.resp_request_scanner.RequestScanner`.

Why not hiredis: it reads the values of *servers*, so that all that it returns had to be checked by
encoding it again, which together is slower than this. And it allocates an array of the length
that a head states, and walks all of it when it is dropped: the 13 bytes ``*2147483647\\r\\n`` from
a client stop the process for four seconds.
"""

from __future__ import annotations

from shotover_gevent.codecs.resp_heads import HEADS, LONGEST, heads_of
from shotover_gevent.codecs.resp_replies import advance
from shotover_gevent.errors import PeerError

# Requests of more arguments are rare enough for the scanner.
_MAX_ARGUMENTS = 1024
_TWO, _THREE = b"*2", b"*3"
#: The pieces of a request that begins so.
_ARRAYS = {b"*%d" % count: 2 * count + 1 for count in range(1, _MAX_ARGUMENTS + 1)}

# From this number of pieces on, requests are compared column by column if they can be.
_MANY_PIECES = 16

# From this size of a read on, its first request is looked at before all of it is cut.
_LARGE_READ_BYTES = 8 * 1024


def take_canonical(raw: bytes) -> tuple[list[list[bytes]], int]:
    """The arguments of the canonical requests that ``raw`` begins with, and where they end."""
    values: list[list[bytes]] = []
    if len(raw) > _LARGE_READ_BYTES and _begins_large(raw):
        return values, 0
    pieces = raw.split(b"\r\n")
    end = len(pieces) - 1  # the last one has no line end
    at = 0
    try:
        # The loop below takes anything; these two forms of a single request, and equal ones in a
        # pipeline, are most of what comes.
        if end == 5:
            head, size, name, key_size, key, rest = pieces
            if (head == _TWO and not rest and size == HEADS[len(name)]
                    and key_size == HEADS[len(key)]):
                return [[name, key]], len(raw)
        elif end == 7:
            head, size, name, key_size, key, value_size, value, rest = pieces
            if (head == _THREE and not rest and size == HEADS[len(name)]
                    and key_size == HEADS[len(key)] and value_size == HEADS[len(value)]):
                return [[name, key, value]], len(raw)
        elif end >= _MANY_PIECES and (same := _take_equal(pieces, end)):
            return same, len(raw)
        while at < end:
            stop = at + _ARRAYS[pieces[at]]
            arguments = pieces[at + 2 : stop : 2]
            if stop > end or pieces[at + 1 : stop : 2] != heads_of(arguments):
                break
            values.append(arguments)
            at = stop
    except (KeyError, IndexError):
        pass
    if at == end and not pieces[end]:
        return values, len(raw)
    return values, sum(map(len, pieces[:at])) + 2 * at


def _take_equal(pieces: list[bytes], end: int) -> list[list[bytes]]:
    """The requests, if ``pieces`` are nothing but canonical ones with the same number of arguments."""
    width = _ARRAYS[pieces[0]]
    heads = pieces[:end:width]
    if end % width or pieces[end] or heads.count(heads[0]) != len(heads):
        return []
    columns = []
    for at in range(1, width, 2):
        arguments = pieces[at + 1 : end : width]
        if pieces[at:end:width] != heads_of(arguments):
            return []
        columns.append(arguments)
    return [*map(list, zip(*columns))]


def _begins_large(raw: bytes) -> bool:
    """Whether the first request is large, or does not look like one."""
    try:
        end, lacking, _ = advance(raw, 0, 1)
    except PeerError:
        return True
    return lacking > 0 or end > LONGEST
