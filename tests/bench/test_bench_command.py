"""The benchmark runs with real processes and says what it could not run. No test looks at a speed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench import redis_benchmark
from bench.candidates import CANDIDATES, makers
from bench.peers import Missing, answers
from bench.redis_benchmark import PROGRAM
from bench.results import Results
from bench.scenarios import SCENARIOS
from bench.stage import Stage
from shotover_gevent.sinks.valkey_single import ValkeySinkSingle
from shotover_gevent.testing.port import free_port
from shotover_gevent.testing.server import RealServer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def programs(pytestconfig: pytest.Config, redis_server: RealServer) -> None:
    """Skip, or fail, unless HAProxy and redis-benchmark are installed as the distribution has them."""
    if absent := [name for name in ("haproxy", PROGRAM) if shutil.which(name) is None]:
        reason = f"not on PATH: {', '.join(absent)}; apt-get install haproxy redis-tools"
        require = pytestconfig.getoption("--require-servers")
        pytest.fail(reason, pytrace=False) if require else pytest.skip(reason)


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the benchmark to its end."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL, timeout=110)


@pytest.mark.usefixtures("programs")
def test_a_quick_run_measures_who_is_there_and_names_who_is_not(tmp_path: Path) -> None:
    """Three candidates are measured once; Shotover Proxy, whose path was not given, is named."""
    file = tmp_path / "results.json"
    result = run("bench", "--quick", "--scenarios", "unpipelined", "--json", str(file),
                 "--candidates", "none,haproxy,shotover,tcp")
    assert result.returncode == 0, result.stderr
    found = json.loads(file.read_text())
    rates = {name: len(metrics["rate"]) for name, metrics in found["rounds"]["unpipelined"].items()}
    assert rates == {"none": 1, "haproxy": 1, "tcp": 1}
    assert (list(found["missing"]), found["failures"]) == (["shotover"], [])
    assert "Did not take part: shotover: its binary is not known; name it by --shotover PATH" in result.stdout
    assert "A quick run: it shows that everything works, its figures mean nothing." in result.stdout


@pytest.mark.usefixtures("programs")
def test_the_guard_records_ratios_to_haproxy(tmp_path: Path) -> None:
    """It prints a ratio for each of ours, and writes them with the rates that they come from."""
    file = tmp_path / "guard.json"
    result = run("bench.guard", "--rounds", "1", "--seconds", "0.2", "--json", str(file))
    assert result.returncode == 0, result.stderr
    found = json.loads(file.read_text())
    assert [line.rpartition(": ")[0] for line in result.stdout.splitlines()] == [
        f"guard: throughput of {name}, one request in flight" for name in ("tcp", "valkey")]
    for name in ("tcp", "valkey"):
        assert found["ratios"][name] == round(found["rates"][name][0] / found["rates"]["haproxy"][0], 3)


def test_the_command_is_what_the_tests_run() -> None:
    """``scripts/bench`` makes the environment and becomes ``python -m bench``."""
    last = (ROOT / "scripts" / "bench").read_text().splitlines()[-1]
    assert last.endswith('exec "$VENV/bin/python" -m bench "$@"')


@pytest.mark.parametrize(("arguments", "text"), [
    (["--scenarios", "latency,speed"], f"unknown: speed (choose from {', '.join(SCENARIOS)})"),
    (["--candidates", "squid"], f"unknown: squid (choose from {', '.join(CANDIDATES)})"),
    (["--rounds", "0"], "0 is not above zero"),
    (["--seconds", "-1"], "-1 is not above zero"),
])
def test_usage_errors_are_told(arguments: list[str], text: str) -> None:
    """A name or number that is none starts nothing."""
    result = run("bench", *arguments)
    assert (result.returncode, text in result.stderr) == (2, True), result.stderr


def refusal(name: str, upstream: int, shotover: str = "") -> str:
    """Why a candidate cannot take part."""
    (_, make), = makers([name], 10, shotover)
    with pytest.raises(Missing) as caught:
        make(upstream).start()
    return str(caught.value)


def test_a_candidate_that_is_not_installed_says_what_would_help(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With nothing on PATH, each peer names its program and its package."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [refusal(name, 1) for name in ("haproxy", "nginx")] == [
        "haproxy is not on PATH; on Debian: apt-get install haproxy",
        "nginx is not on PATH; on Debian: apt-get install nginx libnginx-mod-stream"]
    assert refusal("shotover", 1, str(tmp_path / "absent")) == f"{tmp_path}/absent cannot be executed"


@pytest.mark.parametrize("name", [name for name in CANDIDATES if name != "shotover"])
def test_a_candidate_answers_and_leaves_nothing_behind(
    name: str, redis_server: RealServer, pytestconfig: pytest.Config
) -> None:
    """It passes requests to the database, costs CPU time and memory, and is gone after the block."""
    results = Results()
    with Stage(redis_server.binary, makers([name], 10), 10, results, print) as stage:
        if results.missing:
            # CI has HAProxy and this checkout; for the others this is a test where they are installed.
            assert name not in ("haproxy", "tcp", "valkey") or not pytestconfig.getoption("--require-servers")
            pytest.skip(results.missing[name])
        (peer,) = stage.peers
        tree, port, folder = peer.tree, peer.port, peer.folder
        assert (answers(port), results.candidates[0]["name"]) == (True, name)
        assert tree is None or (tree.cpu_s() > 0, tree.memory_bytes() > 100_000) == (True, True)
    assert (answers(port), name == "none" or folder.exists()) == (False, name == "none")


def test_shared_connections_are_measured_if_the_checkout_has_them() -> None:
    """The candidate takes part from the day on which the sink has the field."""
    (_, make), = makers(["valkey-shared"], 10)
    if "connection_mode" in ValkeySinkSingle.model_fields:
        assert make(1).name == "valkey-shared"
    else:
        assert "connection_mode: unknown field" in refusal("valkey-shared", 1)


def test_a_candidate_that_ends_at_once_says_what_it_logged(tmp_path: Path) -> None:
    """Its code and its last lines are the reason; nothing of it is left."""
    program = tmp_path / "shotover"
    program.write_text("#!/bin/sh\necho no such thing >&2\nexit 3\n")
    program.chmod(0o755)
    assert refusal("shotover", 1, str(program)) == "it ended with code 3: no such thing"


def test_shotover_is_asked_in_the_dialect_of_its_releases_too(tmp_path: Path) -> None:
    """A binary that does not know the fields of the development version is started without them."""
    program = tmp_path / "shotover"
    program.write_text(
        "#!/bin/sh\n"
        "if grep -q counter_name topology.yaml; then echo 'unknown field `counter_name`'; exit 1; fi\n"
        "echo \"read: $(grep -c QueryCounter topology.yaml) $5 $6\"\nexit 4\n")
    program.chmod(0o755)
    assert refusal("shotover", 1, str(program)) == "it ended with code 4: read: 1 --core-threads 1"


def test_load_that_is_not_answered_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port where nobody listens is told after some time, with the command line."""
    monkeypatch.setattr(redis_benchmark, "RUN_S", 0.2)
    if shutil.which(PROGRAM) is None:
        pytest.skip(redis_benchmark.HINT)
    with pytest.raises(redis_benchmark.LoadError, match="no end within 0.2 s: redis-benchmark -p"):
        redis_benchmark.run(free_port(), 10, "PING")
