"""From files to configurations: what an unreadable, unparsable or wrong file is told.

``ConfigError.problems`` holds every problem with its place; ``ConfigError.chain`` the texts of
Shotover's error chain, to be printed by :func:`shotover_gevent.errors.render`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from os import PathLike, fspath
from typing import Any, TypeVar

from shotover_gevent.config.document import Document, Path
from shotover_gevent.config.fault import Faults, validate
from shotover_gevent.config.model import GeneralConfig
from shotover_gevent.config.variables import substitute
from shotover_gevent.config.yaml import MAX_FILE_BYTES, plain_value, read_yaml
from shotover_gevent.errors import ConfigError, Problem, os_error_text

FilePath = str | PathLike[str]
Environ = Mapping[str, str]

R = TypeVar("R")


def load_config(path: FilePath, environ: Environ | None = None) -> GeneralConfig:
    """The configuration in a file, with the variables of ``environ``, by default those of the
    process. Raises ``ConfigError``."""
    return _general(open_document(path, "config", environ))


def parse_config(data: Mapping[str, Any], file: str = "<config>") -> GeneralConfig:
    """The configuration in data of the shape of ``config.yaml``; ``file`` is how problems call it.
    Raises ``ConfigError``."""
    return _general(Document.of(dict(data), file))


def _general(document: Document) -> GeneralConfig:
    config: GeneralConfig | None = None
    try:
        config = validated(
            document, (), lambda: validate(GeneralConfig, document.data), takes_plain=False)
    except Faults as faults:
        for fault in faults.faults:
            document.refuse(fault.path, fault.message, fault.suggestion, of_key=fault.of_key)
    if config is None or document.problems:
        problems = document.sorted_problems()
        raise ConfigError(problems, parse_texts(problems, document.file, "config"))
    wrong = config.wrong_values()
    if wrong:
        for field, text in wrong:
            document.refuse((field,), text)
        raise ConfigError(document.sorted_problems(), [document.hidden(wrong[0][1])])
    config.note_variables({str(path[0]): each.written for path, each in document.inserted.items()})
    return config


def validated(
    document: Document, path: Path, make: Callable[[], R], takes_plain: bool = True
) -> R:
    """What ``make`` returns, which reads the document below ``path``; raises :class:`Faults`.

    With ``takes_plain`` a text field takes a plain number or boolean as it is written, as Shotover does:
    where one was refused, it is replaced by its text. The value of a variable is a text; where that was
    refused, it is replaced by what it means without quotes. Both once, and all is checked again.
    """
    try:
        return make()
    except Faults as faults:
        others: dict[Path, Any] = {}
        for fault in faults.faults:
            found = (*path, *fault.path)
            inserted = document.inserted.get(found)
            if takes_plain and fault.wants_text and document.at(found) is not None and (
                    text := document.plain.get(found)):
                others[found] = text
            elif inserted is not None and inserted.is_whole and not fault.wants_text:
                others[found] = _meaning(inserted.text)
        if not others:
            raise
    for found, value in others.items():
        document.replace(found, value)
    return make()


def _meaning(text: str) -> Any:
    try:
        return plain_value(text)
    except ValueError:
        return text


def open_document(path: FilePath, what: str, environ: Environ | None = None) -> Document:
    """The document in a file; ``what`` is how Shotover calls it: config or topology."""
    file = fspath(path)
    try:
        with open(file, "rb") as stream:
            # One byte more than allowed tells a file that is too large, however large it is.
            raw = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        text = os_error_text(error)
        raise ConfigError(
            [Problem(file, 0, 0, "", f"cannot be opened: {text}")],
            [f"Couldn't open the {what} file {file}", text],
        ) from error
    return parse_document(raw, file, what, environ)


def parse_document(
    raw: bytes | str, file: str, what: str, environ: Environ | None = None
) -> Document:
    """The document in a text, with its variables. Raises ``ConfigError`` with Shotover's error chain."""
    try:
        document = read_yaml(raw, file)
    except ConfigError as error:
        raise ConfigError(error.problems, parse_texts(error.problems, file, what)) from error
    substitute(document, os.environ if environ is None else environ)
    return document


def parse_texts(problems: Iterable[Problem], file: str, what: str) -> list[str]:
    """Shotover's error chain for a file that cannot be parsed."""
    lines = []
    for problem in problems:
        text = f"{problem.path}: {problem.message}" if problem.path else problem.message
        at = f" at line {problem.line} column {problem.column}" if problem.line else ""
        lines.append(text + at)
    return [f"Failed to parse {what} file {file}", "\n".join(lines)]
