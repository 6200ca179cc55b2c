"""The errors of the package: one family per culprit.

An error carries facts as attributes and builds its sentence from them. What caused it is
its ``__cause__``, so that :func:`causes` can print the whole chain the way Shotover does.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


class ShotoverError(Exception):
    """Base of every error that this package raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a configuration file, with its place.

    ``line`` and ``column`` count from 1; 0 means that the problem has no place in the file
    (for example when the file cannot be opened). ``path`` is the way to the element, such
    as ``sources[0].Valkey.chain[1].ValkeySinkSingle.adress``.
    """

    file: str
    line: int
    column: int
    path: str
    message: str
    suggestion: str | None = None

    @property
    def place(self) -> str:
        """``file:line:column``, or the file alone when there is no line."""
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file

    def __str__(self) -> str:
        where = f"{self.place}  {self.path}: " if self.path else f"{self.place}  "
        text = where + self.message
        return f"{text}\n    {self.suggestion}" if self.suggestion else text


class ConfigError(ShotoverError):
    """The configuration is wrong; ``problems`` holds all that was found, in file order.

    ``chain`` holds the texts of the error in Shotover's own words, outermost first, for
    the log line that its users know.
    """

    def __init__(self, problems: Sequence[Problem], chain: Sequence[str] = ()) -> None:
        self.problems = tuple(problems)
        self.chain = tuple(chain)
        super().__init__(self.report())

    def report(self) -> str:
        """All problems, each with its place, then a line that counts them."""
        count = len(self.problems)
        noun = "problem" if count == 1 else "problems"
        return "\n".join([*map(str, self.problems), f"{count} {noun}; nothing was started"])


class PeerError(ShotoverError):
    """A peer broke its protocol. ``reply`` is what to tell it before closing, as bytes."""

    def __init__(self, reason: str, reply: bytes = b"") -> None:
        super().__init__(reason)
        self.reason = reason
        self.reply = reply


class UpstreamError(ShotoverError):
    """A database cannot be reached, was lost, or did not answer in time."""


class NothingSent(UpstreamError):
    """A sink could not connect, and no request of the run that it was given has left this process: the
    same sink may be asked the same again."""


class SessionEnd(ShotoverError):
    """A session ends, and nothing has failed: passed up a chain as it is, told to nobody."""


class UpstreamClosed(SessionEnd):
    """The database closed the connection with nothing pending, or as its client had asked
    (``QUIT``): the client is closed in turn, without an error text."""


class ClientGone(SessionEnd):
    """The client closed its connection while its request was waiting."""


class TransformError(ShotoverError):
    """A transform failed; the cause says how."""


class HotReloadError(ShotoverError):
    """A hot reload was refused or failed; the process that serves goes on serving."""


class UsageError(ShotoverError):
    """The program that calls us broke a rule of the interface."""


def os_error_text(error: OSError) -> str:
    """The text that Shotover's users know: ``Connection refused (os error 111)``."""
    if isinstance(error, socket.gaierror):
        return f"failed to lookup address information: {error.strerror}"
    if error.errno is None:
        return str(error)
    if error.errno < 0:  # a name that could not be resolved: EAI_*, which is no error number
        return f"failed to lookup address information: {error.strerror}"
    return f"{os.strerror(error.errno)} (os error {error.errno})"


def causes(error: BaseException | None) -> Iterator[str]:
    """The texts of ``error`` and of everything that caused it, outermost first."""
    while error is not None:
        yield os_error_text(error) if isinstance(error, OSError) else str(error)
        error = error.__cause__


def render(head: str, texts: Sequence[str]) -> str:
    """Join an error and its causes in the layout of Shotover's logs.

    One cause is indented by four spaces; several are numbered, and their further lines are
    indented by seven.
    """
    if not texts:
        return head
    if len(texts) == 1:
        lines = texts[0].split("\n")
        body = "\n".join("    " + line for line in lines)
    else:
        body = "\n".join(
            f"{number:>5}: " + text.replace("\n", "\n       ") for number, text in enumerate(texts)
        )
    return f"{head}\n\nCaused by:\n{body}"
