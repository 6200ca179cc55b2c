"""A configuration as plain data, and the place in the file of each of its parts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from shotover_gevent.errors import Problem

Path = tuple[str | int, ...]

# As much of a wrong text as is shown: it is to be recognised, not to be read.
MAX_SHOWN = 60

_SIMPLE_KEY = re.compile(r"[\w.:-]+")


class Place(NamedTuple):
    """A line and a column, counted from 1; both 0 when there is no file."""

    line: int
    column: int


# A value of a variable that is at least so long is taken out of a message wherever it stands; a
# shorter one where it is quoted, since its characters are in other words, too.
MIN_MASKED = 4


class Inserted(NamedTuple):
    """A value with variables: as it is ``written`` in the file, the ``text`` that it has become, and
    whether it is one variable and nothing else."""

    written: str
    text: str
    is_whole: bool

    def hidden_in(self, text: str) -> str:
        """The text with what is written in the place of what it has become."""
        escaped = json.dumps(self.text, ensure_ascii=False)[1:-1]
        forms = {self.text, escaped, repr(self.text)[1:-1], escaped[:MAX_SHOWN]}
        for form in sorted(forms, key=len, reverse=True):
            if len(form) >= MIN_MASKED:
                text = text.replace(form, self.written)
            for around in ("'%s'", '"%s"', "number %s"):
                text = text.replace(around % form, around % self.written)
        return text


@dataclass
class Document:
    """The data of one file. ``values`` and ``keys`` hold places by path; ``plain`` the unquoted
    scalars as they are written; ``inserted`` the values with variables; ``problems`` what is wrong
    already, ``unreadable`` where nothing more is to be said."""

    file: str
    data: Any = None
    values: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)
    plain: dict[Path, str] = field(default_factory=dict)
    inserted: dict[Path, Inserted] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unreadable: set[Path] = field(default_factory=set)

    def place(self, path: Path, *, of_key: bool = False) -> Place:
        """Where the value (or the key) is written; what is not there has the place of its owner."""
        if not of_key and path in self.values:
            return self.values[path]
        for end in range(len(path), -1, -1):
            found = self.keys.get(path[:end]) or self.values.get(path[:end])
            if found is not None:
                return found
        return Place(0, 0)

    def at(self, path: Path) -> Any:
        """The value at a path; ``None`` when there is none."""
        value = self.data
        for part in path:
            try:
                value = value[part]
            except (LookupError, TypeError):
                return None
        return value

    def replace(self, path: Path, value: Any) -> None:
        """Put another value at a path that exists."""
        self.at(path[:-1])[path[-1]] = value

    def refuse(
        self, path: Path, message: str, suggestion: str | None = None, *, of_key: bool = False
    ) -> None:
        """Note a problem. Values of variables in it are shown as they are written in the file."""
        if path in self.unreadable:
            return
        for found, inserted in self.inserted.items():
            if found[:len(path)] == path or path[:len(found)] == found:
                message = inserted.hidden_in(message)
                suggestion = None if suggestion is None else inserted.hidden_in(suggestion)
        place = self.place(path, of_key=of_key)
        self.problems.append(self.problem_at(place, path, message, suggestion))

    def problem_at(
        self, place: Place, path: Path, message: str, suggestion: str | None = None
    ) -> Problem:
        """A problem of this file. What it quotes may hold anything, but it is printed on one line."""
        shown = None if suggestion is None else printable(suggestion)
        return Problem(
            self.file, place.line, place.column, path_text(path), printable(message), shown)

    def hidden(self, text: str) -> str:
        """A text about the whole file, with values of variables as they are written."""
        for inserted in self.inserted.values():
            text = inserted.hidden_in(text)
        return text

    def sorted_problems(self) -> list[Problem]:
        """The problems in file order, those in one place in the order they were found."""
        return sorted(self.problems, key=lambda problem: (problem.line, problem.column))

    @classmethod
    def of(cls, data: Any, file: str) -> Document:
        """A document that was never a file: no places, and its own copy of maps and lists."""
        return cls(file, _copy(data))


def _copy(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _copy(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_copy(value) for value in data]
    return data


def path_text(path: Path) -> str:
    """The path as it is printed: ``sources[0].Valkey.chain[1].QueryCounter.name``."""
    return printable("".join(_parts(path)).removeprefix("."))


def printable(text: str) -> str:
    """The text with escapes for what a terminal or a line of a log would not take as text."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _parts(path: Path) -> Iterator[str]:
    for part in path:
        if isinstance(part, str) and _SIMPLE_KEY.fullmatch(part):
            yield f".{part}"
        else:
            yield f"[{json.dumps(part, ensure_ascii=False)}]"
