"""Turning the printing on and off: what ``serve`` does with the process's log."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Any, Literal, TextIO

from shotover_gevent.logs.directive import PACKAGE, Directive, Filter, parse_directives, text_of
from shotover_gevent.logs.line import Line, line_of, render_human, render_json
from shotover_gevent.logs.writer import LineWriter

LogFormat = Literal["human", "json"]
Render = Callable[[Line], str]

# Shotover's panics carry the target of the module that reports them.
_PANIC_TARGET = "shotover::tracing_panic_handler"


def configure(
    directives: Iterable[Directive], log_format: LogFormat = "human", stream: TextIO | None = None
) -> LogHandle:
    """Print the log lines of this process to ``stream`` (default: standard output).

    Close the handle last, best by ``atexit``: what is logged later is printed nowhere.
    """
    return LogHandle(directives, log_format, stream or sys.stdout)  # None without a descriptor 1


class LogHandle:
    """The running printer of log lines; made by :func:`configure`."""

    def __init__(
        self, directives: Iterable[Directive], log_format: LogFormat, stream: TextIO | None
    ) -> None:
        self.log_format = log_format
        render = render_json if log_format == "json" else partial(
            render_human, has_colour=_wants_colour(stream))
        self._writer = LineWriter(stream, partial(_loss_line, render))
        self._handler = _Handler(self._writer, render)
        self._former_levels: dict[logging.Logger, int] = {}
        #: Called by :meth:`close`, the last one first.
        self.undo: list[Callable[[], None]] = []
        self.set_directives(directives)
        logging.getLogger().addHandler(self._handler)

    @property
    def lost(self) -> int:
        """Lines that were not printed, because the stream is slow, stuck or gone."""
        return self._writer.lost

    @property
    def filter(self) -> str:
        """All directives, as :meth:`set_filter` reads them."""
        return text_of(self._directives)

    def set_filter(self, text: str) -> None:
        """Replace all directives, those of ``RUST_LOG`` too; ``ValueError`` changes nothing."""
        self.set_directives(parse_directives(text))

    def set_directives(self, directives: Iterable[Directive]) -> None:
        """Replace all directives by these."""
        self._directives = list(directives)
        self._restore_levels()
        self._handler.lines = Filter(self._directives)
        for name, level in self._handler.lines.logger_levels().items():
            logger = logging.getLogger(name)
            self._former_levels.setdefault(logger, logger.level)
            logger.setLevel(level)

    def close(self) -> None:
        """Take everything back, and print what is queued: blocks the thread for 2 s at most."""
        logging.getLogger().removeHandler(self._handler)
        self._restore_levels()
        while self.undo:
            self.undo.pop()()
        self._writer.close()

    def _restore_levels(self) -> None:
        for logger, level in self._former_levels.items():
            logger.setLevel(level)
        self._former_levels.clear()


class _Handler(logging.Handler):
    """Renders in the caller's greenlet, whose spans it needs, and leaves the writing to a thread."""

    lines: Filter

    def __init__(self, writer: LineWriter, render: Render) -> None:
        super().__init__()
        self._writer = writer
        self._render = render

    def emit(self, record: logging.LogRecord) -> None:
        # Arguments may raise anything when they are printed; a log call must not pass that on.
        try:
            line = line_of(record, self.lines)
            text = self._render(line) if line is not None else None
        except Exception as error:
            text = self._render(_unprintable_line(record, error))
        if text is not None:
            self._writer.put(text + "\n")


def _own_line(level: str, message: str, **fields: Any) -> Line:
    return Line(time.time(), level, "shotover::logs", message, fields)


def _loss_line(render: Render, count: int) -> str:
    return render(_own_line("WARN", f"{count} log lines were lost: the output is slow or gone")) + "\n"


def _unprintable_line(record: logging.LogRecord, error: Exception) -> Line:
    place = f"{record.pathname}:{record.lineno}"
    return _own_line(
        "ERROR", "a log line could not be printed", place=place, error=type(error).__name__)


def _wants_colour(stream: TextIO | None) -> bool:
    """Whether people look at the stream and have not set ``NO_COLOR`` (no-color.org)."""
    return stream is not None and not os.environ.get("NO_COLOR") and stream.isatty()


def install_excepthooks(handle: LogHandle) -> None:
    """Log uncaught exceptions, in JSON mode, as Shotover logs panics; undone by ``handle.close()``.

    Taken over are those of the main program, of threads, and, where gevent is in use, of the
    greenlets of this thread. In human mode nothing changes: people read tracebacks on standard
    error.
    """
    if handle.log_format != "json":
        return
    hooks: list[tuple[Any, str, Any]] = [
        (sys, "excepthook", _log_main), (threading, "excepthook", _log_thread)]
    if (gevent := sys.modules.get("gevent")) is not None:
        hooks.append((gevent.get_hub(), "print_exception", _log_greenlet))
    for owner, name, hook in hooks:
        handle.undo.append(_replace(owner, name, hook))


def _replace(owner: Any, name: str, hook: Any) -> Callable[[], None]:
    """Set an attribute; the result undoes it, also where it has hidden one of the class."""
    had = name in vars(owner)
    former = getattr(owner, name)
    setattr(owner, name, hook)
    return (lambda: setattr(owner, name, former)) if had else (lambda: delattr(owner, name))


def _log_main(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, value, trace)
        return
    _log_panic("the main program", value, trace)


def _log_thread(args: threading.ExceptHookArgs) -> None:
    if not issubclass(args.exc_type, SystemExit):
        name = args.thread.name if args.thread is not None else "unknown"
        _log_panic(f"thread {name}", args.exc_value or args.exc_type(), args.exc_traceback)


def _log_greenlet(context: Any, kind: Any, value: Any, trace: TracebackType | None) -> None:
    """Stands in for ``Hub.print_exception``, which may get a text, or nothing, for a value."""
    error = value if isinstance(value, BaseException) else RuntimeError(f"{kind.__name__}: {value}")
    _log_panic(repr(context) if context is not None else "the hub", error, trace)


def _log_panic(where: str, error: BaseException, trace: TracebackType | None) -> None:
    fields: dict[str, Any] = {}
    if frames := traceback.extract_tb(trace):
        last = frames[-1]
        column = None if last.colno is None else last.colno + 1
        fields = {"panic.file": last.filename, "panic.line": last.lineno, "panic.column": column}
    fields["panic.backtrace"] = "".join(traceback.format_exception(type(error), error, trace))
    logging.getLogger(PACKAGE).error(
        "%s failed with %s: %s", where, type(error).__name__, error,
        extra={"target": _PANIC_TARGET, "fields": fields},
    )
