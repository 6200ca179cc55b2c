"""Lines on their way to a stream that may be slow, stuck or gone.

Rules:
 1. :meth:`LineWriter.put` never waits. What does not fit is dropped and counted.
 2. One real thread writes, because a write to a full pipe stops whoever makes it. Where a host has
    patched the standard library with gevent, its originals are used: a greenlet in that place
    would stop the hub.
 3. No lock is shared between the two sides, so that a line logged from a destructor or a signal
    handler in the middle of ``put`` cannot deadlock: each number has one writer.
 4. A failed write (a closed pipe, a full disk) loses that line, is counted like a drop, and is
    not tried again.
"""

from __future__ import annotations

import importlib
import os
import select
import sys
from collections.abc import Callable
from functools import partial
from queue import Empty
from typing import Any, TextIO

# Some 100,000 usual lines; tracing's writer, which Shotover uses, holds 128,000.
MAX_PENDING_CHARS = 16 * 1024 * 1024

# As long as a service manager will wait for a process that is otherwise done, and not noticed.
CLOSE_S = 2.0


class LineWriter:
    """Writes lines to ``stream`` (``None``: nowhere) from a thread of its own.

    ``report`` makes the line that says how many were lost. The stream is flushed first, and is
    never closed. Callers of :meth:`put` do not overlap (a ``logging.Handler`` holds its lock).
    """

    def __init__(
        self, stream: TextIO | None, report: Callable[[int], str], max_pending: int = MAX_PENDING_CHARS
    ) -> None:
        self._write, self._end = _output(stream)
        self._report_line = report
        self._max_pending = max_pending
        self._queue = _unpatched("queue", "SimpleQueue")()
        self._queued = 0  # characters, counted by put()
        self._dropped = 0  # lines, counted by put()
        self._written = 0  # characters, counted by the thread, as are the next two
        self._failed = 0
        self._reported = 0
        self._is_closed = False
        self._done = _unpatched("_thread", "allocate_lock")()
        self._done.acquire()
        _unpatched("_thread", "start_new_thread")(self._run, ())

    @property
    def lost(self) -> int:
        """Lines that were not printed, so far."""
        return self._dropped + self._failed

    def put(self, line: str) -> None:
        """Queue one line, which ends in a newline, or drop it."""
        if self._is_closed:
            return
        if self._queued - self._written + len(line) > self._max_pending:
            self._dropped += 1
            return
        self._queued += len(line)
        self._queue.put((line, self._dropped))

    def close(self, timeout_s: float = CLOSE_S) -> bool:
        """Write what is queued, and wait for that; ``False`` when the time did not suffice."""
        if not self._is_closed:
            self._is_closed = True
            self._queue.put(None)
        is_done: bool = self._done.acquire(timeout=timeout_s)
        if is_done:
            self._done.release()
        return is_done

    def _run(self) -> None:
        try:
            while (item := self._next()) is not None:
                line, dropped_before = item
                self._report(dropped_before)
                self._failed += not self._try(line)
                self._written += len(line)
            self._report(self._dropped)
        finally:
            self._end()
            self._done.release()

    def _next(self) -> tuple[str, int] | None:
        try:
            item: tuple[str, int] | None = self._queue.get_nowait()
        except Empty:
            self._report(self._dropped)
            item = self._queue.get()
        return item

    def _report(self, dropped: int) -> None:
        """Say once how many lines were lost since it was last said."""
        count = dropped + self._failed - self._reported
        if count and self._try(self._report_line(count)):
            self._reported += count

    def _try(self, line: str) -> bool:
        try:
            self._write(line)
        except (OSError, ValueError):  # ValueError: the stream was closed
            return False
        return True


def _unpatched(module: str, name: str) -> Any:
    """``module.name`` as it is without gevent's monkey-patching."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None:
        return monkey.get_original(module, name)
    return getattr(importlib.import_module(module), name)


def _output(stream: TextIO | None) -> tuple[Callable[[str], None], Callable[[], None]]:
    """How to write to ``stream``, and what to do at the end: by a descriptor where there is one.

    A thread that is stuck in a buffered writer holds its lock, and the interpreter aborts when it
    wants to flush that writer at exit. Nothing of that kind is held during ``os.write``. The
    descriptor is our own: the stream's number, once closed, may come back as a client's socket.
    """
    if stream is None:
        return (lambda line: None), (lambda: None)
    try:
        stream.flush()
        descriptor = os.dup(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return partial(_write_text, stream), (lambda: None)
    return partial(_write_descriptor, descriptor), partial(os.close, descriptor)


def _write_text(stream: TextIO, line: str) -> None:
    stream.write(line)
    stream.flush()


def _write_descriptor(descriptor: int, line: str) -> None:
    view = memoryview(line.encode("utf-8", "backslashreplace"))
    while view:
        try:
            view = view[os.write(descriptor, view):]
        except BlockingIOError:  # a parent has made our terminal or pipe non-blocking
            poll = _unpatched("select", "poll")()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()
