"""Both files checked at once, for people and for programs."""

import json

from shotover_gevent.config.check import check_files
from shotover_gevent.config.registry import Registry

GOOD_CONFIG = 'main_log_level: "info"\n'
GOOD_TOPOLOGY = """\
sources:
  - Valkey:
      name: v
      listen_addr: "127.0.0.1:0"
      chain: [{NullSink: {name: n}}]
"""


def check(tmp_path, config, topology):
    (tmp_path / "config.yaml").write_text(config)
    (tmp_path / "topology.yaml").write_text(topology)
    return check_files(tmp_path / "config.yaml", tmp_path / "topology.yaml")


def test_two_good_files_have_no_problems(tmp_path):
    """What was understood is told, and that nothing is wrong with it."""
    found = check(tmp_path, GOOD_CONFIG, GOOD_TOPOLOGY)
    assert (found.as_text().replace(f"{tmp_path}/", ""), found.as_json()) == ("""\
config.yaml: logs 'info', no metrics
topology.yaml: 1 source
    Valkey 'v' on 127.0.0.1:0: NullSink 'n'
no problems""", '{"problems": []}')


def test_the_problems_of_both_files_come_together(tmp_path):
    """A wrong config does not hide what is wrong with the topology."""
    found = check(tmp_path, "level: info\n", GOOD_TOPOLOGY.replace("name: v", "nmae: v"))
    assert found.as_text().replace(f"{tmp_path}/", "") == """\
config.yaml:1:1  main_log_level: missing field
config.yaml:1:1  level: unknown field
    known fields: main_log_level, observability_interface
topology.yaml:2:5  sources[0].Valkey.name: missing field
topology.yaml:3:7  sources[0].Valkey.nmae: unknown field
    did you mean "name"?
4 problems"""


def test_programs_get_every_fact_of_a_problem(tmp_path):
    """One object with a list, each problem with the same keys."""
    found = check(tmp_path, GOOD_CONFIG, GOOD_TOPOLOGY.replace("NullSink", "NulSink"))
    assert json.loads(found.as_json()) == {"problems": [{
        "file": str(tmp_path / "topology.yaml"),
        "line": 5,
        "column": 16,
        "path": "sources[0].Valkey.chain[0].NulSink",
        "message": 'unknown transform type "NulSink"',
        "suggestion": f'did you mean "NullSink"? known types: {", ".join(Registry().names())}',
    }]}


TAKEN = """\
sources:
  - Valkey:
      name: a
      listen_addr: "127.0.0.1:7001"
      chain:
        - Tee: {name: t, switch_port: 7002, chain: [{NullSink: {name: n1}}]}
        - NullSink: {name: n2}
  - Tcp:
      name: b
      listen_addr: "127.0.0.1:7001"
      chain: [{TcpSinkSingle: {name: s, remote_address: "127.0.0.1:7001", connect_timeout_ms: 1}}]
  - Valkey:
      name: c
      listen_addr: "127.0.0.1:7003"
      chain:
        - FaultInjection:
            name: f
            switch_port: 7002
            faults: [{kind: close, percentage: 1}]
        - NullSink: {name: n3}
"""


def test_an_address_has_one_listener(tmp_path):
    """Sources, switches and the metrics: whoever comes second is told who was first."""
    found = check(tmp_path, GOOD_CONFIG + 'observability_interface: "127.0.0.1:7003"\n', TAKEN)
    assert [(str(each).split(":", 1)[1], each.path) for each in found.problems] == [
        ("10:20  sources[1].Tcp.listen_addr: source 'a' listens on 127.0.0.1:7001, too\n    choose another port",
         "sources[1].Tcp.listen_addr"),
        ("14:20  sources[2].Valkey.listen_addr: observability_interface of the configuration listens on "
         "127.0.0.1:7003, too\n    choose another port", "sources[2].Valkey.listen_addr"),
        ("18:26  sources[2].Valkey.chain[0].FaultInjection.switch_port: Tee 't' listens on 127.0.0.1:7002, too\n"
         "    choose another port", "sources[2].Valkey.chain[0].FaultInjection.switch_port"),
    ]


def test_ports_that_the_kernel_chooses_differ(tmp_path):
    """Two sources may both have port 0, and one port of two addresses is two addresses."""
    two = GOOD_TOPOLOGY + GOOD_TOPOLOGY.removeprefix("sources:\n").replace("name: v", "name: w").replace(
        "name: n", "name: m")
    other = two.replace(":0", ":7001").replace("127.0.0.1:7001", "127.0.0.2:7001", 1)
    assert [check(tmp_path, GOOD_CONFIG, each).problems for each in (two, other)] == [(), ()]
