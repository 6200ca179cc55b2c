"""A topology: the sources, each with its chain of configuration objects.

Reading has two passes, and both run whatever the first one finds, so that all problems of all
sources come together: each entry by itself (types and fields), then the topology as a whole
(:mod:`~shotover_gevent.config.validation`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

from pydantic import BaseModel

from shotover_gevent.chain.transform import TransformConfig
from shotover_gevent.config.document import Document, Inserted, Path
from shotover_gevent.config.fault import Fault, Faults, describe, did_you_mean, raised, validate
from shotover_gevent.config.load import (
    Environ,
    open_document,
    parse_document,
    parse_texts,
    validated,
)
from shotover_gevent.config.model import SourceFields, listen_address
from shotover_gevent.config.registry import Registry, UnknownType, unknown_type
from shotover_gevent.config.step import StepFactory, singleton
from shotover_gevent.config.validation import SourceDraft, Validation
from shotover_gevent.errors import ConfigError
from shotover_gevent.net.address import Address
from shotover_gevent.net.tls_settings import TlsAcceptor

SOURCE_TYPES = ("Tcp", "Valkey")
# Sources of Shotover Proxy that are known by name.
SOURCES_NOT_YET = ("Cassandra", "Kafka", "OpenSearch")


# Fields whose values everybody can see: in logs and metrics, and in the list of the machine's listeners.
PUBLIC = frozenset({"name", "listen_addr"})


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """One source. ``type_name`` is its protocol, too; ``timeout`` is in seconds."""

    type_name: str
    name: str
    listen_addr: Address
    connection_limit: int
    hard_connection_limit: bool
    timeout: int | None
    chain: tuple[TransformConfig, ...]
    tls: TlsAcceptor | None = None


@dataclass(frozen=True, slots=True)
class Topology:
    """All sources, in the order of the file.

    ``inserted`` has the values that came from variables, by their path; ``document`` and ``paths`` (by
    the id of the configuration object) say where each transform is written.
    """

    sources: tuple[SourceEntry, ...]
    inserted: Mapping[Path, Inserted] = field(default_factory=dict, repr=False, compare=False)
    document: Document = field(
        default_factory=lambda: Document("<topology>"), repr=False, compare=False)
    paths: Mapping[int, Path] = field(default_factory=dict, repr=False, compare=False)

    def not_built(self, failures: Iterable[tuple[TransformConfig, Exception]]) -> ConfigError:
        """The error for transforms whose ``build()`` raised something, each with its place."""
        document = self.document
        for step, error in failures:
            message, way_out = raised("build()", type(step), error)
            path = self.paths.get(id(step), ())
            document.refuse(path, message, way_out, of_key=True)
        problems = document.sorted_problems()
        document.problems.clear()  # building may be tried again
        return ConfigError(problems, [
            f"Failed to build the chains of topology {document.file}",
            "\n".join(f"{problem.path}: {problem.message}" for problem in problems)])

    def describe(self) -> dict[str, Any]:
        """The topology in the shape of its file, of plain values, for a log line.

        What came from a variable is shown as it is written: ``${PASSWORD}``.
        """
        described: dict[str, Any] = {"sources": [
            {source.type_name: {
                "name": source.name,
                "listen_addr": str(source.listen_addr),
                "connection_limit": source.connection_limit,
                "hard_connection_limit": source.hard_connection_limit,
                "timeout": source.timeout,
                **({} if source.tls is None else {"tls": _plain(source.tls)}),
                "chain": _plain(source.chain),
            }}
            for source in self.sources
        ]}
        for path, inserted in self.inserted.items():
            _write(described, path, inserted.written)
            described = _hidden(described, inserted)
        return described


def parse_topology(
    data: Mapping[str, Any] | str, registry: Registry | None = None, file: str = "<topology>",
    environ: Environ | None = None,
) -> Topology:
    """The topology in a YAML text, or in data of the same shape; in data, an entry of a chain may be
    a configuration object. ``file`` is how problems call it. Variables of ``environ``, by default those
    of the process, are put into a text only. Raises ``ConfigError``."""
    if isinstance(data, str):
        return _read(parse_document(data, file, "topology", environ), registry)
    return _read(Document.of(dict(data), file), registry)


def load_topology(
    path: str | PathLike[str], registry: Registry | None = None, environ: Environ | None = None
) -> Topology:
    """The topology in a file. Raises ``ConfigError``, of a file that cannot be opened, too."""
    return _read(open_document(path, "topology", environ), registry)


def _read(document: Document, registry: Registry | None) -> Topology:
    """The topology in a document. Raises ``ConfigError`` with all problems."""
    reader = _Reader(document, registry or Registry())
    drafts = reader.sources()
    unreadable = document.sorted_problems()
    text = Validation([draft for draft, _ in drafts], document).text()
    if unreadable:
        raise ConfigError(document.sorted_problems(), parse_texts(unreadable, document.file, "topology"))
    if text:
        raise ConfigError(document.sorted_problems(), [document.hidden(text)])
    return Topology(
        tuple(_entry(draft, fields) for draft, fields in drafts if fields),
        {path: each for path, each in document.inserted.items() if path[-1] not in PUBLIC},
        document,
        {step: path for draft, _ in drafts for step, path in draft.step_paths.items()})


class _Reader:
    """The first pass: what each entry is by itself. Problems go to the document."""

    def __init__(self, document: Document, registry: Registry) -> None:
        self._document = document
        self._factory = StepFactory(registry)

    def sources(self) -> list[tuple[SourceDraft, SourceFields | None]]:
        data = self._document.data
        if not isinstance(data, dict):
            self._document.refuse((), f'found {describe(data)}, wanted a map with the key "sources"')
            return []
        for key in data:
            if key != "sources":
                way_out = did_you_mean(str(key), ["sources"]) or "known fields: sources"
                self._document.refuse((key,), "unknown field", way_out, of_key=True)
        if "sources" not in data:
            self._document.refuse(("sources",), "missing field")
            return []
        sources = data["sources"]
        if not isinstance(sources, list):
            self._document.refuse(("sources",), f"found {describe(sources)}, wanted a list")
            return []
        return [
            found for index, entry in enumerate(sources)
            if (found := self._source(index, entry)) is not None
        ]

    def _source(self, index: int, entry: Any) -> tuple[SourceDraft, SourceFields | None] | None:
        path: Path = ("sources", index)
        try:
            type_name, body = singleton(entry, "source")
        except Faults as faults:
            self._note(path, faults.faults)
            return None
        path = (*path, type_name)
        if type_name not in SOURCE_TYPES:
            self._refuse_type(path, type_name)
            return None
        fields: SourceFields | None = None
        try:
            fields = validated(self._document, path, lambda: validate(SourceFields, body))
        except Faults as faults:
            self._note(path, faults.faults)
        body = body if isinstance(body, dict) else {}
        chain = body.get("chain")
        steps, step_paths = self._steps(chain, (*path, "chain"))
        draft = SourceDraft(
            index=index, type_name=type_name, name=_text(body.get("name")),
            listen_addr=_text(body.get("listen_addr")), steps=steps, path=path,
            step_paths=step_paths, tls=fields.tls if fields is not None else None)
        return draft, fields

    def _steps(
        self, chain: Any, path: Path
    ) -> tuple[list[TransformConfig | None] | None, dict[int, Path]]:
        """The steps of a root chain and the paths of all steps in it; ``None`` for what is broken."""
        if not isinstance(chain, list):
            return None, {}
        steps: list[TransformConfig | None] = []
        for index, entry in enumerate(chain):
            try:
                steps.append(validated(
                    self._document, (*path, index), lambda: self._factory.step(entry)))
            except Faults as faults:
                steps.append(None)
                self._note((*path, index), faults.faults)
        return steps, self._factory.paths(chain, path)

    def _refuse_type(self, path: Path, type_name: str) -> None:
        if type_name in SOURCES_NOT_YET:
            error = UnknownType(
                f"the source {type_name} is not supported by this version yet",
                f"supported sources: {', '.join(SOURCE_TYPES)}")
        else:
            error = unknown_type("source", type_name, list(SOURCE_TYPES))
        self._document.refuse(path, error.message, error.suggestion, of_key=True)

    def _note(self, path: Path, faults: Iterable[Fault]) -> None:
        for fault in faults:
            where = (*path, *fault.path)
            self._document.refuse(where, fault.message, fault.suggestion, of_key=fault.of_key)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _entry(draft: SourceDraft, fields: SourceFields) -> SourceEntry:
    return SourceEntry(
        type_name=draft.type_name,
        name=fields.name,
        listen_addr=listen_address(fields.listen_addr),
        connection_limit=fields.connection_limit,
        hard_connection_limit=fields.hard_connection_limit,
        timeout=fields.timeout,
        tls=fields.tls,
        chain=tuple(step for step in draft.steps or () if step is not None),
    )


def _hidden(described: Any, inserted: Inserted) -> Any:
    """The same, where the objects have the value in another place than the file."""
    if isinstance(described, dict):
        return {key: _hidden(value, inserted) for key, value in described.items()}
    if isinstance(described, list):
        return [_hidden(value, inserted) for value in described]
    if described == inserted.text:
        return inserted.written
    return inserted.hidden_in(described) if isinstance(described, str) else described


def _write(described: Any, path: Path, text: str) -> None:
    """Put a text at a path, if the objects have the shape of the file there."""
    *owners, last = path
    try:
        for part in owners:
            described = described[part]
        described[last]  # only what is there is replaced
        described[last] = text
    except (LookupError, TypeError):
        return


def _plain(value: Any) -> Any:
    """A value of a configuration object as a log can show it."""
    if isinstance(value, BaseModel):
        shown = {
            name: _plain(getattr(value, name)) for name in type(value).model_fields
            if name in value.model_fields_set or getattr(value, name) is not None
        }
        return {value.type_name: shown} if isinstance(value, TransformConfig) else shown
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
