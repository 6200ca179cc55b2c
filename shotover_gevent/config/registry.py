"""Which class stands behind a type name of the topology.

Rules, in this order:
 1. a class given in code: ``Registry(transforms=[MyTransform])``; it may replace any other;
 2. the built-in transforms; their modules are imported when they are first used;
 3. entry points of the group ``shotover_gevent.transforms``, whose names are the type names; a
    broken one is an error only where it is used;
 4. a name with a dot or a colon is a class to import: ``my_package.my_module.MyTransform``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any

from shotover_gevent.chain.transform import TransformConfig
from shotover_gevent.errors import ShotoverError, UsageError

ENTRY_POINT_GROUP = "shotover_gevent.transforms"

BUILT_IN = {
    "AccessLog": "shotover_gevent.transforms.access_log:AccessLog",
    "CircuitBreaker": "shotover_gevent.transforms.circuit_breaker:CircuitBreaker",
    "Coalesce": "shotover_gevent.transforms.coalesce:Coalesce",
    "ConnectionBalanceAndPool":
        "shotover_gevent.transforms.connection_pool:ConnectionBalanceAndPool",
    "DebugForceEncode": "shotover_gevent.transforms.debug_force:DebugForceEncode",
    "DebugForceParse": "shotover_gevent.transforms.debug_force:DebugForceParse",
    "DebugLogToFile": "shotover_gevent.transforms.debug_log_to_file:DebugLogToFile",
    "DebugPrinter": "shotover_gevent.transforms.debug_printer:DebugPrinter",
    "DebugReturner": "shotover_gevent.sinks.debug_returner:DebugReturner",
    "FaultInjection": "shotover_gevent.transforms.fault_injection:FaultInjection",
    "NullSink": "shotover_gevent.sinks.null:NullSink",
    "ParallelMap": "shotover_gevent.transforms.parallel_map:ParallelMap",
    "QueryCounter": "shotover_gevent.transforms.query_counter:QueryCounter",
    "QueryTypeFilter": "shotover_gevent.transforms.query_type_filter:QueryTypeFilter",
    "RequestThrottling": "shotover_gevent.transforms.request_throttling:RequestThrottling",
    "Retry": "shotover_gevent.transforms.retry:Retry",
    "TcpSinkSingle": "shotover_gevent.sinks.tcp_single:TcpSinkSingle",
    "Tee": "shotover_gevent.transforms.tee:Tee",
    "ValkeySinkSingle": "shotover_gevent.sinks.valkey_single:ValkeySinkSingle",
}

# Transforms of Shotover Proxy that are known by name, so that nobody looks for a typing error.
NOT_YET = frozenset({
    "CassandraPeersRewrite", "CassandraSinkCluster", "CassandraSinkSingle",
    "KafkaSinkCluster", "KafkaSinkSingle", "OpenSearchSinkSingle", "ValkeyCache",
    "ValkeyClusterPortsRewrite", "ValkeySinkCluster",
})


class UnknownType(ShotoverError):
    """No class can be had for a type name; ``suggestion`` is a way out."""

    def __init__(self, message: str, suggestion: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.suggestion = suggestion


class Registry:
    """The transform types that a topology may name."""

    def __init__(self, transforms: Iterable[type[TransformConfig]] = ()) -> None:
        self._classes: dict[str, type[TransformConfig]] = {}
        for given in transforms:
            if given.type_name in self._classes:
                raise UsageError(f"two transforms have the type name {given.type_name!r}")
            self._classes[given.type_name] = given

    def names(self) -> list[str]:
        """All type names known without importing a transform, sorted."""
        return sorted({*self._classes, *BUILT_IN, *_entry_points()})

    def find(self, type_name: str) -> type[TransformConfig]:
        """The class of that type name; it is imported if need be. Raises :class:`UnknownType`."""
        found = self._classes.get(type_name)
        if found is None:
            found = self._classes[type_name] = self._load(type_name)
        return found

    def _load(self, type_name: str) -> type[TransformConfig]:
        if type_name in BUILT_IN:
            return _transform(type_name, lambda: _import(BUILT_IN[type_name]))
        entry_points = _entry_points()
        if type_name in entry_points:
            return _transform(type_name, entry_points[type_name].load)
        if type_name in NOT_YET:
            raise UnknownType(
                f"{type_name} is not supported by this version yet",
                f"supported transforms: {', '.join(self.names())}")
        if "." in type_name or ":" in type_name:
            return _transform(type_name, lambda: _import(type_name))
        raise unknown_type("transform", type_name, self.names())


def unknown_type(kind: str, type_name: str, names: list[str]) -> UnknownType:
    """The error for a name that nobody knows, with what it may have been meant to be."""
    close = get_close_matches(type_name, names, n=1)
    meant = f'did you mean "{close[0]}"? ' if close else ""
    return UnknownType(
        f'unknown {kind} type "{type_name}"', f"{meant}known types: {', '.join(names)}")


def _entry_points() -> dict[str, Any]:
    # Imported here: most topologies name built-in transforms only, and start sooner without it.
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _import(target: str) -> Any:
    """The object that ``module:Class`` or ``module.Class`` names."""
    module_name, colon, name = target.partition(":")
    if not colon:
        module_name, _, name = target.rpartition(".")
    if not module_name or not name:
        raise ImportError("write package.module.Class or package.module:Class")
    module = importlib.import_module(module_name)
    try:
        return getattr(module, name)
    except AttributeError:
        raise ImportError(f"the module {module_name} has no {name}") from None


def _transform(type_name: str, load: Callable[[], Any]) -> type[TransformConfig]:
    """What ``load`` returns, if it is a transform; whatever goes wrong is an UnknownType."""
    try:
        found = load()
    except Exception as error:  # a module of somebody else may raise anything while imported
        raise UnknownType(
            f"{type_name} cannot be imported: {type(error).__name__}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, TransformConfig)):
        raise UnknownType(
            f"{type_name} is not a transform", "a transform is a subclass of TransformConfig")
    return found
