"""The HTTP interface of a Tee says which chain answers, and switches it."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import gevent
import pytest
from gevent import socket as gsocket

from shotover_gevent import Proxy
from shotover_gevent.chain.steps import all_steps
from shotover_gevent.testing import free_port
from shotover_gevent.transforms import tee_switch
from shotover_gevent.transforms.tee import ResultSource, Tee
from shotover_gevent.transforms.tee_switch import Switch
from tests.inprocess import Answerer, until

PATH = "/transform/tee/result-source"
TEE = Tee(name="t", chain=[Answerer(name="x", answer=lambda requests: requests)])


def ask(method: str, path: str, body: bytes = b"", tee: Tee = TEE) -> tuple[str, bytes]:
    """Status and body of the answer."""
    started: list[str] = []

    def start_response(status: str, headers: list[tuple[str, str]]) -> None:
        started.append(status)
        assert dict(headers)["Content-Type"] == "text/html"

    environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, "wsgi.input": io.BytesIO(body)}
    answer = b"".join(Switch(tee)(environ, start_response))
    return started[0], answer


def test_a_source_that_is_put_is_the_source(caplog: pytest.LogCaptureFixture) -> None:
    """The words are those of Shotover, as is the line of the log."""
    caplog.set_level(logging.INFO, "shotover_gevent")
    tee = TEE.model_copy()
    found = [
        ask("GET", PATH, tee=tee), ask("PUT", PATH, b"tee-chain", tee), ask("GET", PATH, tee=tee),
        ask("PUT", PATH, b"regular-chain", tee), ask("GET", PATH, tee=tee)]
    assert (found, caplog.messages) == ([
        ("200 OK", b"regular-chain"), ("200 OK", b""), ("200 OK", b"tee-chain"), ("200 OK", b""),
        ("200 OK", b"regular-chain")],
        ["result source set to tee-chain", "result source set to regular-chain"])


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "answer"),
    [
        ("GET", "/", b"", "200 OK", b"try /transform/tee/result-source"),
        ("HEAD", PATH, b"", "200 OK", b""),
        ("PUT", PATH, b" tee-chain", "500 Internal Server Error",
         b'HTTP 500 error: Invalid value for result source: " tee-chain", '
         b"should be 'tee-chain' or 'regular-chain'"),
        ("PUT", PATH, b"x" * (tee_switch.MAX_BODY_BYTES + 1), "413 Request Entity Too Large",
         b"a result source has at most 1024 bytes"),
        ("POST", PATH, b"tee-chain", "405 Method Not Allowed", b""),
        ("GET", "/metrics", b"", "404 Not Found", b"try /transform/tee/result-source"),
    ], ids=str)
def test_all_else_is_told(method: str, path: str, body: bytes, status: str, answer: bytes) -> None:
    """And changes nothing."""
    assert (ask(method, path, body), ask("GET", PATH)) == ((status, answer), ("200 OK", b"regular-chain"))


def answered(port: int, request: bytes) -> bytes:
    """What a server says, to its end."""
    with gsocket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(4096), b""))


def test_the_interface_is_served_while_the_proxy_is() -> None:
    """On 127.0.0.1, at the port of the topology; a request of a client is answered accordingly."""
    port, switch = free_port(), free_port()
    chain = [
        {"Tee": {"name": "t", "switch_port": switch, "chain": [{"DebugReturner": {"name": "b", "Valkey": "b"}}]}},
        {"DebugReturner": {"name": "a", "Valkey": "a"}},
    ]
    source = {"name": "v", "listen_addr": f"127.0.0.1:{port}", "chain": chain}
    put = b"PUT %s HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\ntee-chain" % PATH.encode()
    with gevent.Timeout(30), Proxy({"sources": [{"Valkey": source}]}), \
            gsocket.create_connection(("127.0.0.1", port)) as client:
        answers = []
        for _ in range(2):
            client.sendall(b"PING\r\n")
            answers.append(client.recv(100))
            assert answered(switch, put).startswith(b"HTTP/1.1 200 OK")
    assert answers == [b"$1\r\na\r\n", b"$1\r\nb\r\n"]
    with pytest.raises(ConnectionRefusedError):
        answered(switch, put)


def test_a_port_that_is_taken_does_not_stop_the_proxy(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, in Shotover's words, and bound as soon as it is free."""
    switch = free_port()
    tee = {"name": "t", "switch_port": switch, "chain": [{"NullSink": {"name": "b"}}]}
    source = {"name": "v", "listen_addr": "127.0.0.1:0", "chain": [{"Tee": tee}, {"NullSink": {"name": "a"}}]}
    with gevent.Timeout(30), gsocket.socket() as taken:
        taken.bind(("127.0.0.1", switch))
        taken.listen()
        with Proxy({"sources": [{"Valkey": source}]}):
            taken.close()
            get = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % PATH.encode()

            def is_answered() -> bool:
                try:
                    return answered(switch, get).endswith(b"\r\n\r\nregular-chain")
                except OSError:
                    return False

            until(is_answered)
    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert errors == [f"Error in ChainSwitchListener: Failed to bind to 127.0.0.1:{switch}"]


def proxy_of(port: int, answer: str = "b", outer: bool = False) -> Proxy:
    """A proxy with a Tee, which may be inside of another."""
    null = {"NullSink": {"name": "null"}}
    chain: list[Any] = [
        {"Tee": {"name": "t", "chain": [{"DebugReturner": {"name": "b", "Valkey": answer}}]}}, null]
    if outer:
        chain = [{"Tee": {"name": "outer", "chain": chain}}, {"NullSink": {"name": "end"}}]
    source = {"name": "v", "listen_addr": f"127.0.0.1:{port}", "chain": chain}
    return Proxy({"sources": [{"Valkey": source}]})


def tee_of(proxy: Proxy) -> Tee:
    """Its Tee."""
    (tee,) = (s for s in all_steps(proxy.sources[0].chain.steps) if s.name == "t" and isinstance(s, Tee))
    return tee


@pytest.mark.parametrize("outer", [False, True])
@pytest.mark.parametrize(("answer", "port", "kept"), [("b", 6379, True), ("c", 6379, False), ("b", 6380, False)])
def test_a_reload_keeps_the_source_where_the_chain_is_the_same(
    answer: str, port: int, kept: bool, outer: bool
) -> None:
    """Another chain has another meaning for it; then the new process begins as any other."""
    old, new = proxy_of(6379, outer=outer), proxy_of(port, answer, outer)
    nothing = old.export_chains()
    tee_of(old).switch_to(ResultSource.TEE)
    new.adopt_chains(json.loads(json.dumps(old.export_chains())))
    found = tee_of(new).result_source
    for proxy in (old, new):
        proxy.stop()
    assert (nothing, found) == ([], ResultSource.TEE if kept else ResultSource.REGULAR)


def test_the_copies_of_a_tee_have_one_switch() -> None:
    """Of a Tee in a ParallelMap, the first copy serves it for all."""
    tee = {"Tee": {"name": "t", "switch_port": free_port(), "chain": [
        {"DebugReturner": {"name": "b", "Valkey": "b"}}]}}
    copied = {"ParallelMap": {"name": "m", "parallelism": 3, "ordered_results": True, "chain": [
        tee, {"DebugReturner": {"name": "a", "Valkey": "a"}}]}}
    source = {"name": "v", "listen_addr": "127.0.0.1:0", "chain": [copied]}
    with gevent.Timeout(30), Proxy({"sources": [{"Valkey": source}]}) as proxy:
        tee_of(proxy).switch_to(ResultSource.TEE)
        with gsocket.create_connection(("127.0.0.1", proxy.sources[0].address.port)) as client:
            client.sendall(b"PING\r\n" * 3)
            answer = client.recv(100)
        assert (answer, len(proxy.runtime.endpoints)) == (b"$1\r\nb\r\n" * 3, 1)
