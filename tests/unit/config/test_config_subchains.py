"""The built-in transforms with sub-chains, as they are written in a topology."""

from __future__ import annotations

from typing import Any

import pytest
from config_samples import read, refused, source, sources

from shotover_gevent.chain.chain import ChainConfig
from shotover_gevent.config.topology import parse_topology
from shotover_gevent.errors import ConfigError
from shotover_gevent.metrics import MetricStore

NULL = {"NullSink": {"name": "null"}}
INNER = {"NullSink": {"name": "inner"}}


def tee(**fields: Any) -> dict[str, Any]:
    """A Tee with these fields."""
    return {"Tee": {"name": "t", "chain": [INNER], **fields}}


@pytest.mark.parametrize(
    "behavior", ["Ignore", "LogWarningOnMismatch", "FailOnMismatch",
                 {"SubchainOnMismatch": {"chain": [{"NullSink": {"name": "mismatch"}}]}}], ids=str)
def test_every_behavior_is_accepted(behavior: Any) -> None:
    """Words, and a map for the one that has a chain."""
    entry = tee(behavior=behavior, timeout_micros=1000, buffer_size=100, switch_port=1231)
    (described,) = read(sources(source(entry, NULL)), []).describe()["sources"]
    assert described["Valkey"]["chain"] == [entry, NULL]


WHERE = "topology.yaml  sources[0].Valkey.chain[0].Tee"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"behavior": "Ignor"}, ".behavior: found the text \"Ignor\", wanted one of Ignore, "
         'LogWarningOnMismatch, FailOnMismatch\n    did you mean "Ignore"?'),
        ({"behavior": {"SubchainOnMismatch": {}}}, ".behavior.SubchainOnMismatch.chain: missing field"),
        ({"switch_port": 70000}, ".switch_port: found the number 70000, wanted at most 65535"),
        ({"buffer_size": 0}, ": buffer_size must be greater than 0"),
        ({"http_api_port": 1}, ".http_api_port: unknown field\n    known fields: name, behavior, "
         "timeout_micros, chain, buffer_size, switch_port"),
    ])
def test_a_wrong_field_of_a_tee_has_one_problem(fields: dict[str, Any], problem: str) -> None:
    """With its place and a way out."""
    assert refused(sources(source(tee(**fields), NULL)), []) == [WHERE + problem]


def text(*chain: dict[str, Any]) -> str:
    """What is wrong with a chain, as Shotover says it."""
    with pytest.raises(ConfigError) as caught:
        parse_topology(sources(source(*chain)))
    (said,) = caught.value.chain
    return said


def test_problems_of_sub_chains_are_told_in_the_words_of_shotover() -> None:
    """Below the type of their owner, each level two blanks further."""
    printer = {"DebugPrinter": {"name": "p"}}
    mismatch = {"SubchainOnMismatch": {"chain": []}}
    pool = {"ConnectionBalanceAndPool": {"name": "pool", "max_connections": 1, "chain": [
        {"NullSink": {"name": "n"}}, {"NullSink": {"name": "o"}}]}}
    pmap = {"ParallelMap": {"name": "m", "parallelism": 3, "ordered_results": True, "chain": [pool, printer]}}
    said = text(tee(chain=[INNER, {"DebugPrinter": {"name": "q"}}], behavior=mismatch), pmap)
    last = "Last Transform must be terminating."
    end = "Terminating Transform must be last in chain."
    assert said == f"""Topology errors
edge source:
  edge chain:
    Tee:
      t chain:
        Terminating Transform NullSink named "inner" is not last in chain. {end}
        Non-terminating Transform DebugPrinter named "q" is last in chain. {last}
      t.mismatch chain:
        Chain cannot be empty
    ParallelMap:
      m[0] chain:
        Terminating Transform ConnectionBalanceAndPool named "pool" is not last in chain. {end}
        ConnectionBalanceAndPool:
          pool chain:
            Terminating Transform NullSink named "n" is not last in chain. {end}
        Non-terminating Transform DebugPrinter named "p" is last in chain. {last}
"""


def test_the_copies_of_a_parallel_map_are_one_entry() -> None:
    """In Shotover every parallelism beyond 1 is a duplicate name."""
    entry = {"ParallelMap": {"name": "m", "parallelism": 8, "ordered_results": True, "chain": [INNER]}}
    assert len(read(sources(source(entry)), []).sources) == 1


def test_a_sub_chain_is_named_like_its_owner() -> None:
    """Which the chain of the source may be, too; then both are told."""
    entry = {"Tee": {"name": "edge", "chain": [INNER]}}
    assert text(entry, NULL) == """Topology errors
Duplicate chain names detected:
  "edge" used by:
    root chain for source[0] "edge"
    chain "edge" at source[0] "edge" chain "edge" -> subchain "edge" (from Transform Tee named "edge")
"""


def identity(*chain: dict[str, Any]) -> str:
    """What must be equal for sessions to move."""
    (entry,) = read(sources(source(*chain)), []).sources
    return ChainConfig("v", "Valkey", entry.chain, MetricStore()).identity


def test_chains_that_differ_inside_are_different() -> None:
    """By a field or a type of a step at any depth; a session must not move into another one."""
    printer = {"DebugPrinter": {"name": "p"}}
    returner = {"DebugReturner": {"name": "inner", "Valkey": "x"}}
    found = [identity(entry, NULL) for entry in (
        tee(), tee(chain=[printer, INNER]), tee(chain=[returner]),
        tee(chain=[{"DebugReturner": {"name": "inner", "Valkey": "y"}}]),
        tee(chain=[{"Tee": {"name": "u", "chain": [INNER]}}, {"NullSink": {"name": "z"}}]),
        tee(chain=[{"Tee": {"name": "u", "chain": [returner]}}, {"NullSink": {"name": "z"}}]),
        tee(behavior={"SubchainOnMismatch": {"chain": [{"NullSink": {"name": "x"}}]}}),
        tee(behavior={"SubchainOnMismatch": {"chain": [{"NullSink": {"name": "w"}}]}}),
    )]
    assert len(set(found)) == len(found)
    assert identity(tee(chain=[returner]), NULL) == identity(tee(chain=[returner]), NULL)
