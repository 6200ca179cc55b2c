"""A topology that shows one transform, made of its model: whatever is required, and nothing else.

Rules:
 1. A class says what its types cannot: ``example`` has values of fields, and
    ``Field(examples=[...])`` those of one field.
 2. Else a value is what its type allows, or what its name says: an address, a contact point.
 3. Whatever is printed is accepted by ``check``; a test proves it for every built-in transform.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count
from typing import Any

import yaml

from shotover_gevent.chain.steps import CHAIN_FORMAT
from shotover_gevent.chain.transform import TransformConfig
from shotover_gevent.config.registry import Registry, UnknownType
from shotover_gevent.config.topology import SOURCE_TYPES

Schema = dict[str, Any]

LISTEN_ADDR = "127.0.0.1:6380"
REMOTE_ADDRESS = "127.0.0.1:6379"
# What has such a part in its name is an address of a database.
_ADDRESSES = ("address", "contact_points")


def example_topology(transform: type[TransformConfig], registry: Registry | None = None) -> str:
    """The text of a topology with that transform in it."""
    return dump(_Example(transform, registry or Registry()).topology())


def dump(data: Any) -> str:
    """YAML as the documentation writes it: in order, lists indented."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


class _Example:
    def __init__(self, transform: type[TransformConfig], registry: Registry) -> None:
        self._transform = transform
        self._registry = registry
        protocols = transform.protocols or ("Valkey",)
        self._protocol = next((each for each in protocols if each in SOURCE_TYPES), "Valkey")
        self._sinks = (f"database-{number}" for number in count(1))

    def topology(self) -> dict[str, Any]:
        chain = [self._entry(self._transform, "example")]
        if not self._transform.terminating:
            chain.append(self._sink())
        return {"sources": [{self._protocol: {
            "name": "source", "listen_addr": LISTEN_ADDR, "chain": chain}}]}

    def _sink(self) -> dict[str, Any]:
        """The plainest sink of the protocol that can be had."""
        for name in (f"{self._protocol}SinkSingle", "NullSink"):
            try:
                return self._entry(self._registry.find(name), next(self._sinks))
            except UnknownType:
                continue
        raise LookupError(f"no sink for {self._protocol}")

    def _entry(self, transform: type[TransformConfig], name: str) -> dict[str, Any]:
        schema = transform.model_json_schema()
        known = {"name": name, **transform.example}
        fields = self._fields(schema, schema.get("$defs", {}), known)
        return {transform.type_name: fields}

    def _fields(self, schema: Schema, definitions: Schema, known: dict[str, Any]) -> dict[str, Any]:
        properties = schema.get("properties", {})
        wanted = dict.fromkeys([*schema.get("required", []), *known])
        return {name: known[name] if name in known else self._value(name, properties[name], definitions)
                for name in wanted}

    def _value(self, name: str, schema: Schema, definitions: Schema) -> Any:
        if schema.get("examples"):
            return schema["examples"][0]
        if "$ref" in schema:
            return self._value(name, definitions[schema["$ref"].rpartition("/")[2]], definitions)
        if "anyOf" in schema:
            return self._value(name, schema["anyOf"][0], definitions)
        if "enum" in schema or "const" in schema:
            return schema["enum"][0] if "enum" in schema else schema["const"]
        if schema.get("format") == CHAIN_FORMAT:
            return [self._sink()]
        kind = schema.get("type")
        if kind == "object":
            return self._fields(schema, definitions, {})
        if kind == "array":
            return [self._value(name, schema.get("items", {}), definitions)]
        if kind in ("integer", "number"):
            return _number(schema)
        return {"boolean": False, "null": None}.get(str(kind), _text(name))


def _text(name: str) -> str:
    return REMOTE_ADDRESS if any(part in name for part in _ADDRESSES) else name.replace("_", "-")


def _number(schema: Schema) -> int:
    """Something usual, within the bounds."""
    return math.ceil(next(_candidates(schema)))


def _candidates(schema: Schema) -> Iterator[float]:
    lowest: float = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
    highest: float = schema.get("maximum", schema.get("exclusiveMaximum", math.inf))
    yield from (each for each in (1000, 100, 10, 1) if lowest <= each < highest)
    yield lowest
