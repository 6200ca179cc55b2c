"""Configuration objects from singleton maps: ``{QueryCounter: {name: ..., counter_name: ...}}``."""

from __future__ import annotations

from typing import Any

from shotover_gevent.chain.steps import MAKE_STEP
from shotover_gevent.chain.transform import TransformConfig
from shotover_gevent.config.document import Path
from shotover_gevent.config.fault import Fault, Faults, describe, raised, validate
from shotover_gevent.config.registry import Registry, UnknownType


class StepFactory:
    """Makes the steps of chains and remembers which entry each was made of."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._context = {MAKE_STEP: self._inner_step}
        self._made: dict[int, TransformConfig] = {}

    def step(self, entry: Any) -> TransformConfig:
        """The configuration object of one entry of a chain. Raises :class:`Faults`."""
        if isinstance(entry, TransformConfig):
            return entry
        type_name, body = singleton(entry, "transform")
        try:
            found = self._registry.find(type_name)
        except UnknownType as error:
            fault = Fault((type_name,), error.message, error.suggestion, of_key=True)
            raise Faults([fault]) from error
        what = "validation"
        try:
            made = self._made[id(entry)] = validate(found, body, self._context)
            what = "subchains()"
            made.subchains()
        except Faults as faults:
            raise Faults([fault.below(type_name) for fault in faults.faults]) from faults
        except Exception as error:  # the code of somebody else may raise anything
            message, way_out = raised(what, found, error)
            raise Faults([Fault((type_name,), message, way_out, of_key=True)]) from error
        return made

    def _inner_step(self, entry: Any) -> TransformConfig:
        """The same for a step of a sub-chain, called by pydantic."""
        try:
            return self.step(entry)
        except Faults as faults:
            raise faults.carried() from faults

    def paths(self, entry: Any, path: Path) -> dict[int, Path]:
        """The path of every step made of ``entry``, which stands at ``path``, and inside of it.

        The keys are the ids of the configuration objects.
        """
        found: dict[int, Path] = {}
        made = entry if isinstance(entry, TransformConfig) else self._made.get(id(entry))
        if made is not None:
            found[id(made)] = (*path, *entry) if isinstance(entry, dict) else path
        children = entry.items() if isinstance(entry, dict) else enumerate(entry) if isinstance(
            entry, list) else ()
        for key, value in children:
            found |= self.paths(value, (*path, key))
        return found


def singleton(entry: Any, kind: str) -> tuple[str, Any]:
    """The type name and the fields in a map of one key. Raises :class:`Faults`.

    A type without fields has none given: ``{}``.
    """
    wanted = f"wanted a map of one key, the type of the {kind}"
    if isinstance(entry, str):
        raise Faults([Fault((), f"found {describe(entry)}, {wanted}", f"write {entry}: {{name: ...}}")])
    if not isinstance(entry, dict):
        raise Faults([Fault((), f"found {describe(entry)}, {wanted}")])
    if len(entry) != 1:
        keys = ", ".join(map(str, entry)) or "none"
        first = next(iter(entry), None)
        way_out = None if first is None else f'indent the fields further than "{first}:"'
        raise Faults([Fault((), f"found a map of {len(entry)} keys ({keys}), {wanted}", way_out)])
    type_name, body = next(iter(entry.items()))
    if body is None:
        body = entry[type_name] = {}
    return str(type_name), body
