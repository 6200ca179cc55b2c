"""What clients of a Valkey source see when something is wrong, full, idle or large."""

import resource
import socket
import time

import pytest

from tests.harness import Client, ProxyProcess, command, eventually, free_port
from tests.proxies import is_refused, is_served, valkey_topology

DOWN = (
    "Internal shotover (or custom transform) bug (chain: valkey): Failed to send and/or receive "
    "messages, the connection will now be closed.  Caused by:     0: Transform ValkeySinkSingle named "
    "sink failed in chain valkey     1: Failed to connect to destination 127.0.0.1:{upstream}     "
    "2: Connection refused (os error 111)"
)
DOWN_LOG = (
    "connection was unexpectedly terminated\n\nCaused by:\n"
    "    0: Failed to send and/or receive messages, the connection will now be closed.\n"
    "    1: Transform QueryCounter named count failed in chain valkey\n"
    "    2: Transform ValkeySinkSingle named sink failed in chain valkey\n"
    "    3: Failed to connect to destination 127.0.0.1:{upstream}\n"
    "    4: Connection refused (os error 111)"
)


def test_a_dead_database_is_told_to_the_client_and_logged_once(mode):
    """Each pending request gets the error, then the connection closes; the log has one line."""
    port, upstream = free_port(), free_port()
    text = DOWN.format(upstream=upstream).replace(
        "0: Transform ValkeySinkSingle", "0: Transform QueryCounter named count failed in chain valkey"
        "     1: Transform ValkeySinkSingle").replace("1: Failed to connect", "2: Failed to connect"
        ).replace("2: Connection refused", "3: Connection refused")
    with ProxyProcess(
        valkey_topology(port, upstream, mode=mode), expect=["connection was unexpectedly terminated"]
    ) as proxy:
        proxy.wait_ready()
        with Client(port) as client:
            client.send(command("GET", "a") + command("GET", "b"))
            client.expect(f"-ERR {text}\r\n".encode() * 2)
            client.eof()
        event = proxy.wait_log("connection was unexpectedly terminated")
        proxy.stop()
        loud = [e.message for e in proxy.events if e.level in ("WARN", "ERROR")]
    assert (event.message, loud) == (DOWN_LOG.format(upstream=upstream), [event.message])


def test_a_client_that_asks_nothing_opens_no_connection_to_the_database(mode):
    """Connecting and leaving is silent, even while the database is down."""
    port = free_port()
    with ProxyProcess(valkey_topology(port, free_port(), mode=mode)) as proxy:
        proxy.wait_ready()
        Client(port).close()
        proxy.wait_log("session closed")


def test_a_malformed_request_is_refused_as_redis_does_it(redis_server, mode):
    """The requests before it are answered, then the server's text follows and the end."""
    port = free_port()
    with ProxyProcess(
        valkey_topology(port, redis_server.port, mode=mode), expect=["failed to decode message"]
    ) as proxy:
        proxy.wait_ready()
        with Client(port) as client:
            client.send(command("ECHO", "x") + b"*1\r\n+PING\r\n")
            client.expect(b"$1\r\nx\r\n-ERR Protocol error: expected '$', got '+'\r\n")
            client.eof()


def test_a_soft_limit_lets_clients_wait(redis_server, mode):
    """A client beyond the limit is served once another has left."""
    port = free_port()
    with ProxyProcess(valkey_topology(port, redis_server.port, "connection_limit: 1", mode=mode)) as proxy:
        proxy.wait_ready()
        with Client(port) as first, Client(port) as second:
            first.ask(b"PING\r\n", b"+PONG\r\n")
            second.send(b"PING\r\n")
            second.silent()
            first.close()
            second.expect(b"+PONG\r\n")


def test_a_hard_limit_refuses_clients(redis_server, mode):
    """A client beyond the limit is refused; after another has left, the address is served again."""
    port = free_port()
    options = "connection_limit: 1\n      hard_connection_limit: true"
    with ProxyProcess(valkey_topology(port, redis_server.port, options, mode=mode)) as proxy:
        proxy.wait_ready()
        with Client(port) as first:
            first.ask(b"PING\r\n", b"+PONG\r\n")
            eventually(lambda: is_refused(port))
        eventually(lambda: is_served(port))


def test_an_idle_client_is_closed_after_the_timeout(redis_server, mode):
    """The timeout counts while nothing is asked, not while a request waits."""
    port = free_port()
    with ProxyProcess(valkey_topology(port, redis_server.port, "timeout: 1", mode=mode)) as proxy:
        proxy.wait_ready()
        with Client(port) as client:
            started = time.monotonic()
            client.ask(command("BLPOP", "nothing", "1.5"), b"*-1\r\n")
            client.eof()
            took = time.monotonic() - started
    assert 2.4 <= took < 6


def test_a_client_that_leaves_while_blocked_frees_its_connection(redis_server, mode):
    """An item pushed after a blocked client has gone is not lost to it."""
    port = free_port()
    with ProxyProcess(valkey_topology(port, redis_server.port, mode=mode)) as proxy:
        proxy.wait_ready()
        with Client(redis_server.port) as direct:
            direct.ask(command("DEL", "queue"), b":0\r\n")
            client = Client(port)
            client.send(command("BLPOP", "queue", "0") + command("PING"))
            eventually(lambda: b"blocked_clients:1" in info(redis_server.port))
            client.close()
            eventually(lambda: b"blocked_clients:0" in info(redis_server.port))
            direct.ask(command("RPUSH", "queue", "item"), b":1\r\n")
            direct.ask(command("LPOP", "queue"), b"$4\r\nitem\r\n")


def info(port):
    """The answer to INFO clients."""
    with Client(port) as client:
        client.send(command("INFO", "clients") + command("QUIT"))
        received = b""
        while data := client.socket.recv(65536):
            received += data
        return received


def test_a_stalled_client_harms_nobody(redis_server, mode):
    """A client that asks for much and reads nothing binds bounded memory; others go on."""
    port = free_port()
    with ProxyProcess(valkey_topology(port, redis_server.port, mode=mode)) as proxy:
        proxy.wait_ready()
        with Client(port) as other, Client(port) as stalled:
            other.ask(command("SET", "large", "x" * 100_000), b"+OK\r\n")
            before = proxy.rss_bytes()
            stalled.socket.setblocking(False)
            requests = command("GET", "large") * 4000
            try:
                while requests:
                    requests = requests[stalled.socket.send(requests):]
            except BlockingIOError:
                pass
            deadline = time.monotonic() + 3
            while time.monotonic() < deadline:
                other.ask(command("GET", "small"), b"$-1\r\n")
            assert proxy.rss_bytes() - before < 60_000_000


def test_garbage_leaves_no_trace(redis_server, mode):
    """A thousand connections that send garbage are closed, and nothing of them stays."""
    port = free_port()
    with ProxyProcess(
        valkey_topology(port, redis_server.port, mode=mode), expect=["failed to decode message"]
    ) as proxy:
        proxy.wait_ready()
        with Client(port) as client:
            client.ask(b"PING\r\n", b"+PONG\r\n")
            before = proxy.descriptors()
            for number in range(1000):
                with socket.create_connection(("127.0.0.1", port), timeout=10) as garbage:
                    garbage.sendall(b"*%d\r\n\x00\xff" % number + bytes([number % 256]) * 50 + b"\r\n")
            eventually(lambda: proxy.descriptors() == before)
            client.ask(b"PING\r\n", b"+PONG\r\n")


# One for each of 10,000 clients, one more for each that has asked something, and some.
DESCRIPTORS = 15_000


@pytest.fixture
def many_descriptors():
    """Allow this process and its children enough descriptors for 10,000 clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < DESCRIPTORS:
        pytest.skip(f"{DESCRIPTORS} descriptors are needed, and the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_ten_thousand_idle_clients_are_held(redis_server, many_descriptors, mode):
    """10,000 clients stay connected, some after requests; those that ask are answered, at any time."""
    port = free_port()
    topology = valkey_topology(port, redis_server.port, "connection_limit: 20000", mode=mode)
    with ProxyProcess(topology, config='main_log_level: "warn"\n') as proxy:
        proxy.wait_port(port)
        clients = []
        try:
            for _ in range(10_000):
                clients.append(socket.create_connection(("127.0.0.1", port), timeout=30))
            replies = []
            for chosen in (clients[::4], clients[::4], clients[1::1000]):
                for client in chosen:
                    client.sendall(b"PING\r\n")
                replies += [client.recv(100) for client in chosen]
            least = 12_000 if mode == "dedicated" else 10_000  # those that asked have two each
            assert (set(replies), least < proxy.descriptors() < least + 1000) == ({b"+PONG\r\n"}, True)
        finally:
            for client in clients:
                client.close()
        eventually(lambda: proxy.descriptors() < 100, 60)


@pytest.mark.parametrize("signals", [1, 2])
def test_a_signal_ends_the_process_in_order(redis_server, signals, mode):
    """SIGTERM closes idle clients; a second one also those that wait; the exit code is 0."""
    port = free_port()
    with ProxyProcess(
        valkey_topology(port, redis_server.port, mode=mode), tolerate=["did not end in time"]
    ) as proxy:
        proxy.wait_ready()
        with Client(port) as client:
            client.ask(b"PING\r\n", b"+PONG\r\n")
            if signals == 2:
                client.send(command("BLPOP", "never", "0"))
                eventually(lambda: b"blocked_clients:1" in info(redis_server.port))
            for _ in range(signals):
                proxy.terminate()
                proxy.wait_log("received SIGTERM")
            client.eof()
        assert proxy.wait() == 0
        proxy.wait_log("Shotover was shutdown cleanly")
