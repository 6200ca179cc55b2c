"""The codec of byte streams: a ``Tcp`` chain sees what one read brought, and no messages.

A batch of raw bytes counts no messages (``len(batch) == 0``, so that it is false), has no values, and
splits into nothing; all that it has is ``raw``. There is no error that could be told to the peer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shotover_gevent.codecs.batch import Batch, Message

# A line of a log is for reading.
MAX_RENDERED_BYTES = 64


class RawCodec:
    """Bytes without structure. It holds no state; use :data:`RAW`."""

    name = "Tcp"

    def split(self, raw: bytes, count: int) -> list[int]:
        """Bytes have no boundaries: a message made by hand is all of them."""
        return [len(raw)] * count if count <= 1 else []

    def parse(self, raw: bytes) -> bytes:
        """The bytes themselves."""
        return raw

    def encode(self, frame: Any) -> bytes:
        """The bytes themselves. Raises ``TypeError`` for anything else."""
        if not isinstance(frame, (bytes, bytearray, memoryview)):
            raise TypeError(f"a byte stream carries bytes, not {type(frame).__name__}")
        return bytes(frame)

    def decode(self, raw: bytes, count: int) -> Sequence[Any]:
        """Bytes have no values."""
        return ()

    def names(self, values: Sequence[Any]) -> list[bytes]:
        """Bytes name no command."""
        return [b"unknown"] * len(values)

    def query_type(self, value: Any) -> str:
        """Bytes may do anything."""
        return "ReadWrite"

    def error(self, text: str) -> bytes | None:
        """There is none."""
        return None

    def render(self, message: Message) -> str:
        """The first bytes, escaped, and how many there are."""
        raw = message.raw
        more = "..." if len(raw) > MAX_RENDERED_BYTES else ""
        return f"{self.name} {len(raw)} bytes {raw[:MAX_RENDERED_BYTES]!r}{more}"

    def __repr__(self) -> str:
        return f"<codec {self.name}>"


RAW = RawCodec()


class RawDecoder:
    """One client's bytes: whatever one read brought is one batch."""

    __slots__ = ()

    def __init__(self, pending: bytes = b"") -> None:
        if pending:
            raise ValueError("a byte stream has no incomplete message")

    #: Nothing is ever incomplete.
    pending = b""

    def feed(self, data: Any) -> Batch:
        """A batch of no messages whose ``raw`` is a copy of ``data``."""
        return Batch(RAW, bytes(data), ())
