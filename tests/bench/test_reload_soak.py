"""The soak of the reload runs, counts, and prints what it says it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import gevent
import pytest

from bench.clients import Clients
from bench.reload_soak import COLUMNS
from shotover_gevent.testing.server import RealServer
from tests.client import Client, command

ROOT = Path(__file__).resolve().parents[2]


def test_a_short_soak_loses_nothing(redis_server: RealServer, tmp_path: Path) -> None:
    """Two reloads under ten clients: three generations, no error, and nothing left running."""
    file = tmp_path / "soak.json"
    result = subprocess.run(
        [sys.executable, "-m", "bench.reload_soak", "--reloads", "2", "--clients", "10", "--rate", "200",
         "--server", redis_server.binary.kind, "--json", str(file)],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    table = [line.split() for line in result.stdout.partition("\n\n")[0].splitlines()]
    found = json.loads(file.read_text())
    counts = [(each["errors"], each["reconnects"], each["moved"]) for each in found["generations"]]
    assert (table[0], [line[0] for line in table[1:]]) == (list(COLUMNS), ["1", "2", "3"])
    assert counts == [(0, 0, 0), (0, 0, 10), (0, 0, 10)]
    assert [each["requests"] > 0 for each in found["generations"]] == [True] * 3
    assert [pid for each in found["generations"] if os.path.exists(f"/proc/{(pid := each['pid'])}/cmdline")
            and b"shotover" in Path(f"/proc/{pid}/cmdline").read_bytes()] == []


def test_wrong_replies_are_errors(redis_server: RealServer) -> None:
    """A client that is told another number than its own counts an error and goes on."""
    with Clients(redis_server.port, 1, rate=200) as clients:
        clients.take()
        spoil(redis_server.port)
        with gevent.Timeout(20):
            while not clients.count.errors:
                gevent.sleep(0.005)
        found = clients.take()
    assert (found.errors, found.reconnects, found.texts[0].partition(",")[0]) == (1, 0, "soak:0")


def spoil(port: int) -> None:
    """Count once in the place of the client."""
    with Client(port) as client:
        client.send(command("INCR", "soak:0"))
        client.until(b"\r\n")


@pytest.mark.parametrize("option", ["--reloads", "--clients"])
def test_usage_errors_are_told(option: str) -> None:
    """A number that is none starts nothing."""
    result = subprocess.run(
        [sys.executable, "-m", "bench.reload_soak", option, "many"], cwd=ROOT, capture_output=True,
        text=True, timeout=60, check=False)
    assert (result.returncode, "invalid int value: 'many'" in result.stderr) == (2, True)
