"""The values of RESP as text for a person, in the style of Rust's ``Debug``.

``[b"GET", b"k"]`` is ``Array([BulkString(b"GET"), BulkString(b"k")])``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shotover_gevent.codecs.resp_frames import (
    NULL3,
    Attribute,
    BigNumber,
    BlobError,
    Double,
    ErrorReply,
    Map,
    Push,
    Set,
    SimpleString,
    Values,
    Verbatim,
)



class _Text(str):
    """Text that is rendered already, among frames that are not."""

    __slots__ = ()


def render(frame: Any) -> str:
    """The frame for a person, as Rust's ``Debug`` would print it."""
    out: list[str] = []
    todo = [frame]
    while todo:
        part = todo.pop()
        write = _PRINTERS.get(type(part))
        out.append(write(part)) if write is not None else todo.extend(reversed(_spread(part)))
    return "".join(out)


def _spread(frame: Any) -> list[Any]:
    """A frame that holds others as texts and frames in the order in which they are read."""
    kind = type(frame)
    if kind is Values:
        return _listed("", list(frame), "", " ")
    if kind is Attribute:
        return [_Text("Attribute("), Map(frame.pairs), _Text(", "), frame.value, _Text(")")]
    if kind is Map:
        pairs = [[_Text("("), key, _Text(", "), value, _Text(")")] for key, value in frame]
        return _listed("Map([", [_Parts(pair) for pair in pairs], "])")
    if kind is _Parts:
        return list(frame)
    return _listed(f"{_NAMES.get(kind, 'Array')}([", list(frame), "])")


class _Parts(list[Any]):
    """Things to render one after the other."""


def _listed(head: str, items: list[Any], tail: str, comma: str = ", ") -> list[Any]:
    parts: list[Any] = [_Text(head)]
    for index, item in enumerate(items):
        if index:
            parts.append(_Text(comma))
        parts.append(item)
    parts.append(_Text(tail))
    return parts


_ESCAPED = {9: "\\t", 10: "\\n", 13: "\\r", 34: '\\"', 92: "\\\\", 0: "\\0"}
_BYTES = [_ESCAPED.get(i, chr(i) if 32 <= i < 127 else f"\\x{i:02x}") for i in range(256)]


def _bytes(data: bytes) -> str:
    return 'b"' + "".join([_BYTES[byte] for byte in data]) + '"'


def _quoted(text: str) -> str:
    return '"' + "".join([_ESCAPED.get(ord(letter), letter) for letter in text]) + '"'


_NAMES: dict[type, str] = {Set: "Set", Push: "Push"}
_PRINTERS: dict[type, Callable[[Any], str]] = {
    _Text: str,
    bytes: lambda frame: f"BulkString({_bytes(frame)})",
    bytearray: lambda frame: f"BulkString({_bytes(frame)})",
    SimpleString: lambda frame: f"SimpleString({_bytes(frame)})",
    ErrorReply: lambda frame: f"Error({_quoted(frame.text)})",
    BlobError: lambda frame: f"BlobError({_bytes(frame)})",
    int: lambda frame: f"Integer({frame})",
    bool: lambda frame: f"Boolean({'true' if frame else 'false'})",
    type(None): lambda frame: "Null",
    type(NULL3): lambda frame: "Null",
    Double: lambda frame: f"Double({frame.text.decode(errors='replace')})",
    float: lambda frame: f"Double({frame!r})",
    BigNumber: lambda frame: f"BigNumber({_bytes(frame)})",
    Verbatim: lambda frame: f"VerbatimString({_bytes(frame.format)}, {_bytes(frame.text)})",
}
