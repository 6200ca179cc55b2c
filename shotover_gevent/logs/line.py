"""How a line looks: for people, and as JSON.

Both follow tracing's default formats, which Shotover's users and their log shippers know::

    2026-01-01T00:00:00.000000Z  INFO shotover::runner: received SIGTERM
    {"timestamp":"2026-01-01T00:00:00.000000Z","level":"INFO","fields":{"message":"..."},
     "target":"shotover::runner"}

JSON has one object per line whatever the message holds. For people a message of several lines is
printed as it is, but control characters are escaped: a peer must not be able to drive a terminal.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from shotover_gevent.logs.directive import Filter, target_of

_LEVEL_NAMES = (
    (logging.ERROR, "ERROR"), (logging.WARNING, "WARN"), (logging.INFO, "INFO"),
    (logging.DEBUG, "DEBUG"),
)
_COLOURS = {"ERROR": "31", "WARN": "33", "INFO": "32", "DEBUG": "34", "TRACE": "35"}
_DIM, _ITALIC = "2", "3"

# C0 without tab and newline, DEL, and C1.
_CONTROLS = {code: f"\\x{code:02x}" for code in [*range(32), *range(127, 160)] if code not in (9, 10)}

#: Shotover's name for the span of a client connection; ``shotover::connection_span=debug`` prints it.
CONNECTION_SPAN = "shotover::connection_span"


@dataclass(frozen=True, slots=True)
class Span:
    """What the lines of one piece of work have in common; printed where its target is enabled."""

    name: str
    target: str
    level: int
    fields: Mapping[str, Any]


_spans: ContextVar[tuple[Span, ...]] = ContextVar("shotover_gevent_log_spans", default=())


@contextlib.contextmanager
def span(
    name: str, target: str = CONNECTION_SPAN, level: int = logging.DEBUG, **fields: Any
) -> Iterator[None]:
    """Mark the lines of this greenlet until the block ends.

    A greenlet that it starts has no spans; start it with ``contextvars.copy_context().run``.
    """
    token = _spans.set((*_spans.get(), Span(name, target, level, fields)))
    try:
        yield
    finally:
        _spans.reset(token)


@dataclass(frozen=True, slots=True)
class Line:
    """One line to print. ``trace`` is a traceback, or empty."""

    seconds: float
    level: str
    target: str
    message: str
    fields: Mapping[str, Any]
    spans: Sequence[Span] = ()
    trace: str = ""


def level_name(number: int) -> str:
    """Shotover's name of a ``logging`` level, also for levels in between."""
    return next((name for least, name in _LEVEL_NAMES if number >= least), "TRACE")


def line_of(record: logging.LogRecord, filter: Filter) -> Line | None:
    """The line of ``record``, or ``None`` where ``filter`` does not print it."""
    target = getattr(record, "target", None) or target_of(record.name)
    if record.levelno < filter.threshold(target):
        return None
    return Line(
        record.created, level_name(record.levelno), target, record.getMessage(),
        getattr(record, "fields", None) or {},
        [each for each in _spans.get() if each.level >= filter.threshold(each.target)],
        _trace(record),
    )


def _trace(record: logging.LogRecord) -> str:
    pieces = traceback.format_exception(*record.exc_info) if record.exc_info else []
    if record.stack_info:
        pieces.append(record.stack_info)
    return "".join(pieces).rstrip("\n")


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def render_json(line: Line) -> str:
    """One JSON object with tracing's keys; ``span`` and ``spans`` only inside of a span."""
    fields: dict[str, Any] = {"message": line.message} if line.message else {}
    for key, value in line.fields.items():
        fields.setdefault(str(key), _json_value(value))
    if line.trace:
        fields.setdefault("exception", line.trace)
    whole: dict[str, Any] = {
        "timestamp": _timestamp(line.seconds), "level": line.level, "fields": fields,
        "target": line.target,
    }
    if line.spans:
        spans = [_json_span(each) for each in line.spans]
        whole |= {"span": spans[-1], "spans": spans}
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":"))


def _json_span(span: Span) -> dict[str, Any]:
    return {str(key): _json_value(value) for key, value in span.fields.items()} | {"name": span.name}


def _json_value(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (str, int, float, type(None))) else str(value)


def render_human(line: Line, has_colour: bool = False) -> str:
    """``time LEVEL span{...}: target: message key=value``; a traceback follows on its own lines."""
    paint = _paint if has_colour else _plain
    spans = "".join(_human_span(each, paint) for each in line.spans)
    body = [line.message.translate(_CONTROLS)] if line.message else []
    body += [_pairs(line.fields, paint)] if line.fields else []
    text = (
        f"{paint(_DIM, _timestamp(line.seconds))} {paint(_COLOURS[line.level], f'{line.level:>5}')} "
        f"{spans + ' ' if spans else ''}{paint(_DIM, line.target + ':')} {' '.join(body)}"
    )
    return f"{text}\n{line.trace.translate(_CONTROLS)}" if line.trace else text


def _human_span(span: Span, paint: Any) -> str:
    fields = f"{{{_pairs(span.fields, paint)}}}" if span.fields else ""
    return f"{span.name}{fields}:"


def _pairs(fields: Mapping[str, Any], paint: Any) -> str:
    return " ".join(
        f"{paint(_ITALIC, str(key))}{paint(_DIM, '=')}{_human_value(value)}"
        for key, value in fields.items()
    )


def _human_value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    text = str(value)
    if text and text.isprintable() and not any(each in text for each in ' "=\\'):
        return text
    return json.dumps(text, ensure_ascii=False).translate(_CONTROLS)


def _paint(code: str, text: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m"


def _plain(_code: str, text: str) -> str:
    return text
