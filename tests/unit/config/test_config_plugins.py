"""Code of others that fails is a problem with a place, like a typing error."""

from __future__ import annotations

from pathlib import Path

import pytest

from shotover_gevent import Proxy
from shotover_gevent.config.check import check_files
from shotover_gevent.errors import ConfigError
from shotover_gevent.sinks.null import NullSink

MODULE = '''\
from pydantic import field_validator

from shotover_gevent.sinks.null import NullSink


class Unbuildable(NullSink):
    def build(self, context):
        raise FileNotFoundError(2, "No such file or directory", "key.pem")


class Unreadable(NullSink):
    size: int = 0

    @field_validator("size")
    @classmethod
    def check_size(cls, size):
        return {}[size]


class Unsure(NullSink):
    def problems(self):
        return 1 / 0


class Unlisted(NullSink):
    def subchains(self):
        return [self.missing]
'''

TOPOLOGY = """\
sources:
  - Valkey:
      name: v
      listen_addr: "127.0.0.1:0"
      chain:
        - {type}: {{name: first}}
  - Valkey:
      name: w
      listen_addr: "127.0.0.1:0"
      chain:
        - NullSink: {{name: sink}}
  - Valkey:
      name: x
      listen_addr: "127.0.0.1:0"
      chain:
        - {type}: {{name: second{more}}}
"""

WAY_OUT = "mend that, or what it needs, or take the entry out"
CASES = {
    "Unbuildable": (
        "build() raised FileNotFoundError: [Errno 2] No such file or directory: 'key.pem'",
        f"the code of Unbuildable failed at bad_plugin.py:8: {WAY_OUT}", [6, 16]),
    "Unreadable": (
        "validation raised KeyError: 7", f"the code of Unreadable failed at bad_plugin.py:17: {WAY_OUT}", [16]),
    "Unsure": (
        "problems() raised ZeroDivisionError: division by zero",
        f"the code of Unsure failed at bad_plugin.py:22: {WAY_OUT}", [6, 16]),
    "Unlisted": (
        "subchains() raised AttributeError: 'Unlisted' object has no attribute 'missing'",
        f"the code of Unlisted failed at bad_plugin.py:27: {WAY_OUT}", [6, 16]),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_plugin_raises_is_told_with_its_place(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the check, and when a proxy is made; each entry by itself."""
    (tmp_path / "bad_plugin.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    more = ", size: 7" if name == "Unreadable" else ""
    (tmp_path / "topology.yaml").write_text(TOPOLOGY.format(type=f"bad_plugin.{name}", more=more))
    (tmp_path / "config.yaml").write_text("main_log_level: info\n")
    checked = check_files(tmp_path / "config.yaml", tmp_path / "topology.yaml").problems
    with pytest.raises(ConfigError) as caught:
        Proxy(tmp_path / "topology.yaml")
    message, way_out, lines = CASES[name]
    wanted = [(line, 11, message, way_out) for line in lines]
    for problems in (checked, caught.value.problems):
        assert [(p.line, p.column, p.message, p.suggestion) for p in problems] == wanted


def test_an_embedding_program_is_told_the_path() -> None:
    """Data has no lines."""

    class Failing(NullSink):
        """Cannot be built."""

        def build(self, context: object) -> None:
            """Fail."""
            raise RuntimeError("no luck")

    chain = [{"Failing": {"name": "f"}}]
    source = {"name": "v", "listen_addr": "127.0.0.1:0", "chain": chain}
    with pytest.raises(ConfigError) as caught:
        Proxy({"sources": [{"Valkey": source}]}, transforms=[Failing])
    assert [(p.place, p.path, p.message) for p in caught.value.problems] == [
        ("<topology>", "sources[0].Valkey.chain[0].Failing", "build() raised RuntimeError: no luck")]
