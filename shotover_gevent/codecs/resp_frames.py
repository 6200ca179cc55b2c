"""The values of RESP2 and RESP3 as Python objects.

| on the wire | frame |
|---|---|
| ``$`` bulk string | ``bytes`` |
| ``+`` ``-`` ``!`` | :class:`SimpleString`, :class:`ErrorReply`, :class:`BlobError` (all ``bytes``) |
| ``:`` ``#`` | ``int``, ``bool`` |
| ``*`` ``~`` ``>`` | ``list``, :class:`Set`, :class:`Push` (all lists) |
| ``%`` | :class:`Map`, a list of pairs: its keys need not be hashable |
| ``$-1`` ``*-1`` / ``_`` | ``None`` / :data:`NULL3` |
| ``,`` ``(`` ``=`` | :class:`Double`, :class:`BigNumber`, :class:`Verbatim` |
| ``|`` and the value after it | :class:`Attribute` |

Rules:
 1. What a server emits survives parsing and encoding byte for byte, but for ``*-1``, which becomes
    ``$-1``.
 2. Nesting may be as deep as the bytes say: nothing here calls itself.
 3. A message may hold several values, or none: its frame is :class:`Values`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from shotover_gevent.errors import PeerError

_CRLF = b"\r\n"


class SimpleString(bytes):
    """A status line, such as ``OK``."""

    __slots__ = ()


class _Error(bytes):
    __slots__ = ()

    @property
    def text(self) -> str:
        """The error as text; bytes that are not UTF-8 are replaced."""
        return self.decode(errors="replace")


class ErrorReply(_Error):
    """An error line, such as ``ERR unknown command``."""

    __slots__ = ()


class BlobError(_Error):
    """An error that may hold any bytes (RESP3)."""

    __slots__ = ()


class BigNumber(bytes):
    """The digits of a number of any size (RESP3); ``int()`` converts it."""

    __slots__ = ()


class Double(float):
    """A floating point number that remembers how it was written (RESP3)."""

    __slots__ = ("text",)
    text: bytes

    def __new__(cls, text: bytes) -> Double:
        """The number that ``text`` writes. Raises ``ValueError``."""
        double = super().__new__(cls, text)
        double.text = bytes(text)
        return double


class Verbatim(NamedTuple):
    """A text with its format in three letters, such as ``txt`` (RESP3)."""

    format: bytes
    text: bytes


class Map(list[Any]):
    """Pairs in the order of the server (RESP3)."""


class Set(list[Any]):
    """Elements in the order of the server (RESP3)."""


class Push(list[Any]):
    """What the server says unasked (RESP3)."""


class Values(list[Any]):
    """The values of a message that holds several, or none."""


@dataclass(slots=True)
class Attribute:
    """A value with what the server says about it besides, as pairs (RESP3)."""

    pairs: list[Any]
    value: Any


class _Null3:
    def __repr__(self) -> str:
        return "NULL3"


#: The null of RESP3, ``_``.
NULL3: Final = _Null3()


# -- encoding -----------------------------------------------------------------------------------


def encode(frame: Any) -> bytes:
    """The bytes of a frame. Raises ``TypeError`` for other types and ``ValueError`` for line breaks
    in a simple string or error, which would end it early."""
    out: list[bytes] = []
    todo = [frame]
    while todo:
        part = todo.pop()
        write = _WRITERS.get(type(part))
        if write is not None:
            out.append(write(part))
        else:
            todo.extend(reversed(_open(part, out)))
    return b"".join(out)


def _open(frame: Any, out: list[bytes]) -> list[Any]:
    """Write the head of a frame that holds others, and return those."""
    kind = type(frame)
    if kind is Values:
        return list(frame)
    if kind in _HEADS:
        out.append(b"%b%d\r\n" % (_HEADS[kind], len(frame)))
        return _flat(frame) if kind is Map else list(frame)
    if kind is Attribute:
        out.append(b"|%d\r\n" % len(frame.pairs))
        return [*_flat(frame.pairs), frame.value]
    raise TypeError(f"{kind.__name__} is no type of RESP; use bytes, int, list or a frame class")


def _flat(pairs: list[Any]) -> list[Any]:
    return [item for key, value in pairs for item in (key, value)]


def _bulk(mark: bytes, data: bytes) -> bytes:
    return b"%b%d\r\n%b\r\n" % (mark, len(data), data)


def _line(mark: bytes, text: bytes) -> bytes:
    if _CRLF in text:
        raise ValueError(f"a line break within {text[:60]!r}, which must be one line")
    return mark + text + _CRLF


def _verbatim(frame: Verbatim) -> bytes:
    if len(frame.format) != 3:
        raise ValueError(f"the format of a verbatim string has three letters, not {frame.format!r}")
    return _bulk(b"=", frame.format + b":" + frame.text)


_HEADS: dict[type, bytes] = {list: b"*", tuple: b"*", Set: b"~", Push: b">", Map: b"%"}
_WRITERS: dict[type, Callable[[Any], bytes]] = {
    bytes: lambda frame: _bulk(b"$", frame),
    bytearray: lambda frame: _bulk(b"$", frame),
    SimpleString: lambda frame: _line(b"+", frame),
    ErrorReply: lambda frame: _line(b"-", frame),
    BlobError: lambda frame: _bulk(b"!", frame),
    int: lambda frame: b":%d\r\n" % frame,
    bool: lambda frame: b"#t\r\n" if frame else b"#f\r\n",
    type(None): lambda frame: b"$-1\r\n",
    _Null3: lambda frame: b"_\r\n",
    Double: lambda frame: _line(b",", frame.text),
    float: lambda frame: b",%b\r\n" % repr(frame).encode(),
    BigNumber: lambda frame: _line(b"(", frame),
    Verbatim: _verbatim,
}


# -- parsing ------------------------------------------------------------------------------------


def parse(raw: bytes) -> Any:
    """The frame of a message. Raises :class:`PeerError` if ``raw`` is not RESP, or not all of it."""
    frames, at = [], 0
    while at < len(raw):
        frame, at = _read(raw, at)
        frames.append(frame)
    return frames[0] if len(frames) == 1 else Values(frames)


def _read(raw: bytes, at: int) -> tuple[Any, int]:
    """The value at ``at``, and where it ends."""
    open_frames: list[tuple[int, int, list[Any]]] = []
    while True:
        line_end = raw.find(_CRLF, at)
        if line_end < 0:
            raise PeerError("the value is cut off")
        kind, text, at = raw[at], raw[at + 1 : line_end], line_end + 2
        frame: Any
        if kind in _BLOBS:
            frame, at = _read_blob(raw, kind, text, at)
        elif kind in _PARTS and text != b"-1":
            count = _PARTS[kind] * length(text) + (kind == _BAR)
            frame = [] if count else _close(kind, [])
            if count:
                open_frames.append((kind, count, frame))
                continue
        else:
            frame = _read_line(kind, text)
        while open_frames:
            kind, count, items = open_frames[-1]
            items.append(frame)
            if len(items) < count:
                break
            frame = _close(kind, items)
            open_frames.pop()
        else:
            return frame, at


def _close(kind: int, items: list[Any]) -> Any:
    """The frame of a kind whose parts are complete."""
    if kind == _STAR:
        return items
    if kind == _BAR:
        value = items.pop()
        return Attribute(list(zip(items[::2], items[1::2])), value)
    if kind == _PERCENT:
        return Map(zip(items[::2], items[1::2]))
    return Set(items) if kind == _TILDE else Push(items)


def _read_blob(raw: bytes, kind: int, text: bytes, at: int) -> tuple[Any, int]:
    if kind == _DOLLAR and text == b"-1":
        return None, at
    end = at + length(text)
    if raw[end : end + 2] != _CRLF:
        raise PeerError("a string does not end where its length says")
    data = raw[at:end]
    if kind == _EQUALS:
        if data[3:4] != b":":
            raise PeerError("a verbatim string does not say its format")
        return Verbatim(data[:3], data[4:]), end + 2
    return (data if kind == _DOLLAR else BlobError(data)), end + 2


def _read_line(kind: int, text: bytes) -> Any:
    """The value of one line."""
    try:
        return _READERS[kind](text)
    except (KeyError, ValueError):
        raise PeerError(f"{bytes((kind,)) + text[:60]!r} is no value of RESP") from None


def _integer(text: bytes) -> int:
    if not _INTEGER.fullmatch(text):
        raise ValueError
    return int(text)


def _big_number(text: bytes) -> BigNumber:
    if not _INTEGER.fullmatch(text):
        raise ValueError
    return BigNumber(text)


_STAR, _DOLLAR, _PERCENT, _TILDE, _BAR, _EQUALS = b"*$%~|="
_BLOBS = frozenset(b"$=!")
#: How many values follow, for each that the head counts.
_PARTS = {_STAR: 1, _TILDE: 1, ord(">"): 1, _PERCENT: 2, _BAR: 2}
_INTEGER = re.compile(rb"[+-]?[0-9]+")
_READERS: dict[int, Callable[[bytes], Any]] = {
    ord("+"): SimpleString,
    ord("-"): ErrorReply,
    ord(":"): _integer,
    ord("#"): {b"t": True, b"f": False}.__getitem__,
    ord(","): Double,
    ord("("): _big_number,
    ord("_"): {b"": NULL3}.__getitem__,
    _STAR: {b"-1": None}.__getitem__,
}


# Every length of a server, and of a client that is not refused, is written without sign, blanks or
# leading zeros and fits in 63 bits.
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,18}")
_MAX_LENGTH = 2**63 - 1


def length(text: bytes) -> int:
    """The length that a head states. Raises :class:`PeerError` if it states none."""
    if _LENGTH.fullmatch(text) and (size := int(text)) <= _MAX_LENGTH:
        return size
    if text[:1] == b"?":
        raise PeerError("streamed values of RESP3 are not supported; no server sends them")
    raise PeerError(f"{text[:60]!r} is no length")
