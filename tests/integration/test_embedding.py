"""A proxy inside of a gevent program: it serves, ends, and leaves the program as it was."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
import yaml
from gevent import socket as gsocket

from shotover_gevent import Proxy
from shotover_gevent.chain import Batch, Next, SessionContext, Transform, TransformConfig
from shotover_gevent.errors import ConfigError, UsageError
from shotover_gevent.observability.metrics import exposition
from shotover_gevent.proxy import StartError, State
from tests.harness import Client, free_port
from tests.proxies import is_refused

WAIT_S = 20.0


def answering(port: int, answer: str = "42", *steps: dict[str, Any]) -> dict[str, Any]:
    """A topology, as a dict, of one source that answers every request."""
    return {"sources": [valkey("edge", port, answer, *steps)]}


def valkey(name: str, port: int, answer: str, *steps: dict[str, Any]) -> dict[str, Any]:
    """One source that answers every request, after ``steps``."""
    sink = {"DebugReturner": {"name": f"answer-{name}", "Valkey": answer}}
    return {"Valkey": {"name": name, "listen_addr": f"127.0.0.1:{port}", "chain": [*steps, sink]}}


def ask(port: int, request: bytes = b"PING\r\n") -> bytes:
    """What a client is answered, while the hub of this thread runs."""
    with gsocket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as client:
        client.sendall(request)
        return client.recv(100)


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """A test that waits in the hub for ever fails where it waits."""
    with gevent.Timeout(60):
        yield


# -- the life of a proxy ------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["dicts", "files", "paths"])
def test_a_proxy_is_built_from_data_or_from_files(tmp_path: Path, given: str) -> None:
    """Dicts, paths as texts and paths as objects are the same to it."""
    port, config = free_port(), {"main_log_level": "info"}
    topology: Any = answering(port)
    if given != "dicts":
        for name, data in (("topology.yaml", topology), ("config.yaml", config)):
            (tmp_path / name).write_text(yaml.safe_dump(data))
        as_given = str if given == "files" else Path
        topology, config = as_given(tmp_path / "topology.yaml"), as_given(tmp_path / "config.yaml")
    with Proxy(topology, config):
        assert ask(port) == b"$2\r\n42\r\n"


def test_the_steps_of_its_life() -> None:
    """Built, serving, stopped: ``ready`` and ``ended`` tell which, the context manager does both steps."""
    port, seen = free_port(), []
    proxy = Proxy(answering(port))

    def look() -> None:
        seen.append((proxy.state, proxy.ready.is_set(), proxy.ended.is_set(), is_refused(port)))

    look()
    with proxy:
        assert proxy.ready.wait(WAIT_S)
        look()
    look()
    proxy.stop()
    assert seen == [
        (State.BUILT, False, False, True),
        (State.SERVING, True, False, False),
        (State.STOPPED, True, True, True),
    ]


def test_a_drain_closes_the_clients_between_requests() -> None:
    """``drain()`` returns when the last client has been closed; new ones are refused at once."""
    port = free_port()
    proxy = Proxy(answering(port))
    proxy.start()
    with gsocket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as client:
        client.sendall(b"PING\r\n")
        answer = client.recv(100)
        draining = gevent.spawn(proxy.drain, 1)
        end = client.recv(100)
        refused = is_refused(port)
    draining.get(timeout=WAIT_S)
    assert (answer, end, refused, proxy.state, proxy.ended.is_set()) == (
        b"$2\r\n42\r\n", b"", True, State.STOPPED, True)


@pytest.mark.parametrize("end", ["drain", "stop"])
def test_a_proxy_may_end_right_after_its_start(end: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Without a turn of the hub in between, it ends as well, and no greenlet of it fails."""
    proxy = Proxy(answering(free_port()))
    proxy.start()
    proxy.drain(0) if end == "drain" else proxy.stop()
    gevent.sleep(0)
    assert (proxy.state, capfd.readouterr().err) == (State.STOPPED, "")


def test_two_proxies_count_for_themselves() -> None:
    """Each has its metrics; sources of the same name do not meet."""
    first_port, second_port = free_port(), free_port()
    count = {"QueryCounter": {"name": "count", "counter_name": "edge"}}
    with Proxy(answering(first_port, "1", count)) as first, \
            Proxy(answering(second_port, "2", count)) as second:
        answers = [ask(first_port), ask(second_port), ask(second_port)]
        counted = [
            [line for line in "".join(exposition(proxy.metrics)).splitlines() if "PING" in line]
            for proxy in (first, second)
        ]
    assert (answers, counted) == ([b"$1\r\n1\r\n", b"$1\r\n2\r\n", b"$1\r\n2\r\n"], [
        ['shotover_query_count{name="edge",query="PING",type="valkey"} 1'],
        ['shotover_query_count{name="edge",query="PING",type="valkey"} 2'],
    ])


def http(port: int, request: str) -> tuple[str, str]:
    """Status line and body of an answer."""
    with gsocket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as client:
        client.sendall(f"{request} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
        head, _, body = b"".join(iter(lambda: client.recv(65536), b"")).decode().partition("\r\n\r\n")
    return head.splitlines()[0], body


def test_the_admin_pages_belong_to_the_proxy_but_the_log_does_not() -> None:
    """With an interface it tells its health; the log filter is the program's own."""
    port = free_port()
    config = {"main_log_level": "info", "observability_interface": f"127.0.0.1:{port}"}
    with Proxy(answering(free_port()), config):
        answers = [http(port, request) for request in ("GET /readyz", "GET /livez", "PUT /filter")]
    assert (answers, is_refused(port)) == ([
        ("HTTP/1.1 200 OK", "ok"),
        ("HTTP/1.1 200 OK", "ok"),
        ("HTTP/1.1 501 Not Implemented", "the log filter belongs to another program\n"),
    ], True)


# -- wrong usage and failure --------------------------------------------------------------------


def test_a_proxy_starts_once() -> None:
    """Starting it again is an error that says what it is, and changes nothing."""
    port, said = free_port(), []
    proxy = Proxy(answering(port))
    proxy.start()
    for then in (lambda: None, proxy.stop):
        then()
        with pytest.raises(UsageError) as caught:
            proxy.start()
        said.append((str(caught.value), is_refused(port)))
    assert said == [
        ("start() works once; this proxy is serving", False),
        ("start() works once; this proxy is stopped", True),
    ]


def test_all_problems_of_a_dict_come_at_once() -> None:
    """``ConfigError`` has every problem; without a file the way to the element stands for the place."""
    topology = answering(1)
    topology["sources"][0]["Valkey"] |= {"timeout": "long", "nmae": 1}
    with pytest.raises(ConfigError) as caught:
        Proxy(topology)
    assert str(caught.value) == """\
<topology>  sources[0].Valkey.timeout: found the text "long", wanted an integer
<topology>  sources[0].Valkey.nmae: unknown field
    known fields: name, listen_addr, connection_limit, hard_connection_limit, timeout, tls, chain
2 problems; nothing was started"""


def test_a_port_in_use_leaves_nothing_bound() -> None:
    """``StartError`` names each address; those that were free are free again, with their descriptors."""
    free = free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        proxy = Proxy({"sources": [valkey("a", free, "1"), valkey("b", port, "2")]})
        before = os.listdir("/proc/self/fd")
        with pytest.raises(StartError) as caught:
            proxy.start()
        after = os.listdir("/proc/self/fd")
    assert (str(caught.value), is_refused(free), len(after) - len(before), proxy.state) == (
        "Topology errors\n"
        f"b source:\n  Address already in use (os error 98) address=127.0.0.1:{port}\n",
        True, 0, State.STOPPED)


# -- transforms of the program ------------------------------------------------------------------


class Shout(TransformConfig):
    """Answers in capitals; ``mark`` is added."""

    mark: str

    def session(self, context: SessionContext) -> Transform:
        """The transform of one session."""
        return Shouter(self.mark)


class Shouter(Transform):
    """Changes every answer."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def transform(self, requests: Batch, next: Next) -> Batch:
        """Between the lines everything is ordinary code."""
        responses = next(requests)
        for response in responses:
            response.frame = response.frame.upper() + self.mark.encode()
        return responses


# What a distribution that brings a transform has in its metadata.
ENTRY_POINTS = "[shotover_gevent.transforms]\nShout = {module}:Shout\n"


@pytest.mark.parametrize("by", ["class", "dotted path", "entry point"])
def test_a_transform_of_the_program_is_found(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By ``transforms=[...]``, by its dotted path, and by an entry point of an installed package."""
    if by == "entry point":
        metadata = tmp_path / "shouting-1.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: shouting\nVersion: 1\n")
        (metadata / "entry_points.txt").write_text(ENTRY_POINTS.format(module=__name__))
        monkeypatch.syspath_prepend(str(tmp_path))
    type_name = f"{__name__}.Shout" if by == "dotted path" else "Shout"
    port = free_port()
    topology = answering(port, "hello", {type_name: {"name": "shout", "mark": "!"}})
    with Proxy(topology, transforms=[Shout] if by == "class" else []):
        assert ask(port) == b"$6\r\nHELLO!\r\n"


# -- the program around it ----------------------------------------------------------------------


def test_signals_and_logging_stay_as_they_were() -> None:
    """No signal handler, no handler or level of a logger is set, and none is left."""
    def look() -> tuple[object, ...]:
        ours = logging.getLogger("shotover_gevent")
        root = logging.getLogger()
        return (
            {number: signal.getsignal(number) for number in signal.valid_signals()},
            list(root.handlers), root.level, list(ours.handlers), ours.level, ours.propagate,
        )

    before, port = look(), free_port()
    with Proxy(answering(port)):
        ask(port)
        during = look()
    assert (during, look()) == (before, before)


# It serves until a line comes, drains, and says what it is like.
PROGRAM = """
import gevent, gevent.monkey, gevent.socket, logging, re
from shotover_gevent import Proxy

def caught():
    return re.search("SigCgt:.*", open("/proc/self/status").read())[0]

before = caught()
proxy = Proxy({topology!r})
proxy.start()
proxy.ready.wait()
print("ready", flush=True)
gevent.socket.wait_read(0)
gevent.spawn(proxy.drain, 0.4)
proxy.ended.wait()
gevent.sleep(0)
print(gevent.monkey.saved, logging.getLogger().handlers, caught() == before, proxy.state.value)
"""


def test_an_unpatched_program_ends_when_its_proxy_has_drained() -> None:
    """Waiting for the end never ends in ``LoopExit``; nothing is patched, and nothing is written."""
    port = free_port()
    code = PROGRAM.format(topology=answering(port))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with Client(port) as client, Client(port) as idle:
            client.ask(b"PING\r\n", b"$2\r\n42\r\n")
            process.stdin.write("drain\n")
            process.stdin.flush()
            client.eof()
            idle.eof()
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (0, "{} [] True stopped\n", "")
