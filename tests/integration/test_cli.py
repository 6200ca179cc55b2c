"""The command as users and service managers see it: flags, log lines, exit codes, signals."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shotover_gevent import __version__
from shotover_gevent.config.registry import BUILT_IN
from tests.harness import CONFIG, Client, Event, ProxyProcess, eventually, free_port
from tests.proxies import is_refused

PROGRAM = (sys.executable, "-m", "shotover_gevent")

# Where a refused start must not get to: any address will do.
NOWHERE = "127.0.0.1:0"


def run(*args: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*PROGRAM, *args], cwd=cwd, env={**os.environ, **env}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=30)


def source(name: str, address: str, chain: str = "") -> str:
    """A source that answers every request by 42, after the steps of ``chain``."""
    return f"""\
  - Valkey:
      name: "{name}"
      listen_addr: "{address}"
      chain:{chain}
        - DebugReturner: {{name: "answer-{name}", Valkey: "42"}}
"""


def answering(port: int) -> str:
    """A topology of one such source."""
    return "sources:\n" + source("edge", f"127.0.0.1:{port}")


def files(folder: Path, topology: str, config: str = CONFIG) -> Path:
    """Both files at the default places below ``folder``."""
    (folder / "config").mkdir()
    (folder / "config" / "topology.yaml").write_text(topology)
    (folder / "config" / "config.yaml").write_text(config)
    return folder


def events(output: str) -> list[Event]:
    """The lines of a JSON log."""
    return [Event.parse(line) for line in output.splitlines()]


def lines(events: Sequence[Event]) -> list[tuple[str, str, str]]:
    """Level, target and message of each."""
    return [(event.level, event.target, event.message) for event in events]


# -- usage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [("--version",), ("-V",), ("serve", "-V"), ("serve", "--version")])
def test_the_version_goes_to_stdout(args: tuple[str, ...]) -> None:
    """-V and --version print one line and exit with 0, before and after the command."""
    result = run(*args)
    assert (result.returncode, result.stdout, result.stderr) == (
        0, f"shotover-gevent {__version__}\n", "")


def test_the_installed_command_is_the_module() -> None:
    """``shotover-gevent`` and ``python -m shotover_gevent`` say the same."""
    command = Path(sys.executable).with_name("shotover-gevent")
    script = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)
    assert script.stdout == run("--help").stdout


def test_help_names_the_flags_of_shotover() -> None:
    """``serve --help`` goes to stdout with 0 and has the flags and defaults of Shotover."""
    result = run("serve", "--help", COLUMNS="200")
    flags = re.findall(r"^  (-.*?)\s\s+\S.*?(\(default: .*\))?$", result.stdout, re.MULTILINE)
    assert (result.returncode, result.stderr, flags) == (0, "", [
        ("-h, --help", ""),
        ("-V, --version", ""),
        ("-t PATH, --topology-file PATH", "(default: config/topology.yaml)"),
        ("-c PATH, --config-file PATH", "(default: config/config.yaml)"),
        ("--core-threads N", ""),
        ("--stack-size BYTES", ""),
        ("--log-format {human,json}", "(default: human)"),
        ("--hotreload-socket PATH", ""),
        ("--hotreload-gradual-shutdown-seconds S", "(default: 60)"),
    ])


@pytest.mark.parametrize(("args", "error"), [
    ((), "shotover-gevent: error: the following arguments are required: COMMAND"),
    (("serve", "--nosuch"), "shotover-gevent serve: error: unrecognized arguments: --nosuch"),
    (("serve", "--topology", "t"), "shotover-gevent serve: error: unrecognized arguments: --topology t"),
    (("serve", "--log-format", "xml"), "shotover-gevent serve: error: argument --log-format: "
     "invalid choice: 'xml' (choose from 'human', 'json')"),
    (("serve", "--core-threads", "-1"), "shotover-gevent serve: error: argument --core-threads: "
     "'-1' is not a whole number from 0 to 18446744073709551615"),
    (("serve", "--hotreload-gradual-shutdown-seconds", "18446744073709551616"),
     "shotover-gevent serve: error: argument --hotreload-gradual-shutdown-seconds: "
     "'18446744073709551616' is not a whole number from 0 to 18446744073709551615"),
    (("-t", "my topology.yaml"), "shotover-gevent: error: -t stands before a command; did you mean: "
     "shotover-gevent serve -t 'my topology.yaml'"),
    (("reload",), "shotover-gevent reload: error: the following arguments are required: "
     "--hotreload-socket"),
    (("reload", "--hotreload-socket", "s", "--timeout", "0"), "shotover-gevent reload: error: "
     "argument --timeout: '0' is not a number of seconds from 0 to a day"),
    (("demo", "--port", "65536"), "shotover-gevent demo: error: argument --port: "
     "'65536' is not a port from 1 to 65535"),
], ids=lambda value: " ".join(value) or "nothing" if isinstance(value, tuple) else "")
def test_wrong_usage_is_refused_with_the_usage(args: tuple[str, ...], error: str) -> None:
    """The usage of the command concerned and one sentence go to stderr; the exit code is 2."""
    result = run(*args)
    command = error.partition(": error:")[0]
    assert (result.returncode, result.stdout, result.stderr.splitlines()[-1]) == (2, "", error)
    assert result.stderr.startswith(f"usage: {command} [-h]")


# -- the log ------------------------------------------------------------------------------------


def started(port: int, address: str = "127.0.0.1") -> list[tuple[str, str, str]]:
    """What a start logs, without hot reload."""
    described = {"sources": [{"Valkey": {
        "name": "edge", "listen_addr": f"{address}:{port}", "connection_limit": 512,
        "hard_connection_limit": False, "timeout": None,
        "chain": [{"DebugReturner": {"name": "answer-edge", "Valkey": "42"}}],
    }}]}
    return [
        ("INFO", "shotover::runner", f"Starting Shotover {__version__}"),
        ("INFO", "shotover::runner",
         "configuration=main_log_level='info,shotover=info' observability_interface=None"),
        ("INFO", "shotover::runner", f"topology={described}"),
        ("INFO", "shotover::runner", "--core-threads has no effect: one process uses one core"),
        ("INFO", "shotover::runner", "--stack-size has no effect: one process uses one core"),
        ("INFO", "shotover::sources::valkey", f"Starting Valkey source on [{address}:{port}]"),
        ("INFO", "shotover::source_task", f"Created new listener for {address}:{port}"),
        ("INFO", "shotover::config::topology", "Shotover is now accepting inbound connections"),
    ]


def ended(name: str) -> list[tuple[str, str, str]]:
    """What an end by a signal logs."""
    return [
        ("INFO", "shotover::runner", f"received {name}"),
        ("INFO", "shotover::runner", "Shotover was shutdown cleanly."),
    ]


# Flags that Shotover's users may have, without an effect here.
NO_EFFECT = ("--core-threads", "4", "--stack-size", "2097152")


def test_the_log_has_the_lines_of_shotover_in_its_order() -> None:
    """Start and end are logged in Shotover's words; the process may use all descriptors it can get."""
    port = free_port()
    with ProxyProcess(answering(port), args=NO_EFFECT) as proxy:
        limit = resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE)
        os.kill(proxy.pid, signal.SIGINT)
        code = proxy.wait()
    assert (code, lines(proxy.events)) == (0, started(port) + ended("SIGINT"))
    assert limit[0] == limit[1]


def test_the_log_for_people_has_the_same_lines(tmp_path: Path) -> None:
    """``human`` is the default: time, level, target and message; stderr stays empty."""
    port = free_port()
    command = [*PROGRAM, "serve", *NO_EFFECT]
    with open(tmp_path / "log", "w+") as log, subprocess.Popen(
        command, cwd=files(tmp_path, answering(port)), stdout=log, stderr=subprocess.PIPE, text=True
    ) as process:
        eventually(lambda: not is_refused(port))
        process.terminate()
        _, errors = process.communicate(timeout=20)
    printed = re.findall(
        r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z +(\w+) (\S+): (.*)$",
        (tmp_path / "log").read_text(), re.MULTILINE)
    told = [line for line in printed if "New connection" not in line[2] and "session" not in line[2]]
    assert (process.returncode, errors, told) == (0, "", started(port) + ended("SIGTERM"))


def test_rust_log_comes_after_the_configuration() -> None:
    """``RUST_LOG`` adds directives to those of ``main_log_level``, and wins."""
    port = free_port()
    with ProxyProcess(
        answering(port), 'main_log_level: "info,shotover::runner=off"\n',
        env={"RUST_LOG": "shotover::config=off, shotover::sources=error,shotover::source_task=debug"},
    ) as proxy:
        eventually(lambda: not is_refused(port))
        proxy.stop()
    assert lines(proxy.events) == [
        ("INFO", "shotover::source_task", f"Created new listener for 127.0.0.1:{port}")]


# -- starts that fail ---------------------------------------------------------------------------


TOPOLOGY = "sources:\n" + source("edge", NOWHERE)
BAD_LEVEL = (
    'error parsing level filter: expected one of "off", "error", "warn", "info", "debug", '
    '"trace", or a number 0-5'
)
# What is wrong; both files; the error chain in Shotover's words; the located report.
REFUSED = {
    "bad YAML": (TOPOLOGY + "  - [", CONFIG, """
    0: Failed to parse topology file config/topology.yaml
    1: not valid YAML: expected the node content, but found '<stream end>' \
(while parsing a flow node, begun in line 7) at line 7 column 6""",
        """\
config/topology.yaml:7:6  not valid YAML: expected the node content, but found '<stream end>' \
(while parsing a flow node, begun in line 7)
1 problem; nothing was started
"""),
    "unknown field": (TOPOLOGY.replace("name: \"answer", "nmae: \"answer"), CONFIG, """
    0: Failed to parse topology file config/topology.yaml
    1: sources[0].Valkey.chain[0].DebugReturner.name: missing field at line 6 column 11
       sources[0].Valkey.chain[0].DebugReturner.nmae: unknown field at line 6 column 27""", """\
config/topology.yaml:6:11  sources[0].Valkey.chain[0].DebugReturner.name: missing field
config/topology.yaml:6:27  sources[0].Valkey.chain[0].DebugReturner.nmae: unknown field
    did you mean "name"?
2 problems; nothing was started
"""),
    "TLS": (TOPOLOGY.replace(
        "      chain", "      tls: {certificate_path: a.pem, private_key_path: /dev/null}\n      chain"),
        CONFIG, """
    Topology errors
    Failed to read file a.pem configured at 'certificate_path'
    
    Caused by:
        No such file or directory (os error 2)
    Failed to read file /dev/null configured at 'private_key_path'
    
    Caused by:
        No suitable keys found in PEM
    """, """\
config/topology.yaml:5:31  sources[0].Valkey.tls.certificate_path: a.pem: No such file or directory \
(os error 2)
config/topology.yaml:5:56  sources[0].Valkey.tls.private_key_path: /dev/null: No suitable keys found in PEM
    the file is empty
2 problems; nothing was started
"""),
    "chain": (TOPOLOGY.replace("DebugReturner: {name: \"answer-edge\", Valkey: \"42\"}",
                               "DebugPrinter: {name: p}"), CONFIG, """
    Topology errors
    edge source:
      edge chain:
        Non-terminating Transform DebugPrinter named "p" is last in chain. Last Transform must be terminating.
    """, """\
config/topology.yaml:6:11  sources[0].Valkey.chain[0].DebugPrinter: Non-terminating Transform \
DebugPrinter named "p" is last in chain. Last Transform must be terminating.
1 problem; nothing was started
"""),
    "both files": ("sources: 1\n", "main_log_level: loud=1,info=loud\n", f"""
    {BAD_LEVEL}: info=loud""", f"""\
config/config.yaml:1:17  main_log_level: {BAD_LEVEL}: info=loud
config/topology.yaml:1:10  sources: found the number 1, wanted a list
2 problems; nothing was started
"""),
}


@pytest.mark.parametrize(("topology", "config", "told", "report"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_configuration_is_refused(
    tmp_path: Path, topology: str, config: str, told: str, report: str
) -> None:
    """The log has the error in Shotover's words, stderr all problems with their places; exit code 78."""
    result = run("serve", "--log-format", "json", cwd=files(tmp_path, topology, config))
    assert (result.returncode, lines(events(result.stdout)), result.stderr) == (
        78, [("ERROR", "shotover::runner", f"Failed to start shotover\n\nCaused by:{told}")], report)


def test_missing_files_are_all_named(tmp_path: Path) -> None:
    """Both files are named with the system's reason; the log names the first, as Shotover does."""
    result = run("serve", "-t", "t.yaml", "-c", "c.yaml", "--log-format", "json", cwd=tmp_path)
    assert (result.returncode, lines(events(result.stdout)), result.stderr) == (78, [(
        "ERROR", "shotover::runner",
        "Failed to start shotover\n\nCaused by:\n"
        "    0: Couldn't open the config file c.yaml\n"
        "    1: No such file or directory (os error 2)",
    )], """\
c.yaml  cannot be opened: No such file or directory (os error 2)
t.yaml  cannot be opened: No such file or directory (os error 2)
2 problems; nothing was started
""")


def test_a_wrong_rust_log_is_refused(tmp_path: Path) -> None:
    """The variable is named, and its bad directive."""
    result = run("serve", cwd=files(tmp_path, TOPOLOGY), RUST_LOG="info,shotover=loud")
    assert (result.returncode, result.stderr) == (
        78, f"RUST_LOG  {BAD_LEVEL}: shotover=loud\n1 problem; nothing was started\n")


def test_a_failure_needs_no_standard_error(tmp_path: Path) -> None:
    """Where standard error is closed the log and the exit code are the same."""
    result = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *PROGRAM, "serve"], cwd=tmp_path, capture_output=True,
        text=True, check=False, timeout=30)
    assert (result.returncode, "Couldn't open the config file" in result.stdout) == (78, True)


@pytest.fixture
def taken() -> Iterator[list[int]]:
    """Two ports on which somebody else listens."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        yield [one.getsockname()[1], two.getsockname()[1]]


def test_addresses_in_use_are_all_told(tmp_path: Path, taken: list[int]) -> None:
    """Every address that cannot be bound is reported, a port used twice too; nothing stays bound."""
    free = free_port()
    ports = [*taken, free, free]
    sources = [source(f"s{n}", f"127.0.0.1:{port}") for n, port in enumerate(ports)]
    result = run("serve", "--log-format", "json", cwd=files(tmp_path, "sources:\n" + "".join(sources)))
    failed = [(number, ports[number]) for number in (0, 1, 3)]
    told = "".join(
        f"    s{number} source:\n      Address already in use (os error 98) address=127.0.0.1:{port}\n"
        for number, port in failed)
    report = "".join(
        f"config/topology.yaml:{4 + 5 * number}:20  sources[{number}].Valkey.listen_addr: cannot listen "
        f"on 127.0.0.1:{port}: Address already in use (os error 98)\n"
        "    another program listens there; to see which one: ss -ltnp\n"
        for number, port in failed)
    assert (result.returncode, lines(events(result.stdout))[-1], result.stderr) == (
        1, ("ERROR", "shotover::runner",
            f"Failed to start shotover\n\nCaused by:\n    Topology errors\n{told}    "),
        f"{report}3 problems; nothing was started\n")


def test_a_host_name_that_nobody_knows_is_told(tmp_path: Path) -> None:
    """A listening address may be a name; one that cannot be resolved is a failure to bind."""
    result = run("serve", cwd=files(tmp_path, "sources:\n" + source("edge", "nosuch.invalid:1")))
    assert (result.returncode, result.stderr.splitlines()[0].partition(": failed to lookup")[0]) == (
        1, "config/topology.yaml:4:20  sources[0].Valkey.listen_addr: cannot listen on nosuch.invalid:1")


def test_a_metrics_address_in_use_stops_nothing(taken: list[int]) -> None:
    """It is logged once, and the proxy serves."""
    port = free_port()
    config = f'{CONFIG}observability_interface: "127.0.0.1:{taken[0]}"\n'
    with ProxyProcess(answering(port), config, expect=["Metrics HTTP server failed"]) as proxy:
        event = proxy.wait_log("Metrics HTTP server failed")
        with Client(port) as client:
            client.ask(b"PING\r\n", b"$2\r\n42\r\n")
    assert lines([event]) == [(
        "ERROR", "shotover::observability",
        f"Metrics HTTP server failed: Failed to bind to 127.0.0.1:{taken[0]}")]


# -- the hot reload socket ----------------------------------------------------------------------


def foreign(kind: str, path: Path) -> str:
    """Put something of somebody else at the path; returns what is said of it."""
    if kind == "file":
        path.write_text("mine")
        return "it is a file, not a socket"
    if kind == "directory":
        path.mkdir()
        return "it is a directory, not a socket"
    path.symlink_to("elsewhere")
    return "it is a symbolic link, not a socket"


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_a_foreign_file_at_the_hot_reload_socket_is_refused(tmp_path: Path, kind: str) -> None:
    """What is there is named and left as it is; exit code 75, and nothing was bound."""
    path = tmp_path / "reload.sock"
    reason = foreign(kind, path)
    before = os.lstat(path)
    result = run("serve", "--hotreload-socket", str(path), cwd=files(tmp_path, TOPOLOGY))
    assert (result.returncode, result.stderr, os.lstat(path)) == (
        75, f"Cannot use {path} as the hot reload socket: {reason}\n", before)


def test_a_socket_of_another_program_is_refused(tmp_path: Path) -> None:
    """A stream socket is left to its owner, who goes on listening there."""
    path = tmp_path / "reload.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(path))
        other.listen()
        before = os.lstat(path).st_ino
        result = run("serve", "--hotreload-socket", str(path), cwd=files(tmp_path, TOPOLOGY))
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(path))
    assert (result.returncode, result.stderr, os.lstat(path).st_ino) == (
        75, f"Cannot use {path} as the hot reload socket: it is the socket of another program: "
        "its type is not SOCK_SEQPACKET\n", before)


def test_a_hot_reload_socket_in_a_missing_directory_is_refused(tmp_path: Path) -> None:
    """The directory is named; the address that was bound before is free again."""
    port = free_port()
    path = tmp_path / "nosuch" / "reload.sock"
    result = run("serve", "--hotreload-socket", str(path), cwd=files(tmp_path, answering(port)))
    assert (result.returncode, result.stderr, is_refused(port)) == (
        75, f"Cannot use {path} as the hot reload socket: the directory {path.parent} does not exist: "
        "No such file or directory (os error 2)\n", True)


def test_a_reload_without_a_process_says_how_to_start_one(tmp_path: Path) -> None:
    """Exit code 75; the reason goes to stderr, or with --json to stdout."""
    path = str(tmp_path / "reload.sock")
    reason = f"nobody serves at {path}; start the first process with --hotreload-socket {path}"
    human, program = (run("reload", "--hotreload-socket", path, *more) for more in ([], ["--json"]))
    report = json.loads(program.stdout)
    assert (human.returncode, human.stdout, re.sub(r"\d\.\d\d", "0.00", human.stderr)) == (
        75, "", f"reload failed after 0.00 s: {reason}\n")
    assert (program.returncode, program.stderr, report | {"duration_s": 0}) == (75, "", {
        "verdict": "failed", "reason": reason, "duration_s": 0, "predecessor_pid": None,
        "successor_pid": None, "listeners": {"kept": 0, "added": 0, "removed": 0},
        "sessions": {"moved": 0, "drained": 0, "kept": 0, "dropped": 0}, "reasons": {},
        "longest_pause_ms": 0.0,
    })


# -- check --------------------------------------------------------------------------------------


def test_check_tells_what_it_understood(tmp_path: Path) -> None:
    """With nothing wrong, the sources and their chains are shown, and where logs and metrics go."""
    config = f'{CONFIG}observability_interface: "127.0.0.1:9001"\n'
    topology = "sources:\n" + source("a", "127.0.0.1:6380", "\n        - DebugPrinter: {name: p}") \
        + source("b", "[::1]:6380")
    result = run("check", cwd=files(tmp_path, topology, config))
    assert (result.returncode, result.stderr, result.stdout) == (0, "", """\
config/config.yaml: logs 'info,shotover=info', metrics on 127.0.0.1:9001
config/topology.yaml: 2 sources
    Valkey 'a' on 127.0.0.1:6380: DebugPrinter 'p' -> DebugReturner 'answer-a'
    Valkey 'b' on [::1]:6380: DebugReturner 'answer-b'
no problems
""")


def test_check_starts_nothing(tmp_path: Path, taken: list[int]) -> None:
    """An address in use is no problem of the configuration; programs get an empty list."""
    result = run("check", "--format", "json", cwd=files(tmp_path, answering(taken[0])))
    assert (result.returncode, result.stderr, json.loads(result.stdout)) == (0, "", {"problems": []})


def test_check_tells_the_problems_of_both_files(tmp_path: Path) -> None:
    """In both formats the same problems, those of the config first; exit code 78."""
    files(tmp_path, TOPOLOGY.replace("DebugReturner", "DebugRetuner"), "level: info\n")
    human, program = (run("check", "--format", name, cwd=tmp_path) for name in ("human", "json"))
    problems = json.loads(program.stdout)["problems"]
    assert (human.returncode, human.stderr, program.returncode, program.stderr) == (78, "", 78, "")
    assert human.stdout.splitlines() == [
        "config/config.yaml:1:1  main_log_level: missing field",
        "config/config.yaml:1:1  level: unknown field",
        "    known fields: main_log_level, observability_interface",
        "config/topology.yaml:6:11  sources[0].Valkey.chain[0].DebugRetuner: "
        'unknown transform type "DebugRetuner"',
        f'    did you mean "DebugReturner"? known types: {", ".join(sorted(BUILT_IN))}',
        "3 problems",
    ]
    assert [(each["file"], each["line"], each["message"]) for each in problems] == [
        ("config/config.yaml", 1, "missing field"),
        ("config/config.yaml", 1, "unknown field"),
        ("config/topology.yaml", 6, 'unknown transform type "DebugRetuner"'),
    ]


def test_check_may_be_cut_off(tmp_path: Path) -> None:
    """A reader that has gone changes neither the exit code nor standard error."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = subprocess.run([*PROGRAM, "check"], cwd=tmp_path, stdout=writer, check=False,
                                stderr=subprocess.PIPE, timeout=30)
    finally:
        os.close(writer)
    assert (result.returncode, result.stderr) == (78, b"")


# -- signals ------------------------------------------------------------------------------------


def test_a_signal_right_after_the_start_is_never_missed() -> None:
    """Twenty times: SIGTERM as soon as the process is ready ends it with 0, and is logged."""
    def start_and_end(_: int) -> tuple[int, list[tuple[str, str, str]]]:
        with ProxyProcess(answering(free_port())) as proxy:
            proxy.terminate()
            code = proxy.wait()
        return code, lines(proxy.events)[-2:]  # the block has read the log to its end

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(start_and_end, range(20)))
    assert outcomes == [(0, ended("SIGTERM"))] * 20


# A transform whose import waits until somebody writes to a pipe, and says that it waits.
SLOW_MODULE = """
from shotover_gevent.sinks.null import NullSink as Slow
print("importing", flush=True)
open("{pipe}").read()
"""


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[ProxyProcess]:
    """A proxy that is being built until the pipe ``tmp_path/pipe`` is written to."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "slow_to_build.py").write_text(SLOW_MODULE.format(pipe=tmp_path / "pipe"))
    topology = "sources:\n" + source("edge", NOWHERE).replace(
        "DebugReturner: {name: \"answer-edge\", Valkey: \"42\"}", "slow_to_build.Slow: {name: s}")
    proxy = ProxyProcess(topology, env={"PYTHONPATH": str(tmp_path)})
    proxy.start()
    try:
        eventually(lambda: "importing" in proxy.noise)
        yield proxy
    finally:
        proxy._remove()


def test_a_signal_while_building_ends_it_before_anything_is_bound(
    slow: ProxyProcess, tmp_path: Path
) -> None:
    """SIGTERM before the first log line takes effect once the chains are built: exit code 0."""
    slow.terminate()
    (tmp_path / "pipe").write_text("go on")
    code = slow.wait()
    eventually(lambda: len(slow.events) == 5)
    assert (code, [event.message.partition("=")[0] for event in slow.events], slow.noise) == (0, [
        f"Starting Shotover {__version__}", "configuration", "topology", "received SIGTERM",
        "Shotover was shutdown cleanly."], ["importing"])


def test_a_second_signal_while_building_ends_it_at_once(slow: ProxyProcess) -> None:
    """A build that hangs need not be killed."""
    slow.terminate()
    eventually(lambda: not catches(slow.pid, signal.SIGTERM))
    slow.terminate()
    assert slow.wait() == -signal.SIGTERM


def catches(pid: int, number: int) -> bool:
    """Whether the process has a handler for the signal."""
    caught = re.search(r"^SigCgt:\s*(\S+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert caught is not None
    return bool(int(caught[1], 16) >> (number - 1) & 1)


def test_a_signal_ends_the_wait_for_a_predecessor(tmp_path: Path) -> None:
    """A predecessor that does not answer holds up nobody; its socket stays, and the exit code is 0."""
    path, port = tmp_path / "reload.sock", free_port()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as mute:
        mute.bind(str(path))
        mute.listen()
        # Given a config, the block begins at once: this process never becomes ready.
        with ProxyProcess(answering(port), CONFIG + "\n", hotreload_socket=path) as proxy:
            mute.settimeout(20)
            asked, _ = mute.accept()
            with asked:
                assert asked.recv(100)
                proxy.terminate()
                code = proxy.wait()
    eventually(lambda: "shutdown" in proxy.events[-1].message)
    assert (code, lines(proxy.events)[3:], path.is_socket(), is_refused(port)) == (
        0, [
            ("INFO", "shotover::runner",
             "Hot reload CLIENT mode - requesting socket handoff from existing shotover"),
            *ended("SIGTERM"),
        ], True, True)


# -- what may be written -------------------------------------------------------------------------


def test_transforms_are_listed_and_described() -> None:
    """Each has a line; one by name has its fields and an example; an unknown one is wrong usage."""
    listed = run("transforms")
    assert (listed.returncode, "ValkeySinkSingle" in listed.stdout) == (0, True)
    described = run("transforms", "QueryCounter")
    assert "counter_name  (text; required)" in described.stdout
    unknown = run("transforms", "QueryCountr")
    assert (unknown.returncode, 'did you mean "QueryCounter"?' in unknown.stderr) == (2, True)


def test_transforms_are_described_for_programs() -> None:
    """``--json`` prints one transform as an object, and all of them as a list."""
    one = json.loads(run("transforms", "NullSink", "--json").stdout)
    assert (one["name"], one["terminating"], [f["name"] for f in one["fields"]]) == ("NullSink", True, ["name"])
    assert one in json.loads(run("transforms", "--json").stdout)


def test_schemas_are_printed() -> None:
    """One for each file."""
    topology, config = (json.loads(run("schema", *more).stdout) for more in ([], ["--config"]))
    assert ("sources" in topology["properties"], "main_log_level" in config["properties"]) == (True, True)
