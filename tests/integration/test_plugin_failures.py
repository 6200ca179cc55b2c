"""A transform of somebody else that fails before the start is reported as a problem of the topology."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import free_port

MODULE = '''\
from shotover_gevent.sinks.null import NullSink


class Broken(NullSink):
    def build(self, context):
        raise RuntimeError("no luck")
'''

TOPOLOGY = """\
sources:
  - Valkey:
      name: "v"
      listen_addr: "127.0.0.1:{port}"
      chain:
        - broken_plugin.Broken: {{name: "b"}}
"""

REPORT = """\
topology.yaml:6:11  sources[0].Valkey.chain[0].broken_plugin.Broken: build() raised RuntimeError: no luck
    the code of Broken failed at broken_plugin.py:6: mend that, or what it needs, or take the entry out
1 problem"""


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_transform_that_cannot_be_built_is_reported_with_its_place(command: str, tmp_path: Path) -> None:
    """Exit code 78, no traceback; for ``serve`` on standard error, for ``check`` on standard output."""
    (tmp_path / "broken_plugin.py").write_text(MODULE)
    (tmp_path / "topology.yaml").write_text(TOPOLOGY.format(port=free_port()))
    (tmp_path / "config.yaml").write_text("main_log_level: info\n")
    result = subprocess.run(
        [sys.executable, "-m", "shotover_gevent", command, "-t", "topology.yaml", "-c", "config.yaml"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    told = result.stderr if command == "serve" else result.stdout
    ending = "; nothing was started\n" if command == "serve" else "\n"
    assert (result.returncode, told, "Traceback" in result.stdout) == (78, REPORT + ending, False)
