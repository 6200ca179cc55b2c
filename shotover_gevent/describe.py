"""``shotover-gevent transforms`` and ``schema``: what may be written in the two files."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TextIO

from shotover_gevent.exits import EXIT_OK

if TYPE_CHECKING:
    from shotover_gevent.chain.transform import TransformConfig
    from shotover_gevent.config.registry import Registry

AddCommand = Callable[..., argparse.ArgumentParser]
Say = Callable[[str, TextIO], None]

# A line of text for people; a narrow terminal has shorter ones.
MAX_WIDTH = 100


def add_commands(commands: Any, add_command: AddCommand, say: Say) -> None:
    """Add both commands; ``add_command(commands, name, help)`` makes the parser of one, and
    ``say(text, stream)`` prints."""
    parser = add_command(commands, "transforms", "list the transforms, or describe one")
    parser.add_argument("name", nargs="?", metavar="NAME", help="a type name, or package.module.Class")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=lambda options: _print(_transforms(options), say))
    parser = add_command(commands, "schema", "print the JSON Schema of the topology, for editors")
    parser.add_argument("--config", action="store_true", help="that of config.yaml instead")
    parser.set_defaults(run=lambda options: _print(_schema(options), say))


def _print(text: str, say: Say) -> int:
    say(text, sys.stdout)
    return EXIT_OK


def _transforms(options: argparse.Namespace) -> str:
    from shotover_gevent.config.registry import Registry, UnknownType

    registry = Registry()
    if options.name is None:
        return _list_json(registry) if options.json else "\n".join(_list(registry))
    try:
        found = registry.find(options.name)
    except UnknownType as error:
        way_out = f"; {error.suggestion}" if error.suggestion else ""
        options.parser.error(f"{error.message}{way_out}")
    if options.json:
        return json.dumps(_as_data(found), ensure_ascii=False)
    return "\n".join(_page(found, registry))


def _known(registry: Registry) -> Iterator[tuple[str, type[TransformConfig] | str]]:
    """Each name with its class, or with the reason why it cannot be had."""
    from shotover_gevent.config.registry import UnknownType

    for name in registry.names():
        try:
            yield name, registry.find(name)
        except UnknownType as error:
            yield name, error.message


def _list(registry: Registry) -> Iterator[str]:
    """One line for each transform: its name, its place in a chain, its protocols, what it does."""
    from shotover_gevent.config.fields import summary

    rows = [
        (name, found, "", "") if isinstance(found, str) else (
            name, summary(found), "sink" if found.terminating else "", _protocols(found))
        for name, found in _known(registry)
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 2, 3)]
    for name, text, place, protocols in rows:
        yield f"{name:<{widths[0]}}  {place:<{widths[1]}}  {protocols:<{widths[2]}}  {text}"


def _list_json(registry: Registry) -> str:
    return json.dumps(
        [{"name": name, "error": found} if isinstance(found, str) else _as_data(found)
         for name, found in _known(registry)], ensure_ascii=False)


def _as_data(found: type[TransformConfig]) -> dict[str, Any]:
    from shotover_gevent.config.fields import fields_of, prose

    return {
        "name": found.type_name, "terminating": found.terminating, "protocols": found.protocols,
        "description": prose(found), "fields": [asdict(field) for field in fields_of(found)]}


def _protocols(found: type[TransformConfig]) -> str:
    return "any" if found.protocols is None else ", ".join(found.protocols)


def _page(found: type[TransformConfig], registry: Registry) -> Iterator[str]:
    """All about one transform, for people."""
    from shotover_gevent.config.example import example_topology
    from shotover_gevent.config.fields import fields_of, prose

    width = min(MAX_WIDTH, shutil.get_terminal_size((MAX_WIDTH, 24)).columns)
    yield found.type_name
    place = "a sink: the last of its chain" if found.terminating else "anywhere but last in a chain"
    yield f"    {place}; protocols: {_protocols(found)}"
    if text := prose(found):
        yield ""
        yield textwrap.indent(text, "    ")
    yield "\nFields:"
    for field in fields_of(found):
        yield f"    {field.name}  ({field.type}; {field.presence})"
        if field.description:
            yield textwrap.fill(field.description, width, initial_indent=" " * 8,
                                subsequent_indent=" " * 8)
    yield "\nExample:"
    yield textwrap.indent(example_topology(found, registry).rstrip(), "    ")


def _schema(options: argparse.Namespace) -> str:
    from shotover_gevent.config.schema import config_schema, topology_schema

    schema = config_schema() if options.config else topology_schema()
    return json.dumps(schema, indent=2, ensure_ascii=False)
