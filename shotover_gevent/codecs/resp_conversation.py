"""Which replies of a Valkey server answer which request of a connection.

Most commands are answered by one value each, and counting suffices (:attr:`Conversation.is_plain`).
These are not:

 * SUBSCRIBE and its kin are answered once per channel; UNSUBSCRIBE without channels once per
   subscription. In RESP3 those answers are pushes.
 * While subscribed (RESP2), arrays that start with ``message`` and its kin answer nothing; in RESP3
   every push does. After MONITOR, status lines that start with a time stamp do.
 * CLIENT REPLY OFF and SKIP are answered by nothing, and so are the requests they silence.
 * HELLO changes the protocol when it succeeds; RESET puts everything back.
 * QUIT and SHUTDOWN (and what Redis takes for an attack by HTTP, ``POST`` and ``HOST:``) end the
   connection; what follows them is never answered.

Rules:
 1. Values are never dropped, added or reordered: what cannot be told to answer something is a push
    at the place where it stood. Were a guess about the server wrong, a transform would pair badly
    for a while, but the client would still receive the very bytes of the server.
 2. State follows the *replies*, since only a reply says whether a command worked.
"""

from __future__ import annotations

import enum
import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from shotover_gevent.codecs.batch import Batch
from shotover_gevent.codecs.resp_frames import ErrorReply, Push, SimpleString, parse

_SUBSCRIBE = {b"SUBSCRIBE": 0, b"PSUBSCRIBE": 1, b"SSUBSCRIBE": 2}
_UNSUBSCRIBE = {b"UNSUBSCRIBE": 0, b"PUNSUBSCRIBE": 1, b"SUNSUBSCRIBE": 2}
_CONFIRMS = frozenset(name.lower() for name in (*_SUBSCRIBE, *_UNSUBSCRIBE))
_MESSAGES = frozenset({b"message", b"pmessage", b"smessage"})

#: After these, the server closes the connection and answers nothing more.
ENDING = frozenset({b"QUIT", b"SHUTDOWN", b"POST", b"HOST:"})

#: Commands that may be answered by other than exactly one value, or change what later ones mean.
SPECIAL = frozenset(
    {*_SUBSCRIBE, *_UNSUBSCRIBE, *ENDING, b"MONITOR", b"CLIENT", b"HELLO", b"RESET", b"MULTI"}
)

#: Commands that wait for other clients. Inside MULTI they do not wait.
BLOCKING = frozenset(
    {
        b"BLPOP", b"BRPOP", b"BRPOPLPUSH", b"BLMOVE", b"BLMPOP", b"BZPOPMIN", b"BZPOPMAX",
        b"BZMPOP", b"XREAD", b"XREADGROUP", b"WAIT", b"WAITAOF",
    }
)

# What lasts as long as the connection and changes what later requests do or return. The names that
# client libraries give to their connections (CLIENT SETNAME, SETINFO) do not.
_LASTING = frozenset({*_SUBSCRIBE, b"AUTH", b"HELLO", b"MONITOR", b"SELECT"})
_LASTING_OF_CLIENT = frozenset({b"REPLY", b"TRACKING", b"NO-TOUCH", b"NO-EVICT"})

# 1339518083.107412 [0 127.0.0.1:60866] "keys" "*"
_MONITOR_LINE = re.compile(rb"\+\d+\.\d{6} \[")

_PLUS, _STAR, _PUSH = b"+*>"


def sets_up(requests: Batch) -> bool:
    """Whether another connection would not answer the requests that follow these in the same way."""
    names = requests.names
    if not _LASTING.isdisjoint(names):
        return True
    return b"CLIENT" in names and any(
        name == b"CLIENT" and len(value) > 1 and value[1].upper() in _LASTING_OF_CLIENT
        for name, value in zip(names, requests.values, strict=True))


class ReplyMode(enum.Enum):
    """What CLIENT REPLY has set."""

    ON = "on"
    OFF = "off"
    SKIP = "skip"


class _Expected:
    """A request that is not answered completely: its name, arguments, and the values it lacks."""

    __slots__ = ("name", "arguments", "missing", "queued")

    def __init__(
        self, name: bytes, arguments: Sequence[bytes] = (), missing: int | None = None,
        queued: Sequence[tuple[int, _Expected]] | None = None,
    ) -> None:
        self.name = name
        self.arguments = arguments
        self.missing = missing
        self.queued = queued


class Conversation:
    """The state of one connection to a server, as far as it says which reply answers what."""

    #: The commands that :meth:`_apply_frame` wants to know the reply of, when they were queued by MULTI.
    special: ClassVar[frozenset[bytes]] = SPECIAL

    __slots__ = (
        "is_resp3", "is_monitoring", "subscriptions", "reply_mode", "is_ending",
        "_expected", "_queue", "_queue_length",
    )

    def __init__(self) -> None:
        self.is_resp3 = False
        self.is_monitoring = False
        #: Channels, patterns, shard channels.
        self.subscriptions: tuple[set[bytes], set[bytes], set[bytes]] = (set(), set(), set())
        self.reply_mode = ReplyMode.ON
        #: Whether QUIT or its kin was sent: the server will close.
        self.is_ending = False
        self._expected: deque[_Expected] = deque()
        #: What MULTI has queued that matters: (index in EXEC's reply, request); None outside.
        self._queue: list[tuple[int, _Expected]] | None = None
        self._queue_length = 0

    @property
    def is_subscribed(self) -> bool:
        """Whether messages of channels may come."""
        return any(self.subscriptions)

    @property
    def is_plain(self) -> bool:
        """Whether every value, but for RESP3 pushes, answers one request that is not special."""
        return (
            self.reply_mode is ReplyMode.ON and not self.is_monitoring
            and not self._expected and self._queue is None and not self.is_ending
            and (self.is_resp3 or not self.is_subscribed)
        )

    @property
    def is_in_transaction(self) -> bool:
        """Whether requests are queued until EXEC."""
        return self._queue is not None

    @property
    def pending(self) -> int:
        """Requests that are not answered completely."""
        return len(self._expected)

    @property
    def awaits_only_the_end(self) -> bool:
        """Whether all that is missing would come after the end of the connection."""
        return self.is_ending and all(e.name in ENDING or e.name == b"" for e in self._expected)

    def export(self) -> dict[str, Any] | None:
        """The state as JSON, for another process to go on with; ``None`` while a reply is pending."""
        if self._expected:
            return None
        state: dict[str, Any] = {}
        if self.is_resp3:
            state["resp3"] = True
        if self.is_monitoring:
            state["monitoring"] = True
        if self.is_ending:
            state["ending"] = True
        if self.reply_mode is not ReplyMode.ON:
            state["reply_mode"] = self.reply_mode.value
        if self.is_subscribed:
            state["subscriptions"] = [sorted(map(as_text, names)) for names in self.subscriptions]
        if self._queue is not None:
            state["queue"] = {
                "length": self._queue_length,
                "special": [
                    [index, as_text(request.name), [as_text(a) for a in request.arguments]]
                    for index, request in self._queue
                ],
            }
        return state

    @classmethod
    def adopt(cls, state: Mapping[str, Any]) -> Self:
        """The conversation that :meth:`export` of another process has described."""
        self = cls()
        self.is_resp3 = state.get("resp3", False)
        self.is_monitoring = state.get("monitoring", False)
        self.is_ending = state.get("ending", False)
        self.reply_mode = ReplyMode(state.get("reply_mode", "on"))
        for names, found in zip(self.subscriptions, state.get("subscriptions", ())):
            names.update(map(as_bytes, found))
        queue = state.get("queue")
        if queue is not None:
            self._queue_length = queue["length"]
            self._queue = [
                (index, _Expected(as_bytes(name), [as_bytes(a) for a in arguments]))
                for index, name, arguments in queue["special"]
            ]
        return self

    def sent(self, names: Sequence[bytes], values: Sequence[Sequence[bytes]]) -> list[bool]:
        """Note requests that are being sent; tells for each whether any answer will come."""
        return [self._send(name, value) for name, value in zip(names, values)]

    def _send(self, name: bytes, value: Sequence[bytes]) -> bool:
        if self.is_ending:
            # Never answered, but never waited for either: the end of the connection answers it.
            self._expected.append(_Expected(b""))
            return True
        if name == b"MULTI" or name in (b"EXEC", b"DISCARD"):
            return self._send_transaction(name)
        expected = _Expected(name, value[1:])
        if self._queue is not None and name not in (b"QUIT", b"RESET"):
            if name in self.special:
                self._queue.append((self._queue_length, expected))
            self._queue_length += 1
            return self._expect(_Expected(b"QUEUED"))
        if name == b"CLIENT" and len(value) == 3 and value[1].upper() == b"REPLY":
            return self._send_client_reply(value[2].upper(), expected)
        if name == b"RESET":
            self._queue = None
            if self.reply_mode is ReplyMode.OFF:  # a SKIP before it still silences it
                self.reply_mode = ReplyMode.ON
        if name in ENDING and self.reply_mode is ReplyMode.ON:
            self.is_ending = True
        return self._expect(expected)

    def _send_transaction(self, name: bytes) -> bool:
        if name == b"MULTI" and self._queue is not None:
            return self._expect(_Expected(b"nested"))  # an error, and the transaction goes on
        queued, self._queue = self._queue, ([] if name == b"MULTI" else None)
        self._queue_length = 0
        return self._expect(_Expected(name, queued=self._queue if queued is None else queued))

    def _send_client_reply(self, mode: bytes, expected: _Expected) -> bool:
        if mode == b"ON":
            self.reply_mode = ReplyMode.ON
        elif mode == b"OFF":
            self.reply_mode = ReplyMode.OFF
        elif mode == b"SKIP" and self.reply_mode is not ReplyMode.OFF:
            self.reply_mode = ReplyMode.SKIP
            return False
        return self._expect(expected)

    def _expect(self, expected: _Expected) -> bool:
        if self.reply_mode is not ReplyMode.ON:
            if self.reply_mode is ReplyMode.SKIP:
                self.reply_mode = ReplyMode.ON
            return False
        self._expected.append(expected)
        return True

    def received(self, raw: bytes) -> bool | None:
        """Take one value: ``None`` for a push, else whether it completes the oldest request."""
        expected = self._expected[0] if self._expected else None
        kind = raw[0]
        if kind == _PLUS and self.is_monitoring and _MONITOR_LINE.match(raw):
            return None
        if kind == _PUSH or (kind == _STAR and self._may_confirm(expected)):
            frame = parse(raw)
            head = frame[0] if isinstance(frame, list) and frame else None
            if head in _CONFIRMS:
                return self._confirm(expected, head, frame)
            if kind == _PUSH or (head in _MESSAGES and self.is_subscribed and not self.is_resp3):
                return None
        if expected is None:
            # The server answers although it was told not to: it must have refused that.
            self.reply_mode = ReplyMode.ON
            return None
        self._expected.popleft()
        self._apply(expected, raw)
        return True

    def _may_confirm(self, expected: _Expected | None) -> bool:
        """Whether an array may be other than the plain answer to a request (RESP2)."""
        if expected is not None and (expected.name in _SUBSCRIBE or expected.name in _UNSUBSCRIBE):
            return True
        return self.is_subscribed and not self.is_resp3

    def _confirm(self, expected: _Expected | None, head: bytes, frame: list[Any]) -> bool | None:
        """A channel was subscribed or unsubscribed; somebody may have asked for it."""
        name = head.upper()
        is_asked = expected is not None and expected.name == name
        if is_asked and expected is not None and expected.missing is None:
            expected.missing = self._confirmations(expected)
        self._note(name, frame[1] if len(frame) > 1 else None)
        if not is_asked or expected is None or expected.missing is None:
            return None
        expected.missing -= 1
        if expected.missing > 0:
            return False
        self._expected.popleft()
        return True

    def _confirmations(self, expected: _Expected) -> int:
        if expected.arguments or expected.name in _SUBSCRIBE:
            return len(expected.arguments)
        return max(1, len(self.subscriptions[_UNSUBSCRIBE[expected.name]]))

    def _note(self, name: bytes, channel: bytes | None) -> None:
        if channel is None:
            return
        if name in _SUBSCRIBE:
            self.subscriptions[_SUBSCRIBE[name]].add(channel)
        else:
            self.subscriptions[_UNSUBSCRIBE[name]].discard(channel)

    def _apply(self, expected: _Expected, raw: bytes) -> None:
        """Follow what a reply says about the state of the connection."""
        name = expected.name
        if name == b"MULTI":
            if raw[0] != _PLUS and self._queue is expected.queued:
                self._queue = None
        elif name == b"EXEC":
            if expected.queued and raw[0] == _STAR:
                self._apply_queued(expected.queued, parse(raw))
        elif name in (b"MONITOR", b"HELLO", b"RESET"):
            self._apply_frame(expected, parse(raw))
        elif name in ENDING and name != b"QUIT":
            self.is_ending = False  # it was answered, so it did not end the connection

    def _apply_queued(self, queued: Sequence[tuple[int, _Expected]], frame: Any) -> None:
        if not isinstance(frame, list):
            return
        for index, expected in queued:
            if index < len(frame):
                self._apply_frame(expected, frame[index])

    def _apply_frame(self, expected: _Expected, frame: Any) -> None:
        if isinstance(frame, ErrorReply):
            return
        if expected.name == b"MONITOR":
            self.is_monitoring = isinstance(frame, SimpleString) and frame == b"OK"
        elif expected.name == b"HELLO":
            self.is_resp3 = _protocol(frame) == 3
        elif expected.name == b"RESET":
            self.is_resp3 = self.is_monitoring = False
            self.subscriptions = (set(), set(), set())
        elif isinstance(frame, (list, Push)) and len(frame) > 1 and frame[0] in _CONFIRMS:
            self._note(frame[0].upper(), frame[1])


def as_text(data: bytes) -> str:
    """Any bytes as a text that JSON can hold: each byte is the character of its number."""
    return data.decode("latin-1")


def as_bytes(text: str) -> bytes:
    """The inverse of :func:`as_text`."""
    return text.encode("latin-1")


def _protocol(frame: Any) -> int | None:
    """The value of ``proto`` in a reply to HELLO: a map in RESP3, a flat array in RESP2."""
    items = list(frame) if isinstance(frame, list) else []
    pairs = items if items and isinstance(items[0], tuple) else list(zip(items[::2], items[1::2]))
    for key, value in pairs:
        if key == b"proto":
            return value
    return None
