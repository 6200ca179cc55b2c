"""The fields of a model in words, for ``shotover-gevent transforms`` and the reference."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema

from shotover_gevent.chain.steps import CHAIN_FORMAT

Schema = dict[str, Any]

# The bounds of machine integers say nothing to a person.
_MACHINE_BOUND = 2**31 - 1

_WORDS = {"string": "text", "boolean": "true or false", "number": "number", "null": "null"}


@dataclass(frozen=True, slots=True)
class FieldText:
    """One field. ``name`` is the way to it: ``tls.certificate_path``, ``nodes[].rack``.

    ``default`` is as it is written in YAML's flow style, ``None`` where the field may be absent and
    has no value then, or is required.
    """

    name: str
    type: str
    is_required: bool
    default: str | None
    description: str

    @property
    def presence(self) -> str:
        """``required``, ``optional``, or the default."""
        if self.is_required:
            return "required"
        return "optional" if self.default is None else f"default {self.default}"


def fields_of(model: type[BaseModel]) -> list[FieldText]:
    """All fields, each followed by those of the maps inside of it, in the order of the model."""
    try:
        schema = model.model_json_schema()
    except PydanticInvalidForJsonSchema:  # a field of a class that only its author knows
        return [FieldText(name, "any", field.is_required(), None, field.description or "")
                for name, field in model.model_fields.items()]
    return list(_fields(schema, schema.get("$defs", {}), ""))


def summary(model: type[BaseModel]) -> str:
    """The first sentence of the documentation, without markup; empty when there is none."""
    return prose(model).partition("\n\n")[0].replace("\n", " ").replace("``", "")


def prose(model: type[BaseModel]) -> str:
    """The documentation of the class itself, as it is written."""
    return inspect.cleandoc(model.__doc__) if model.__doc__ else ""


def _fields(schema: Schema, definitions: Schema, prefix: str) -> Iterator[FieldText]:
    required = schema.get("required", [])
    for name, each in schema.get("properties", {}).items():
        path = f"{prefix}{name}"
        default = each.get("default")
        yield FieldText(
            path, _type(each, definitions), name in required,
            None if default is None else json.dumps(default, ensure_ascii=False),
            " ".join(each.get("description", "").split()))
        if prefix.count(".") < 3:  # models may be recursive
            for suffix, inner in _maps(each, definitions):
                yield from _fields(inner, definitions, f"{path}{suffix}.")


def _maps(schema: Schema, definitions: Schema) -> Iterator[tuple[str, Schema]]:
    """The maps with known fields that a value may be or have, each with how a path writes it."""
    if "$ref" in schema:
        yield "", definitions[schema["$ref"].rpartition("/")[2]]
    for each in schema.get("anyOf", ()):
        yield from _maps(each, definitions)
    for key, suffix in (("items", "[]"), ("additionalProperties", ".*")):
        if isinstance(schema.get(key), dict):
            for more, inner in _maps(schema[key], definitions):
                yield suffix + more, inner


def _type(schema: Schema, definitions: Schema) -> str:
    if "$ref" in schema:
        found = definitions[schema["$ref"].rpartition("/")[2]]
        return _type(found, definitions)
    if "anyOf" in schema:
        kinds = [_type(each, definitions) for each in schema["anyOf"] if each != {"type": "null"}]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    if "const" in schema:
        return json.dumps(schema["const"])
    if schema.get("format") == CHAIN_FORMAT:
        return "chain"
    return _plain_type(schema, definitions)


def _plain_type(schema: Schema, definitions: Schema) -> str:
    kind = schema.get("type")
    if kind == "array":
        return f"list of {_type(schema['items'], definitions)}" if "items" in schema else "list"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"map to {_type(values, definitions)}" if isinstance(values, dict) else "map"
    if kind in ("integer", "number"):
        return ", ".join([kind, *_bounds(schema)])
    return _WORDS.get(str(kind), "any")


def _bounds(schema: Schema) -> Iterator[str]:
    for key, words in (("minimum", "at least"), ("exclusiveMinimum", "more than"),
                       ("maximum", "at most"), ("exclusiveMaximum", "less than")):
        if abs(schema.get(key, _MACHINE_BOUND)) < _MACHINE_BOUND:
            yield f"{words} {schema[key]:g}"
