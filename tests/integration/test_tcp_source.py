"""A Tcp source moves bytes both ways, each way on its own, and hides nothing."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.harness import Client, ProxyProcess, eventually, free_port
from tests.proxies import tcp_topology

# No two of its parts are alike where a buffer might end.
MUCH = b"".join(os.urandom(1 << 16) + b"%016d" % number for number in range(305))

PRINTER = """
sources:
  - Tcp:
      name: "tcp"
      listen_addr: "127.0.0.1:{port}"
      chain:
        - DebugPrinter: {{name: "printer"}}
        - TcpSinkSingle: {{name: "sink", remote_address: "127.0.0.1:{upstream}", connect_timeout_ms: 3000}}
"""


@contextmanager
def upstream(handle: Callable[[Client], None]) -> Iterator[int]:
    """A server on that port; each connection is given to ``handle``, and then closed."""
    errors: list[BaseException] = []
    threads: list[threading.Thread] = []

    def serve(sock: socket.socket) -> None:
        with Client(sock) as client:
            try:
                handle(client)
            except BaseException as error:
                errors.append(error)

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(sock,), daemon=True))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join(10)
    for thread in threads:
        thread.join(10)
    assert (errors, [thread for thread in threads if thread.is_alive()]) == ([], [])


@contextmanager
def proxied(
    handle: Callable[[Client], None], topology: Callable[[int, int], str] = tcp_topology
) -> Iterator[tuple[ProxyProcess, int]]:
    """A proxy in front of such a server, and its port."""
    port = free_port()
    with upstream(handle) as server, ProxyProcess(topology(port, server)) as proxy:
        yield proxy, port


def echo(client: Client) -> None:
    """Answer with what comes, to the end."""
    while data := client.socket.recv(1 << 16):
        client.send(data)


def exchange(client: Client) -> bool:
    """Send and receive much at the same time; whether it came right."""
    sender = threading.Thread(target=client.send, args=(MUCH,), daemon=True)
    sender.start()
    received = client.receive(len(MUCH))
    sender.join(10)
    return received == MUCH


def reset(client: Client) -> None:
    """Close by a reset."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def closed_fields(proxy: ProxyProcess, count: int = 1) -> str:
    """The reason of the last of so many sessions that have closed."""
    return str(proxy.wait_log("session closed", count=count).fields["reason"])


def test_bytes_of_any_kind_come_back() -> None:
    """Nothing is read into them."""
    data = bytes(range(256)) + b"\r\n*1\r\n$4\r\nPING\r\n\0"
    with proxied(echo) as (proxy, port), Client(port) as client, Client(port) as other:
        for _ in range(3):
            client.ask(data, data)
            other.ask(b"x", b"x")
        client.socket.shutdown(socket.SHUT_WR)
        client.eof()
        assert closed_fields(proxy) == "client closed"


def test_twenty_megabytes_go_both_ways_at_once() -> None:
    """Both sides send before either has read: nobody waits for the other for ever."""
    came_right: list[bool] = []

    with proxied(lambda peer: came_right.append(exchange(peer))) as (_, port), Client(port, 30) as client:
        came_right.append(exchange(client))
        client.eof()
    assert (came_right, len(MUCH) > 19_900_000) == ([True, True], True)


def test_the_end_of_the_client_is_passed_on_and_the_answer_still_comes() -> None:
    """As with ``echo request | nc``: the server answers after the end of the request."""

    def answer_at_the_end(client: Client) -> None:
        request = b"".join(iter(lambda: client.socket.recv(1 << 16), b""))
        client.send(request[::-1])

    with proxied(answer_at_the_end) as (_, port), Client(port) as client:
        client.send(b"request")
        client.socket.shutdown(socket.SHUT_WR)
        client.expect(b"tseuqer")
        client.eof()


def test_the_end_of_the_server_is_passed_on_and_the_client_is_still_heard() -> None:
    """The server speaks first, ends, and listens on."""
    heard = threading.Event()

    def speak_and_listen(client: Client) -> None:
        client.send(b"220 ready\r\n")
        client.socket.shutdown(socket.SHUT_WR)
        client.expect(b"late")
        client.eof()
        heard.set()

    with proxied(speak_and_listen) as (_, port), Client(port) as client:
        client.expect(b"220 ready\r\n")
        client.eof()
        client.send(b"late")
        client.socket.shutdown(socket.SHUT_WR)
        assert heard.wait(10)


@pytest.mark.parametrize("reader", ["server", "client"])
def test_a_side_that_does_not_read_costs_no_memory(reader: str) -> None:
    """The sender is stopped by the kernel, and what was sent arrives once somebody reads."""
    may_read, came = threading.Event(), []
    sent = [0]

    def slow(client: Client) -> None:
        may_read.wait(20)
        came.append(client.receive(len(MUCH)) == MUCH)

    def fast(client: Client) -> None:
        for start in range(0, len(MUCH), 1 << 16):
            client.send(MUCH[start : start + (1 << 16)])
            sent[0] = start
        client.socket.shutdown(socket.SHUT_WR)
        client.eof()

    polls: list[int] = []

    def is_stuck() -> bool:
        polls.append(sent[0])
        return polls[-1] > 1 << 20 and polls[-1] == polls[-min(20, len(polls))]

    server_does, client_does = (slow, fast) if reader == "server" else (fast, slow)
    with proxied(server_does) as (proxy, port):
        before = proxy.rss_bytes()
        with Client(port, 30) as client:
            thread = threading.Thread(target=client_does, args=(client,), daemon=True)
            thread.start()
            eventually(is_stuck)
            grown = proxy.rss_bytes() - before
            may_read.set()
            thread.join(20)
            eventually(lambda: came)
    assert (came, polls[-1] < len(MUCH) - (1 << 20), grown < 4_000_000) == ([True], True, True)


def test_a_server_that_is_down_closes_the_client() -> None:
    """No byte comes, and one line says why."""
    port, server = free_port(), free_port()
    with ProxyProcess(tcp_topology(port, server), expect=["connection was unexpectedly terminated"]) as proxy:
        before = proxy.descriptors()
        with Client(port) as client:
            client.send(b"anybody?")
            client.eof()
        reason = closed_fields(proxy)
        eventually(lambda: proxy.descriptors() == before)
        loud = [event.message for event in proxy.events if event.level in ("WARN", "ERROR")]
    assert (reason, loud) == ("failed", [
        "connection was unexpectedly terminated\n\nCaused by:\n"
        "    0: Failed to send and/or receive messages, the connection will now be closed.\n"
        f"    1: Failed to connect to destination 127.0.0.1:{server}\n    2: Connection refused (os error 111)"])


@pytest.mark.parametrize("breaker", ["server", "client"])
def test_a_reset_on_one_side_is_one_on_the_other(breaker: str) -> None:
    """What was cut off does not look complete, and the log is silent about it."""
    heard, seen = threading.Event(), []

    def break_off(client: Client) -> None:
        client.send(b"half of it")
        assert heard.wait(10)
        reset(client)

    def suffer(client: Client) -> None:
        client.expect(b"half of it")
        heard.set()
        try:
            seen.append(client.socket.recv(10))
        except ConnectionResetError:
            seen.append(b"reset")

    server_does, client_does = (break_off, suffer) if breaker == "server" else (suffer, break_off)
    with proxied(server_does) as (proxy, port):
        before = proxy.descriptors()
        with Client(port) as client:
            client_does(client)
        eventually(lambda: seen and proxy.descriptors() == before)
    assert seen == [b"reset"]


def test_a_signal_ends_quiet_connections_and_lets_busy_ones_finish() -> None:
    """Both sides of each see the end; bytes that are on their way arrive."""
    stopping, ended = threading.Event(), []

    def serve(client: Client) -> None:
        request = client.receive(5)
        if request == b"large":
            assert stopping.wait(10)
            client.send(MUCH)
        ended.append((request, client.socket.recv(10)))

    with proxied(serve) as (proxy, port), Client(port) as quiet, Client(port, 30) as busy:
        quiet.send(b"hello")
        busy.send(b"large")
        proxy.wait_log("New connection", count=2)
        stopping.set()
        came = busy.receive(1000)
        proxy.terminate()
        came += busy.receive(len(MUCH) - 1000)
        busy.eof()
        quiet.eof()
        assert proxy.wait() == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
    assert (came == MUCH, sorted(ended)) == (True, [(b"hello", b""), (b"large", b"")])


def test_a_printer_in_front_of_the_sink_shows_the_bytes() -> None:
    """One line for what one read brought, each way; the bytes are not changed."""

    def serve(client: Client) -> None:
        client.send(b"ready\n")
        echo(client)

    def topology(port: int, server: int) -> str:
        return PRINTER.format(port=port, upstream=server)

    with proxied(serve, topology) as (proxy, port), Client(port) as client:
        client.expect(b"ready\n")
        client.ask(b"hi\0", b"hi\0")
        proxy.wait_log("^Response", count=2)
        said = [event for event in proxy.events if event.message.startswith(("Request", "Response"))]
    assert [(event.level, event.message) for event in said] == [
        ("INFO", "Response: Tcp 6 bytes b'ready\\n'"), ("INFO", "Request: Tcp 3 bytes b'hi\\x00'"),
        ("INFO", "Response: Tcp 3 bytes b'hi\\x00'")]
