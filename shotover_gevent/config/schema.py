"""JSON Schemas of the two files, for editors: ``shotover-gevent schema``.

They are made of the models that read the files. A schema accepts whatever ``check`` accepts, and
refuses what an editor can see: unknown types and fields, missing fields, wrong values, transforms of
another protocol, chains without a sink. What takes the whole file to know (names that are given
twice, a sink in the middle) remains for ``check``.

Rules:
 1. A text may be written as a plain number or boolean; see :mod:`~shotover_gevent.config.topology`.
 2. Where a field may be absent, ``null`` is as good.
 3. Instead of any single value, a text with a variable (``${PORT}``) may stand.
 4. The fields of types that are named by their dotted path are not known, and not checked.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema

from shotover_gevent.chain.steps import CHAIN_FORMAT
from shotover_gevent.chain.transform import TransformConfig
from shotover_gevent.config.model import GeneralConfig, SourceFields
from shotover_gevent.config.registry import Registry, UnknownType
from shotover_gevent.config.topology import SOURCE_TYPES

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

# What a name of a type that is to be imported has: a dot or a colon.
_IMPORTED = {"pattern": "[.:]"}
_CHAIN = {"$ref": "#/$defs/chain"}
_VARIABLE = {"type": "string", "pattern": r"\$\{"}


def config_schema() -> Schema:
    """The schema of ``config.yaml``."""
    definitions: Schema = {}
    body = model_schema(GeneralConfig, "config", definitions)
    return {"$schema": DIALECT, "title": "config.yaml of shotover-gevent", **body,
            **({"$defs": definitions} if definitions else {})}


def topology_schema(registry: Registry | None = None) -> Schema:
    """The schema of ``topology.yaml``, with the transforms that the registry knows by name."""
    transforms = _known(registry or Registry())
    definitions: Schema = {"chain": _chain(), "step": _step(transforms)}
    for type_name, found in transforms.items():
        definitions[type_name] = _transform(type_name, found, definitions)
    definitions["source"] = _singleton({
        each: _source(each, transforms, definitions) for each in SOURCE_TYPES})
    return {
        "$schema": DIALECT,
        "title": "topology.yaml of shotover-gevent",
        "type": "object",
        "required": ["sources"],
        "properties": {"sources": {"type": "array", "items": {"$ref": "#/$defs/source"}}},
        "additionalProperties": False,
        "$defs": definitions,
    }


def model_schema(model: type[BaseModel], prefix: str, definitions: Schema) -> Schema:
    """The schema of a map with the fields of ``model``; the models inside of it go to
    ``definitions``, below names that begin with ``prefix``."""
    made = model.model_json_schema(ref_template=f"#/$defs/{prefix}.{{model}}")
    for name, inner in made.pop("$defs", {}).items():
        definitions[f"{prefix}.{name}"] = _as_written(inner)
    return _as_written(made)


def _known(registry: Registry) -> dict[str, type[TransformConfig] | None]:
    """Each transform by its name; ``None`` for a plug-in that cannot be imported."""
    found: dict[str, type[TransformConfig] | None] = {}
    for name in registry.names():
        try:
            found[name] = registry.find(name)
        except UnknownType:
            found[name] = None
    return found


def _transform(type_name: str, found: type[TransformConfig] | None, definitions: Schema) -> Schema:
    """The fields of a transform; any, where they cannot be told."""
    if found is not None:
        try:
            return model_schema(found, type_name, definitions)
        except PydanticInvalidForJsonSchema:
            pass  # a plug-in may have a field of any class
    return {"type": "object", "required": ["name"]}


def _singleton(entries: Schema) -> Schema:
    return {"type": "object", "minProperties": 1, "maxProperties": 1,
            "properties": entries, "additionalProperties": False}


def _chain() -> Schema:
    return {"description": "The steps in the order in which requests pass them; the last is a sink.",
            "type": "array", "minItems": 1, "items": {"$ref": "#/$defs/step"}}


def _step(transforms: dict[str, type[TransformConfig] | None]) -> Schema:
    step = _singleton({name: {"$ref": f"#/$defs/{name}"} for name in transforms})
    return {**step, "patternProperties": {_IMPORTED["pattern"]: {"type": "object"}}}


def _source(
    protocol: str, transforms: dict[str, type[TransformConfig] | None], definitions: Schema
) -> Schema:
    """The fields of a source, whose chain has what fits its protocol."""
    source = model_schema(SourceFields, f"{protocol}.source", definitions)
    fitting = [name for name, each in transforms.items()
               if each is None or each.protocols is None or protocol in each.protocols]
    sinks = [name for name in fitting if (each := transforms[name]) is None or each.terminating]
    source["properties"]["chain"] = {
        **_CHAIN,
        "items": {"propertyNames": {"anyOf": [{"enum": fitting}, _IMPORTED]}},
        "contains": {"propertyNames": {"anyOf": [{"enum": sinks}, _IMPORTED]}},
    }
    return source


def _as_written(schema: Schema) -> Schema:
    """What pydantic says of a value, changed into what may be written for it."""
    if schema.get("format") == CHAIN_FORMAT:
        return _CHAIN
    made = {key: _inside(key, value) for key, value in schema.items() if key != "title"}
    if "properties" in made:
        required = made.get("required", [])
        made["properties"] = {name: each if name in required else _or_null(each)
                              for name, each in made["properties"].items()}
    kind = made.get("type")
    if "enum" in made or "const" in made or kind in ("integer", "number", "boolean"):
        return _either(made, _VARIABLE)
    return {**made, "type": ["string", "number", "boolean"]} if kind == "string" else made


def _inside(key: str, value: Any) -> Any:
    """The schemas in a schema."""
    if key == "properties":
        return {name: _as_written(each) for name, each in value.items()}
    if key in ("items", "additionalProperties", "prefixItems", "anyOf", "oneOf", "allOf"):
        if isinstance(value, list):
            return [_as_written(each) for each in value]
        return _as_written(value) if isinstance(value, dict) else value
    return value


def _either(first: Schema, other: Schema) -> Schema:
    """One of two; what is said of the first one for people stays outside."""
    outside: Schema = {key: first.pop(key) for key in ("description", "default", "examples") if key in first}
    return {**outside, "anyOf": [first, other]}


def _or_null(schema: Schema) -> Schema:
    made = {key: value for key, value in schema.items() if (key, value) != ("default", None)}
    if made.get("type") == "null" or {"type": "null"} in made.get("anyOf", ()):
        return made
    if "anyOf" in made:
        return {**made, "anyOf": [*made["anyOf"], {"type": "null"}]}
    return _either(made, {"type": "null"})
