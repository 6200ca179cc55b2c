"""The type of a field that holds a sub-chain.

A transform with chains inside declares them with :data:`Steps` and names them in ``subchains()``::

    class Mirror(TransformConfig):
        chain: Steps

        def subchains(self):
            return [(self.name, self.chain)]

In the YAML the field is a list like the chain of a source. In code it takes configuration objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, Strict, ValidationInfo, WithJsonSchema

from shotover_gevent.chain.transform import TransformConfig

# The key of the validation context under which the reader of the topology puts the function that
# makes a step of a YAML entry. Transforms themselves know no registry.
MAKE_STEP = "shotover_gevent.make_step"

#: How a JSON Schema tells such a field from other lists.
CHAIN_FORMAT = "shotover-chain"


def _step(value: Any, info: ValidationInfo) -> TransformConfig:
    if isinstance(value, TransformConfig):
        return value
    make = (info.context or {}).get(MAKE_STEP)
    if make is None:
        raise ValueError("outside a topology, a chain is made of TransformConfig objects")
    return make(value)  # type: ignore[no-any-return]


def all_steps(steps: Sequence[TransformConfig]) -> Iterator[TransformConfig]:
    """The steps of a chain, and those of the chains inside of it at any depth; copies count once."""
    for step in steps:
        yield step
        for inner in {id(inner): inner for _, inner in step.subchains()}.values():
            yield from all_steps(inner)


def describe(step: TransformConfig) -> list[Any]:
    """The type and the fields of a step, those of its sub-chains too: equal for steps that do the same.

    Fields with their default are left out, so that a version with more fields says the same.
    """
    kind = type(step)
    return [f"{kind.__module__}.{kind.__qualname__}", step.model_dump(exclude_defaults=True)]


# By itself, pydantic would write the fields of the base class only.
Step = Annotated[TransformConfig, PlainValidator(_step), PlainSerializer(describe)]

# Not strict, so that a list is taken as well; the steps themselves stay strict.
Steps = Annotated[
    tuple[Step, ...], Strict(False), WithJsonSchema({"type": "array", "format": CHAIN_FORMAT})]
