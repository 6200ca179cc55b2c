"""The reference of the transforms as reStructuredText, made of their models when the site is built."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from shotover_gevent.chain.transform import TransformConfig
from shotover_gevent.config.example import example_topology
from shotover_gevent.config.fields import FieldText, fields_of, prose
from shotover_gevent.config.model import GeneralConfig, SourceFields
from shotover_gevent.config.registry import BUILT_IN, Registry

#: The line of ``docs/reference_transforms.rst`` that is replaced by the reference.
MARK = ".. The reference is put in here when the site is built."


def reference() -> str:
    """All sections."""
    registry = Registry()
    parts = [
        _section("config.yaml", "", fields_of(GeneralConfig)),
        _section("Sources", "Every source has these fields:", fields_of(SourceFields)),
    ]
    parts += [_transform(registry.find(name), registry) for name in sorted(BUILT_IN)]
    return "\n".join(parts)


def _transform(transform: type[TransformConfig], registry: Registry) -> str:
    place = "A sink" if transform.terminating else "Anywhere but last in a chain"
    protocols = ", ".join(f"``{each}``" for each in transform.protocols or ()) or "any"
    text = f"{place}; protocols: {protocols}.\n\n{prose(transform)}"
    example = textwrap.indent(example_topology(transform, registry), "   ")
    return (_section(transform.type_name, text, fields_of(transform))
            + f"\n.. code-block:: yaml\n\n{example}\n")


def _section(title: str, text: str, fields: list[FieldText]) -> str:
    lines = [title, "-" * len(title), "", text, "", ".. list-table::", "   :header-rows: 1", ""]
    lines += _row("field", "type", "", "meaning")
    for field in fields:
        default = "required" if field.is_required else (
            "optional" if field.default is None else f"default ``{field.default}``")
        lines += _row(f"``{field.name}``", field.type, default, field.description or "\u00a0")
    return "\n".join([*lines, ""])


def _row(*cells: str) -> Iterator[str]:
    for index, cell in enumerate(cells):
        yield f"   {'*' if index == 0 else ' '} - {cell}"
