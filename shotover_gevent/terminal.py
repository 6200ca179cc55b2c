"""What commands write for people: one line that says what is going on, tables, numbers.

On a terminal a line is written over the one before, with the time that it takes; anywhere else each
text is a line of its own. It goes to standard error, so that standard output has the result alone.
``NO_COLOR`` (no-color.org) and a dumb terminal are respected.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TextIO

# As often as the tenths of the seconds that are shown change.
REFRESH_S = 0.1

_CLEAR = "\r\x1b[K"
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def is_terminal(stream: TextIO | None, environ: Mapping[str, str] | None = None) -> bool:
    """Whether a person looks at the stream, and lines can be written over."""
    environ = os.environ if environ is None else environ
    return stream is not None and stream.isatty() and environ.get("TERM", "dumb") != "dumb"


class Progress:
    """Says what is going on. Use it in a ``with`` block, at whose end nothing of it is left on a
    terminal. ``is_on`` turns it off where the output is for programs.
    """

    def __init__(
        self, stream: TextIO | None = None, is_on: bool = True,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        environ = os.environ if environ is None else environ
        self._is_live = is_on and is_terminal(self._stream, environ)
        self._is_plain = is_on and not self._is_live
        self._has_colour = not environ.get("NO_COLOR")
        self._text = ""
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ticker: threading.Thread | None = None

    def __call__(self, text: str) -> None:
        """Say what is going on from now on; the same text again is not a new line."""
        if text == self._text:
            return
        self._text = text
        if self._is_live:
            self._draw()
        elif self._is_plain:
            self._write(f"{text}\n")

    def __enter__(self) -> Progress:
        if self._is_live:
            # A thread: what is waited for waits in many ways, and none of them needs to know.
            self._ticker = threading.Thread(target=self._tick, daemon=True)
            self._ticker.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        if self._ticker is not None:
            self._ticker.join()
            self._write(_CLEAR)

    def _tick(self) -> None:
        while not self._stop.wait(REFRESH_S):
            self._draw()

    def _draw(self) -> None:
        if not self._text:
            return
        seconds = f"{time.monotonic() - self._started:.1f} s"
        # A line that is wrapped could not be written over.
        text = self._text[: max(10, shutil.get_terminal_size().columns - len(seconds) - 4)]
        if self._has_colour:
            seconds = f"{_DIM}{seconds}{_PLAIN}"
        self._write(f"{_CLEAR}{text}  {seconds}")

    def _write(self, text: str) -> None:
        try:
            with self._lock:
                self._stream.write(text)
                self._stream.flush()
        except OSError:
            self._is_live = self._is_plain = False  # nobody reads it


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Lines with columns as wide as they need to be; those of ``right`` are aligned to the right."""
    widths = [max(len(row[index]) for row in (head, *rows)) for index in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))]
        return "  ".join(cells).rstrip()

    return [line(row) for row in (head, *rows)]


def size(value: float) -> str:
    """Bytes as people read them: ``1.4 MiB``."""
    power = 0
    while value >= 1024 and power < len(_UNITS) - 1:
        value /= 1024
        power += 1
    return f"{value:.1f} {_UNITS[power]}" if power and value < 100 else f"{value:.0f} {_UNITS[power]}"


def span(seconds: float) -> str:
    """A time as people read it: ``3 h 12 min``."""
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{seconds:.1f} s"
