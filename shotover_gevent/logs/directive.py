"""Which lines are printed: the filter directives of ``main_log_level`` and ``RUST_LOG``.

A directive is ``level``, ``target=level`` or ``target`` (which is ``target=trace``), as in
tracing's ``EnvFilter``. The longest target that fits a line decides; of equal targets, the later
directive. Without any directive, errors are printed.

Three differences, none of which changes what a usual filter prints:
 - A target stands for itself and what is below it, in whole path segments: ``shotover::sou`` does
   not match ``shotover::sources``.
 - Span filters (``target[span{field=value}]=level``) are refused. Accepting them without doing
   what they ask would print other lines than the operator expects, and say nothing about it.
 - A target made of other characters than letters, digits and ``_:.-`` is refused; it would match
   nothing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

#: Below ``logging.DEBUG``; the standard library has no name for it.
TRACE = 5
#: Above every level of a line.
OFF = 1000

_LEVELS = {
    "off": OFF, "error": logging.ERROR, "warn": logging.WARNING, "info": logging.INFO,
    "debug": logging.DEBUG, "trace": TRACE,
    "0": OFF, "1": logging.ERROR, "2": logging.WARNING, "3": logging.INFO,
    "4": logging.DEBUG, "5": TRACE,
}
_BAD_LEVEL = (
    'error parsing level filter: expected one of "off", "error", "warn", "info", "debug", '
    '"trace", or a number 0-5'
)
_BAD_DIRECTIVE = "invalid filter directive"
_TARGET = re.compile(r"[\w:.-]+")

PACKAGE = __name__.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Directive:
    """Print the lines of ``target`` (empty: all) from ``level`` (as in ``logging``) upwards."""

    target: str
    level: int


def parse_directives(text: str) -> list[Directive]:
    """The directives of ``text``; raises ``ValueError`` in Shotover's words at the first bad one."""
    return [_parse(piece) for part in text.split(",") if (piece := part.strip())]


def directives_from(config_text: str, environ: Mapping[str, str]) -> list[Directive]:
    """Those of ``main_log_level``, then those of ``RUST_LOG``, which therefore win."""
    return parse_directives(config_text) + parse_directives(environ.get("RUST_LOG", ""))


def _parse(piece: str) -> Directive:
    if "[" in piece:
        raise ValueError(f"{_BAD_DIRECTIVE}, span filters are not supported: {piece}")
    target, equals, level = piece.partition("=")
    if not equals:
        if (number := _LEVELS.get(piece.lower())) is not None:
            return Directive("", number)
        level = "trace"
    if not _TARGET.fullmatch(target):
        raise ValueError(f"{_BAD_DIRECTIVE}: {piece}")
    # tracing reads an empty level as "error".
    number = _LEVELS.get(level.lower() or "error")
    if number is None:
        raise ValueError(f"{_BAD_LEVEL}: {piece}")
    return Directive(target_of(target), number)


def text_of(directives: Iterable[Directive]) -> str:
    """The inverse of :func:`parse_directives`."""
    names = {level: name for name, level in reversed(_LEVELS.items()) if not name.isdigit()}
    return ",".join(
        f"{each.target}={names[each.level]}" if each.target else names[each.level] for each in directives
    ) or "error"


def target_of(logger_name: str) -> str:
    """A logger's name in Shotover's spelling; a target is returned as it is."""
    target = logger_name.replace(".", "::")
    if target == PACKAGE or target.startswith(PACKAGE + "::"):
        target = "shotover" + target[len(PACKAGE):]
    return target


def logger_name_of(target: str) -> str:
    """The name of the logger whose lines have this target."""
    if target == "shotover" or target.startswith("shotover::"):
        target = PACKAGE + target[len("shotover"):]
    return target.replace("::", ".")


class Filter:
    """A set of directives, ready to be asked."""

    def __init__(self, directives: Iterable[Directive]) -> None:
        self.levels = {each.target: each.level for each in directives} or {"": logging.ERROR}
        self._longest_first = [
            (target, target + "::", self.levels[target])
            for target in sorted(self.levels, key=len, reverse=True)
        ]

    def threshold(self, target: str) -> int:
        """The lowest level at which lines of ``target`` are printed."""
        for prefix, below, level in self._longest_first:
            if not prefix or target == prefix or target.startswith(below):
                return level
        return OFF

    def logger_levels(self) -> dict[str, int]:
        """The level for each logger that is named, and for the root (the empty name).

        A line may carry a target that is not its logger's, so loggers let through whatever any
        directive asks for, down to INFO; the handler then decides by the target. DEBUG and TRACE
        are frequent, and for them the logger's own name decides, before a record is made.
        """
        floor = max(logging.INFO, min(self.levels.values()))
        levels = {"": self.threshold("")} | {
            logger_name_of(target): level for target, level in self.levels.items()
        }
        return {name: min(level, floor) for name, level in levels.items()}
