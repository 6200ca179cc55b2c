"""The admin server, over real sockets."""

from __future__ import annotations

import io
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.pool import Pool
from gevent.socket import create_connection

from shotover_gevent import logs
from shotover_gevent.errors import UsageError
from shotover_gevent.metrics import MetricStore
from shotover_gevent.net.address import Address
from shotover_gevent.net.listener import bind
from shotover_gevent.observability import http, wsgi
from shotover_gevent.observability.http import AdminServer

LOCAL = Address("127.0.0.1", 0)
WAIT_S = 10.0
TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"

Make = Callable[..., AdminServer]


@pytest.fixture
def make() -> Iterator[Make]:
    """Make a server with defaults for a test; it is closed at the end, with nothing in progress."""
    made = []

    def make_one(where: Any = LOCAL, **arguments: Any) -> AdminServer:
        store = arguments.pop("metrics", None) or MetricStore()
        defaults = {"ready": lambda: (True, "ok"), "live": lambda: (True, "ok")}
        made.append(AdminServer(where, store, **(defaults | arguments)))
        return made[-1]

    yield make_one
    for server in made:
        server.close()
    assert [server.join(WAIT_S) for server in made] == [True] * len(made)


def connect(server: AdminServer) -> Any:
    """A connection to ``server``; close it."""
    return create_connection((server.address.host, server.address.port), timeout=WAIT_S)


def exchange(server: AdminServer, data: bytes) -> tuple[str, dict[str, str], bytes]:
    """Send bytes, read until the end: status line, headers without the date, body."""
    sock = connect(server)
    try:
        sock.sendall(data)
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
    finally:
        sock.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name: value for name, value in (line.split(": ") for line in lines) if name != "Date"}
    return status, headers, body


def request(
    server: AdminServer, method: str, path: str, body: bytes = b"", headers: str = ""
) -> tuple[str, dict[str, str], bytes]:
    """Make one request."""
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n{length}{headers}\r\n"
    return exchange(server, head.encode() + body)


def answer(
    status: str, body: bytes, kind: str = TEXT, **more: str
) -> tuple[str, dict[str, str], bytes]:
    """What :func:`request` returns for a page."""
    headers = {"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"}
    return f"HTTP/1.1 {status}", headers | more, body


# -- pages --------------------------------------------------------------------------------------


def test_the_root_says_what_there_is(make: Make) -> None:
    """The root page begins with Shotover's words."""
    server = make()
    server.start()
    status, headers, body = request(server, "GET", "/")
    assert (status, headers["Content-Type"], body.decode().splitlines()[0]) == (
        "HTTP/1.1 200 OK", HTML, "try /filter or /metrics")


class NoHistory:
    """Tells what it was asked for."""

    def since(self, number: int) -> bytes:
        """A number, as JSON."""
        return b"%d" % number

    def sample(self, lag_s: float) -> None:
        """Nothing."""


STATUS_PAGE = {"status": lambda: b'{"pid":1}', "history": NoHistory()}


def test_a_browser_gets_the_status_page_and_others_a_list(make: Make) -> None:
    """By what they accept; the page may load and ask nothing but its own host."""
    server = make(**STATUS_PAGE)
    server.start()
    browser = request(server, "GET", "/", headers="Accept: text/html,application/xml;q=0.9\r\n")
    other = request(server, "GET", "/", headers="Accept: */*\r\n")
    assert (browser[1]["Content-Type"], browser[2].startswith(b"<!doctype html>")) == (HTML, True)
    assert browser[1]["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
    assert re.findall(r'href="(.*?)"', other[2].decode()) == [
        "/metrics", "/livez", "/readyz", "/status", "/history"]


def test_the_files_of_the_page_are_served_with_their_types(make: Make) -> None:
    """Every file that the page names, and no other."""
    server = make(**STATUS_PAGE)
    server.start()
    text = request(server, "GET", "/", headers="Accept: text/html\r\n")[2].decode()
    named = set(re.findall(r'(?:src|href)="(/[\w.]+\.\w+)"', text))
    found = {path: request(server, "GET", path)[:2] for path in named}
    assert {path: (status, headers["Content-Type"]) for path, (status, headers) in found.items()} == {
        "/page.css": ("HTTP/1.1 200 OK", "text/css; charset=utf-8"),
        "/page.js": ("HTTP/1.1 200 OK", "text/javascript; charset=utf-8"),
        "/chart.js": ("HTTP/1.1 200 OK", "text/javascript; charset=utf-8"),
        "/icon.svg": ("HTTP/1.1 200 OK", "image/svg+xml"),
    }


def test_status_and_history_are_json_that_nobody_keeps(make: Make) -> None:
    """History is told from a number on; what is no number is the beginning."""
    server = make(**STATUS_PAGE)
    server.start()
    kind, fresh = "application/json", {"Cache-Control": "no-store"}
    assert request(server, "GET", "/status") == answer("200 OK", b'{"pid":1}', kind, **fresh)
    numbers = [
        request(server, "GET", f"/history{query}")[2]
        for query in ("", "?since=7", "?since=x", "?since=-1", "?since=%s" % ("9" * 30))]
    assert numbers == [b"0", b"7", b"0", b"0", b"0"]


def test_without_a_proxy_behind_it_there_is_no_status_page(make: Make) -> None:
    """A browser gets the list, too."""
    server = make()
    server.start()
    page = request(server, "GET", "/", headers="Accept: text/html\r\n")
    assert (page[2].startswith(b"try "), request(server, "GET", "/status")[0]) == (
        True, "HTTP/1.1 404 Not Found")


def test_metrics_of_the_store_then_of_the_process(make: Make) -> None:
    """The metrics page has the store's text, the hub's lag, and the process."""
    store = MetricStore()
    store.counter("connections_opened", "Connections accepted", source="v").value += 3
    server = make(metrics=store)
    server.start()
    status, headers, body = request(server, "GET", "/metrics?x=1")
    lines = body.decode().splitlines()
    assert (status, headers["Content-Type"], lines[:3], lines[4], lines[-2]) == (
        "HTTP/1.1 200 OK", "text/plain; version=0.0.4; charset=utf-8",
        ["# HELP connections_opened Connections accepted", "# TYPE connections_opened counter",
         'connections_opened{source="v"} 3'],
        "# TYPE shotover_hub_lag_seconds histogram", "# TYPE process_max_fds gauge")


def test_the_lag_is_measured_while_the_server_lives(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measuring begins and ends with the server, and goes to the metrics."""
    steps: list[str] = []

    class Lag:
        def __init__(self, observe: Callable[[float], None]) -> None:
            observe(0.02)

        def start(self) -> None:
            steps.append("start")

        def close(self) -> None:
            steps.append("close")

    monkeypatch.setattr(http, "HubLag", Lag)
    server = make()
    server.start()
    body = request(server, "GET", "/metrics")[2].decode()
    server.close()
    assert ("shotover_hub_lag_seconds_sum 0.02\n" in body, steps) == (True, ["start", "close"])


def test_a_long_page_lets_others_run(make: Make) -> None:
    """While many metrics are written, other greenlets get their turns."""
    store = MetricStore()
    server = make(metrics=store)
    for number in range(3 * http.PIECES_PER_TURN):
        store.counter("c", "h", number=str(number))
    server.start()
    turns: list[int] = []
    rendering = Event()

    def count() -> None:
        rendering.wait()
        while rendering.is_set():
            turns.append(1)
            gevent.sleep(0)

    def first() -> int:
        rendering.set()
        return 0

    def last() -> int:
        rendering.clear()
        return 0

    other = gevent.spawn(count)
    gevent.sleep(0)
    store.gauge("first", "h", first)
    store._families = {"first": store._families.pop("first"), **store._families}
    store.gauge("zlast", "h", last)
    request(server, "GET", "/metrics")
    other.join()
    assert len(turns) >= 2


@pytest.mark.parametrize(("path", "state", "expected"), [
    ("/readyz", (True, "ok"), answer("200 OK", b"ok")),
    ("/readyz", (False, "draining"), answer("503 Service Unavailable", b"draining")),
    ("/livez", (True, "fine"), answer("200 OK", b"ok")),
    ("/livez", (False, "stuck"), answer("503 Service Unavailable", b"stuck")),
])
def test_health(make: Make, path: str, state: tuple[bool, str], expected: Any) -> None:
    """A page is 200 and ``ok``, or 503 and the reason."""
    server = make(**{{"/readyz": "ready", "/livez": "live"}[path]: lambda: state})
    server.start()
    assert request(server, "GET", path) == expected


@pytest.mark.parametrize(("method", "path", "expected"), [
    ("HEAD", "/livez", ("HTTP/1.1 200 OK", answer("200 OK", b"ok")[1], b"")),
    ("GET", "/nothing", answer("404 Not Found", b"not found; try /filter or /metrics\n")),
    ("POST", "/metrics", answer("405 Method Not Allowed", b"only GET, HEAD\n", Allow="GET, HEAD")),
    ("GET", "/filter", answer("405 Method Not Allowed", b"only PUT\n", Allow="PUT")),
    ("POST", "/filter", answer("405 Method Not Allowed", b"only PUT\n", Allow="PUT")),
    ("PUT", "/filter", answer("501 Not Implemented", b"the log filter belongs to another program\n")),
])
def test_other_methods_and_paths(make: Make, method: str, path: str, expected: Any) -> None:
    """HEAD has no body; a wrong method names the right ones; without a filter there is none."""
    server = make()
    server.start()
    assert request(server, method, path) == expected


# -- the log filter -----------------------------------------------------------------------------


def test_a_filter_that_is_put_takes_effect(make: Make) -> None:
    """Lines that the former filter hid are printed; the change itself is a line."""
    stream = io.StringIO()
    handle = logs.configure(logs.parse_directives("info"), stream=stream)
    logger = logging.getLogger("shotover_gevent.sinks.null")
    server = make(set_filter=handle.set_filter)
    server.start()
    logger.debug("hidden")
    response = request(server, "PUT", "/filter", b"info, shotover::sinks=debug")
    logger.debug("shown")
    handle.close()
    lines = [line.split(maxsplit=1)[1] for line in stream.getvalue().splitlines()]
    assert (response, lines) == (answer("200 OK", b"Filter set", HTML), [
        "INFO shotover::observability: filter set to: info, shotover::sinks=debug",
        "DEBUG shotover::sinks::null: shown",
    ])


def put_texts(make: Make) -> tuple[AdminServer, list[str]]:
    """A running server, and the filters that were put to it."""
    texts: list[str] = []
    server = make(set_filter=texts.append)
    server.start()
    return server, texts


@pytest.mark.parametrize(("body", "expected"), [
    (b"a=b", b'HTTP 500 error: error parsing level filter: expected one of "off", "error", "warn", '
             b'"info", "debug", "trace", or a number 0-5: a=b'),
    (b"\xff", b"HTTP 500 error: 'utf-8' codec can't decode byte 0xff in position 0: "
              b"invalid start byte"),
])
def test_a_bad_filter_is_answered_with_its_error(make: Make, body: bytes, expected: bytes) -> None:
    """A filter that cannot be read is a 500 in Shotover's form."""
    server = make(set_filter=lambda text: logs.parse_directives(text) and None)
    server.start()
    assert request(server, "PUT", "/filter", body) == answer("500 Internal Server Error", expected)


def test_a_filter_has_a_bound(make: Make) -> None:
    """A body of more than 64 KiB is refused, announced or in chunks; one of 64 KiB is not."""
    server, texts = put_texts(make)
    body = b"x" * 65536
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body) + 1, body + b"x")
    too_large = answer("413 Request Entity Too Large", b"a filter has at most 65536 bytes\n")
    head = b"PUT /filter HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert (
        request(server, "PUT", "/filter", body), request(server, "PUT", "/filter", body + b"x"),
        exchange(server, head + chunked), texts,
    ) == (answer("200 OK", b"Filter set", HTML), too_large, too_large, [body.decode()])


# -- clients that misbehave ---------------------------------------------------------------------


def test_a_slow_client_does_not_stop_another(make: Make) -> None:
    """A request that does not end leaves the server to others."""
    server = make()
    server.start()
    slow = connect(server)
    slow.sendall(b"GET / HTTP/1.1\r\nHost")
    response = request(server, "GET", "/livez")
    slow.close()
    assert response == answer("200 OK", b"ok")


@pytest.mark.parametrize("data", [
    b"", b"GET / HTTP/1.1\r\nHost", b"PUT /filter HTTP/1.1\r\nContent-Length: 9\r\n\r\ninfo"])
def test_a_connection_has_a_deadline(
    make: Make, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], data: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A client that does not finish its request is cut off, and nothing is printed or logged."""
    caplog.set_level(logging.INFO, "shotover_gevent")
    monkeypatch.setattr(wsgi, "CONNECTION_S", 0.01)
    server, texts = put_texts(make)
    slow = connect(server)
    slow.sendall(data)
    received = slow.recv(65536)
    slow.close()
    assert (received, texts, capfd.readouterr().err, caplog.messages) == (b"", [], "", [])


def test_a_client_that_does_not_read_has_a_deadline(
    make: Make, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A page that its client does not take is given up."""
    monkeypatch.setattr(wsgi, "CONNECTION_S", 0.05)
    server = make(live=lambda: (False, "x" * 50_000_000))
    server.start()
    slow = connect(server)
    slow.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    begun = slow.recv(1)
    is_idle = server.join(WAIT_S)
    slow.close()
    assert (begun, is_idle, capfd.readouterr().err) == (b"H", True, "")


def test_the_number_of_connections_has_a_bound(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections beyond the bound wait until others have ended, and are then served."""
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 2)
    inside: list[int] = []
    most: list[int] = []

    def live() -> tuple[bool, str]:
        inside.append(1)
        most.append(len(inside))
        gevent.sleep(0.01)
        inside.pop()
        return True, "ok"

    server = make(live=live)
    server.start()
    clients = [gevent.spawn(request, server, "GET", "/livez") for _ in range(6)]
    responses = [client.get(timeout=WAIT_S) for client in clients]
    assert (responses, max(most)) == ([answer("200 OK", b"ok")] * 6, 2)


@pytest.mark.parametrize("data", [
    b"bla\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"a: " + b"x" * 17_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"a: x\r\n" * 101 + b"\r\n",
    b"PUT /filter HTTP/1.1\r\nContent-Length: x\r\n\r\n",
])
def test_a_malformed_request_is_refused_quietly(
    make: Make, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    """It is a 400 and no more than a line at DEBUG."""
    server = make()
    server.start()
    with caplog.at_level(logging.INFO, "shotover_gevent"):
        response = exchange(server, data)
    assert (response, capfd.readouterr().err, caplog.messages) == (
        ("HTTP/1.1 400 Bad Request", {"Connection": "close", "Content-Length": "0"}, b""), "", [])


def test_a_page_that_fails_is_a_line_with_its_traceback(
    make: Make, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The client gets a 500 without details; the log has them; nothing is printed."""
    def fail() -> tuple[bool, str]:
        raise KeyError("k")

    server = make(ready=fail)
    server.start()
    response = request(server, "GET", "/readyz")
    record = caplog.records[-1]
    assert (response, capfd.readouterr().err, record.levelname, record.message, record.exc_info[0]) == (
        answer("500 Internal Server Error", b"HTTP 500 error: see the log\n"), "", "ERROR",
        "admin request failed", KeyError)


# -- the listening socket -----------------------------------------------------------------------


def test_a_successor_takes_the_listener_over(make: Make) -> None:
    """The lent socket serves on; after the predecessor's close the successor is alone there."""
    old = make(ready=lambda: (False, "old"))
    old.start()
    lent = old.lend()
    new = make(lent, ready=lambda: (False, "new"))
    old.close()
    new.start()
    address = new.address
    bodies = [request(new, "GET", "/readyz")[2] for _ in range(3)]
    new.close()
    with pytest.raises(ConnectionRefusedError):
        connect(new)
    assert (bodies, address, old.lend(), old.listener) == ([b"new"] * 3, old.address, None, None)


def test_a_connection_made_during_the_handover_is_served(make: Make) -> None:
    """Who connects while nobody accepts waits in the queue, and is answered by the successor."""
    old = make()
    old.start()
    new = make(old.lend(), ready=lambda: (False, "new"))
    old.stop_accepting()
    waiting = gevent.spawn(request, new, "GET", "/readyz")
    connect(new).close()  # the hub has run; nobody has accepted
    is_waiting = not waiting.ready()
    old.close()
    new.start()
    assert (is_waiting, waiting.get(timeout=WAIT_S)[2]) == (True, b"new")


def test_accepting_can_be_taken_up_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped server keeps its socket and accepts nothing, until it is started again."""
    is_full, may_go = Event(), Event()

    class PoolOfOne(Pool):
        def __init__(self, size: int) -> None:
            super().__init__(1)

        def full(self) -> bool:
            if found := super().full():
                is_full.set()
            return bool(found)

    def live() -> tuple[bool, str]:
        return may_go.wait(), "ok"

    monkeypatch.setattr(http, "Pool", PoolOfOne)

    server = make(live=live)
    server.start()
    before = gevent.spawn(request, server, "GET", "/livez")
    after = gevent.spawn(request, server, "GET", "/livez")
    assert is_full.wait(WAIT_S)
    server.stop_accepting()
    may_go.set()  # the end of a connection makes room, which must not start the accepting
    before.get(timeout=WAIT_S)
    server.join(WAIT_S)
    connect(server).close()  # the hub has run
    connect(server).close()
    states = [after.ready(), server.state, server.serving.is_set()]
    server.start()
    assert (states, after.get(timeout=WAIT_S)) == (
        [False, http.State.PAUSED, False], answer("200 OK", b"ok"))


def test_a_request_in_progress_outlives_the_listener(make: Make) -> None:
    """Close leaves a request to its end."""
    server = make()
    server.start()
    sock = connect(server)
    sock.sendall(b"GET /livez HTTP/1.1\r\n")
    request(server, "GET", "/livez")
    server.close()
    sock.sendall(b"\r\n")
    first = sock.recv(65536)
    sock.close()
    assert (first.splitlines()[0], server.join(WAIT_S)) == (b"HTTP/1.1 200 OK", True)


def test_an_address_in_use_is_tried_until_it_is_free(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One error when it fails, one line when it works; meanwhile the program goes on."""
    monkeypatch.setattr(http, "BIND_RETRY_S", 0.01)
    caplog.set_level(logging.INFO, "shotover_gevent")
    attempts = []
    freed = Event()

    def counted(address: Address) -> socket.socket:
        attempts.append(address)
        if len(attempts) == 3:
            freed.set()
        return bind(address)

    monkeypatch.setattr(http, "bind", counted)
    with bind(LOCAL) as other:
        server = make(Address.of(other.getsockname()))
        server.start()
        was_serving = (server.state, server.lend())
        assert freed.wait(WAIT_S)
    assert server.serving.wait(WAIT_S)
    response = request(server, "GET", "/livez")
    assert (was_serving, response, [(each.levelname, each.message) for each in caplog.records]) == (
        (http.State.BINDING, None), answer("200 OK", b"ok"), [
            ("ERROR", f"Metrics HTTP server failed: Failed to bind to {server.address}"),
            ("INFO", f"Metrics HTTP server recovered and is listening on {server.address}"),
        ])


def test_closing_ends_the_attempts_to_bind(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed server does not bind when its address becomes free."""
    monkeypatch.setattr(http, "BIND_RETRY_S", 0.001)
    with bind(LOCAL) as other:
        server = make(Address.of(other.getsockname()))
        server.start()
        binder = server._binder
        server.close()
    assert binder is not None
    binder.join(WAIT_S)
    assert (binder.ready(), server.state, server.listener) == (True, http.State.CLOSED, None)


def test_open_tells_its_caller(make: Make) -> None:
    """Who wants to know binds first, and gets the error; a closed server is not opened."""
    with bind(LOCAL) as other:
        server = make(Address.of(other.getsockname()))
        with pytest.raises(OSError, match="Address already in use"):
            server.open()
    server.close()
    with pytest.raises(UsageError, match="a closed admin server cannot be opened"):
        server.open()


def test_two_servers_live_in_one_process(make: Make) -> None:
    """Each has its own address, metrics and answers."""
    servers = [make(ready=lambda name=name: (False, name)) for name in ("one", "two")]
    for server in servers:
        server.start()
    assert [request(server, "GET", "/readyz")[2] for server in servers] == [b"one", b"two"]


def test_nothing_stays_open(make: Make) -> None:
    """A server that was used, lent and closed leaves no descriptor."""
    def use() -> None:
        server = make()
        server.start()
        lent = server.lend()
        assert lent is not None
        request(server, "GET", "/metrics")
        lent.close()
        server.close()
        assert server.join(WAIT_S)

    use()
    before = len(os.listdir("/proc/self/fd"))
    use()
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_repr_says_how_it_is(make: Make) -> None:
    """Address, state and connections."""
    server = make()
    server.start()
    text = repr(server)
    server.close()
    assert (text, repr(server)) == (
        f"<AdminServer on {server.address} serving, 0 connections>",
        f"<AdminServer on {server.address} closed, 0 connections>")
