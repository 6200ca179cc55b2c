"""The type of a field that holds a sub-chain.

A transform with chains inside declares them with :data:`Steps` and names them in ``subchains()``::

    class Mirror(TransformConfig):
        chain: Steps

        def subchains(self):
            return [(self.name, self.chain)]

In the YAML the field is a list like the chain of a source. In code it takes configuration objects.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import PlainValidator, Strict, ValidationInfo, WithJsonSchema

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


# Not strict, so that a list is taken as well; the steps themselves stay strict.
Steps = Annotated[
    tuple[Annotated[TransformConfig, PlainValidator(_step)], ...], Strict(False),
    WithJsonSchema({"type": "array", "format": CHAIN_FORMAT})]
