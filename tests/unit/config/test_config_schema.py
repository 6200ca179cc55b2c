"""The JSON Schemas: they accept what ``check`` accepts, and refuse what an editor can see."""

import copy

import pytest
import yaml
from config_samples import SAMPLES, source, sources
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from shotover_gevent.chain.transform import TransformConfig
from shotover_gevent.config.registry import Registry
from shotover_gevent.config.schema import config_schema, topology_schema
from tests import test_docs

TOPOLOGY = Draft202012Validator(topology_schema())
SAMPLE_TOPOLOGY = Draft202012Validator(topology_schema(Registry(SAMPLES)))
CONFIG = Draft202012Validator(config_schema())

NULL = {"NullSink": {"name": "null"}}
SINK = {"ValkeySinkSingle": {"name": "s", "remote_address": "h:1", "connect_timeout_ms": 1}}


class Odd:
    """A class that no schema can tell."""


class Opaque(TransformConfig):
    """Has a field of a class."""

    odd: Odd


class Node(BaseModel):
    """A map inside a transform."""

    rack: str
    id: int = 3


class Cluster(TransformConfig):
    """Has a list of maps."""

    nodes: list[Node]


def examples(name):
    """Whole files of the documentation and of ``examples/``."""
    written = [block.text for block in test_docs.blocks("yaml") if block.title == name]
    return written + [path.read_text() for path in sorted(test_docs.ROOT.glob(f"examples/**/{name}"))]


@pytest.mark.parametrize("validator", [TOPOLOGY, SAMPLE_TOPOLOGY, CONFIG], ids=["docs", "samples", "config"])
def test_a_schema_is_a_schema(validator):
    """It keeps the rules of its dialect."""
    validator.check_schema(validator.schema)


@pytest.mark.parametrize("text", examples("topology.yaml"))
def test_topologies_of_the_documentation_are_accepted(text):
    """Every whole topology that the documentation or ``examples/`` shows."""
    assert list(TOPOLOGY.iter_errors(yaml.safe_load(text))) == []


@pytest.mark.parametrize("text", examples("config.yaml"))
def test_configs_of_the_documentation_are_accepted(text):
    """Every ``config.yaml`` that the documentation or ``examples/`` shows."""
    assert list(CONFIG.iter_errors(yaml.safe_load(text))) == []


@pytest.mark.parametrize("topology", [
    sources(source(NULL, connection_limit=None, timeout=None)),
    sources(source(NULL, connection_limit="${LIMIT:-5}", hard_connection_limit="${HARD}")),
    sources(source(NULL, name=12)),
    sources(source({"DebugReturner": {"name": "r", "Fail": None}})),
    sources(source({"my_package.Mine": {"anything": 1}})),
    sources(source({"QueryTypeFilter": {"name": "f", "DenyList": ["${TYPE}"]}}, NULL)),
])
def test_what_check_accepts_is_accepted(topology):
    """Nulls, variables, numbers as texts, and types that are imported."""
    assert list(TOPOLOGY.iter_errors(topology)) == []


def changed(path, value):
    """A topology with another value at a path; ``...`` takes the key out."""
    topology = copy.deepcopy(sources(source(copy.deepcopy(NULL), copy.deepcopy(SINK))))
    *owners, last = path
    owner = topology
    for part in owners:
        owner = owner[part]
    if value is ...:
        del owner[last]
    else:
        owner[last] = value
    return topology


V = ("sources", 0, "Valkey")


@pytest.mark.parametrize("topology", [
    {},
    {"sources": [], "more": 1},
    changed(("sources",), {}),
    changed(("sources", 0, "Tcp"), {}),
    changed(("sources", 0), {"Nothing": {}}),
    changed((*V, "name"), ...),
    changed((*V, "lisen_addr"), "x:1"),
    changed((*V, "connection_limit"), "many"),
    changed((*V, "connection_limit"), -1),
    changed((*V, "hard_connection_limit"), "yes"),
    changed((*V, "chain"), []),
    changed((*V, "chain"), [{"QueryCounter": {"name": "c", "counter_name": "x"}}]),
    changed((*V, "chain", 1), {"ValkeySink": {"name": "s"}}),
    changed((*V, "chain", 1), {"TcpSinkSingle": SINK["ValkeySinkSingle"]}),
    changed((*V, "chain", 1, "ValkeySinkSingle", "adress"), "h:1"),
    changed((*V, "chain", 1, "ValkeySinkSingle", "remote_address"), ...),
    changed((*V, "chain", 1, "ValkeySinkSingle", "connect_timeout_ms"), None),
    changed((*V, "chain", 0), {"QueryTypeFilter": {"name": "f", "DenyList": ["write"]}}),
], ids=str)
def test_what_an_editor_can_see_is_refused(topology):
    """One thing wrong is enough."""
    assert list(TOPOLOGY.iter_errors(topology)) != []


@pytest.mark.parametrize("config", [{}, {"main_log_level": None}, {"main_log_level": "info", "more": 1}])
def test_a_wrong_config_is_refused(config):
    """Missing and unknown fields."""
    assert list(CONFIG.iter_errors(config)) != []


def test_chains_inside_are_checked():
    """A sub-chain has the rules of a chain."""
    def of(*inner):
        return sources(source({"Fork": {"name": "f", "chain": list(inner)}}, {"End": {"name": "e"}}))
    assert [SAMPLE_TOPOLOGY.is_valid(each) for each in (of(NULL), of(), of({"Nothing": {}}))] == [
        True, False, False]


def test_plug_ins_are_in_the_schema():
    """Their fields are checked as far as they can be told, inside of maps too."""
    validator = Draft202012Validator(topology_schema(Registry([Opaque, Cluster])))

    def of(kind, **fields):
        return sources(source({kind: {"name": "x", **fields}}, NULL))

    assert [validator.is_valid(each) for each in (
        of("Opaque", odd=1), of("Cluster", nodes=[{"rack": "r"}, {"rack": "r", "id": None}]),
        of("Cluster", nodes=[{"id": 3}]),
    )] == [True, True, False]
