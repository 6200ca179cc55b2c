"""Lines on their way to a file that may be slow, full, or moved away.

Rules:
 1. :meth:`AccessWriter.put` never waits. What does not fit into the queue is dropped and counted.
 2. A thread writes, all that has gathered while it wrote before. At most one is busy for a writer.
 3. A file that was moved or deleted is opened anew, as ``logrotate`` expects; it is looked for once a
    second at most. Lines are appended in whole, so that two processes may write to one file.
 4. What cannot be written is dropped and counted, and not tried again. One line in the log says so, and
    one when it works again.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from io import FileIO
from time import monotonic

import gevent
from gevent import get_hub

from shotover_gevent.errors import os_error_text
from shotover_gevent.metrics import Counter

logger = logging.getLogger(__name__)

# Some 30,000 lines: a disk that is slow for seconds loses nothing, one that is stuck costs no more.
MAX_PENDING_BYTES = 8 * 1024 * 1024

# Often enough that a rotation goes unnoticed, seldom enough to cost nothing.
CHECK_S = 1.0

# Of a process that ends. A disk that does not take the rest by then is stuck.
CLOSE_S = 2.0


class AppendedFile:
    """A file that lines are appended to, or the standard error where ``path`` is ``None``.

    It is opened by the first write. Used by one thread at a time; ``close()`` closes it.
    """

    def __init__(self, path: str | None, clock: Callable[[], float] = monotonic) -> None:
        self._path = path
        self._clock = clock
        self._file: FileIO | None = None
        self._checked_at = 0.0
        self._is_torn = False

    def write(self, data: bytes) -> None:
        """Append whole lines. Raises ``OSError``; if that cut a line off, the next begins a new one."""
        file = self._current()
        view = memoryview(b"\n" + data if self._is_torn else data)
        while view:
            count = os.write(file.fileno(), view)
            view = view[count:]
            self._is_torn = bool(view)

    def _current(self) -> FileIO:
        """The file that is at the path now."""
        now = self._clock()
        if self._file is not None and self._path is not None and now - self._checked_at >= CHECK_S:
            self._checked_at = now
            if not _is_at(self._file, self._path):
                self.close()
        if self._file is None:
            self._checked_at = now
            self._is_torn = False
            self._file = _standard_error() if self._path is None else FileIO(self._path, "a", opener=_open)
        return self._file

    def close(self) -> None:
        """Close the file; a write opens it again."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _is_at(file: FileIO, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _open(path: str, flags: int) -> int:
    """Not for everybody to read: keys may be in it."""
    return os.open(path, flags, 0o640)


def _standard_error() -> FileIO:
    """A file of our own: closing it leaves the other one open."""
    return FileIO(os.dup(sys.stderr.fileno()), "w")


class AccessWriter:
    """Appends lines to a file, in the background. ``dropped`` counts those that were lost."""

    def __init__(
        self, file: AppendedFile, name: str, dropped: Counter, max_pending: int = MAX_PENDING_BYTES
    ) -> None:
        self._file = file
        self._name = name
        self._dropped = dropped
        self._max_pending = max_pending
        self._lines: list[bytes] = []
        self._pending = 0  # bytes, those that are being written too
        self._flusher: gevent.Greenlet | None = None
        self._is_failing = False

    def put(self, lines: Sequence[bytes]) -> None:
        """Queue lines, each with its end, or drop them."""
        for line in lines:
            if self._pending + len(line) > self._max_pending:
                self._dropped.value += 1
            else:
                self._pending += len(line)
                self._lines.append(line)
        if self._lines and self._flusher is None:
            self._flusher = gevent.spawn(self._flush)

    def close(self, timeout_s: float = CLOSE_S) -> bool:
        """Write what is queued and close the file; ``False`` if the time did not suffice."""
        flusher = self._flusher
        if flusher is not None:
            flusher.join(timeout_s)
            if not flusher.dead:
                return False  # the thread still writes; the file is left to the end of the process
        self._file.close()
        return True

    def _flush(self) -> None:
        try:
            while self._lines:
                lines, self._lines = self._lines, []
                data = b"".join(lines)
                try:
                    get_hub().threadpool.apply(self._file.write, (data,))
                except OSError as error:
                    self._dropped.value += len(lines)
                    self._tell(os_error_text(error))
                else:
                    self._tell("")
                self._pending -= len(data)
        finally:
            self._flusher = None

    def _tell(self, failure: str) -> None:
        """Say once that writing fails, and once that it works again."""
        if bool(failure) != self._is_failing:
            self._is_failing = bool(failure)
            if failure:
                logger.error("access log %s loses lines: %s", self._name, failure)
            else:
                logger.info("access log %s is written again", self._name)
