"""The built-in transforms as they are written in a topology."""

import pytest
from config_samples import read, refused, source, sources

NULL = {"NullSink": {"name": "null"}}


def chain_of(*entries):
    """The chain as the topology describes it."""
    (described,) = read(sources(source(*entries)), []).describe()["sources"]
    return described["Valkey"]["chain"]


@pytest.mark.parametrize(
    "entries",
    [
        [{"DebugReturner": {"name": "r", "Valkey": "42"}}],
        [{"DebugReturner": {"name": "r", "Fail": None}}],
        [{"QueryTypeFilter": {"name": "f", "AllowList": ["Read", "PubSubMessage"]}}, NULL],
        [{"QueryTypeFilter": {"name": "f", "DenyList": []}}, NULL],
        [{"QueryCounter": {"name": "c", "counter_name": "main"}}, {"DebugPrinter": {"name": "p"}}, NULL],
        [{"ValkeySinkSingle": {
            "name": "s", "remote_address": "h:1", "connect_timeout_ms": 3000,
            "connection_mode": "shared", "connection_count": 2}}],
    ],
)
def test_a_minimal_entry_is_accepted(entries):
    """Every way that the documentation shows."""
    assert chain_of(*entries) == entries


def test_clients_share_no_connections_unless_asked():
    """A topology of Shotover means what it means there."""
    entry = {"ValkeySinkSingle": {"name": "s", "remote_address": "h:1", "connect_timeout_ms": 3000}}
    entry_with_defaults = {"ValkeySinkSingle": {
        **entry["ValkeySinkSingle"], "connection_mode": "dedicated", "connection_count": 1}}
    assert chain_of(entry) == [entry_with_defaults]


@pytest.mark.parametrize(
    "fields, problem",
    [
        ({"connection_count": 2}, "connection_count: it is for connection_mode: shared; "
         "a client has one connection otherwise"),
        ({"connection_mode": "shraed"}, None),
        ({"connection_mode": "shared", "connection_count": 0}, None),
    ],
)
def test_a_wrong_way_of_connecting_is_refused(fields, problem):
    """A count without sharing, a mode that there is none of, and no connection at all."""
    entry = {"ValkeySinkSingle": {
        "name": "s", "remote_address": "h:1", "connect_timeout_ms": 3000, **fields}}
    texts = {
        "connection_count": "found the number 0, wanted at least 1",
        "connection_mode": 'found the text "shraed", wanted one of dedicated, shared\n'
        '    did you mean "shared"?',
    }
    where = "topology.yaml  sources[0].Valkey.chain[0].ValkeySinkSingle"
    field = next(iter(fields)) if len(fields) == 1 else "connection_count"
    assert refused(sources(source(entry)), []) == [
        f"{where}: {problem}" if problem else f"{where}.{field}: {texts[field]}"]


@pytest.mark.parametrize(
    "fields", [{}, {"Valkey": "x", "Fail": None}, {"Valkey": None}], ids=["none", "both", "null"])
def test_a_returner_has_exactly_one_answer(fields):
    """None and both are told the same."""
    assert refused(sources(source({"DebugReturner": {"name": "r", **fields}})), []) == [
        'topology.yaml  sources[0].Valkey.chain[0].DebugReturner: Provide exactly one of: '
        '* Valkey: "text" * Fail: null']


@pytest.mark.parametrize(
    "fields", [{}, {"AllowList": [], "DenyList": []}, {"AllowList": None}], ids=["none", "both", "null"])
def test_a_filter_has_exactly_one_list(fields):
    """None and both are told the same."""
    assert refused(sources(source({"QueryTypeFilter": {"name": "f", **fields}}, NULL)), []) == [
        "topology.yaml  sources[0].Valkey.chain[0].QueryTypeFilter: Provide exactly one of: "
        "* AllowList * DenyList"]


def test_a_filter_knows_its_query_types():
    """A wrong type is told with the right ones."""
    entry = {"QueryTypeFilter": {"name": "f", "AllowList": ["Read", "write"]}}
    assert refused(sources(source(entry, NULL)), []) == [
        'topology.yaml  sources[0].Valkey.chain[0].QueryTypeFilter.AllowList[1]: found the text '
        '"write", wanted one of Read, Write, ReadWrite, SchemaChange, PubSubMessage\n'
        '    did you mean "Write"?']


def test_a_sink_needs_an_address():
    """Both fields of a sink are required, and the time is not negative."""
    entry = {"ValkeySinkSingle": {"name": "s", "connect_timeout_ms": -1}}
    assert refused(sources(source(entry)), []) == [
        "topology.yaml  sources[0].Valkey.chain[0].ValkeySinkSingle.remote_address: missing field",
        "topology.yaml  sources[0].Valkey.chain[0].ValkeySinkSingle.connect_timeout_ms: "
        "found the number -1, wanted at least 0"]


def test_a_sink_of_another_protocol_is_refused():
    """A Valkey sink cannot stand behind a Tcp source."""
    entry = {"NullSink": {"name": "n"}}
    assert refused(sources(source(entry, kind="Tcp")), []) == [
        "topology.yaml  sources[0].Tcp.chain[0].NullSink: Transform NullSink requires upchain "
        "protocol to be one of [Valkey] but was Tcp"]
