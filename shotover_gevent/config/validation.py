"""What is wrong with a topology as a whole, in the words, order and indentation of Shotover.

Rules:
 1. Names are unique in three separate namespaces: sources, transforms, chains. A sub-chain has the
    name that its owner gives it.
 2. A chain has steps; the last one is terminating, the others are not; each step accepts the
    protocol of its source; each step has its own rules (``TransformConfig.problems()``).
 3. Shotover gives up on a source whose protocol does not fit or whose address has no port, and says
    only that. Its text (:meth:`Validation.text`) does the same; the located problems hold all.
 4. An entry that could not be read is ``None``: it is not missing, but nothing is known of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from shotover_gevent.chain.transform import TransformConfig
from shotover_gevent.config.document import Document, Path
from shotover_gevent.config.fault import raised
from shotover_gevent.config.model import listen_address
from shotover_gevent.net.tls_settings import TlsAcceptor, TlsConnector, TlsSettings

Steps = Sequence[TransformConfig | None]


@dataclass(frozen=True, slots=True)
class SourceDraft:
    """A source as it was read, before it is known to be right; ``None`` is what could not be read."""

    index: int
    type_name: str
    name: str | None
    listen_addr: str | None
    steps: Steps | None
    path: Path
    step_paths: dict[int, Path]
    tls: TlsAcceptor | None = None

    @property
    def label(self) -> str:
        """How texts call it: ``source[0] "edge"``."""
        return f"source[{self.index}] {quoted(self.name or '')}"


@dataclass(slots=True)
class _Usages:
    """Who uses which name: a text for each use, and the path of the element that has the name."""

    kind: str
    by_name: dict[str, list[tuple[str, Path]]] = field(default_factory=dict)

    def add(self, name: str, text: str, path: Path) -> None:
        self.by_name.setdefault(name, []).append((text, path))

    def lines(self, document: Document) -> Iterator[str]:
        """The block of duplicates; each further use is noted in the document."""
        twice = {name: uses for name, uses in self.by_name.items() if len(uses) > 1}
        if twice:
            yield f"Duplicate {self.kind} names detected:"
        for name in sorted(twice):
            (first_text, first_path), *others = twice[name]
            yield f"  {quoted(name)} used by:"
            yield f"    {first_text}"
            first = document.place((*first_path, "name"))
            where = f" (line {first.line})" if first.line else ""
            for text, path in others:
                yield f"    {text}"
                document.refuse(
                    (*path, "name"), f"duplicate {self.kind} name {quoted(name)}",
                    f"first used by {first_text}{where}")


class Validation:
    """Checks all sources together."""

    def __init__(self, sources: Sequence[SourceDraft], document: Document) -> None:
        self._sources = sources
        self._document = document

    def text(self) -> str:
        """All that is wrong, as Shotover says it; empty when nothing is. Call it once: each problem
        is noted in the document as well."""
        lines = list(self._duplicates())
        for source in self._sources:
            lines += self._source_lines(source)
        return "Topology errors\n" + "".join(f"{line}\n" for line in lines) if lines else ""

    def _duplicates(self) -> Iterator[str]:
        names = {kind: _Usages(kind) for kind in ("source", "transform", "chain")}
        for source in self._sources:
            if source.name is not None:
                names["source"].add(source.name, source.label, source.path)
                names["chain"].add(source.name, f"root chain for {source.label}", source.path)
            where = f"{source.label} chain {quoted(source.name or '')}"
            self._register(source, source.steps or (), where, names)
        for usages in names.values():
            yield from usages.lines(self._document)

    def _register(
        self, source: SourceDraft, steps: Steps, where: str, names: dict[str, _Usages]
    ) -> None:
        """Note the names of a chain and of the chains inside of it."""
        for index, step in enumerate(steps):
            if step is None:
                continue
            path = source.step_paths.get(id(step), source.path)
            text = f"Transform[{index}] {_titled(step)} in {where}"
            names["transform"].add(step.name, text, path)
            distinct = {name for name, _ in _distinct(step)}
            for name, inner in step.subchains():
                below = f"{where} -> subchain {quoted(name)} (from Transform {_titled(step)})"
                names["chain"].add(name, f"chain {quoted(name)} at {below}", path)
                if name in distinct:
                    self._register(source, inner, below, names)

    def _source_lines(self, source: SourceDraft) -> list[str]:
        if source.steps is None:
            return [*self._address_lines(source)]
        misfits = list(self._protocol_lines(source, source.steps))
        address = list(self._address_lines(source))
        files = list(self._file_lines(source))
        chain_path = (*source.path, "chain")
        chain = self._chain_lines(source, source.name or "", source.steps, chain_path)
        if misfits:
            return misfits[:1]
        if address:
            return address
        if files:
            return files
        return [f"{source.name} source:", *_indented(chain)] if chain else []

    def _address_lines(self, source: SourceDraft) -> Iterator[str]:
        if source.listen_addr is None:
            return
        try:
            listen_address(source.listen_addr)
        except ValueError as error:
            text = (
                f"Invalid listening address {quoted(source.listen_addr)}, "
                "must follow the format ip_address:port e.g. 10.0.0.1:9042"
            )
            self._document.refuse((*source.path, "listen_addr"), text, str(error))
            yield text

    def _file_lines(self, source: SourceDraft) -> Iterator[str]:
        """What is wrong with certificates and keys, of the source and of all its transforms."""
        if source.tls is not None:
            yield from self._tls_lines(source.tls, (*source.path, "tls"))
        for step in _all_steps(source.steps or ()):
            path = source.step_paths.get(id(step), source.path)
            for name, value in step:
                if isinstance(value, TlsConnector):
                    yield from self._tls_lines(value, (*path, name))

    def _tls_lines(self, settings: TlsSettings, path: Path) -> Iterator[str]:
        # Imported here: ssl takes 20 ms, and not everybody needs it.
        from shotover_gevent.net.tls_files import problems

        for wrong in problems(settings):
            self._document.refuse((*path, wrong.field), wrong.message, wrong.suggestion)
            yield from wrong.text.split("\n")

    def _protocol_lines(self, source: SourceDraft, steps: Steps) -> Iterator[str]:
        for step in steps:
            if step is None:
                continue
            if step.protocols is not None and source.type_name not in step.protocols:
                text = (
                    f"Transform {step.type_name} requires upchain protocol to be one of "
                    f"[{', '.join(step.protocols)}] but was {source.type_name}"
                )
                self._refuse_step(source, step, text)
                yield text
            for _, inner in _distinct(step):
                yield from self._protocol_lines(source, inner)

    def _chain_lines(
        self, source: SourceDraft, name: str, steps: Steps, path: Path
    ) -> list[str]:
        lines: list[str] = []
        if not steps:
            lines.append("Chain cannot be empty")
            self._document.refuse(path, lines[0], of_key=True)
        for index, step in enumerate(steps):
            if step is not None:
                lines += self._position_lines(source, step, is_last=index == len(steps) - 1)
                lines += self._own_lines(source, step)
        return [f"{name} chain:", *_indented(lines)] if lines else []

    def _position_lines(
        self, source: SourceDraft, step: TransformConfig, is_last: bool
    ) -> Iterator[str]:
        if step.terminating == is_last:
            return
        if is_last:
            text = (
                f"Non-terminating Transform {_titled(step)} is last in chain. "
                "Last Transform must be terminating."
            )
        else:
            text = (
                f"Terminating Transform {_titled(step)} is not last in chain. "
                "Terminating Transform must be last in chain."
            )
        self._refuse_step(source, step, text)
        yield text

    def _own_lines(self, source: SourceDraft, step: TransformConfig) -> list[str]:
        """What the transform says of itself, then its sub-chains below the header of its type."""
        header = f"{step.type_name}:"
        try:
            lines = step.problems()
        except Exception as error:  # the code of somebody else may raise anything
            text, way_out = raised("problems()", type(step), error)
            self._refuse_step(source, step, text, way_out)
            return [header, f"  {text}"]
        if lines:
            body = [line.strip() for line in lines if line.strip() and line != header]
            self._refuse_step(source, step, " ".join(body))
        inner: list[str] = []
        path = source.step_paths.get(id(step), source.path)
        for name, steps in _distinct(step):
            inner += self._chain_lines(source, name, steps, path)
        if inner and header not in lines:
            lines = [*lines, header]
        return [*lines, *_indented(inner)]

    def _refuse_step(
        self, source: SourceDraft, step: TransformConfig, text: str, way_out: str | None = None
    ) -> None:
        path = source.step_paths.get(id(step), source.path)
        self._document.refuse(path, text, way_out, of_key=True)


def _distinct(step: TransformConfig) -> Iterator[tuple[str, Steps]]:
    """The sub-chains of a step. Copies of one (ParallelMap has several, each with its own name) are
    one entry of the file, so they count once."""
    seen: set[tuple[int, ...]] = set()
    for name, steps in step.subchains():
        key = tuple(map(id, steps))
        if not key or key not in seen:
            yield name, steps
        seen.add(key)


def _all_steps(steps: Steps) -> Iterator[TransformConfig]:
    """The steps of a chain and of all chains inside of it."""
    for step in steps:
        if step is not None:
            yield step
            for _, inner in _distinct(step):
                yield from _all_steps(inner)


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _titled(step: TransformConfig) -> str:
    return f"{step.type_name} named {quoted(step.name)}"


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\0"}


def quoted(text: str) -> str:
    """A text in quotes, with Rust's escapes."""
    shown = (
        _ESCAPES.get(char) or (char if char.isprintable() else f"\\u{{{ord(char):x}}}")
        for char in text
    )
    return f'"{"".join(shown)}"'
