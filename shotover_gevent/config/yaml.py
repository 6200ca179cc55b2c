"""YAML as the two files of the configuration need it: strict, and every value with its place.

Rules:
 1. A plain scalar means what YAML 1.2 makes of it, as serde_yaml reads it for Shotover: ``on``,
    ``no`` and ``22:22`` are texts, and so is ``012``: a number does not begin with a zero, so it is
    neither the octal 10 of YAML 1.1 nor the 12 that somebody who pads numbers means.
 2. A key is the text that is written, whatever it looks like; a key written twice is refused.
 3. One document, UTF-8, no tags, no merge keys. Aliases are expanded, within a bound.
 4. Whatever the bytes are, the outcome is a :class:`Document` or a ``ConfigError``, soon.

It reads PyYAML's node graph, because the nodes know where they are written. An aliased value has
the place of its anchor.
"""

from __future__ import annotations

import math
import re
from typing import Any

from yaml.composer import Composer, ComposerError
from yaml.error import Mark, MarkedYAMLError, YAMLError
from yaml.events import AliasEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.scanner import Scanner

from shotover_gevent.config.document import Document, Path, Place
from shotover_gevent.errors import ConfigError, Problem

# A thousand sources are about 200 KB; the parser, in Python, reads the densest of such files in
# about two seconds, which bounds what a wrong file name can cost.
MAX_FILE_BYTES = 256 * 1024
# A thousand sources are about 25,000 nodes. Aliases of aliases multiply beyond any file size.
MAX_NODES = 50_000
# A chain inside a transform is four levels deeper than the transform; nobody nests a dozen of them,
# and composing recurses.
MAX_DEPTH = 60
# 128 bits have 39 digits. Python refuses to read numbers of more than some thousand.
MAX_DIGITS = 40

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)", re.ASCII)
_RADIX = re.compile(r"[-+]?(?:0x[0-9a-fA-F]+|0o[0-7]+|0b[01]+)", re.ASCII)
_PADDED = re.compile(r"[-+]?0[0-9]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_SPECIAL = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


class _Refused(YAMLError):
    """Something that YAML allows and this reader does not."""

    def __init__(self, mark: Mark, message: str, suggestion: str | None = None) -> None:
        self.mark, self.message, self.suggestion = mark, message, suggestion


class _Loader(Reader, Scanner, Parser, Composer):
    """PyYAML up to its node graph, without its idea of what scalars mean."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        self.depth = 0

    def descend_resolver(self, parent: Node | None, index: Any) -> None:
        """Called before each node: the place to refuse it before it is read."""
        event = self.peek_event()
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Refused(event.start_mark, f"nested deeper than {MAX_DEPTH} levels")
        if getattr(event, "tag", None) is not None and not isinstance(event, AliasEvent):
            raise _Refused(
                event.start_mark, f"YAML tags such as {event.tag} are not supported",
                "write the type as a key: \"Type: {...}\"")

    def ascend_resolver(self) -> None:
        """Called after each node."""
        self.depth -= 1

    def resolve(self, kind: type[Node], value: Any, implicit: Any) -> str:
        """Nodes keep no tag; :func:`_scalar` decides."""
        return ""


def read_yaml(raw: bytes | str, file: str) -> Document:
    """Read one file. What breaks the syntax raises ``ConfigError``; what is merely refused, such as
    a key written twice, is in the ``problems`` of the document, so that the rest is checked too."""
    place = Place(1, 1)
    try:
        if len(raw) > MAX_FILE_BYTES:
            raise _fail(file, Place(0, 0), f"the file is larger than {MAX_FILE_BYTES} bytes")
        text = raw.decode("utf-8-sig") if isinstance(raw, bytes) else raw
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            raise _fail(file, place, "the file is empty")
        return _Construction(file).document(node)
    except UnicodeDecodeError as error:
        before = bytes(error.object[: error.start]).decode("utf-8", "replace")
        message = f"not UTF-8: the byte 0x{error.object[error.start]:02x} does not fit"
        raise _fail(file, _end_of(before), message) from error
    except ReaderError as error:
        message = f"the character U+{error.character:04X} is not allowed in YAML"
        raise _fail(file, _end_of(text[: error.position]), message) from error
    except _Refused as error:
        raise _fail(file, _place(error.mark), error.message, error.suggestion) from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _fail(file, _place(mark) if mark else place, *_sentence(error)) from error
    except (YAMLError, ValueError, OverflowError) as error:
        # PyYAML converts escapes and version numbers without checking them.
        where = _place(loader.get_mark())
        raise _fail(file, where, f"not valid YAML: {error}") from error


class _Construction:
    """Plain data from nodes, and the places of its parts."""

    def __init__(self, file: str) -> None:
        self._document = Document(file)
        self._nodes = 0
        self._open: list[Node] = []

    def document(self, root: Node) -> Document:
        self._document.data = self._value(root, ())
        return self._document

    def _value(self, node: Node, path: Path) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _Refused(node.start_mark, f"more than {MAX_NODES} values, with aliases expanded")
        if any(node is outer for outer in self._open):
            raise _Refused(node.start_mark, "an alias inside of its own anchor has no end")
        if len(self._open) >= MAX_DEPTH:
            raise _Refused(node.start_mark, f"nested deeper than {MAX_DEPTH} levels")
        self._document.values[path] = _place(node.start_mark)
        if isinstance(node, ScalarNode):
            if node.style is None:
                self._document.plain[path] = node.value
            return _scalar(node)
        self._open.append(node)
        if isinstance(node, SequenceNode):
            value: Any = [self._value(item, (*path, i)) for i, item in enumerate(node.value)]
        else:
            value = self._mapping(node, path)
        self._open.pop()
        return value

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                raise _Refused(key_node.start_mark, "a key must be a text, not a list or a map")
            key, place = _text(key_node), _place(key_node.start_mark)
            if key == "<<" and key_node.style is None:
                self._refuse((*path, key), place, "merge keys are not supported",
                             "write the fields out, or use an alias for a whole value")
            elif key in result:
                first = self._document.keys[(*path, key)].line
                self._refuse((*path, key), place, f"written twice; the first is in line {first}")
            else:
                self._document.keys[(*path, key)] = place
                result[key] = self._value(value_node, (*path, key))
        return result

    def _refuse(self, path: Path, place: Place, message: str, way_out: str | None = None) -> None:
        self._document.problems.append(self._document.problem_at(place, path, message, way_out))


def _text(node: ScalarNode) -> str:
    if not node.value.isascii() and re.search("[\ud800-\udfff]", node.value):
        raise _Refused(node.start_mark, "half of a surrogate pair is not a character")
    return str(node.value)


def _scalar(node: ScalarNode) -> Any:
    """What a scalar means: quoted and block scalars are texts."""
    text = _text(node)
    if node.style is not None:
        return text
    try:
        return plain_value(text)
    except ValueError as error:
        raise _Refused(node.start_mark, str(error)) from error


def plain_value(text: str) -> Any:
    """What a text means when it is written without quotes. Raises ``ValueError``."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INTEGER.fullmatch(text) or _RADIX.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise ValueError(f"a number of more than {MAX_DIGITS} digits")
        return int(text, 0)
    if _SPECIAL.fullmatch(text):
        return float(text.replace(".", ""))
    if _FLOAT.fullmatch(text) and not _PADDED.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return text


def _sentence(error: MarkedYAMLError) -> tuple[str, str | None]:
    """Our words for what PyYAML says, and a way out for the usual slips."""
    said = error.problem or error.context or "it cannot be read"
    if isinstance(error, ComposerError) and "another document" in said:
        return "a second document begins here; a file holds one", None
    if "'\\t'" in said:
        return "a tab cannot stand here; YAML is indented by spaces", None
    if "mapping values are not allowed" in said:
        return f"not valid YAML: {said}", 'check the indentation; quote a text that contains ": "'
    started = error.context_mark
    during = f" ({error.context}, begun in line {started.line + 1})" if started else ""
    return f"not valid YAML: {said}{during}", None


def _place(mark: Mark) -> Place:
    return Place(mark.line + 1, mark.column + 1)


def _end_of(text: str) -> Place:
    """The place right after ``text``."""
    return Place(text.count("\n") + 1, len(text) - text.rfind("\n"))


def _fail(file: str, place: Place, message: str, suggestion: str | None = None) -> ConfigError:
    return ConfigError([Problem(file, place.line, place.column, "", message, suggestion)])
