"""Reads the requests of one client, one at a time, exactly as a server will read them.

Where the servers differ (found by asking Redis 7.0 and Valkey 9.1), what only one of them would take
is refused:

 * Redis skips the two bytes after a bulk string, and the byte after a carriage return, whatever they
   are. Valkey refuses them, ``invalid CRLF in request``, and so does this scanner, after the checks
   that both make.
 * A NUL byte in a head line keeps Redis waiting for the end of that line; Valkey refuses the line,
   in the words that both have for such a head. In an inline command it keeps both waiting; here it
   is refused.
 * Inline commands: see :mod:`shotover_gevent.codecs.resp_inline`.
"""

from __future__ import annotations

import re
from shotover_gevent.codecs.batch import Batch
from shotover_gevent.codecs.resp_codec import RESP
from shotover_gevent.codecs.resp_inline import split_words
from shotover_gevent.errors import PeerError

# A longer line is a client that speaks another protocol. Redis stops at the same length, for head
# lines too (PROTO_INLINE_MAX_SIZE). A server may let a longer one pass if it arrives in one read;
# which client is refused must not depend on that here.
MAX_LINE_BYTES = 64 * 1024

# Redis 7 accepts what fits in an int (Redis 6: 1024 * 1024).
MAX_ARGUMENTS = 2**31 - 1

# The default of proto-max-bulk-len, the largest string that a server stores.
MAX_BULK_BYTES = 512 * 1024 * 1024

# The default of client-query-buffer-limit: what a server keeps of one client's request at most.
MAX_REQUEST_BYTES = 1024 * 1024 * 1024

_LENGTH = re.compile(rb"0|-?[1-9][0-9]{0,18}")
_EMPTY_LINES = re.compile(rb"(?:\r?\n)+")
_MIN_LENGTH, _MAX_LENGTH = -(2**63), 2**63 - 1
_STAR, _DOLLAR, _NEWLINE = b"*$\n"


class MalformedRequest(PeerError):
    """A client sent what is no request. ``batch`` holds the complete requests before it."""

    def __init__(self, text: bytes, batch: Batch | None = None) -> None:
        # As Redis does: a reply is one line.
        line = b"Protocol error: " + text.replace(b"\r", b" ").replace(b"\n", b" ")
        super().__init__(line.decode(errors="backslashreplace"), b"-ERR " + line + b"\r\n")
        self.text = text
        self.batch = Batch(RESP, b"", []) if batch is None else batch


class RequestScanner:
    """Reads requests one after the other from pieces of data, and keeps its place in between.

    The caller holds the data, and sets ``at`` to the place of the first byte that was not read
    whenever it drops others.
    """

    __slots__ = ("at", "missing", "arguments", "lacking", "read_bytes")

    def __init__(self) -> None:
        #: How far the data has been read.
        self.at = 0
        #: Without so many more bytes, reading on is useless.
        self.missing = 0
        #: What is known of the incomplete request: arguments, how many it lacks, and its size.
        self.arguments: list[bytes] = []
        self.lacking = 0
        self.read_bytes = 0

    def next(self, data: bytes) -> list[bytes] | None:
        """The arguments of the next request, none if it is one that is to be ignored.

        ``None`` when more data is needed. Raises :class:`MalformedRequest`.
        """
        if not self.lacking:
            if self.at == len(data):
                self.missing = 1
                return None
            if data[self.at] != _STAR:
                return self._inline(data)
            count = self._head(data, b"mbulk", b"multibulk")
            if count is None:
                return None
            if count <= 0:
                return []
            self.lacking, self.arguments, self.read_bytes = count, [], 0
        return self._arguments(data)

    def _arguments(self, data: bytes) -> list[bytes] | None:
        arguments, end = self.arguments, len(data)
        while self.lacking:
            start = self.at
            size = self._head(data, b"bulk", b"bulk")
            if size is None:
                return None
            begin, after = self.at, self.at + size + 2
            if after > end:
                self.at, self.missing = start, after - end
                return None
            if data[after - 2 : after] != b"\r\n":
                raise MalformedRequest(b"invalid CRLF in request")
            arguments.append(data[begin : begin + size])
            self.at = after
            self.read_bytes += after - start
            self.lacking -= 1
        self.arguments = []
        return arguments

    def _head(self, data: bytes, line_name: bytes, length_name: bytes) -> int | None:
        """The number in a head line; ``None`` when the line is incomplete.

        The order of the checks is Redis's.
        """
        at = self.at
        line_end = data.find(b"\r", at, at + MAX_LINE_BYTES + 1)
        if line_end < 0:
            if len(data) - at > MAX_LINE_BYTES:
                raise MalformedRequest(b"too big %b count string" % line_name)
        if line_end < 0 or line_end + 1 == len(data):
            self.missing = 1
            return None
        is_argument = line_name == b"bulk"
        if is_argument and data[at] != _DOLLAR:
            raise MalformedRequest(b"expected '$', got '%c'" % data[at])
        number = _number(data[at + 1 : line_end])
        if number is None or not self._may_be(number, is_argument):
            raise MalformedRequest(b"invalid %b length" % length_name)
        if data[line_end + 1] != _NEWLINE:
            raise MalformedRequest(b"invalid CRLF in request")
        if is_argument and self.read_bytes + number > MAX_REQUEST_BYTES:
            raise MalformedRequest(b"too big request")
        self.at = line_end + 2
        return number

    def _may_be(self, number: int, is_argument: bool) -> bool:
        return 0 <= number <= MAX_BULK_BYTES if is_argument else number <= MAX_ARGUMENTS

    def _inline(self, data: bytes) -> list[bytes] | None:
        at = self.at
        if data[at] in b"\r\n" and (empty := _EMPTY_LINES.match(data, at)):
            self.at = empty.end()
            return []
        line_end = data.find(b"\n", at, at + MAX_LINE_BYTES + 1)
        if line_end < 0:
            if len(data) - at > MAX_LINE_BYTES:
                raise MalformedRequest(b"too big inline request")
            self.missing = 1
            return None
        line = data[at : line_end - (data[at:line_end].endswith(b"\r"))]
        if 0 in line:
            raise MalformedRequest(b"NUL byte in inline request")
        words = split_words(line)
        if words is None:
            raise MalformedRequest(b"unbalanced quotes in request")
        self.at = line_end + 1
        return words


def _number(text: bytes) -> int | None:
    """The number that a server reads in ``text``: canonical digits of 64 bits."""
    if not _LENGTH.fullmatch(text):
        return None
    number = int(text)
    return number if _MIN_LENGTH <= number <= _MAX_LENGTH else None
