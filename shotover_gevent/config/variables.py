"""``${NAME}`` and ``${NAME:-default}`` in the values of a configuration file.

Rules:
 1. What is put in is put into a single value of the parsed file: it can be any text and never changes
    the structure. Keys are taken as they are written, and what was put in is not looked at again.
 2. The default stands in for a variable that is not set or empty, as in a shell. Without a default,
    one that is not set is a problem; an empty one is the empty text.
 3. ``$${`` is ``${``.
 4. A value that is nothing but a variable is a text where the field takes one; where it takes none
    (a number, ``true``), it is what the text would be as a plain scalar of YAML. Empty and unquoted,
    it is null, as nothing after a colon.
 5. Where the value came from is remembered, so that what is printed can show that instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from shotover_gevent.config.document import Document, Inserted, Path

_TOKEN = re.compile(r"\$\$\{|\$\{([^}]*)\}?", re.DOTALL)
_REFERENCE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)

ESCAPE = "write $${ for the characters ${"


class _Wrong(ValueError):
    """What is wrong with a reference, and a way out."""

    def __init__(self, message: str, suggestion: str) -> None:
        super().__init__(message)
        self.message = message
        self.suggestion = suggestion


def substitute(document: Document, environ: Mapping[str, str]) -> None:
    """Put the variables of ``environ`` into the values; what cannot be put in is noted as a problem."""
    document.data = _substituted(document, document.data, (), environ)


def _substituted(document: Document, value: Any, path: Path, environ: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _substituted(document, each, (*path, key), environ) for key, each in value.items()}
    if isinstance(value, list):
        return [_substituted(document, each, (*path, i), environ) for i, each in enumerate(value)]
    if isinstance(value, str) and "${" in value:
        return _text(document, value, path, environ)
    return value


def _text(document: Document, written: str, path: Path, environ: Mapping[str, str]) -> str | None:
    """The value of one scalar."""
    try:
        text = _TOKEN.sub(lambda token: _resolved(token, environ), written)
    except _Wrong as wrong:
        document.refuse(path, wrong.message, wrong.suggestion)
        document.unreadable.add(path)
        return written
    is_plain = document.plain.pop(path, None) is not None
    tokens = list(_TOKEN.finditer(written))
    if all(token[0] == "$${" for token in tokens):
        return text
    is_whole = tokens[0][0] == written
    document.inserted[path] = Inserted(written, text, is_whole)
    return None if is_whole and is_plain and not text else text


def _resolved(token: re.Match[str], environ: Mapping[str, str]) -> str:
    if token[0] == "$${":
        return "${"
    reference = _REFERENCE.fullmatch(token[1])
    if not token[0].endswith("}") or reference is None:
        raise _Wrong(f"{token[0]} is not a variable; one is written ${{NAME}} or ${{NAME:-default}}", ESCAPE)
    name, default = reference.groups()
    value = environ.get(name)
    if not value and default is not None:
        return default
    if value is None:
        raise _Wrong(f"the environment has no variable {name}", _way_out(name, environ))
    if re.search("[\ud800-\udfff]", value):
        raise _Wrong(f"the variable {name} is not UTF-8", "set it to a text")
    return value


def _way_out(name: str, environ: Mapping[str, str]) -> str:
    close = get_close_matches(name, environ, n=1)
    meant = f"did you mean ${{{close[0]}}}? " if close else ""
    return f"{meant}set it, or give a default: ${{{name}:-default}}"
