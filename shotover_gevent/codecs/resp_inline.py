"""Inline commands: requests typed as one line, as over telnet.

A line is split as Redis 7's ``sdssplitargs`` does it: words between blanks; ``"..."`` knows the
escapes of C, ``'...'`` only ``\\'``; a closing quote ends the word.

The servers do not all read such a line in the same way (found by asking them, Redis 7.0 and
Valkey 9.1):

 * after a closing quote, Redis refuses anything but white space, while Valkey goes on with the
   word, and takes ``\\v`` and ``\\f`` for letters there. Refused here, like by Redis;
   with ``\\v`` and ``\\f`` it is Redis's reading that counts;
 * Valkey drops the byte 0xff, Redis keeps it;
 * after a NUL byte neither ever finds the end of the line.

So that a server reads what was read here, only a plain line is sent on as it came
(:func:`is_plain`); any other is sent as the array of bulk strings that it means.
"""

from __future__ import annotations

import re

# A letter first (no other inline command exists, and so a line can never be taken for a RESP value),
# then printable ASCII without quotes. Every server reads such a line in the same way.
_PLAIN = re.compile(rb"[A-Za-z][ \t!#-&(-~]*\r?\n")

# What C's isspace() accepts. Between words all of them count, within a word only the first four end
# it, as in sdssplitargs.
_SPACES = b" \t\r\n\v\f"
_WORD = re.compile(rb"[^ \t\r\n\"']+")
_DOUBLE = re.compile(rb'[^"\\]+')
_SINGLE = re.compile(rb"[^'\\]+")
_HEX = re.compile(rb"x([0-9a-fA-F]{2})")
_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}
_DOUBLE_QUOTE, _SINGLE_QUOTE = b"\"'"


def is_plain(line: bytes) -> bool:
    """Whether every server reads this line, with its end, in the same way."""
    return _PLAIN.fullmatch(line) is not None


def split_words(line: bytes) -> list[bytes] | None:
    """The words of a line without its end; ``None`` when its quotes do not balance."""
    words = []
    at, end = 0, len(line)
    while True:
        while at < end and line[at] in _SPACES:
            at += 1
        if at == end:
            return words
        word = _Word()
        at = word.read(line, at)
        if at < 0:
            return None
        words.append(b"".join(word.parts))


class _Word:
    """One word, in the parts that quotes and escapes make of it."""

    __slots__ = ("parts",)

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def read(self, line: bytes, at: int) -> int:
        """Read the word at ``at``; returns where it ends, -1 if a quote is not closed there."""
        while True:
            plain = _WORD.match(line, at)
            if plain is not None:
                self.parts.append(plain.group())
                at = plain.end()
            if at < len(line) and line[at] == _DOUBLE_QUOTE:
                return _after_quote(line, self._double(line, at + 1))
            if at < len(line) and line[at] == _SINGLE_QUOTE:
                return _after_quote(line, self._single(line, at + 1))
            return at

    def _double(self, line: bytes, at: int) -> int:
        """Where the string in double quotes ends; -1 if it does not."""
        while at < len(line):
            plain = _DOUBLE.match(line, at)
            if plain is not None:
                self.parts.append(plain.group())
                at = plain.end()
            elif line[at] == _DOUBLE_QUOTE:
                return at + 1
            else:
                at = self._escape(line, at + 1)
        return -1

    def _escape(self, line: bytes, at: int) -> int:
        """Read what follows a backslash within double quotes."""
        digits = _HEX.match(line, at)
        if digits is not None:
            self.parts.append(bytes.fromhex(digits.group(1).decode()))
            return digits.end()
        letter = line[at : at + 1]
        self.parts.append(_ESCAPES.get(letter, letter))
        return at + 1

    def _single(self, line: bytes, at: int) -> int:
        """Where the string in single quotes ends; -1 if it does not."""
        while at < len(line):
            plain = _SINGLE.match(line, at)
            if plain is not None:
                self.parts.append(plain.group())
                at = plain.end()
            elif line[at] == _SINGLE_QUOTE:
                return at + 1
            elif line[at + 1 : at + 2] == b"'":
                self.parts.append(b"'")
                at += 2
            else:
                self.parts.append(b"\\")
                at += 1
        return -1


def _after_quote(line: bytes, at: int) -> int:
    """``at``, if the word may end there."""
    return at if at == len(line) or (at > 0 and line[at] in _SPACES) else -1
