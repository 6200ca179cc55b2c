"""The lines of a transcript, and the bytes that they stand for.

=========  =============================================================================
``>``      the client sends, ``<`` it receives
``>>``     the upstream receives, ``<<`` it sends
``2>``     the same for the second client, ``2>>`` for the second upstream connection
``#``      a comment; empty lines do not count either
=========  =============================================================================

What follows on the line:

* ``b"..."``: these bytes, with the escapes of Python; several of them are put together;
* ``SET key "a value\\x00"``: as a request, the words in the form in which clients send them (an array of
  bulk strings);
* ``+OK``, ``-ERR no``, ``:1``, ``#t``, ``_``, ``,3.5``: as a response, that line;
  received, the first two may end with ``...``, which stands for the rest of the line;
  ``value`` or ``"a value"``: a bulk string; ``nil``: the null of RESP2; ``[a :1 nil [b]]``: an array;
  ``~[...]``, ``>[...]``, ``%[key value]``: a set, a push and a map of RESP3;
* ``(close)`` and ``(reset)``: the sender ends the connection; ``(closed)`` and ``(reset)``: the receiver
  sees it end; ``(nothing)``: nothing has come.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from shotover_gevent.errors import UsageError
from shotover_gevent.testing.client import command

_LINE = re.compile(r"(?P<number>[1-9]\d*)?(?P<mark>>>|<<|>|<)(?:\s+(?P<rest>.*))?")
_LITERAL = re.compile(r"""b("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')\s*""")
_TOKEN = re.compile(
    r"""\s*(?:(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<open>[~>%]?\[)|(?P<close>\])|(?P<word>[^\s\[\]"]+))""")
_WORD = re.compile(r"""\s*(?:(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<word>[^\s"]+))""")

#: What a line may say instead of bytes, by the side that it is for.
ACTIONS = ("close", "reset")
EXPECTATIONS = ("closed", "reset", "nothing")

# Lines of RESP that end where the line of the transcript ends.
_SIMPLE = "+-:#,"
_HEADS = {"[": b"*", "~[": b"~", ">[": b">", "%[": b"%"}


@dataclass(frozen=True, slots=True)
class Line:
    """One line: where it stands, as it is written, who does it, and ``data`` or an ``event``.

    With ``is_open``, anything may follow the data up to the end of the line of the protocol.
    """

    number: int
    text: str
    peer: int
    is_client: bool
    is_sent: bool
    data: bytes
    event: str | None
    is_open: bool = False


def parse(text: str, protocol: str = "Valkey") -> list[Line]:
    """The lines of a transcript. Raises ``UsageError`` for one that cannot be read."""
    lines = []
    for number, written in enumerate(text.splitlines(), 1):
        line = written.strip()
        if line and not line.startswith("#"):
            try:
                lines.append(_line(number, line, protocol))
            except (ValueError, SyntaxError) as error:
                raise UsageError(f"line {number} of the transcript, {line!r}: {error}") from error
    return lines


def _line(number: int, text: str, protocol: str) -> Line:
    match = _LINE.fullmatch(text)
    if match is None:
        raise ValueError("a line begins with >, >>, <<, < or #")
    mark, rest = match["mark"], match["rest"] or ""
    is_sent = mark in (">", "<<")
    event = _event(rest, ACTIONS if is_sent else EXPECTATIONS)
    if not is_sent and rest[:1] in tuple("+-") and rest.endswith("..."):
        start = rest.removesuffix("...").encode()
        return Line(number, text, int(match["number"] or 1), len(mark) == 1, is_sent, start, None, True)
    data = b"" if event else payload(rest, mark[0] == ">", protocol)
    return Line(number, text, int(match["number"] or 1), len(mark) == 1, is_sent, data, event)


def _event(rest: str, known: tuple[str, ...]) -> str | None:
    match = re.fullmatch(r"\(([a-z]+)\)", rest)
    if match is None:
        return None
    if match[1] not in known:
        raise ValueError(f"here a line may say {', '.join(f'({each})' for each in known)}")
    return match[1]


def payload(text: str, is_request: bool, protocol: str = "Valkey") -> bytes:
    """The bytes that the rest of a line stands for. Raises ``ValueError`` or ``SyntaxError``."""
    if _LITERAL.match(text):
        return b"".join(_literals(text))
    if protocol != "Valkey":
        raise ValueError(f'bytes of {protocol} are written as b"..."')
    if not text:
        raise ValueError("nothing follows")
    if is_request:
        return command(*_words(text))
    if text[0] in _SIMPLE or text == "_":
        return text.encode() + b"\r\n"
    values = list(_values(_tokens(text)))
    if len(values) != 1:
        raise ValueError("a line holds one response; a text of several words stands in quotes")
    return values[0]


def _literals(text: str) -> Iterator[bytes]:
    at = 0
    while at < len(text):
        match = _LITERAL.match(text, at)
        if match is None:
            raise ValueError(f"no bytes: {text[at:]}")
        yield _unquote(match[1])
        at = match.end()


def _unquote(quoted: str) -> bytes:
    """The bytes of a quoted text; letters beyond ASCII are UTF-8."""
    escaped = "".join(chr(byte) if byte < 128 else f"\\x{byte:02x}" for byte in quoted.encode())
    return bytes(ast.literal_eval("b" + escaped))


def _tokens(text: str, pattern: re.Pattern[str] = _TOKEN) -> list[re.Match[str]]:
    found, at = [], 0
    while at < len(text.rstrip()):
        match = pattern.match(text, at)
        if match is None:
            raise ValueError(f"a quote is open: {text[at:]}")
        found.append(match)
        at = match.end()
    return found


def _words(text: str) -> list[bytes]:
    """The words of a request; brackets are ordinary letters there."""
    return [_unquote(match["quoted"]) if match["quoted"] else match["word"].encode()
            for match in _tokens(text, _WORD)]


def _values(tokens: list[re.Match[str]]) -> Iterator[bytes]:
    """Each value of the outermost level, encoded."""
    stack: list[tuple[str, list[bytes]]] = [("", [])]
    for token in tokens:
        if token["open"]:
            stack.append((token["open"], []))
        elif token["close"]:
            if len(stack) == 1:
                raise ValueError("a bracket closes that was not opened")
            head, inner = stack.pop()
            stack[-1][1].append(_aggregate(head, inner))
        else:
            stack[-1][1].append(_scalar(token))
    if len(stack) != 1:
        raise ValueError("a bracket is open")
    yield from stack[0][1]


def _aggregate(head: str, inner: list[bytes]) -> bytes:
    count = len(inner)
    if head == "%[":
        if count % 2:
            raise ValueError("a map has a value for each key")
        count //= 2
    return _HEADS[head] + b"%d\r\n" % count + b"".join(inner)


def _scalar(token: re.Match[str]) -> bytes:
    word = token["word"]
    if word == "nil":
        return b"$-1\r\n"
    if word is not None and (word == "_" or (word[0] in _SIMPLE and len(word) > 1)):
        return word.encode() + b"\r\n"
    data = _unquote(token["quoted"]) if word is None else word.encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)
