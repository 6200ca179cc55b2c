"""What travels along a chain: a batch of messages, split and parsed only when somebody asks.

Rules:
 1. A batch that nobody touched is forwarded as the very bytes that arrived.
 2. ``len(batch)`` counts messages: requests on the way down, responses on the way up.
    ``responses[i]`` answers ``requests[i]``.
 3. Iterating or indexing splits the batch into messages; reading ``message.frame`` parses one;
    assigning ``message.frame`` marks it changed, and only then is it encoded again.
 4. A message is one protocol unit. A response may hold several values (the reply to
    ``SUBSCRIBE a b``) or none at all (``CLIENT REPLY OFF``): it still answers one request.
 5. ``lead`` holds the bytes of pushes that arrived just before a response; they leave with it,
    so that the client sees everything in the order in which the database sent it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, overload


class Codec(Protocol):
    """What a batch asks of its protocol. Codecs hold no state of a connection."""

    name: str

    def split(self, raw: bytes, count: int) -> list[int]:
        """The end offset of each of the ``count`` messages in ``raw``."""

    def parse(self, raw: bytes) -> Any:
        """The frame of one message."""

    def encode(self, frame: Any) -> bytes:
        """The bytes of a frame."""

    def decode(self, raw: bytes, count: int) -> Sequence[Any]:
        """The decoded form of each of the ``count`` responses, as ``values`` of a batch has it."""

    def names(self, values: Sequence[Any]) -> list[bytes]:
        """The upper-cased command name of each request, given a batch's values."""

    def error(self, text: str) -> bytes | None:
        """The bytes of an error response; ``None`` when the protocol has none."""

    def render(self, message: Message) -> str:
        """One line for a person, as DebugPrinter prints it."""


_UNPARSED: Any = object()


class Message:
    """One protocol unit: its bytes, and its frame on demand."""

    __slots__ = ("codec", "lead", "_raw", "_frame")

    def __init__(
        self, codec: Codec, raw: bytes | None = None, frame: Any = _UNPARSED, lead: bytes = b""
    ) -> None:
        self.codec = codec
        self.lead = lead
        self._raw = raw
        self._frame = frame

    @property
    def raw(self) -> bytes:
        """The bytes on the wire; a changed frame is encoded at the first call."""
        if self._raw is None:
            self._raw = self.codec.encode(self._frame)
        return self._raw

    @property
    def frame(self) -> Any:
        """The parsed form, in the types of the codec; assign to change the message."""
        if self._frame is _UNPARSED:
            self._frame = self.codec.parse(self._raw or b"")
        return self._frame

    @frame.setter
    def frame(self, frame: Any) -> None:
        self._frame = frame
        self._raw = None

    def led_by(self, old: Message) -> Message:
        """This message, or a copy of it, with the pushes that led ``old`` before its own.

        Pushes move, so that each leaves once: also when a message stands in several places.
        """
        if not (old.lead or self.lead):
            return self
        lead = old.lead + self.lead
        old.lead = self.lead = b""
        return Message(self.codec, self._raw, self._frame, lead)

    def __repr__(self) -> str:
        return f"<{self.codec.name} message {self.raw[:60]!r}>"


class Batch:
    """The messages that arrived together.

    ``raw`` holds them byte for byte, and ``count`` says how many they are. ``values`` is the decoded form
    that the codec had almost for free (for Valkey requests a ``list[bytes]`` each, for responses what
    hiredis returns), ``names`` the upper-cased command name of each request. Do not change these;
    change a message's frame instead. ``bounds``, when the codec already knows them, are the end offsets
    of the messages; they are computed otherwise, on the first split.

    While nobody has asked for a message, all of this is plain data. Once somebody has, the batch is its
    messages, and the same attributes are made of them: then it is a :class:`_Split`.
    """

    __slots__ = ("codec", "received_at", "raw", "count", "values", "names", "_bounds", "_messages")

    raw: bytes
    count: int
    values: Sequence[Any]
    names: list[bytes]

    def __init__(
        self, codec: Codec, raw: bytes, values: Sequence[Any], bounds: list[int] | None = None,
        names: list[bytes] | None = None,
    ) -> None:
        """``names`` are computed when somebody asks if they are not given."""
        self.codec = codec
        self.received_at = 0.0
        self.raw = raw
        self.values = values
        self.count = len(values)
        self._bounds = bounds
        if names is None:
            self.__class__ = _Nameless
        else:
            self.names = names

    @staticmethod
    def of(codec: Codec, messages: Iterable[Message]) -> Batch:
        """A batch of these messages, in this order."""
        batch = _Split.__new__(_Split)
        batch.codec = codec
        batch.received_at = 0.0
        batch._bounds = None
        batch._messages = list(messages)
        return batch

    @staticmethod
    def join(batches: Sequence[Batch]) -> Batch:
        """One batch of the messages of one or more batches, in this order; they are used up."""
        first = batches[0]
        if len(batches) == 1:
            return first
        if any(type(batch) is _Split for batch in batches):
            joined = Batch.of(first.codec, [message for batch in batches for message in batch.messages])
        else:
            raw = b"".join([batch.raw for batch in batches])
            values = [value for batch in batches for value in batch.values]
            joined = Batch(first.codec, raw, values, _joined_bounds(batches))
        joined.received_at = first.received_at
        return joined

    @staticmethod
    def counted(codec: Codec, raw: bytes, count: int) -> Batch:
        """A batch of so many responses; they are decoded when somebody asks."""
        batch = _Counted.__new__(_Counted)
        batch.codec = codec
        batch.received_at = 0.0
        batch.raw = raw
        batch.count = count
        batch._bounds = None
        return batch

    def copy(self) -> Batch:
        """The same messages as they are now, without pushes: a change to either is not seen in the other."""
        copy = Batch(self.codec, self.raw, self.values, self._bounds)
        copy.received_at = self.received_at
        return copy

    @property
    def messages(self) -> list[Message]:
        """The messages; the batch is split at the first call and lives as messages from then on."""
        raw, codec, start = self.raw, self.codec, 0
        if raw and not self.count:
            return []  # bytes without structure: looking for messages must not lose them
        messages = []
        for end in self.bounds:
            messages.append(Message(codec, raw[start:end]))
            start = end
        self._messages = messages
        self.__class__ = _Split
        return messages

    @property
    def bounds(self) -> list[int]:
        """End offset of each message in ``raw`` as it arrived."""
        if self._bounds is None:
            self._bounds = self.codec.split(self.raw, self.count)
        return self._bounds

    @property
    def sizes(self) -> list[int]:
        """The bytes of each message, without the pushes that lead it."""
        bounds = self.bounds
        return [end - start for start, end in zip([0, *bounds], bounds)]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Message]:
        return iter(self.messages)

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> Batch: ...
    def __getitem__(self, index: int | slice) -> Message | Batch:
        if isinstance(index, slice):
            part = self._part(index)
            part.received_at = self.received_at
            return part
        return self.messages[index]

    def __setitem__(self, index: int, message: Message) -> None:
        """Replace one message; pushes that led the old one stay at their place."""
        old = self.messages[index]
        if old is not message:
            self.messages[index] = message.led_by(old)

    def _part(self, place: slice) -> Batch:
        start, stop, step = place.indices(self.count)
        if step != 1:
            return Batch.of(self.codec, self.messages[place])
        bounds = self.bounds
        low = bounds[start - 1] if start else 0
        high = bounds[stop - 1] if stop > start else low
        return Batch(
            self.codec, self.raw[low:high], self.values[start:stop],
            [end - low for end in bounds[start:stop]])

    def map(self, change: Callable[[Message], Message]) -> Batch:
        """A batch of ``change(message)`` for every message, with the pushes that lead them."""
        changed = [(message, change(message)) for message in self.messages]
        batch = Batch.of(
            self.codec, [new if new is old else new.led_by(old) for old, new in changed])
        batch.received_at = self.received_at
        return batch

    def __repr__(self) -> str:
        return f"<Batch of {len(self)} {self.codec.name} messages>"


class _Nameless(Batch):
    """A batch whose names nobody has asked for yet."""

    __slots__ = ()

    @property
    def names(self) -> list[bytes]:  # type: ignore[override]
        """The names, computed at the first call; it is an ordinary batch from then on."""
        names = self.codec.names(self.values)
        self.__class__ = Batch
        self.names = names
        return names


class _Counted(_Nameless):
    """A batch whose values nobody has asked for yet."""

    __slots__ = ()

    @property
    def values(self) -> Sequence[Any]:  # type: ignore[override]
        """The values, decoded at the first call."""
        values = self.codec.decode(self.raw, self.count)
        self.__class__ = _Nameless
        self.values = values
        return values


class _Split(Batch):
    """A batch whose messages somebody has asked for. They may have changed since."""

    __slots__ = ()

    @property
    def raw(self) -> bytes:  # type: ignore[override]
        """The bytes of all messages, with the pushes that lead them."""
        return b"".join([part for m in self._messages for part in (m.lead, m.raw) if part])

    @property
    def count(self) -> int:  # type: ignore[override]
        """How many messages there are now."""
        return len(self._messages)

    @property
    def values(self) -> Sequence[Any]:  # type: ignore[override]
        """The frame of each message."""
        return [message.frame for message in self._messages]

    @property
    def names(self) -> list[bytes]:  # type: ignore[override]
        """The name of each request as it is now."""
        return self.codec.names(self.values)

    @property
    def messages(self) -> list[Message]:
        """The messages themselves: what is done to the list is done to the batch."""
        return self._messages

    @property
    def sizes(self) -> list[int]:
        """As of any batch."""
        return [len(message.raw) for message in self._messages]

    def copy(self) -> Batch:
        """As of any batch."""
        copy = Batch.of(self.codec, [Message(self.codec, message.raw) for message in self._messages])
        copy.received_at = self.received_at
        return copy

    def _part(self, place: slice) -> Batch:
        return Batch.of(self.codec, self._messages[place])


def _joined_bounds(batches: Sequence[Batch]) -> list[int] | None:
    """The bounds of all messages together; ``None`` if no batch knows its own."""
    if all(batch._bounds is None for batch in batches):
        return None
    bounds, start = [], 0
    for batch in batches:
        bounds += [start + end for end in batch.bounds]
        start += len(batch.raw)
    return bounds
