"""What the documentation shows works, and what it names exists."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import gevent
import pytest
import yaml
from docutils import nodes
from docutils.core import publish_doctree
from gevent import socket as gsocket

from shotover_gevent import Proxy, exits, proxy
from shotover_gevent.chain import gathering, subchain
from shotover_gevent.codecs import resp_request_scanner
from shotover_gevent.config.check import check_files
from shotover_gevent.config.model import SourceFields
from shotover_gevent.config.yaml import MAX_FILE_BYTES
from shotover_gevent.facts import ProxyFacts
from shotover_gevent.hotreload.command import Report
from shotover_gevent.hotreload.count import ReloadCounts
from shotover_gevent.hotreload.lending import MAX_LENT
from shotover_gevent.net import stream, tls_context
from shotover_gevent.observability.status import status
from shotover_gevent.sources import base, session
from shotover_gevent.testing import Family, RealServer
from tests.certificates import Authority
from tests.harness import CONFIG, READY, eventually, free_port

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "shotover_gevent"
PAGES = [*sorted(ROOT.glob("*.rst")), *sorted((ROOT / "docs").glob("*.rst"))]

# Pages whose commands are run by a test of their own.
STORIES = {"docs/install_systemd.rst"}  # tests/integration/test_operator_story.py

# Commands that are not run, by what begins them, and why.
NOT_RUN = {
    ".venv/bin/sphinx-build": "tests/test_site.py builds the site",
    "apt-get install": "changes the system",
    "python -m bench.guard": "tests/bench runs it",
    "python -m bench.readme_table": "would change the documentation; tests/bench compares what it writes",
    "pytest -q": "tests/test_guide.py runs those tests",
    "python -m bench.reload_soak": "takes minutes; tests/bench runs a short one",
    "pip install": "changes the environment; .ci/run installs the package",
    "scripts/bench": "takes minutes; tests/bench runs the shortest one",
    "scripts/run": "the demo has tests of its own, which need no other environment",
    "scripts/test": "would run this test",
}

# Inline texts of three words and more that are not messages of the program.
NOT_MESSAGES = {
    "responses = next(requests)", "scripts/test tests/unit -k batch", "_ : . -",
    "shotover_query_count{name, query, type}",
    '- rewrite.ValkeyGetRewrite: {name: "r", result: "x"}', "config._hits.value += 1",
    '- Shout: {name: "s"}', "PYTHONPATH=. shotover-gevent check -t topology.yaml -c config.yaml",
    'SET key "a value"', "[a [b] :1]", "pip install shotover-gevent", "pip install shotover-gevent[demo]",
}


# Pages for authors of transforms: tests/test_guide.py runs their listings.
AUTHORS = ("docs/testing.rst", "docs/write_a_transform.rst")


@dataclass(frozen=True)
class Block:
    """An example: the page, its language (empty: a sample of output), and its text."""

    page: str
    language: str
    text: str

    @property
    def title(self) -> str:
        """What a first line of the form ``# name`` says; else empty."""
        match = re.match(r"# ([\w.]+)$", self.text.splitlines()[0])
        return match[1] if match else ""

    def __str__(self) -> str:
        return f"{self.page}: {self.text.splitlines()[0]}"


def tree(page: Path) -> nodes.document:
    """The page, parsed; a mistake in its markup is an exception."""
    return publish_doctree(
        page.read_text(), source_path=str(page),
        settings_overrides={"halt_level": 2, "report_level": 5, "syntax_highlight": "none"})


TREES = {page.relative_to(ROOT).as_posix(): tree(page) for page in PAGES}


def blocks(language: str) -> list[Block]:
    """All examples in that language, in the order of the pages."""
    return [
        block for page, document in TREES.items() for node in document.findall(nodes.literal_block)
        if (block := Block(page, " ".join(node["classes"][1:]), node.astext())).language == language
    ]


def literals(page: str) -> list[str]:
    """The inline literals of a page."""
    return [node.astext() for node in TREES[page].findall(nodes.literal)]


def rows(page: str, heading: str, number: int = 0) -> list[list[str]]:
    """The cells of a table below a heading, by default the first."""
    for section in TREES[page].findall(nodes.section):
        if section[0].astext() == heading:
            table = list(section.findall(nodes.tbody))[number]
            return [[cell.astext().replace("\n", " ") for cell in row] for row in table.children]
    raise AssertionError(f"{page} has no table below {heading!r}")


def modules() -> list[Block]:
    """The python examples that are files."""
    return [block for block in blocks("python") if block.title]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the module path that has the modules of the documentation."""
    for block in modules():
        (tmp_path / block.title).write_text(block.text)
        monkeypatch.delitem(sys.modules, Path(block.title).stem, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


# -- examples -----------------------------------------------------------------------------------


def test_every_example_has_a_language_that_is_tried() -> None:
    """An example is YAML, TOML, Python or shell; what has no language is a sample of output."""
    languages = {
        " ".join(node["classes"][1:]) for document in TREES.values()
        for node in document.findall(nodes.literal_block)
    }
    assert languages == {"yaml", "toml", "python", "sh", ""}


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_examples_pass_the_check(block: Block, folder: Path) -> None:
    """A file is accepted as it is, a chain as the beginning of one."""
    written = {"config.yaml": CONFIG, "topology.yaml": blocks("yaml")[1].text}
    if block.title:
        written[block.title] = block.text
    else:
        chain = [*yaml.safe_load(block.text)["chain"], {"NullSink": {"name": "sink"}}]
        source = {"name": "v", "listen_addr": "127.0.0.1:0", "chain": chain}
        written["topology.yaml"] = yaml.safe_dump({"sources": [{"Valkey": source}]})
    assert written.keys() == {"config.yaml", "topology.yaml"}
    for name, text in written.items():
        (folder / name).write_text(with_certificates(text, folder))
    found = check_files(folder / "config.yaml", folder / "topology.yaml")
    assert list(map(str, found.problems)) == []


def with_certificates(text: str, folder: Path) -> str:
    """The example with files that exist where it names some of ``/etc/shotover/tls``."""
    names = sorted(set(re.findall(r"/etc/shotover/tls/([\w-]+)\.pem", text)))
    for name in names:
        certificate, key = Authority(folder).issue()
        os.replace(certificate, folder / f"{name}.pem")
        os.replace(key, folder / f"{name}.key")
    return text.replace("/etc/shotover/tls", str(folder))


def ask(port: int, request: bytes) -> bytes:
    """What a client is answered, while the hub of this thread runs."""
    with gsocket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(request)
        return client.recv(100)


@pytest.mark.parametrize("block", [b for b in modules() if b.page not in AUTHORS], ids=str)
def test_transforms_of_the_documentation_work(block: Block, folder: Path) -> None:
    """Named by its dotted path, it answers GET, and nothing else."""
    port = free_port()
    chain = [
        {f"{Path(block.title).stem}.ValkeyGetRewrite": {"name": "r", "result": "x"}},
        {"DebugReturner": {"name": "answer", "Valkey": "42"}},
    ]
    source = {"name": "v", "listen_addr": f"127.0.0.1:{port}", "chain": chain}
    with gevent.Timeout(60), Proxy({"sources": [{"Valkey": source}]}):
        assert [ask(port, request) for request in (b"GET a\r\n", b"PING\r\n")] == [
            b"$1\r\nx\r\n", b"$2\r\n42\r\n"]


class Stage:
    """A folder with the files of the README, and what stands in for the addresses in the examples."""

    def __init__(self, folder: Path, server: RealServer) -> None:
        self.folder = folder
        self.port = free_port()
        self.family = Family()
        self.real = {
            "6379": str(server.port), "6380": str(self.port), "9001": str(free_port()),
            "/run/shotover.sock": str(folder / "reload.sock"), "scripts/": f"{ROOT}/scripts/",
        }
        for block in blocks("yaml")[:2]:
            (folder / block.title).write_text(self.translate(block.text))

    def translate(self, text: str) -> str:
        """The example, with what is free here."""
        return re.sub("|".join(map(re.escape, self.real)), lambda match: self.real[match[0]], text)

    @property
    def environ(self) -> dict[str, str]:
        """With the command of this environment on PATH."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return self.family.environ({**os.environ, "PATH": path})

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        return subprocess.run(
            command, cwd=self.folder, env=self.environ, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def stage(tmp_path: Path, redis_server: RealServer) -> Iterator[Stage]:
    """A stage in front of a real server; nothing of it runs on afterwards."""
    stage = Stage(tmp_path, redis_server)
    yield stage
    assert stage.family.stop() == []


SCRIPTS = sorted({b.page for b in blocks("python") if not b.title and b.page not in AUTHORS})

# Ends every script: what a transform does at its start is done as well.
BUILD = """
from shotover_gevent.chain import BuildContext, TransformConfig
from shotover_gevent.metrics import MetricStore
for found in TransformConfig.__subclasses__():
    if found.__module__ == "__main__":
        found(name="t").build(BuildContext(MetricStore(), "chain", "Valkey"))
"""


@pytest.mark.parametrize("page", SCRIPTS)
def test_python_examples_run(page: str, stage: Stage) -> None:
    """The examples of a page run one after the other, as one program, in front of a real server."""
    code = [block.text for block in blocks("python") if block.page == page and not block.title]
    result = stage.run(sys.executable, "-c", stage.translate("\n".join([*code, BUILD])))
    assert (result.returncode, result.stderr) == (0, "")


def commands() -> list[list[str]]:
    """The command lines of all pages but those that have a test of their own."""
    lines = [line for block in blocks("sh") if block.page not in STORIES
             for line in block.text.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def is_run(words: list[str]) -> bool:
    """Whether a command line of the documentation is tried."""
    return not any(" ".join(words).startswith(each) for each in NOT_RUN)


def test_what_is_not_run_is_in_the_documentation() -> None:
    """The list of exceptions has no entry that nothing needs."""
    left_out = [" ".join(words) for words in commands() if not is_run(words)]
    assert [each for each in NOT_RUN if not any(line.startswith(each) for line in left_out)] == []


# What the commands print at the end of their output, by what begins them.
PRINTED = {
    "shotover-gevent check": "no problems\n",
    "redis-cli": "OK\n",
    "curl -s http://127.0.0.1:9001/metrics": 'shotover_query_count{name="edge",query="SET",type="valkey"} 1\n',
    "curl -X PUT": "Filter set",
}


def test_commands_of_the_documentation_work(stage: Stage, pytestconfig: pytest.Config) -> None:
    """All of them, in the order in which they are told, with one real server and one proxy."""
    lines = [shlex.join(words) for words in commands() if is_run(words)]
    missing = {line.split()[0] for line in lines} - {"scripts/reload.sh"}
    if missing := {name for name in missing if shutil.which(name, path=stage.environ["PATH"]) is None}:
        reason = f"not on PATH: {', '.join(sorted(missing))}"
        pytest.fail(reason) if pytestconfig.getoption("--require-servers") else pytest.skip(reason)
    outputs = {}
    for line in lines:
        # The shell's own words (pipes) come back out of their quotes.
        told = stage.translate(line.replace(" '|' ", " | ").replace(" '>' ", " > "))
        if line.startswith("shotover-gevent serve"):
            # In the background, as in another terminal; the family ends it.
            log = stage.folder / f"log-{len(outputs)}"
            result = stage.run("sh", "-c", f"{told} >{log.name} 2>&1 &")
            eventually(lambda log=log: READY in log.read_text())
        else:
            result = stage.run("sh", "-c", told)
        assert (result.returncode, result.stderr.startswith("Traceback")) == (0, False), result
        outputs[line, len(outputs)] = result.stdout
    wrong = {
        line: output for (line, _), output in outputs.items() for start, end in PRINTED.items()
        if line.startswith(start) and not output.endswith(end)
    }
    assert wrong == {}


# -- what is named exists -----------------------------------------------------------------------


def test_links_lead_somewhere() -> None:
    """A link to a file names one that exists; a link within a page has been checked by the parser."""
    dead = [
        f"{page}: {target}" for page, document in TREES.items()
        for node in document.findall(nodes.reference)
        if (target := node.get("refuri", "")) and "://" not in target
        and not (ROOT / page).parent.joinpath(target).is_file()
    ]
    assert dead == []


def test_every_page_is_in_the_index() -> None:
    """``docs/index.rst`` leads to all the others."""
    linked = {node.get("refuri") for node in TREES["docs/index.rst"].findall(nodes.reference)}
    assert [p.name for p in PAGES if p.parent.name == "docs" and p.name not in linked] == ["index.rst"]


def test_files_that_are_named_exist() -> None:
    """A path of this repository in the text is one."""
    named = {
        text for page in TREES for text in literals(page)
        if re.fullmatch(r"(docs|examples|scripts|tests|\.ci)/[\w./]*", text)
    }
    assert [text for text in sorted(named) if not (ROOT / text).exists()] == []


def secured(folder: Path) -> dict[str, Any]:
    """A source with TLS both ways."""
    authority = Authority(folder)
    files = dict(zip(("certificate_path", "private_key_path"), authority.issue(), strict=True))
    trusting = {"certificate_authority_path": authority.path, "verify_hostname": True}
    sink = {"name": "secure", "remote_address": "127.0.0.1:1", "connect_timeout_ms": 1000,
            "tls": {**files, **trusting}}
    return {"name": "t", "listen_addr": "127.0.0.1:0", "tls": files, "chain": [{"TcpSinkSingle": sink}]}


def exposed(stage_port: int, folder: Path) -> dict[str, tuple[str, str]]:
    """Name, type and labels of every metric on the page of a proxy that has one of everything."""
    admin = free_port()
    chain = [
        {"QueryCounter": {"name": "count", "counter_name": "main"}},
        {"CircuitBreaker": {"name": "breaker"}}, {"Retry": {"name": "retry"}},
        {"AccessLog": {"name": "access", "sample_rate": 0}},
        {"FaultInjection": {
            "name": "chaos", "enabled": False, "faults": [{"kind": "error", "percentage": 1}]}},
        {"RequestThrottling": {"name": "limit", "max_requests_per_second": 50}},
        {"Tee": {"name": "tee", "chain": [{"NullSink": {"name": "null"}}]}},
        {"ValkeySinkSingle": {
            "name": "sink", "remote_address": "127.0.0.1:1", "connect_timeout_ms": 1000,
            "connection_mode": "shared"}},
    ]
    source = {"name": "v", "listen_addr": f"127.0.0.1:{stage_port}", "chain": chain}
    config = {"main_log_level": "info", "observability_interface": f"127.0.0.1:{admin}"}
    sources = {"sources": [{"Valkey": source}, {"Tcp": secured(folder)}]}
    with gevent.Timeout(60), Proxy(sources, config):
        ask(stage_port, b"PING\r\n")
        with gsocket.create_connection(("127.0.0.1", admin), timeout=20) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            page = b"".join(iter(lambda: client.recv(65536), b"")).decode()
    labels: dict[str, list[str]] = {}
    for name, text in re.findall(r"^(\w+?)(?:_bucket|_sum|_count)?(?:\{(.*)\})? ", page, re.MULTILINE):
        found = labels.setdefault(name, [])
        found += [each for each in re.findall(r'(\w+)="', text) if each not in (*found, "le")]
    return {
        name: (kind, ", ".join(labels[re.sub("_count$", "", name)]))
        for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", page, re.MULTILINE)}


def test_the_metrics_are_those_of_the_page(tmp_path: Path) -> None:
    """The table of ``docs/metrics.rst`` has each metric with its type and labels; others are named truly."""
    told = {name: (kind, labels) for name, kind, labels, _ in rows("docs/metrics.rst", "Metrics")}
    found = exposed(free_port(), tmp_path)
    named = {
        text for page in TREES for text in literals(page)
        if re.fullmatch(r"(shotover|process)_\w+|connections_opened", text)
    }
    assert told == {name: each for name, each in found.items() if not name.startswith("process_")}
    # Of Shotover; the changes name it as removed, or a page says that it is not here.
    assert named - set(found) == set()


def texts() -> Iterator[str]:
    """Every text in the source of the package, with ``{}`` for what is put in."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r"%[sdg]", "{}", node.value)
            elif isinstance(node, ast.JoinedStr):
                yield "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)


def test_messages_that_are_quoted_are_in_the_source() -> None:
    """A quoted line of the log, or error text, is one that the program can say."""
    known = list(texts())
    # A template of two words and their gaps would say anything.
    templates = [text for text in known if "{}" in text and len(re.findall(r"[a-z]{2,}", text)) > 2]
    patterns = [re.compile(re.escape(text).replace(r"\{\}", ".+")) for text in templates]

    def is_said(quoted: str) -> bool:
        return any(quoted in text for text in known) or any(p.fullmatch(quoted) for p in patterns)

    quoted = {
        text.replace("\n", " ") for page in TREES for text in literals(page)
        if text.count(" ") >= 2 and not text.startswith("shotover-gevent ")
    } - NOT_MESSAGES
    quoted |= {row[0] for row in rows("docs/operation.rst", "Lines to watch for")}
    assert (len(quoted) > 8, [text for text in sorted(quoted) if not is_said(text)]) == (True, [])


def test_exit_codes_are_those_of_the_program() -> None:
    """The table has each code once."""
    codes = sorted(value for name, value in vars(exits).items() if name.startswith("EXIT_"))
    assert [int(row[0]) for row in rows("docs/operation.rst", "Exit codes")] == codes


def test_the_report_of_a_reload_is_told_in_full() -> None:
    """``docs/hot_reload.rst`` has every key of ``reload --json``, in their order."""
    keys = [field.name for field in fields(Report)]
    assert [row[0] for row in rows("docs/hot_reload.rst", "Use")] == keys


def test_the_status_is_told_in_full() -> None:
    """``docs/status_page.rst`` has every key of ``/status``, in their order."""
    proxy = Proxy({"sources": []})
    keys = list(status(ProxyFacts(proxy, ReloadCounts(proxy.metrics))))
    assert [row[0] for row in rows("docs/status_page.rst", "As JSON")] == keys


def test_limits_are_those_of_the_program() -> None:
    """The values in ``docs/operation.rst`` are those of the constants."""
    scanner, kib, mib = resp_request_scanner, 1024, 1024 * 1024
    assert [row[1] for row in rows("docs/operation.rst", "Limits")] == [
        f"{SourceFields.model_fields['connection_limit'].default}",
        f"{proxy.SHUTDOWN_GRACE_S:g} s",
        f"{session.STOP_GRACE_S:g} s",
        f"{base.LINGER_S:g} s",
        f"{stream.SEND_STALL_S:g} s",
        f"{tls_context.HANDSHAKE_S:g} s",
        f"{default_of('--hotreload-gradual-shutdown-seconds')} s",
        f"{stream.RECEIVE_BUFFER_BYTES // kib} KiB",
        f"{scanner.MAX_LINE_BYTES // kib} KiB",
        f"{scanner.MAX_BULK_BYTES // mib} MiB",
        f"{scanner.MAX_REQUEST_BYTES // mib} MiB",
        f"{MAX_FILE_BYTES // kib} KiB",
        f"{MAX_LENT}",
        f"{subchain.FINISH_S:g} s",
        f"{gathering.GATHER_BYTES // mib} MiB",
    ]


def default_of(flag: str) -> Any:
    """What ``serve --help`` says of a flag."""
    result = subprocess.run(
        [sys.executable, "-m", "shotover_gevent", "serve", "--help"], capture_output=True, text=True,
        check=True, env={**os.environ, "COLUMNS": "200"})
    match = re.search(rf"^  {flag}.*?\(default: (.*?)\)", result.stdout, re.DOTALL | re.MULTILINE)
    assert match is not None
    return match[1]
