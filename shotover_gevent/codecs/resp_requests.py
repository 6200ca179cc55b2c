"""From the bytes of one client to batches of requests.

Rules:
 1. What is passed on means the same to every server: a request is either an array of bulk strings,
    lengths in canonical digits and all line ends in place, or a plain inline command. Two
    servers that read the same bytes differently are how requests are smuggled.
 2. What the server ignores (empty lines, ``*0``, ``*-1``) is not passed on.
 3. What is malformed raises :class:`MalformedRequest` with Redis's own words, at the same byte in
    whatever pieces the data comes, and with the requests before it. Nothing after it is read.
 4. Bytes are copied and looked at a bounded number of times, however they are cut.
 5. A decoder holds one incomplete request, within the limits of
    :mod:`shotover_gevent.codecs.resp_request_scanner`.

How it works: while nothing is incomplete, :mod:`shotover_gevent.codecs.resp_canonical` takes as many
requests as it can prove to be canonical, fast. What it leaves is read by
:class:`~shotover_gevent.codecs.resp_request_scanner.RequestScanner`, which is the authority.
"""

from __future__ import annotations

from typing import Any

from shotover_gevent.codecs.batch import Batch
from shotover_gevent.codecs.resp_canonical import take_canonical
from shotover_gevent.codecs.resp_codec import RESP
from shotover_gevent.codecs.resp_frames import encode
from shotover_gevent.codecs.resp_inline import is_plain
from shotover_gevent.codecs.resp_replies import reply_ends
from shotover_gevent.codecs.resp_request_scanner import MalformedRequest, RequestScanner

__all__ = ["MalformedRequest", "RequestDecoder"]


class RequestDecoder:
    """The requests of one client connection.

    ``pending`` are the bytes that another decoder had left when the connection was its own.
    """

    __slots__ = ("_scanner", "_is_idle", "_read", "_rest", "_failure")

    def __init__(self, pending: bytes = b"") -> None:
        self._scanner = RequestScanner()
        self._is_idle = not pending
        #: The beginning of an incomplete request, as far as it has been read; what follows it.
        self._read: list[bytes] = []
        self._rest: list[bytes] = [pending] if pending else []
        self._failure: bytes | None = None

    @property
    def pending(self) -> bytes:
        """The bytes of an incomplete request."""
        return b"".join([*self._read, *self._rest])

    def feed(self, data: Any) -> Batch:
        """The requests that ``data`` completes, possibly none. ``data`` is not kept.

        Raises :class:`MalformedRequest`, and goes on raising it: there is no next request.
        """
        raw = bytes(data)
        if not self._is_idle:
            return self._resume(raw)
        values, end = take_canonical(raw)
        if end == len(raw):
            if len(values) == 1:  # without the function that a comprehension makes
                return Batch(RESP, raw, values, None, [values[0][0].upper()])
            return Batch(RESP, raw, values, None, [value[0].upper() for value in values])
        found = _Found()
        found.add(raw[:end], values)
        return self._scan(raw, end, found)

    def _resume(self, raw: bytes) -> Batch:
        """Go on with the incomplete request; what comes after it may be taken fast again."""
        found = _Found()
        if self._failure is not None:
            raise MalformedRequest(self._failure)
        self._rest.append(raw)
        self._scanner.missing -= len(raw)
        if self._scanner.missing > 0:
            return found.batch()
        raw = b"".join(self._rest)
        end = self._scan_one(raw, 0, found)
        if end is None:
            return found.batch()
        rest = raw[end:]
        values, end = take_canonical(rest)
        found.add(rest[:end], values)
        return self._scan(rest, end, found)

    def _scan(self, raw: bytes, start: int, found: _Found) -> Batch:
        """Read all that is left, one by one."""
        at: int | None = start
        while at is not None and at < len(raw):
            at = self._scan_one(raw, at, found)
        return found.batch()

    def _scan_one(self, raw: bytes, start: int, found: _Found) -> int | None:
        """Read the request at ``start``: where it ends, or ``None``, and then its bytes are kept."""
        scanner = self._scanner
        scanner.at = start
        is_inline = not scanner.lacking and raw[start : start + 1] != b"*"
        try:
            arguments = scanner.next(raw)
        except MalformedRequest as error:
            self._fail(error, found)
            raise
        at = scanner.at
        if arguments is None:
            if at > start:
                self._read.append(raw[start:at])
            self._rest = [raw[at:]] if at < len(raw) else []
            self._is_idle = False
            return None
        if is_inline and arguments:
            found.add_inline(raw[start:at], arguments)
        elif arguments:
            found.add(b"".join([*self._read, raw[start:at]]), [arguments])
        self._read, self._rest = [], []
        self._is_idle = True
        return at

    def _fail(self, error: MalformedRequest, found: _Found) -> None:
        self._failure = error.text
        self._is_idle = False
        self._read, self._rest = [], []
        error.batch = found.batch()


class _Found:
    """The requests of one batch, in pieces that follow each other."""

    __slots__ = ("pieces", "values", "inline")

    def __init__(self) -> None:
        self.pieces: list[tuple[bytes, int]] = []
        self.values: list[list[bytes]] = []
        #: The indices of pieces that are inline commands.
        self.inline: set[int] = set()

    def add(self, raw: bytes, values: list[list[bytes]]) -> None:
        """Add canonical requests."""
        if values:
            self.pieces.append((raw, len(values)))
            self.values.extend(values)

    def add_inline(self, line: bytes, words: list[bytes]) -> None:
        """Add a line as it came, or, if servers might disagree about it, as what it means."""
        if is_plain(line):
            self.inline.add(len(self.pieces))
            self.add(line, [words])
        else:
            self.add(encode(words), [words])

    def batch(self) -> Batch:
        """All of them. Where canonical requests end is left to be found when somebody asks."""
        raw = b"".join([piece for piece, _ in self.pieces])
        return Batch(RESP, raw, self.values, self._bounds() if self.inline else None)

    def _bounds(self) -> list[int]:
        bounds, offset = [], 0
        for index, (piece, count) in enumerate(self.pieces):
            ends = [len(piece)] if index in self.inline else reply_ends(piece, count)
            bounds.extend([offset + end for end in ends])
            offset += len(piece)
        return bounds
