"""The codec of RESP: what batches of a ``Valkey`` chain ask of their protocol.

A message is a RESP value (rarely several, or none), or, as a request, an inline command. Which of
the two shows in its first byte: inline commands that are sent on as they came begin with a letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hiredis

from shotover_gevent.codecs.batch import Message
from shotover_gevent.codecs.resp_frames import encode, parse
from shotover_gevent.codecs.resp_inline import split_words
from shotover_gevent.codecs.resp_render import render
from shotover_gevent.codecs.resp_replies import reply_ends
from shotover_gevent.errors import PeerError

# The commands that Shotover counts as reading (APPEND is its mistake, which its users may rely on).
READ_COMMANDS = frozenset(
    {
        b"APPEND", b"BITCOUNT", b"STRLEN", b"GET", b"GETRANGE", b"MGET", b"LRANGE", b"LINDEX",
        b"LLEN", b"SCARD", b"SISMEMBER", b"SMEMBERS", b"SUNION", b"SINTER", b"ZCARD", b"ZCOUNT",
        b"ZRANGE", b"ZRANK", b"ZSCORE", b"ZRANGEBYSCORE", b"HGET", b"HGETALL", b"HEXISTS", b"HKEYS",
        b"HLEN", b"HSTRLEN", b"HVALS", b"PFCOUNT",
    }
)

_INCOMPLETE: Any = ...

#: The name of a request that has none.
UNKNOWN = b"unknown"


class RespCodec:
    """RESP2 and RESP3. It holds no state; use :data:`RESP`."""

    name = "Valkey"

    def split(self, raw: bytes, count: int) -> list[int]:
        """The end offset of each of the ``count`` values that ``raw`` consists of."""
        return reply_ends(raw, count)

    def parse(self, raw: bytes) -> Any:
        """The frame of one message; an inline command is a list of its words."""
        if raw[:1].isalpha():
            words = split_words(raw.rstrip(b"\r\n"))
            if words is None:
                raise PeerError("the quotes of an inline command do not balance")
            return words
        return parse(raw)

    def encode(self, frame: Any) -> bytes:
        """The bytes of a frame. Raises ``TypeError`` or ``ValueError`` if it has none."""
        return encode(frame)

    def decode(self, raw: bytes, count: int) -> Sequence[Any]:
        """What hiredis makes of each reply, or the frames, if one of them is beyond it."""
        reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
        reader.feed(raw)
        try:
            values = list(iter(reader.gets, _INCOMPLETE))
        except (hiredis.HiredisError, TypeError):
            values = []
        if len(values) == count:
            return values
        ends = self.split(raw, count)  # it takes attributes for values, and refuses some keys of maps
        return [parse(raw[start:end]) for start, end in zip([0, *ends], ends)]

    def names(self, values: Sequence[Any]) -> list[bytes]:
        """The upper-cased command name of each request; ``unknown`` for what is none."""
        try:
            return [value[0].upper() for value in values]
        except (TypeError, IndexError, AttributeError):
            return [self.command(value) or UNKNOWN for value in values]

    def command(self, value: Any) -> bytes | None:
        """The upper-cased first word of a request; ``None`` for what is not a request."""
        if isinstance(value, list) and value and isinstance(value[0], bytes):
            return value[0].upper()
        return None

    def query_type(self, value: Any) -> str:
        """``Read`` or ``Write``, as Shotover sees a request; what is no request is ``Write``."""
        return "Read" if self.command(value) in READ_COMMANDS else "Write"

    def error(self, text: str) -> bytes:
        """An error reply. A reply has one line: each line break becomes a blank."""
        line = text.replace("\r\n", " ").replace("\n", " ").replace("\r", " ")
        return b"-ERR " + line.encode(errors="replace") + b"\r\n"

    def render(self, message: Message) -> str:
        """One line for a person, as DebugPrinter prints it."""
        try:
            return f"{self.name} {render(message.frame)}"
        except PeerError:
            return f"Unparseable {self.name} message {message.raw!r}"

    def __repr__(self) -> str:
        return f"<codec {self.name}>"


RESP = RespCodec()
