"""Clients that share upstream connections see what they would see on connections of their own."""

import contextlib
import re
import threading
import time
import urllib.request

import pytest

from shotover_gevent.testing import RealServer, find_server
from tests.harness import Client, ProxyProcess, command, eventually, free_port
from tests.proxies import valkey_topology

MANY = 30


class Shared:
    """A proxy in shared mode in front of a server, and a direct connection to that."""

    def __init__(self, proxy, port, server, metrics_port):
        self.proxy, self.port, self.server = proxy, port, server
        self._metrics_port = metrics_port

    def clients(self, count=MANY):
        """So many clients of the proxy, in a context that closes them."""
        return _Clients(self.port, count)

    def upstreams(self):
        """The lines of CLIENT LIST at the server, but for the one that asks."""
        with Client(self.server.port) as direct:
            direct.send(command("CLIENT", "LIST") + command("QUIT"))
            text = direct.until(b"+OK\r\n").decode()
        return [line for line in text.splitlines() if line.startswith("id=") and "cmd=client" not in line]

    def metric(self, name):
        """The value of a metric, by its name and labels as they are exported."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics_port}/metrics", timeout=10) as got:
            text = got.read().decode()
        return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.M).group(1))


class _Clients(contextlib.ExitStack):
    def __init__(self, port, count):
        super().__init__()
        self.all = [self.enter_context(Client(port)) for _ in range(count)]

    def __enter__(self):
        return self.all


@contextlib.contextmanager
def shared_proxy(server, sink_options="", **options):
    """A proxy whose clients share their upstream connections."""
    port, metrics_port = free_port(), free_port()
    topology = valkey_topology(port, server.port, mode="shared" + sink_options)
    config = f'main_log_level: "info"\nobservability_interface: "127.0.0.1:{metrics_port}"\n'
    with ProxyProcess(topology, config=config, **options) as proxy:
        proxy.wait_ready()
        yield Shared(proxy, port, server, metrics_port)


@pytest.fixture
def own_redis(pytestconfig):
    """A Redis of one test, whose list of clients nobody else is in."""
    binary = find_server("redis-server")
    if binary is None:
        reason = "redis-server is not on PATH: apt-get install redis-server"
        if pytestconfig.getoption("--require-servers"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with RealServer(binary) as server:
        yield server


@pytest.mark.parametrize("count", [1, 3])
def test_all_clients_use_as_many_connections_as_are_said(own_redis, count):
    """Each gets its own reply, and the server sees the shared connections only."""
    options = f"\n            connection_count: {count}"
    with shared_proxy(own_redis, options) as shared, shared.clients() as clients:
        for number, client in enumerate(clients):
            client.ask(command("SET", f"k{number}", str(number)), b"+OK\r\n")
        for client in clients:
            client.send(command("GET", f"k{clients.index(client)}"))
        for number, client in enumerate(clients):
            text = str(number).encode()
            client.expect(b"$%d\r\n%b\r\n" % (len(text), text))
        assert len(shared.upstreams()) == count
        assert shared.metric('shotover_gevent_pool_connections{use="shared",chain="valkey"}') == count


def test_a_client_that_reads_slowly_delays_nobody(own_redis):
    """Another client is served while the answers to the first, on the same connection, are not read."""
    with shared_proxy(own_redis) as shared, shared.clients(2) as (slow, quick):
        slow.ask(command("SET", "large", b"x" * 4_000_000), b"+OK\r\n")
        slow.send(command("GET", "large") * 10)
        for number in range(200):
            quick.ask(command("INCR", "n"), b":%d\r\n" % (number + 1))
        assert len(shared.upstreams()) == 1
        reply = b"$4000000\r\n" + b"x" * 4_000_000 + b"\r\n"
        for _ in range(10):
            slow.expect(reply)


def test_blocking_commands_delay_nobody_and_give_their_connections_back(own_redis):
    """Each blocked client has a connection of its own, for as long as it is blocked."""
    with shared_proxy(own_redis) as shared, shared.clients() as clients, shared.clients(1) as (other,):
        for client in clients:
            client.send(command("BLPOP", "queue", "0"))
        eventually(lambda: sum("cmd=blpop" in line for line in shared.upstreams()) == MANY)
        own = 'shotover_gevent_pool_connections{use="own",chain="valkey"}'
        assert shared.metric(own) == MANY
        other.ask(command("RPUSH", "queue", *["item"] * MANY), b":%d\r\n" % MANY)
        for client in clients:
            client.expect(b"*2\r\n$5\r\nqueue\r\n$4\r\nitem\r\n")
            client.ask(command("PING"), b"+PONG\r\n")
        assert shared.metric(own) == 0
        eventually(lambda: len(shared.upstreams()) == 1, 40)


def test_transactions_of_many_clients_do_not_mix(own_redis):
    """Transactions, in one piece or in several, among plain commands of others lose no step."""

    def work(client, number):
        for turn in range(20):
            client.ask(
                command("MULTI") + command("INCR", "total") + command("INCR", f"of-{number}"),
                b"+OK\r\n+QUEUED\r\n+QUEUED\r\n")
            client.send(command("EXEC") + command("GET", f"of-{number}"))
            client.until(b"\r\n")
            client.until(b"\r\n")
            count = str(turn + 1).encode()
            client.expect(b":%b\r\n$%d\r\n%b\r\n" % (count, len(count), count))

    with shared_proxy(own_redis) as shared, shared.clients(12) as clients:
        failures = run_all(work, clients[:10])
        with Client(own_redis.port) as direct:
            direct.ask(command("GET", "total"), b"$3\r\n200\r\n")
        assert failures == []


def run_all(work, clients):
    """``work(client, number)`` for each client in a thread of its own; returns what went wrong."""
    failures = []

    def run(client, number):
        try:
            work(client, number)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(c, n)) for n, c in enumerate(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return failures


def test_a_client_never_gets_what_another_has_set(own_redis):
    """User, database, protocol and name are each client's own, at the same time on shared connections."""
    with Client(own_redis.port) as direct:
        for user in ("one", "two"):
            direct.ask(command("ACL", "SETUSER", user, "on", f">pw-{user}", "~*", "+@all"), b"+OK\r\n")

    def work(client, number):
        user, database = (None, "one", "two")[number % 3], number % 4
        if user:
            client.ask(command("AUTH", user, f"pw-{user}"), b"+OK\r\n")
        client.ask(command("SELECT", str(database)), b"+OK\r\n")
        client.ask(command("CLIENT", "SETNAME", f"client-{number}"), b"+OK\r\n")
        client.ask(command("SET", "where", str(database)), b"+OK\r\n")
        for _ in range(30):
            who, name = (user or "default").encode(), f"client-{number}".encode()
            client.send(command("ACL", "WHOAMI") + command("GET", "where") + command("CLIENT", "GETNAME"))
            client.expect(b"$%d\r\n%b\r\n$1\r\n%d\r\n$%d\r\n%b\r\n" % (len(who), who, database, len(name), name))

    with shared_proxy(own_redis) as shared, shared.clients(24) as clients:
        assert run_all(work, clients) == []
        shared_lines = [line for line in shared.upstreams() if "cmd=get" in line or "cmd=client" in line]
        # One for each user in each database, and connections that were used for AUTH and SELECT.
        assert shared.metric('shotover_gevent_pool_connections{use="shared",chain="valkey"}') >= 12
        assert len(shared_lines) < 24


def test_a_lost_connection_fails_only_what_was_on_it_and_is_replaced(own_redis):
    """A client that waits is told in the words of Shotover; idle ones notice nothing."""
    expect = ["connection was unexpectedly terminated"]
    with shared_proxy(own_redis, expect=expect) as shared, shared.clients(2) as (waiting, idle):
        idle.ask(command("SET", "k", "v"), b"+OK\r\n")
        number = re.search(r"^id=(\d+) .*cmd=set", "\n".join(shared.upstreams()), re.M).group(1)
        with Client(own_redis.port) as killer:
            killer.ask(command("CLIENT", "PAUSE", "10000", "WRITE"), b"+OK\r\n")
            waiting.send(command("SET", "paused", "1"))
            eventually(lambda: any(f"id={number} " in line and "flags=b" in line
                                   for line in shared.upstreams()))
            killer.ask(command("CLIENT", "KILL", "ID", number), b":1\r\n")
            killer.ask(command("CLIENT", "UNPAUSE"), b"+OK\r\n")
        error = waiting.until(b"\r\n").decode()
        waiting.eof()
        idle.ask(command("GET", "k"), b"$1\r\nv\r\n")
        assert error.startswith(
            "-ERR Internal shotover (or custom transform) bug (chain: valkey): Failed to send and/or "
            "receive messages, the connection will now be closed.")
        assert error.endswith("The other side of this connection closed the connection\r\n")
        assert shared.metric('shotover_gevent_shared_connections_lost_count{chain="valkey"}') == 1


def test_wait_is_answered_by_the_replicas_and_delays_nobody(own_redis):
    """WAIT counts the writes that its client has made over a connection that others use."""
    with RealServer(find_server("redis-server")) as replica, shared_proxy(own_redis) as shared:
        with Client(replica.port) as direct:
            direct.ask(command("REPLICAOF", "127.0.0.1", str(own_redis.port)), b"+OK\r\n")
        with shared.clients(2) as (writer, other):
            writer.ask(command("SET", "k", "v"), b"+OK\r\n")
            eventually(lambda: asked(writer, "WAIT", "1", "1000") == b":1\r\n", 30)
            writer.ask(command("SET", "k", "w") + command("WAIT", "1", "5000"), b"+OK\r\n:1\r\n")
            writer.send(command("WAIT", "2", "1500"))
            started = time.monotonic()
            for number in range(100):
                other.ask(command("INCR", "n"), b":%d\r\n" % (number + 1))
            assert time.monotonic() - started < 1.4, "the others had to wait, too"
            writer.expect(b":1\r\n")
            assert time.monotonic() - started > 1.4


def asked(client, *parts):
    """The one line that answers a request."""
    client.send(command(*parts))
    return client.until(b"\r\n")


def test_a_client_that_quits_leaves_the_connection_to_the_others(own_redis):
    """QUIT is answered, the client is closed, and the server does not hear of it."""
    with shared_proxy(own_redis) as shared, shared.clients(2) as (leaving, staying):
        staying.ask(command("PING"), b"+PONG\r\n")
        leaving.ask(command("PING") + command("QUIT") + command("PING"), b"+PONG\r\n+OK\r\n")
        leaving.eof()
        leaving.close()
        staying.ask(command("PING"), b"+PONG\r\n")
        assert shared.metric('shotover_gevent_shared_connections_lost_count{chain="valkey"}') == 0
        quits = 'shotover_gevent_sessions_ended_count{source="valkey",reason="quit"}'
        eventually(lambda: shared.metric(quits) == 1)
