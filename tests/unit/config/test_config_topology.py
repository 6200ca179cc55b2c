"""Topologies: what is accepted, and every located problem."""

import pytest
from config_samples import SAMPLES, Count, End, Fork, Pass, read, refusal, refused, source, sources

from shotover_gevent.config.registry import Registry
from shotover_gevent.config.topology import SourceEntry, load_topology
from shotover_gevent.errors import ConfigError
from shotover_gevent.net.address import Address

KNOWN = ", ".join(Registry(SAMPLES).names())


def in_chain(entry):
    """A topology whose chain begins, in line 6, with ``entry``."""
    return (
        "sources:\n  - Valkey:\n      name: edge\n      listen_addr: '127.0.0.1:0'\n"
        f"      chain:\n        - {entry}\n        - End: {{name: end}}\n"
    )


def test_a_topology_is_its_sources_with_their_chains():
    """Every field is there, absent ones with their defaults."""
    topology = read("""
sources:
  - Valkey:
      name: "one"
      listen_addr: "[::1]:6379"
      connection_limit: 7
      hard_connection_limit: true
      timeout: 60
      chain:
        - Count: {name: c, counter_name: main, words: [a, b]}
        - Fork: {name: f, chain: [{Pass: {name: p}}, {End: {name: e}}]}
        - End: {name: sink, remote_address: "db:1"}
  - Tcp:
      name: "two"
      listen_addr: "localhost:0"
      chain:
        - End: {name: last}
""")
    assert topology.sources == (
        SourceEntry("Valkey", "one", Address("::1", 6379), 7, True, 60, (
            Count(name="c", counter_name="main", words=["a", "b"]),
            Fork(name="f", chain=[Pass(name="p"), End(name="e")]),
            End(name="sink", remote_address="db:1"),
        )),
        SourceEntry("Tcp", "two", Address("localhost", 0), 512, False, None, (End(name="last"),)),
    )


def test_data_and_objects_make_the_same_topology_as_a_text():
    """An embedding program may write dictionaries, configuration objects, or both."""
    mixed = sources(source({"Pass": {"name": "p"}}, End(name="e")))
    text = (
        "sources: [{Valkey: {name: edge, listen_addr: '127.0.0.1:0', "
        "chain: [{Pass: {name: p}}, {End: {name: e}}]}}]"
    )
    assert read(mixed) == read(text)


def test_data_of_the_caller_is_not_changed():
    """Nulls are dropped and types without fields completed in a copy."""
    data = sources(source({"End": {"name": "e", "remote_address": None}}, timeout=None, tls=None))
    read(data)
    assert data == sources(
        source({"End": {"name": "e", "remote_address": None}}, timeout=None, tls=None))


def test_null_is_as_good_as_absent_for_optional_fields():
    """A key with nothing after it takes the default, in sources, steps and sub-chains."""
    topology = read("""
sources:
  - Valkey:
      name: edge
      listen_addr: "127.0.0.1:0"
      connection_limit:
      hard_connection_limit: ~
      timeout: null
      tls:
      chain:
        - Fork: {name: f, mismatch: , chain: [{Count: {name: c, counter_name: m, size: }}, {End: {name: x}}]}
        - End: {name: end, remote_address: }
""")
    (entry,) = topology.sources
    assert (entry.connection_limit, entry.hard_connection_limit, entry.timeout) == (512, False, None)
    assert entry.chain[0].chain[0].size == 3


def test_a_null_that_was_written_can_be_told_from_an_absent_one():
    """A flattened enum such as ``Fail: null`` is recognised by the set of given fields."""
    (entry,) = read(sources(source({"End": {"name": "e", "remote_address": None}}))).sources
    assert entry.chain[0].model_fields_set == {"name", "remote_address"}


def test_a_text_field_takes_plain_numbers_and_booleans_as_they_are_written():
    """Shotover reads them so; what is written matters, not what it would mean."""
    topology = read("""
sources:
  - Valkey:
      name: 0x10
      listen_addr: "127.0.0.1:0"
      chain:
        - Fork: {name: 1.50, chain: [{Count: {name: True, counter_name: 7}}, {End: {name: 012}}]}
        - End: {name: on}
""")
    (entry,) = topology.sources
    fork, end = entry.chain
    inner = [(step.name, getattr(step, "counter_name", None)) for step in fork.chain]
    assert (entry.name, fork.name, inner, end.name) == (
        "0x10", "1.50", [("True", "7"), ("012", None)], "on")


def test_a_topology_describes_itself_in_plain_values():
    """The description has the shape of the file; written nulls are in it, absent ones are not."""
    topology = read(sources(source(
        {"Fork": {"name": "f", "chain": [{"End": {"name": "e", "remote_address": None}}]}},
        {"End": {"name": "g"}}, timeout=3,
    )))
    assert topology.describe() == {"sources": [{"Valkey": {
        "name": "edge", "listen_addr": "127.0.0.1:0", "connection_limit": 512,
        "hard_connection_limit": False, "timeout": 3,
        "chain": [
            {"Fork": {"name": "f", "chain": [{"End": {"name": "e", "remote_address": None}}]}},
            {"End": {"name": "g"}},
        ],
    }}]}


@pytest.mark.parametrize(
    ("entry", "problems"),
    [
        ("End: {name: e1, adress: x}",
         ["topology.yaml:6:27  sources[0].Valkey.chain[0].End.adress: unknown field\n"
          '    did you mean "remote_address"?']),
        ("End: {name: e1, remote_address: x, remote_adress: y}",
         ["topology.yaml:6:46  sources[0].Valkey.chain[0].End.remote_adress: unknown field\n"
          "    known fields: name, remote_address, connect_timeout_ms"]),
        ("Pass: {name: p, zzz: x}",
         ["topology.yaml:6:27  sources[0].Valkey.chain[0].Pass.zzz: unknown field\n"
          "    known fields: name"]),
        ("End: {name: e1, tls: {verify_hostname: true}}",
         ["topology.yaml:6:27  sources[0].Valkey.chain[0].End.tls: unknown field\n"
          "    known fields: name, remote_address, connect_timeout_ms"]),
        ("Count: {name: c}",
         ["topology.yaml:6:11  sources[0].Valkey.chain[0].Count.counter_name: missing field"]),
        ("Count: {name: c, counter_name: }",
         ["topology.yaml:6:41  sources[0].Valkey.chain[0].Count.counter_name: "
          "found null, wanted a text"]),
        ("Count: {name: c, counter_name: [x]}",
         ["topology.yaml:6:42  sources[0].Valkey.chain[0].Count.counter_name: "
          "found a list, wanted a text"]),
        ("Count: {name: c, counter_name: x, size: '3'}",
         ["topology.yaml:6:51  sources[0].Valkey.chain[0].Count.size: "
          'found the text "3", wanted an integer\n    write 3, without quotes or leading zeros']),
        ("Count: {name: c, counter_name: x, size: 3.0}",
         ["topology.yaml:6:51  sources[0].Valkey.chain[0].Count.size: "
          "found the number 3.0, wanted an integer"]),
        ("Count: {name: c, counter_name: x, size: true}",
         ["topology.yaml:6:51  sources[0].Valkey.chain[0].Count.size: "
          "found true, wanted an integer"]),
        ("Count: {name: c, counter_name: x, size: 012}",
         ["topology.yaml:6:51  sources[0].Valkey.chain[0].Count.size: "
          'found the text "012", wanted an integer\n    write 12, without quotes or leading zeros']),
        ("Count: {name: c, counter_name: x, is_loud: yes}",
         ["topology.yaml:6:54  sources[0].Valkey.chain[0].Count.is_loud: "
          'found the text "yes", wanted true or false\n    write true']),
        ("Count: {name: c, counter_name: x, is_loud: 1}",
         ["topology.yaml:6:54  sources[0].Valkey.chain[0].Count.is_loud: "
          "found the number 1, wanted true or false"]),
        ("Count: {name: c, counter_name: x, words: {a: b}}",
         ["topology.yaml:6:52  sources[0].Valkey.chain[0].Count.words: "
          "found a map, wanted a list"]),
        ("Count: {name: c, counter_name: x, words: [a, {b: c}]}",
         ["topology.yaml:6:56  sources[0].Valkey.chain[0].Count.words[1]: "
          "found a map, wanted a text"]),
        ("Count: [c]",
         ["topology.yaml:6:18  sources[0].Valkey.chain[0].Count: found a list, wanted a map"]),
        ("Pass",
         ['topology.yaml:6:11  sources[0].Valkey.chain[0]: found the text "Pass", '
          "wanted a map of one key, the type of the transform\n    write Pass: {name: ...}"]),
        ("Pass:",
         ["topology.yaml:6:11  sources[0].Valkey.chain[0].Pass.name: missing field"]),
        ("[Pass]",
         ["topology.yaml:6:11  sources[0].Valkey.chain[0]: found a list, "
          "wanted a map of one key, the type of the transform"]),
        ("{}",
         ["topology.yaml:6:11  sources[0].Valkey.chain[0]: found a map of 0 keys (none), "
          "wanted a map of one key, the type of the transform"]),
        ("{Pass: , name: p}",
         ["topology.yaml:6:11  sources[0].Valkey.chain[0]: found a map of 2 keys (Pass, name), "
          "wanted a map of one key, the type of the transform\n"
          '    indent the fields further than "Pass:"']),
        ("Cuont: {name: c}",
         ['topology.yaml:6:11  sources[0].Valkey.chain[0].Cuont: unknown transform type "Cuont"\n'
          f'    did you mean "Count"? known types: {KNOWN}']),
        ("Fork: {name: f, chain: [{End: {name: x, adress: y}}, Pass, {Zzzzz: {}}]}",
         ["topology.yaml:6:51  sources[0].Valkey.chain[0].Fork.chain[0].End.adress: unknown field\n"
          '    did you mean "remote_address"?',
          'topology.yaml:6:64  sources[0].Valkey.chain[0].Fork.chain[1]: found the text "Pass", '
          "wanted a map of one key, the type of the transform\n    write Pass: {name: ...}",
          "topology.yaml:6:71  sources[0].Valkey.chain[0].Fork.chain[2].Zzzzz: "
          f'unknown transform type "Zzzzz"\n    known types: {KNOWN}']),
        ("Fork: {name: f, chain: {End: {name: x}}}",
         ["topology.yaml:6:34  sources[0].Valkey.chain[0].Fork.chain: found a map, wanted a list"]),
        ("Coalesce: {name: c}",
         ["topology.yaml:6:11  sources[0].Valkey.chain[0].Coalesce: "
          "Provide at least one of: * count But none were."]),
        ("Fork: {name: f, chain: [{Pass: {name: end}}]}",
         ["topology.yaml:6:36  sources[0].Valkey.chain[0].Fork.chain[0].Pass: Non-terminating "
          'Transform Pass named "end" is last in chain. Last Transform must be terminating.',
          'topology.yaml:7:23  sources[0].Valkey.chain[1].End.name: duplicate transform name "end"\n'
          '    first used by Transform[0] Pass named "end" in source[0] "edge" chain "edge" '
          '-> subchain "f" (from Transform Fork named "f") (line 6)']),
        ("Fork: {name: f, chain: []}",
         ["topology.yaml:6:11  sources[0].Valkey.chain[0].Fork: Chain cannot be empty"]),
    ],
)
def test_a_problem_of_a_step_names_its_place_what_was_found_and_a_way_out(entry, problems):
    """The whole sentence, for every way to get a step wrong."""
    assert refused(in_chain(entry)) == problems


@pytest.mark.parametrize(
    ("fields", "problems"),
    [
        ("connection_limit: -1",
         ["topology.yaml:5:25  sources[0].Valkey.connection_limit: "
          "found the number -1, wanted at least 0"]),
        ("connection_limit: 18446744073709551616",
         ["topology.yaml:5:25  sources[0].Valkey.connection_limit: found the number "
          "18446744073709551616, wanted at most 18446744073709551615"]),
        ("timeout: 1.5",
         ["topology.yaml:5:16  sources[0].Valkey.timeout: "
          "found the number 1.5, wanted an integer"]),
        ("hard_connection_limit: on",
         ["topology.yaml:5:30  sources[0].Valkey.hard_connection_limit: "
          'found the text "on", wanted true or false\n    write true']),
        ("tls: {certificate_path: a}",
         ["topology.yaml:5:7  sources[0].Valkey.tls.private_key_path: missing field"]),
        ("conection_limit: 3",
         ["topology.yaml:5:7  sources[0].Valkey.conection_limit: unknown field\n"
          '    did you mean "connection_limit"?']),
        ("transport: Tcp",
         ["topology.yaml:5:7  sources[0].Valkey.transport: unknown field\n"
          "    known fields: name, listen_addr, connection_limit, hard_connection_limit, timeout, "
          "tls, chain"]),
        ("name: again",
         ["topology.yaml:5:7  sources[0].Valkey.name: written twice; the first is in line 3"]),
    ],
)
def test_a_problem_of_a_source_names_its_place(fields, problems):
    """The whole sentence, for every way to get a field of a source wrong."""
    assert refused(
        "sources:\n  - Valkey:\n      name: edge\n      listen_addr: '127.0.0.1:0'\n"
        f"      {fields}\n      chain: [{{End: {{name: e}}}}]\n") == problems


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("[]", ['topology.yaml:1:1  found a list, wanted a map with the key "sources"']),
        ("a text", ['topology.yaml:1:1  found the text "a text", wanted a map with the key "sources"']),
        ("{}", ["topology.yaml:1:1  sources: missing field"]),
        ("sources:", ["topology.yaml:1:9  sources: found null, wanted a list"]),
        ("sources: {a: b}", ["topology.yaml:1:10  sources: found a map, wanted a list"]),
        ("source: []\nother: 1",
         ["topology.yaml:1:1  source: unknown field\n    did you mean \"sources\"?",
          "topology.yaml:1:1  sources: missing field",
          "topology.yaml:2:1  other: unknown field\n    known fields: sources"]),
        ("sources: [Valkey]",
         ['topology.yaml:1:11  sources[0]: found the text "Valkey", wanted a map of one key, '
          "the type of the source\n    write Valkey: {name: ...}"]),
        ("sources:\n  - Valkey:\n    name: x",
         ["topology.yaml:2:5  sources[0]: found a map of 2 keys (Valkey, name), wanted a map of "
          'one key, the type of the source\n    indent the fields further than "Valkey:"']),
        ("sources:\n  - Valkey:",
         ["topology.yaml:2:5  sources[0].Valkey.name: missing field",
          "topology.yaml:2:5  sources[0].Valkey.listen_addr: missing field",
          "topology.yaml:2:5  sources[0].Valkey.chain: missing field"]),
        ("sources:\n  - Valkey: 3", ["topology.yaml:2:13  sources[0].Valkey: found the number 3, wanted a map"]),
        ("sources:\n  - Redis: {}",
         ['topology.yaml:2:5  sources[0].Redis: unknown source type "Redis"\n'
          "    known types: Tcp, Valkey"]),
        ("sources:\n  - Kafka: {}\n  - Cassandra: {}\n  - OpenSearch: {}",
         [f"topology.yaml:{line}:5  sources[{line - 2}].{kind}: the source {kind} is not "
          "supported by this version yet\n    supported sources: Tcp, Valkey"
          for line, kind in enumerate(["Kafka", "Cassandra", "OpenSearch"], 2)]),
        ("sources:\n  - Valkey: {name: a, listen_addr: x, chain: {}}",
         ["topology.yaml:2:36  sources[0].Valkey.listen_addr: Invalid listening address \"x\", "
          "must follow the format ip_address:port e.g. 10.0.0.1:9042\n"
          "    'x' has no port; write host:port, e.g. 10.0.0.1:9042",
          "topology.yaml:2:46  sources[0].Valkey.chain: found a map, wanted a list"]),
    ],
)
def test_a_problem_of_the_shape_of_the_file_names_its_place(text, problems):
    """The whole report, for every way to get the outer shape wrong."""
    assert refused(text) == problems


def test_the_transforms_of_shotover_that_are_missing_are_known_by_name():
    """They are no typing errors, and nothing similar is suggested."""
    problem, _ = refusal(in_chain("KafkaSinkCluster: {name: k}"), []).problems
    assert (problem.line, problem.column, problem.message, problem.suggestion) == (
        6, 11, "KafkaSinkCluster is not supported by this version yet",
        f"supported transforms: {', '.join(Registry().names())}",
    )


def test_all_problems_of_all_sources_come_together_in_file_order():
    """What cannot be read hides nothing else; a step that cannot be read is not taken as missing."""
    error = refusal("""\
sources:
  - Valkey:
      name: a
      listen_addr: "127.0.0.1:0"
      nmae: x
      chain:
        - End: {name: e}
        - Zzzzz: {name: n}
  - Valkey:
      name: a
      listen_addr: nowhere
      chain: [{Pass: {name: e}}, {End: {}}]
""")
    assert [(p.line, p.column, p.path.removeprefix("sources"), p.message[:20]) for p in error.problems] == [
        (5, 7, "[0].Valkey.nmae", "unknown field"),
        (7, 11, "[0].Valkey.chain[0].End", "Terminating Transfor"),
        (8, 11, "[0].Valkey.chain[1].Zzzzz", 'unknown transform ty'),
        (10, 13, "[1].Valkey.name", "duplicate source nam"),
        (10, 13, "[1].Valkey.name", "duplicate chain name"),
        (11, 20, "[1].Valkey.listen_addr", "Invalid listening ad"),
        (12, 29, "[1].Valkey.chain[0].Pass.name", "duplicate transform "),
        (12, 35, "[1].Valkey.chain[1].End.name", "missing field"),
    ]
    assert error.chain == (
        "Failed to parse topology file topology.yaml",
        "sources[0].Valkey.nmae: unknown field at line 5 column 7\n"
        'sources[0].Valkey.chain[1].Zzzzz: unknown transform type "Zzzzz" at line 8 column 11\n'
        "sources[1].Valkey.chain[1].End.name: missing field at line 12 column 35",
    )


def test_problems_of_data_have_a_path_and_no_place():
    """There is no file to point into."""
    assert refused(sources(source({"End": {"name": 5}}))) == [
        "topology.yaml  sources[0].Valkey.chain[0].End.name: found the number 5, wanted a text\n"
        "    put it in quotes"]


def test_a_problem_is_one_line_of_printable_text():
    """Whatever a file holds, it can neither break the lines of a log nor drive a terminal."""
    assert refused('sources: [{"a\\e[31m\\n": {}}]') == [
        'topology.yaml:1:12  sources[0]["a\\u001b[31m\\n"]: '
        'unknown source type "a\\x1b[31m\\n"\n    known types: Tcp, Valkey']


def test_a_file_that_cannot_be_opened_is_two_causes(tmp_path):
    """The texts of Shotover's error chain, outermost first."""
    path = tmp_path / "none.yaml"
    with pytest.raises(ConfigError) as caught:
        load_topology(path)
    assert caught.value.chain == (
        f"Couldn't open the topology file {path}", "No such file or directory (os error 2)")
    assert [str(problem) for problem in caught.value.problems] == [
        f"{path}  cannot be opened: No such file or directory (os error 2)"]


def test_a_file_that_cannot_be_parsed_is_two_causes(tmp_path):
    """The second one names the place in Shotover's manner."""
    path = tmp_path / "t.yaml"
    path.write_bytes(b"sources:\n\t- x\n")
    with pytest.raises(ConfigError) as caught:
        load_topology(path)
    assert caught.value.chain == (
        f"Failed to parse topology file {path}",
        "a tab cannot stand here; YAML is indented by spaces at line 2 column 1")
