"""What is in ``deploy/`` fits the program: the unit, the container, the manifests, alerts and dashboard."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import kubernetes_validate
import promql_parser
import pytest
import yaml

from shotover_gevent.cli import _parse
from shotover_gevent.config.check import check_files
from shotover_gevent.ctl import DRAIN_EXTRA_S
from shotover_gevent.exits import EXIT_CONFIG
from shotover_gevent.proxy import SHUTDOWN_GRACE_S
from tests.certificates import Authority
from tests.harness import ProxyProcess, eventually, free_port

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
SYSTEMD = DEPLOY / "systemd"
SERVICE = SYSTEMD / "shotover-gevent.service"
SOCKET = SYSTEMD / "shotover-gevent-edge.socket"
CONTAINERFILE = DEPLOY / "container/Containerfile"
DASHBOARD = DEPLOY / "grafana/dashboard.json"
ALERTS = DEPLOY / "prometheus/alerts.yaml"

# Where the unit has the program, and where the tests have it.
INSTALLED, HERE = "/opt/shotover-gevent/bin", str(Path(sys.executable).parent)

# The versions of Kubernetes that the manifests are for: those that are supported upstream, and an older one.
KUBERNETES = ("1.28", "1.33")

# Prometheus makes them itself.
OF_PROMETHEUS = {"up"}

# A chain that has what the alerts and the dashboard ask for.
TOPOLOGY = """\
sources:
  - Valkey:
      name: "v"
      listen_addr: "127.0.0.1:{port}"
      tls: {{certificate_path: "{certificate}", private_key_path: "{key}"}}
      chain:
        - QueryCounter: {{name: "count", counter_name: "main"}}
        - RequestThrottling: {{name: "limit", max_requests_per_second: 50}}
        - ValkeySinkSingle: {{name: "sink", remote_address: "127.0.0.1:1", connect_timeout_ms: 1000}}
"""

# What an operator looks at first: clients, requests, databases, reloads, and the process.
CORE = {
    "connections_opened", "process_cpu_seconds_total", "process_max_fds", "process_open_fds",
    "process_resident_memory_bytes", "shotover_available_connections_count",
    "shotover_chain_failures_count", "shotover_chain_latency_seconds", "shotover_chain_requests_batch_size",
    "shotover_chain_total_count", "shotover_connections_accept_failures_count",
    "shotover_failed_requests_count", "shotover_gevent_build_info", "shotover_gevent_bytes_received_count",
    "shotover_gevent_bytes_sent_count", "shotover_gevent_protocol_errors_count", "shotover_gevent_ready",
    "shotover_gevent_reload_longest_pause_seconds", "shotover_gevent_reload_sessions_count",
    "shotover_gevent_reload_timestamp_seconds", "shotover_gevent_reloads_count", "shotover_gevent_sessions",
    "shotover_gevent_sessions_ended_count", "shotover_gevent_upstream_connect_failures_count",
    "shotover_gevent_upstream_connections", "shotover_gevent_upstream_connects_count",
    "shotover_hub_lag_seconds", "shotover_listener_create_failures_count", "shotover_query_count",
    "shotover_sink_to_source_latency_seconds", "shotover_source_to_sink_latency_seconds",
    "shotover_transform_failures_count", "shotover_transform_latency_seconds",
}


def unit(path: Path) -> dict[str, dict[str, str]]:
    """The sections of a unit file, in which each key stands once."""
    parser = configparser.ConfigParser(interpolation=None, delimiters=["="], strict=True)
    parser.optionxform = str  # type: ignore[assignment]
    parser.read_string(path.read_text())
    return {name: dict(parser[name]) for name in parser.sections()}


def command(key: str) -> list[str]:
    """The arguments of a command line of the unit."""
    program, *arguments = shlex.split(unit(SERVICE)["Service"][key].removeprefix("-"))
    assert program == f"{INSTALLED}/shotover-gevent"
    return arguments


# -- systemd ------------------------------------------------------------------------------------


def systemd_analyze(*arguments: str) -> str:
    """Its output for the unit with the program of this environment; fails when it complains."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    result = subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    return result.stdout


@pytest.fixture
def units(tmp_path: Path) -> list[str]:
    """The unit files, with a program that exists."""
    for path in (SERVICE, SOCKET):
        (tmp_path / path.name).write_text(path.read_text().replace(INSTALLED, HERE))
    return [str(tmp_path / path.name) for path in (SERVICE, SOCKET)]


def test_systemd_accepts_the_units(units: list[str]) -> None:
    """``systemd-analyze verify`` has nothing to say."""
    assert systemd_analyze("verify", *units) == ""


def test_the_service_is_locked_down(units: list[str]) -> None:
    """Its exposure is what systemd calls OK, below 2 of 10."""
    systemd_analyze("security", "--offline=true", "--threshold=20", units[0])


@pytest.mark.parametrize("key", ["ExecStartPre", "ExecStart", "ExecReload", "ExecStop"])
def test_the_command_lines_of_the_unit_are_right(key: str) -> None:
    """The program takes them."""
    assert callable(_parse(command(key)).run)


def test_the_unit_agrees_with_itself() -> None:
    """One control socket, in the runtime directory; every wait is longer than what it waits for."""
    service = unit(SERVICE)["Service"]
    start, reload = _parse(command("ExecStart")), _parse(command("ExecReload"))
    check = _parse(command("ExecStartPre"))
    socket = f"/run/{service['RuntimeDirectory']}/control.sock"
    assert (start.hotreload_socket, reload.hotreload_socket) == (socket, socket)
    assert (check.topology_file, check.config_file) == (start.topology_file, start.config_file)
    assert int(service["TimeoutStartSec"]) > reload.timeout
    stop = _parse(command("ExecStop"))
    assert stop.hotreload_socket == socket
    assert int(service["TimeoutStopSec"]) > max(SHUTDOWN_GRACE_S, stop.seconds + DRAIN_EXTRA_S)
    assert str(EXIT_CONFIG) in service["RestartPreventExitStatus"].split()
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "all")
    # Each command of a unit would be in a user namespace of its own, and could not see the others.
    assert "PrivateUsers" not in service


def test_the_socket_unit_fits_the_example() -> None:
    """The name and the address are those of ``examples/topology.yaml``."""
    socket = unit(SOCKET)["Socket"]
    ((_, source),) = yaml.safe_load((ROOT / "examples/topology.yaml").read_text())["sources"][0].items()
    assert (socket["FileDescriptorName"], socket["ListenStream"]) == (source["name"], source["listen_addr"])
    assert socket["Service"] == SERVICE.name


# -- the container ------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """The instructions of the container file with their arguments."""
    text = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", CONTAINERFILE.read_text(), flags=re.MULTILINE))
    return [(word, rest) for line in text.splitlines() if line.strip()
            for word, _, rest in [line.partition(" ")]]


def test_the_container_file_copies_what_there_is() -> None:
    """Every source is in the repository, and let through by ``.dockerignore``."""
    sources = [each for word, rest in instructions() if word == "COPY" and "--from" not in rest
               for each in rest.split()[:-1]]
    let_through = [line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"]
    assert [each for each in sources if not (ROOT / each).exists()] == []
    assert sorted(Path(each).name for each in sources) == sorted(let_through)


def test_the_container_runs_the_program_without_privilege() -> None:
    """A numeric user that is not root, and a command line that the program takes."""
    last = dict(instructions())
    line = [*json.loads(last["ENTRYPOINT"]), *json.loads(last["CMD"])]
    user, _, _ = last["USER"].partition(":")
    assert (user, last["STOPSIGNAL"], line[0]) == ("10001", "SIGTERM", "shotover-gevent")
    assert _parse(line[1:]).log_format == "json"


# -- Kubernetes ---------------------------------------------------------------------------------


def manifests() -> dict[str, Any]:
    """The objects by their kind."""
    documents = yaml.safe_load_all((DEPLOY / "kubernetes/shotover-gevent.yaml").read_text())
    return {each["kind"]: each for each in documents}


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_accepts_the_manifests(version: str) -> None:
    """Every object fits the schema of its kind, without unknown fields."""
    for each in manifests().values():
        kubernetes_validate.validate(each, version, strict=True)


def test_the_configuration_in_the_manifests_is_right(tmp_path: Path) -> None:
    """``check`` accepts both files, with nothing in the environment."""
    for name, text in manifests()["ConfigMap"]["data"].items():
        (tmp_path / name).write_text(text)
    found = check_files(tmp_path / "config.yaml", tmp_path / "topology.yaml", environ={})
    assert list(map(str, found.problems)) == []


def test_the_manifests_agree_with_the_program() -> None:
    """Ports are those of the files, probes ask what there is, and the end is waited for."""
    found = manifests()
    pod = found["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    data = found["ConfigMap"]["data"]
    assert f"0.0.0.0:{ports['valkey']}" in data["topology.yaml"]
    assert f"0.0.0.0:{ports['metrics']}" in data["config.yaml"]
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("liveness", "readiness", "startup")}
    assert probes == {
        "liveness": {"path": "/livez", "port": "metrics"},
        "readiness": {"path": "/readyz", "port": "metrics"},
        "startup": {"path": "/readyz", "port": "metrics"}}
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert pod["terminationGracePeriodSeconds"] > pause + SHUTDOWN_GRACE_S
    user = dict(instructions())["USER"].split(":")[0]
    assert str(pod["securityContext"]["runAsUser"]) == user


# -- Prometheus and Grafana ---------------------------------------------------------------------


def rules() -> list[dict[str, Any]]:
    """The alerts."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    return json.loads(DASHBOARD.read_text())


def dashboard_expressions() -> list[str]:
    """The expressions of all panels and annotations, with Grafana's variables filled in."""
    found = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]
    found += [each["expr"] for each in dashboard()["annotations"]["list"]]
    return [each.replace("$__rate_interval", "5m") for each in found]


def metrics_in(expression: str) -> set[str]:
    """The metrics that an expression asks for, histograms by their own name."""
    words = re.sub(r'"[^"]*"|\b(?:by|without) *\([^)]*\)|\{[^}]*\}', " ", expression)
    names = re.findall(r"\b((?:shotover|process|connections)_\w+|up)\b(?! *\()", words)
    return {re.sub("_(bucket|sum)$", "", name) for name in names}


def read(url: str) -> str:
    """The text of a page."""
    with urllib.request.urlopen(url, timeout=20) as response:
        return response.read().decode()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every metric by its name of a running proxy."""
    admin = free_port()
    certificate, key = Authority(tmp_path_factory.mktemp("certificates")).issue()
    topology = TOPOLOGY.format(port=free_port(), certificate=certificate, key=key)
    config = f"main_log_level: info\nobservability_interface: 127.0.0.1:{admin}\n"
    with ProxyProcess(topology, config) as proxy:
        proxy.wait_ready()
        page = eventually(lambda: read(f"http://127.0.0.1:{admin}/metrics"))
    return dict(re.findall(r"^# TYPE (\w+) (\w+)$", page, re.MULTILINE))


@pytest.mark.parametrize("expression", [*(rule["expr"] for rule in rules()), *dashboard_expressions()])
def test_every_expression_is_promql_about_metrics_that_exist(
    expression: str, exported: dict[str, Any]
) -> None:
    """Prometheus can parse it, and a proxy has what it asks for."""
    promql_parser.parse(expression)
    found = metrics_in(expression)
    assert (found != set(), found - exported.keys() - OF_PROMETHEUS) == (True, set())


def test_every_alert_says_what_to_do() -> None:
    """A severity, a summary, a description, and a name of its own."""
    found = rules()
    assert len({rule["alert"] for rule in found}) == len(found)
    assert {tuple(sorted(rule["annotations"])) for rule in found} == {("description", "summary")}
    assert {rule["labels"]["severity"] for rule in found} == {"critical", "warning"}


def test_the_dashboard_shows_what_a_proxy_exports(exported: dict[str, Any]) -> None:
    """All that an operator looks at first is exported, and is on it."""
    shown = {name for each in dashboard_expressions() for name in metrics_in(each)}
    assert (CORE - exported.keys(), CORE - shown) == (set(), set())


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    """Each has an id and a place of its own."""
    places = [panel["gridPos"] for panel in dashboard()["panels"]]
    cells = [
        (x, y) for each in places for x in range(each["x"], each["x"] + each["w"])
        for y in range(each["y"], each["y"] + each["h"])]
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert (len(set(cells)), len(set(ids))) == (len(cells), len(ids))
