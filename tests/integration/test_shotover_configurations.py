"""``check`` takes what Shotover takes, as far as the elements are there, and refuses what is broken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shotover_gevent.exits import EXIT_CONFIG
from tests.certificates import Authority

CONFIG = 'main_log_level: "info,shotover=info"\nobservability_interface: "127.0.0.1:9001"\n'

# One source with everything that a Valkey source and its transforms may have.
WHOLE = """\
sources:
  - Valkey:
      name: "v1"
      listen_addr: "127.0.0.1:6379"
      connection_limit: 1000
      hard_connection_limit: false
      timeout: 60
      tls: {certificate_path: "s.crt", private_key_path: "s.key", certificate_authority_path: "ca.crt"}
      chain:
        - QueryCounter: {name: "count", counter_name: "main"}
        - QueryTypeFilter: {name: "filter", DenyList: [SchemaChange]}
        - RequestThrottling: {name: "limit", max_requests_per_second: 20000}
        - Tee:
            name: "tee"
            behavior: LogWarningOnMismatch
            timeout_micros: 1000
            buffer_size: 100
            switch_port: 1231
            chain:
              - Coalesce: {name: "batcher", flush_when_buffered_message_count: 2000, flush_when_millis_since_last_flush: 1000}
              - ValkeySinkSingle: {name: "shadow", remote_address: "10.0.0.2:6379", connect_timeout_ms: 3000}
        - ValkeySinkSingle:
            name: "sink"
            remote_address: "10.0.0.3:6379"
            connect_timeout_ms: 3000
            tls: {certificate_authority_path: "ca.crt", verify_hostname: false}
"""

RETURNER = """\
sources:
  - Valkey:
      name: "v2"
      listen_addr: "127.0.0.1:6380"
      chain:
        - DebugPrinter: {name: "print"}
        - DebugReturner: {name: "ret", Valkey: "42"}
"""

PARALLEL = """\
sources:
  - Valkey:
      name: "v3"
      listen_addr: "127.0.0.1:6381"
      chain:
        - ParallelMap:
            name: "pmap"
            parallelism: 1
            ordered_results: true
            chain:
              - NullSink: {name: "null"}
"""

MISMATCH = WHOLE.replace("behavior: LogWarningOnMismatch", """behavior:
              SubchainOnMismatch:
                chain:
                  - NullSink: {name: "mismatches"}""")

VALID = {
    "whole": WHOLE,
    "without options": "\n".join(
        line for line in WHOLE.splitlines()
        if line.split(":")[0].strip() not in (
            "connection_limit", "hard_connection_limit", "timeout", "tls", "timeout_micros",
            "buffer_size", "switch_port", "behavior")) + "\n",
    "subchain on mismatch": MISMATCH,
    "ignore": WHOLE.replace("LogWarningOnMismatch", "Ignore"),
    "fail on mismatch": WHOLE.replace("LogWarningOnMismatch", "FailOnMismatch"),
    "without a CA": WHOLE.replace(', certificate_authority_path: "ca.crt"}', "}", 1),
    "returner": RETURNER,
    "failing returner": RETURNER.replace('Valkey: "42"', "Fail: null"),
    "parallel map": PARALLEL,
}

# What is written instead of what; where that is refused, and how.
BROKEN = [
    (WHOLE, 'counter_name: "main"', 'counter: "main"', "10:41", "unknown field"),
    (WHOLE, "connection_limit: 1000", "connection_limit: many", "5:25", "wanted an integer"),
    (WHOLE, "hard_connection_limit: false", "hard_connection_limit: no", "6:30", "wanted true or false"),
    (WHOLE, '"s.crt"', '"missing.crt"', "8:31", "No such file"),
    (WHOLE, "DenyList: [SchemaChange]", "DenyList: [Schema]", "11:56", "wanted one of"),
    (WHOLE, ", DenyList: [SchemaChange]", "", "11:11", "Provide exactly one of"),
    (WHOLE, "20000", "49", "12:11", "minimum allowed value of 50"),
    (WHOLE, "LogWarningOnMismatch", "LogOnMismatch", "15:23", "wanted one of Ignore"),
    (WHOLE, "buffer_size: 100", "buffer_size: -1", "17:26", "wanted at least 0"),
    (WHOLE, "Coalesce: {name: \"batcher\", flush_when_buffered_message_count: 2000, "
     "flush_when_millis_since_last_flush: 1000}", "Coalesce: {name: \"batcher\"}", "20:17", "Provide at least one of"),
    (WHOLE, 'remote_address: "10.0.0.2:6379"', 'remote_adress: "10.0.0.2:6379"', "21:52", "unknown field"),
    (WHOLE, 'remote_address: "10.0.0.3:6379"', 'remote_address: "10.0.0.3"', "22:11", "has no port"),
    (WHOLE, "verify_hostname: false", "verify_hostname: 1", "26:74", "wanted true or false"),
    (WHOLE, "- ValkeySinkSingle:\n            name: \"sink\"", "- ValkeySinkSingel:\n            name: \"sink\"",
     "22:11", "unknown transform type"),
    (RETURNER, ', Valkey: "42"', "", "7:11", "Provide exactly one of"),
    (RETURNER, '"print"', '"ret"', "7:33", "duplicate transform name"),
    (RETURNER, "- DebugPrinter: {name: \"print\"}\n        - DebugReturner: {name: \"ret\", Valkey: \"42\"}",
     "- DebugPrinter: {name: \"print\"}", "6:11", "Last Transform must be terminating"),
    (PARALLEL, "parallelism: 1", "parallelism: 0", "6:11", "parallelism must be greater than 0"),
    (PARALLEL, "ordered_results: true", "ordered: true", "9:13", "unknown field"),
    (PARALLEL, "NullSink: {name: \"null\"}", "QueryCounter: {name: \"c\", counter_name: \"c\"}", "11:17",
     "Last Transform must be terminating"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the certificates are that the topologies name."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority(folder)
    certificate, key = authority.issue()
    (folder / "s.crt").write_bytes(Path(certificate).read_bytes())
    (folder / "s.key").write_bytes(Path(key).read_bytes())
    (folder / "ca.crt").write_bytes(Path(authority.path).read_bytes())
    return folder


def check(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """What the command says of a topology."""
    (folder / "topology.yaml").write_text(text)
    (folder / "config.yaml").write_text(CONFIG)
    return subprocess.run(
        [sys.executable, "-m", "shotover_gevent", "check", "-t", "topology.yaml", "-c", "config.yaml"],
        cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", VALID)
def test_a_valid_configuration_is_accepted(folder: Path, name: str) -> None:
    """Each way of writing it that Shotover knows."""
    result = check(folder, VALID[name])
    assert (result.returncode, result.stdout.splitlines()[-1:]) == (0, ["no problems"]), result.stdout


@pytest.mark.parametrize(
    ("text", "old", "new", "place", "said"), BROKEN, ids=[f"{b[1][:30]}-{b[2][:30]}" for b in BROKEN])
def test_a_broken_one_is_refused_at_its_place(
    folder: Path, text: str, old: str, new: str, place: str, said: str
) -> None:
    """One thing is wrong, one problem is told, and where it stands in the file."""
    assert text.count(old) == 1
    result = check(folder, text.replace(old, new))
    told = result.stdout + result.stderr
    assert result.returncode == EXIT_CONFIG, told
    assert f"topology.yaml:{place}  " in told, told
    assert said in told, told
