"""Where the replies of a server end.

Rules:
 1. Nothing is parsed twice and nothing calls itself: all that is kept of an incomplete value is its
    bytes and the number of parts that it still lacks. A head with *n* parts adds *n*; a value takes
    one away; an attribute adds its parts and takes nothing away, so that it stays glued to the value
    it belongs to.
 2. What is not RESP raises :class:`PeerError`. After that, the rest of the connection means nothing.
 3. The server states its own limits: a value may be as long and as deep as it says.
"""

from __future__ import annotations

import re
from typing import Any

from shotover_gevent.codecs.resp_frames import length
from shotover_gevent.errors import PeerError

_CRLF = b"\r\n"

# The head of a value: its kind and at most 20 characters of a length ("-9223372036854775808").
_MAX_HEAD_BYTES = 21

_SIZES = {b"%d" % size: size for size in range(256)}
_BLOBS = frozenset(b"$=!")
#: Kind: the parts for each that the head counts, and what the head itself stands for.
_GROUPS = {ord("*"): (1, 1), ord("~"): (1, 1), ord(">"): (1, 1), ord("%"): (2, 1), ord("|"): (2, 0)}
_TEXT_LINES = frozenset(b"+-(,")
_LINE_FORMS = {
    ord(":"): re.compile(rb"[+-]?[0-9]+"),
    ord("#"): re.compile(rb"[tf]"),
    ord("_"): re.compile(rb""),
    ord(","): re.compile(rb"[+-]?(?:inf|nan|[0-9.]+(?:[eE][+-]?[0-9]+)?)"),
    ord("("): re.compile(rb"[+-]?[0-9]+"),
}
_NULLABLE = frozenset(b"$*")


def advance(raw: bytes, at: int, lacking: int) -> tuple[int, int, int]:
    """Read on in a value that lacks so many parts.

    Returns where reading stopped, the parts that are lacking then, and, unless those are none, how
    many bytes are missing at least.
    """
    end = len(raw)
    while lacking:
        line_end = raw.find(_CRLF, at)
        if line_end < 0:
            _check_start(raw, at)
            return at, lacking, 1
        kind = raw[at]
        if kind in _BLOBS:
            size = _size(kind, raw[at + 1 : line_end])
            after = line_end + 2
            if size >= 0:
                after += size + 2
                if after > end:
                    return at, lacking, after - end
                if raw[after - 2 : after] != _CRLF:
                    raise PeerError("a string does not end where its length says")
            at = after
            lacking -= 1
        elif kind in _GROUPS:
            factor, own = _GROUPS[kind]
            lacking += factor * max(0, _size(kind, raw[at + 1 : line_end])) - own
            at = line_end + 2
        else:
            _check_line(kind, raw, at, line_end)
            at = line_end + 2
            lacking -= 1
    return at, 0, 0


def _size(kind: int, text: bytes) -> int:
    """The length that a head states, -1 for null."""
    size = _SIZES.get(text)
    if size is not None:
        return size
    return -1 if text == b"-1" and kind in _NULLABLE else length(text)


def _check_line(kind: int, raw: bytes, at: int, line_end: int) -> None:
    form = _LINE_FORMS.get(kind)
    if form is None:
        if kind not in _TEXT_LINES:
            raise _unknown(raw, at)
    elif not form.fullmatch(raw, at + 1, line_end):
        raise PeerError(f"{raw[at : min(line_end, at + 60)]!r} is no value of RESP")


def _check_start(raw: bytes, at: int) -> None:
    """Refuse the beginning of a line that no value begins with."""
    if at == len(raw):
        return
    kind = raw[at]
    if kind in _BLOBS or kind in _GROUPS:
        if len(raw) - at > _MAX_HEAD_BYTES:
            raise PeerError(f"{raw[at : at + 60]!r} states no length")
    elif kind not in _TEXT_LINES and kind not in _LINE_FORMS:
        raise _unknown(raw, at)


def _unknown(raw: bytes, at: int) -> PeerError:
    return PeerError(f"no value begins with {raw[at : at + 1]!r}: {raw[at : at + 60]!r}")


def reply_ends(raw: bytes, count: int) -> list[int]:
    """The end offset of each of the ``count`` values that ``raw`` consists of.

    Raises :class:`PeerError` if it does not.
    """
    ends = []
    at = 0
    for _ in range(count):
        at, lacking, _ = advance(raw, at, 1)
        if lacking:
            raise PeerError(f"{len(ends)} values where {count} were expected, and a part of another")
        ends.append(at)
    if at != len(raw):
        raise PeerError(f"{len(raw) - at} bytes after {count} values")
    return ends


class ReplyScanner:
    """Cuts the bytes of a server into its values: replies, and pushes.

    A value with an attribute begins with the attribute; :func:`kind_of` tells its kind.
    ``pending`` bytes of another scanner may be given to go on where that one was.
    """

    __slots__ = ("_read", "_rest", "_missing", "_lacking")

    def __init__(self, pending: bytes = b"") -> None:
        #: The beginning of an incomplete value, as far as it has been read.
        self._read: list[bytes] = []
        #: What follows it, and the number of bytes without which reading on is useless.
        self._rest: list[bytes] = [pending] if pending else []
        self._missing = 0
        self._lacking = 1

    @property
    def pending(self) -> bytes:
        """The bytes of an incomplete value."""
        return b"".join([*self._read, *self._rest])

    @property
    def is_between(self) -> bool:
        """Whether no value is incomplete."""
        return not self._rest and not self._read

    def feed(self, data: Any) -> list[bytes]:
        """The values that ``data`` completes, each as its bytes. ``data`` is not kept."""
        raw = bytes(data)
        if self._rest:
            self._rest.append(raw)
            self._missing -= len(raw)
            if self._missing > 0 or (self._is_in_text() and 10 not in raw):
                return []
            raw = b"".join(self._rest)
        values: list[bytes] = []
        start, end = 0, len(raw)
        at, lacking, missing = advance(raw, 0, self._lacking)
        while not lacking:
            values.append(raw[start:at])
            if self._read:
                values[0] = b"".join([*self._read, values[0]])
                self._read = []
            start = at
            if at == end:
                break
            at, lacking, missing = advance(raw, at, 1)
        if at > start:
            self._read.append(raw[start:at])
        self._rest = [raw[at:]] if at < end else []
        self._missing, self._lacking = missing, lacking or 1
        return values

    def _is_in_text(self) -> bool:
        """Whether a line without a stated length is incomplete; MONITOR may make a long one."""
        return self._rest[0][:1] in (b"+", b"-")


def kind_of(raw: bytes) -> int:
    """The first byte of a value, behind the attributes that may lead it."""
    at = 0
    while raw[at] == 124:
        line_end = raw.index(_CRLF, at)
        at = advance(raw, line_end + 2, 2 * length(raw[at + 1 : line_end]))[0]
    return raw[at]
