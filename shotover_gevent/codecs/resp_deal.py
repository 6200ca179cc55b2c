"""Deals the replies of one connection, which many share, to those who wait for them.

Rules:
 1. A server answers in the order of the requests, each by one value. So the oldest share gets as many
    values as it lacks, then the next one; a value never goes to anybody else.
 2. Pushes of RESP3 answer nobody, and on a shared connection nobody has asked for any: they are counted
    and dropped.
 3. A value that nobody waits for means that the two sides do not agree any more: :class:`PeerError`,
    and nothing that comes after it may be given to anybody.
 4. A share that nobody wants any more keeps its place, and what it gets is thrown away.

How it works: lines and strings are stepped over here, which is fast, many of one kind even all at once, and
a long string is dealt in the pieces in which it comes. Anything else, such as an array or half a line, is left to
:class:`~shotover_gevent.codecs.resp_replies.ReplyScanner`, which is the authority.
"""

from __future__ import annotations

from collections import deque

from shotover_gevent.codecs.resp_heads import HEADS, heads_of
from shotover_gevent.codecs.resp_replies import ReplyScanner, kind_of
from shotover_gevent.errors import PeerError

_CRLF = b"\r\n"
#: The head of a string: how long its bytes are, with the line end behind them.
_STRINGS = {head: size + 2 for size, head in enumerate(HEADS)} | {b"$-1": 0}
_PLUS, _MINUS, _COLON, _DOLLAR, _PUSH = b"+-:$>"
#: What may come while nobody waits begins so: a push, or an attribute of one.
_UNASKED = b">|"
_LINES = frozenset(b"+-:")
_GOOD_LINES = {b"+", b":"}

# From this number of values for one share on, cutting all of a read at its line ends is worth it.
_MANY_VALUES = 4

# A shorter string that is not complete is left to the scanner, which keeps it in one piece.
_SHORT_BYTES = 1024


class Share:
    """What one waiter gets: ``missing`` values still, ``parts`` of bytes, ``errors`` among the values."""

    __slots__ = ("missing", "parts", "errors")

    def __init__(self, missing: int) -> None:
        self.missing = missing
        self.parts: list[bytes] = []
        self.errors = 0

    @property
    def raw(self) -> bytes:
        """All bytes so far."""
        parts = self.parts
        return parts[0] if len(parts) == 1 else b"".join(parts)


class ReplyDealer:
    """The shares of one connection, oldest first; append to ``waiting`` when a request is sent."""

    __slots__ = ("waiting", "pushes", "_scanner", "_is_between", "_left")

    def __init__(self) -> None:
        self.waiting: deque[Share] = deque()
        #: Values that nobody asked for.
        self.pushes = 0
        self._scanner = ReplyScanner()
        self._is_between = True
        #: The bytes that the string of the oldest share still lacks.
        self._left = 0

    def feed(self, raw: bytes, done: list[Share]) -> None:
        """Deal what arrived; the shares that are complete now go to ``done``, in order.

        Raises :class:`PeerError`; the connection is of no use then, but what is done is.
        """
        if self._left:
            if len(raw) < self._left:
                self.waiting[0].parts.append(raw)
                self._left -= len(raw)
                return
            raw = self._end_string(raw, done)
        at = 0
        if self._is_between:
            if self.waiting and self.waiting[0].missing >= _MANY_VALUES:
                at = self._leap(raw, done)
            at = self._step(raw, done, at)
        if at < len(raw):
            self._scan(raw[at:] if at else raw, done)

    def _end_string(self, raw: bytes, done: list[Share]) -> bytes:
        """Deal the end of a string; returns what follows it."""
        share, left = self.waiting[0], self._left
        part, rest = raw[:left], raw[left:]
        share.parts.append(part)
        # A line end that was cut in two shows here as a newline alone.
        if not part.endswith(_CRLF if left > 1 else b"\n"):
            raise PeerError("a string does not end where its length says")
        self._left = 0
        share.missing -= 1
        if not share.missing:
            done.append(self.waiting.popleft())
        return rest

    def _leap(self, raw: bytes, done: list[Share]) -> int:
        """Deal as long as all values of a share are of one kind; returns where they end."""
        waiting, pieces = self.waiting, raw.split(_CRLF)
        at = first = 0
        while waiting:
            share = waiting[0]
            end = _end_of_equals(pieces, first, share.missing)
            if not end:
                break
            start = at
            at += sum(map(len, pieces[first:end])) + 2 * (end - first)
            first = end
            share.parts.append(raw[start:at])
            share.missing = 0
            done.append(waiting.popleft())
        return at

    def _step(self, raw: bytes, done: list[Share], at: int) -> int:
        """Deal the simple values that ``raw`` has from ``at`` on; returns where they end."""
        waiting, find, strings = self.waiting, raw.find, _STRINGS
        end = len(raw)
        while at < end and waiting:
            share = waiting[0]
            if share.missing == 1:
                # The same as below, for the usual case.
                line_end = find(_CRLF, at)
                if line_end < 0:
                    break
                size = strings.get(raw[at:line_end])
                if size is not None:
                    after = line_end + 2 + size
                    if raw[after - 2 : after] != _CRLF:
                        break
                    share.parts.append(raw[at:after])
                    share.missing = 0
                    done.append(waiting.popleft())
                    at = after
                    continue
            missing, start, errors = share.missing, at, 0
            while missing and at < end:
                line_end = find(_CRLF, at)
                if line_end < 0:
                    break
                kind = raw[at]
                if kind == _DOLLAR:
                    size = strings.get(raw[at:line_end])
                    if size is None:
                        size = _long(raw, at, line_end)
                        if not size:
                            break
                    after = line_end + 2 + size
                    if raw[after - 2 : after] != _CRLF:
                        if after > end and size > _SHORT_BYTES:
                            self._left = after - end
                            at = end
                        break
                    at = after
                elif kind == _PLUS or kind == _COLON:
                    at = line_end + 2
                elif kind == _MINUS:
                    errors += 1
                    at = line_end + 2
                else:
                    break
                missing -= 1
            if at > start:
                share.parts.append(raw[start:at] if start or at < end else raw)
                share.missing = missing
                share.errors += errors
            if missing:
                break
            done.append(waiting.popleft())
        return at

    def _scan(self, raw: bytes, done: list[Share]) -> None:
        """Deal the values that ``raw`` completes, one by one, and keep what is incomplete."""
        waiting = self.waiting
        for value in self._scanner.feed(raw):
            kind = value[0]
            if kind == 124:  # "|", an attribute before the value
                kind = kind_of(value)
            if kind == _PUSH:
                self.pushes += 1
                continue
            if not waiting:
                raise PeerError(f"{value[:60]!r} answers nothing")
            share = waiting[0]
            share.parts.append(value)
            share.missing -= 1
            share.errors += kind == _MINUS
            if not share.missing:
                done.append(waiting.popleft())
        self._is_between = self._scanner.is_between
        if not waiting and not self._is_between:
            begun = self._scanner.pending
            if begun[0] not in _UNASKED:  # whoever asks next would take it for the answer
                raise PeerError(f"{begun[:60]!r} answers nothing")


def _long(raw: bytes, at: int, line_end: int) -> int:
    """The same as in ``_STRINGS`` for a longer string; 0 if it is no length."""
    text = raw[at + 1 : line_end]
    return int(text) + 2 if text.isdigit() and len(text) < 19 else 0


def _end_of_equals(pieces: list[bytes], first: int, count: int) -> int:
    """Where ``count`` short strings, or as many lines without an error, end; 0 if it is anything else.

    ``pieces`` are the bytes cut at every line end. *n* strings are *n* pairs of ``$length`` and bytes of that
    length then: what compares equal to that can be read in no other way.
    """
    last = len(pieces) - 1  # it has no line end
    end = first + 2 * count
    try:
        if end <= last and pieces[first:end:2] == heads_of(pieces[first + 1 : end : 2]):
            return end
    except IndexError:
        return 0  # longer than what has a head
    end = first + count
    return end if end <= last and {line[:1] for line in pieces[first:end]} <= _GOOD_LINES else 0


def simple_end(raw: bytes) -> int:
    """Where the string or line that ``raw`` begins with ends, which may be beyond ``raw``.

    0 if the head is not complete, or belongs to another kind of value.
    """
    line_end = raw.find(_CRLF)
    if line_end < 0:
        return 0
    kind = raw[0]
    if kind == _DOLLAR:
        size = _STRINGS.get(raw[:line_end])
        if size is None:
            size = _long(raw, 0, line_end)
            if not size:
                return 0
        return line_end + 2 + size
    return line_end + 2 if kind in _LINES else 0
