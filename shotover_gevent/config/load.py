"""From files to configurations: what an unreadable, unparsable or wrong file is told.

``ConfigError.problems`` holds every problem with its place; ``ConfigError.chain`` the texts of
Shotover's error chain, to be printed by :func:`shotover_gevent.errors.render`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike, fspath
from typing import Any

from shotover_gevent.config.document import Document
from shotover_gevent.config.fault import Faults, validate
from shotover_gevent.config.model import GeneralConfig
from shotover_gevent.config.yaml import MAX_FILE_BYTES, read_yaml
from shotover_gevent.errors import ConfigError, Problem, os_error_text

FilePath = str | PathLike[str]


def load_config(path: FilePath) -> GeneralConfig:
    """The configuration in a file. Raises ``ConfigError``."""
    return _general(open_document(path, "config"))


def parse_config(data: Mapping[str, Any], file: str = "<config>") -> GeneralConfig:
    """The configuration in data of the shape of ``config.yaml``; ``file`` is how problems call it.
    Raises ``ConfigError``."""
    return _general(Document.of(dict(data), file))


def _general(document: Document) -> GeneralConfig:
    config: GeneralConfig | None = None
    try:
        config = validate(GeneralConfig, document.data)
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
        raise ConfigError(document.sorted_problems(), [wrong[0][1]])
    return config


def open_document(path: FilePath, what: str) -> Document:
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
    return parse_document(raw, file, what)


def parse_document(raw: bytes | str, file: str, what: str) -> Document:
    """The document in a text. Raises ``ConfigError`` with Shotover's error chain."""
    try:
        return read_yaml(raw, file)
    except ConfigError as error:
        raise ConfigError(error.problems, parse_texts(error.problems, file, what)) from error


def parse_texts(problems: Iterable[Problem], file: str, what: str) -> list[str]:
    """Shotover's error chain for a file that cannot be parsed."""
    lines = []
    for problem in problems:
        text = f"{problem.path}: {problem.message}" if problem.path else problem.message
        at = f" at line {problem.line} column {problem.column}" if problem.line else ""
        lines.append(text + at)
    return [f"Failed to parse {what} file {file}", "\n".join(lines)]
