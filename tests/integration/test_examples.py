"""The examples do what they say."""

from __future__ import annotations

import os
import re
import subprocess
import textwrap
import sys
from pathlib import Path

import pytest
import yaml

from shotover_gevent.testing.server import RealServer
from tests.harness import Client, ProxyProcess, command, free_port

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def at(text: str, port: int, upstream: int, mode: str) -> str:
    """An example's topology, with other ports, in that mode."""
    return text.replace("127.0.0.1:6380", f"127.0.0.1:{port}").replace(
        "127.0.0.1:6379", f"127.0.0.1:{upstream}").replace(
        "connect_timeout_ms", f"connection_mode: {mode}\n            connect_timeout_ms")


def readme_blocks(language: str) -> list[str]:
    """The code blocks of the README in that language."""
    text = (EXAMPLES.parent / "README.rst").read_text()
    found = re.findall(rf"\.\. code-block:: {language}\n\n((?:   .*\n|\n)+)", text)
    return [textwrap.dedent(block) for block in found]


def run(*args: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(args, capture_output=True, text=True, check=False, timeout=60)


def test_the_topology_forwards_to_your_own_server(server: RealServer, mode: str) -> None:
    """The first example of the README stands in front of a real server."""
    port, key = free_port(), f"example:{os.getpid()}"
    topology = at((EXAMPLES / "topology.yaml").read_text(), port, server.port, mode)
    config = (EXAMPLES / "config.yaml").read_text().replace("9001", str(free_port()))
    with ProxyProcess(topology, config) as proxy:
        proxy.wait_ready()
        with Client(port) as client:
            client.ask(command("SET", key, "hello"), b"+OK\r\n")
            client.ask(command("GET", key), b"$5\r\nhello\r\n")


@pytest.mark.parametrize("origin", ["example", "readme"])
def test_a_custom_transform_is_named_by_its_dotted_path(
    server: RealServer, mode: str, origin: str, tmp_path: Path
) -> None:
    """GET is answered by the configured value, everything else by the server."""
    port, key, folder = free_port(), f"rewrite:{os.getpid()}", EXAMPLES / "custom_transform"
    topology = at((folder / "topology.yaml").read_text(), port, server.port, mode)
    if origin == "readme":
        folder = tmp_path
        (folder / "get_rewrite.py").write_text(readme_blocks("python")[-1])
    with ProxyProcess(topology, env={"PYTHONPATH": str(folder)}), Client(port) as client:
        client.send(command("SET", key, "hello") + command("get", key) + command("STRLEN", key))
        client.expect(b"+OK\r\n$9\r\nrewritten\r\n:5\r\n")


def test_two_proxies_live_in_one_program() -> None:
    """The embedding program serves its clients and ends by itself."""
    result = run(sys.executable, str(EXAMPLES / "embedding.py"), str(free_port()), str(free_port()))
    lines = sorted(result.stdout.splitlines())
    answers = [rf"client {number}: b'$2\r\n42\r\n'" for number in range(3)]
    assert (result.returncode, lines) == (0, ["both proxies have ended", *answers]), result.stderr


@pytest.mark.parametrize("folder", [EXAMPLES, EXAMPLES / "custom_transform"], ids=lambda path: path.name)
def test_the_examples_pass_the_check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``shotover-gevent check`` finds nothing wrong with what we tell others to copy."""
    monkeypatch.setenv("PYTHONPATH", str(folder))
    result = run(sys.executable, "-m", "shotover_gevent", "check",
                 "-t", str(folder / "topology.yaml"), "-c", str(EXAMPLES / "config.yaml"))
    assert (result.returncode, result.stderr) == (0, "")


def test_the_readme_shows_the_same_files() -> None:
    """What the README tells to write is what the examples hold."""
    shown = [yaml.safe_load(block) for block in readme_blocks("yaml")]
    custom = yaml.safe_load((EXAMPLES / "custom_transform" / "topology.yaml").read_text())
    assert shown == [
        yaml.safe_load((EXAMPLES / "config.yaml").read_text()),
        yaml.safe_load((EXAMPLES / "topology.yaml").read_text()),
        {"chain": custom["sources"][0]["Valkey"]["chain"][:1]},
    ]
