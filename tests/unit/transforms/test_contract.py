"""Every built-in transform and sink keeps the contract, and says what it does that others do not.

A new transform gets a row in :data:`EXAMPLES`: the fields of its YAML entry, without ``name``, and what
it declares. ``{upstream}`` in a text is the address of a database that answers every request.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from shotover_gevent.chain import TransformConfig
from shotover_gevent.config.registry import BUILT_IN, Registry
from shotover_gevent.config.step import StepFactory
from shotover_gevent.testing import AnsweringUpstream, check_transform


@dataclass(frozen=True)
class Example:
    """A valid entry of a type, and what :func:`check_transform` is to be told of it."""

    fields: dict[str, Any] = field(default_factory=dict)
    declares: dict[str, Any] = field(default_factory=dict)


CONNECTION = {"remote_address": "{upstream}", "connect_timeout_ms": 2000}

SINK = [{"ValkeySinkSingle": {"name": "inner", **CONNECTION}}]

EXAMPLES: dict[str, Example] = {
    "AccessLog": Example({"path": "access.log", "keys": "first"}),
    "CircuitBreaker": Example(),
    "Coalesce": Example({"flush_when_millis_since_last_flush": 10}),
    "ConnectionBalanceAndPool": Example(
        {"max_connections": 2, "chain": SINK},
        {"swallows_pushes": True, "pins": True, "keeps_connections": True}),
    "DebugForceEncode": Example({"encode_requests": True, "encode_responses": True}),
    "DebugForceParse": Example({"parse_requests": True, "parse_responses": True}),
    "DebugLogToFile": Example(),
    "DebugPrinter": Example(),
    "DebugReturner": Example({"Valkey": "42"}),
    "FaultInjection": Example(
        {"faults": [{"kind": "error", "percentage": 50}], "seed": 1}, {"varies": True}),
    "NullSink": Example(),
    "ParallelMap": Example({"parallelism": 3, "ordered_results": True, "chain": SINK}),
    "QueryCounter": Example({"counter_name": "main"}),
    "QueryTypeFilter": Example({"DenyList": ["Write"]}),
    "RequestThrottling": Example({"max_requests_per_second": 10000}),
    "Retry": Example(),
    "TcpSinkSingle": Example(CONNECTION),
    "Tee": Example({"chain": [{"DebugReturner": {"name": "inner", "Valkey": "42"}}]}),
    "ValkeySinkSingle": Example(CONNECTION),
}

# Further ways to configure a type that the contract may depend on.
VARIANTS: list[tuple[str, Example]] = [
    ("ValkeySinkSingle", Example(
        {**CONNECTION, "connection_mode": "shared"}, {"keeps_connections": True, "swallows_pushes": True})),
    ("Tee", Example({"behavior": "FailOnMismatch", "chain": SINK})),
]

FILE = "tests/unit/transforms/test_contract.py"


def with_upstream(value: Any, address: str) -> Any:
    """The value, a new one at any depth, with the address of the database."""
    if isinstance(value, dict):
        return {key: with_upstream(item, address) for key, item in value.items()}
    if isinstance(value, list):
        return [with_upstream(item, address) for item in value]
    return value.replace("{upstream}", address) if isinstance(value, str) else value


def needs_upstream(value: Any) -> bool:
    """Whether the address of the database is in the value."""
    return "{upstream}" in repr(value)


@pytest.mark.parametrize("type_name", sorted(BUILT_IN))
def test_every_built_in_transform_keeps_the_contract(
    type_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each type of the registry passes the check that authors run on theirs."""
    monkeypatch.chdir(tmp_path)  # some write files
    example = EXAMPLES.get(type_name)
    assert example is not None, f"{type_name} has no example yet: add a row to EXAMPLES in {FILE}"
    check(type_name, example)


@pytest.mark.parametrize(("type_name", "example"), VARIANTS, ids=str)
def test_every_variant_keeps_the_contract(type_name: str, example: Example) -> None:
    """What is configured otherwise is held to it, too."""
    check(type_name, example)


def check(type_name: str, example: Example) -> None:
    """Hold the transform of an entry to the contract."""
    protocols = Registry().find(type_name).protocols
    with ExitStack() as stack:
        address, options = "", dict(example.declares)
        if needs_upstream(example.fields):
            protocol = options.get("protocol") or (protocols[0] if protocols else "Valkey")
            upstream = stack.enter_context(AnsweringUpstream(protocol=protocol))
            address, options["upstream"] = upstream.address, upstream

        def make() -> TransformConfig:
            body = {"name": "example", **with_upstream(example.fields, address)}
            return StepFactory(Registry()).step({type_name: body})

        check_transform(make, **options)


def test_no_example_is_left_over() -> None:
    """Every row is of a type that exists."""
    assert sorted(set(EXAMPLES) - set(BUILT_IN)) == []


@pytest.mark.parametrize("type_name", sorted(BUILT_IN))
def test_every_configuration_can_be_copied(type_name: str) -> None:
    """ParallelMap gives each of its copies configuration objects of their own."""
    body = {"name": "example", **with_upstream(EXAMPLES[type_name].fields, "127.0.0.1:1")}
    made = StepFactory(Registry()).step({type_name: body})
    assert made.model_copy(deep=True).model_dump_json() == made.model_dump_json()
