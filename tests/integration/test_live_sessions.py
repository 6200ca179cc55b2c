"""Connections stay open through reloads, whatever state they are in between requests."""

import json
import socket
import threading

import pytest

from tests.harness import Client, ProxyProcess, command, eventually, free_port
from tests.proxies import MODES, tcp_topology, valkey_topology


@pytest.fixture(params=MODES)
def proxy(request, redis_server, tmp_path):
    """A proxy that can be reloaded, in each mode; ``port`` is where it listens."""
    port = free_port()
    with ProxyProcess(
        valkey_topology(port, redis_server.port, mode=request.param), hotreload_socket=tmp_path / "control.sock"
    ) as proxy:
        proxy.port = port
        yield proxy


def reload(proxy, *arguments):
    """Reload; returns the report."""
    result = proxy.reload("--json", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout)


def after_auth(client, server):
    """Authenticated as another user."""
    with Client(server.port) as direct:
        direct.ask(command("ACL", "SETUSER", "mover", "on", ">secret", "~*", "+@all"), b"+OK\r\n")
    client.ask(command("AUTH", "mover", "secret"), b"+OK\r\n")
    yield
    client.ask(command("ACL", "WHOAMI"), b"$5\r\nmover\r\n")


def after_select(client, server):
    """Another database is selected."""
    client.ask(command("SELECT", "3") + command("SET", "in-three", "x"), b"+OK\r\n+OK\r\n")
    yield
    client.ask(command("GET", "in-three"), b"$1\r\nx\r\n")


def after_hello_3(client, server):
    """The connection speaks RESP3."""
    client.send(command("HELLO", "3") + command("ECHO", "end-of-hello"))
    client.until(b"end-of-hello\r\n")
    yield
    client.ask(command("GET", "no-such-key"), b"_\r\n")


def after_client_setname(client, server):
    """The connection has a name."""
    client.ask(command("CLIENT", "SETNAME", "me"), b"+OK\r\n")
    yield
    client.ask(command("CLIENT", "GETNAME"), b"$2\r\nme\r\n")


def while_subscribed(client, server):
    """Messages go on, and the subscription can be ended."""
    client.ask(command("SUBSCRIBE", "c"), b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
    yield
    with Client(server.port) as direct:
        direct.ask(command("PUBLISH", "c", "m"), b":1\r\n")
    client.expect(b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n")
    client.ask(command("UNSUBSCRIBE"), b"*3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:0\r\n")
    client.ask(command("PING"), b"+PONG\r\n")


def in_a_transaction(client, server):
    """MULTI before, EXEC after."""
    client.ask(command("SET", "n", "1") + command("MULTI") + command("INCR", "n"),
               b"+OK\r\n+OK\r\n+QUEUED\r\n")
    yield
    client.ask(command("INCR", "n") + command("EXEC"), b"+QUEUED\r\n*2\r\n:2\r\n:3\r\n")


def while_watching(client, server):
    """WATCH before; another client's write in between makes EXEC fail."""
    client.ask(command("SET", "w", "1") + command("WATCH", "w"), b"+OK\r\n+OK\r\n")
    yield
    with Client(server.port) as direct:
        direct.ask(command("SET", "w", "2"), b"+OK\r\n")
    client.ask(command("MULTI") + command("GET", "w") + command("EXEC"), b"+OK\r\n+QUEUED\r\n*-1\r\n")


def while_monitoring(client, server):
    """The stream of MONITOR goes on, and RESET ends it."""
    client.ask(command("MONITOR"), b"+OK\r\n")
    yield
    with Client(server.port) as direct:
        direct.ask(command("SET", "seen", "1"), b"+OK\r\n")
    client.until(b'"SET" "seen" "1"\r\n')
    client.ask(command("RESET"), b"+RESET\r\n")
    client.ask(command("PING"), b"+PONG\r\n")


def with_half_a_request(client, server):
    """Half of a request before, the rest after."""
    request = command("SET", "half", "x" * 1000) + command("GET", "half")[:7]
    client.send(request[:500])
    yield
    client.ask(request[500:] + command("GET", "half")[7:],
               b"+OK\r\n$1000\r\n" + b"x" * 1000 + b"\r\n")


def with_one_byte(client, server):
    """One byte of a request before."""
    client.send(b"*")
    yield
    client.ask(b"1\r\n$4\r\nPING\r\n", b"+PONG\r\n")


def with_replies_off(client, server):
    """CLIENT REPLY OFF before, ON after."""
    client.send(command("CLIENT", "REPLY", "OFF") + command("SET", "quiet", "1"))
    eventually(lambda: is_set(server, "quiet"))
    yield
    client.send(command("SET", "quiet", "2"))
    client.ask(command("CLIENT", "REPLY", "ON") + command("GET", "quiet"), b"+OK\r\n$1\r\n2\r\n")


def is_set(server, key):
    """Whether the key has been written."""
    with Client(server.port) as direct:
        direct.send(command("EXISTS", key))
        return direct.receive(4) == b":1\r\n"


def before_any_request(client, server):
    """The client has connected and asked nothing; there is no upstream connection yet."""
    yield
    client.ask(command("PING"), b"+PONG\r\n")


STATES = {
    function.__name__: function
    for function in (
        after_auth, after_select, after_hello_3, after_client_setname, while_subscribed,
        in_a_transaction, while_watching, while_monitoring, with_half_a_request, with_one_byte,
        with_replies_off, before_any_request,
    )
}


def test_sessions_in_every_state_move(proxy, redis_server):
    """Twelve connections in twelve states, three reloads: all stay open and go on."""
    clients = {name: Client(proxy.port) for name in STATES}
    try:
        with Client(redis_server.port) as direct:
            direct.ask(command("FLUSHALL"), b"+OK\r\n")
        steps = {name: STATES[name](client, redis_server) for name, client in clients.items()}
        for step in steps.values():
            next(step)
        eventually(lambda: opened(proxy) == len(clients))
        moved = [reload(proxy)["sessions"]["moved"] for _ in range(3)]
        for step in steps.values():
            next(step, None)
    finally:
        for client in clients.values():
            client.close()
    assert moved == [len(STATES)] * 3


def opened(proxy):
    """How many connections the proxy has logged."""
    return sum("New connection" in event.message for event in proxy.events)


def test_a_subscriber_misses_nothing_and_hears_nothing_twice(proxy, redis_server):
    """Every message published during 20 reloads arrives exactly once, in order."""
    stop = threading.Event()
    published = []

    def publish():
        with Client(redis_server.port) as direct:
            while not stop.wait(0.002):
                number = str(len(published))
                direct.ask(command("PUBLISH", "stream", number), b":1\r\n")
                published.append(number)

    with Client(proxy.port) as subscriber:
        subscriber.ask(
            command("SUBSCRIBE", "stream"), b"*3\r\n$9\r\nsubscribe\r\n$6\r\nstream\r\n:1\r\n")
        publisher = threading.Thread(target=publish)
        publisher.start()
        try:
            for _ in range(20):
                assert reload(proxy)["sessions"]["moved"] == 1
        finally:
            stop.set()
            publisher.join()
        expected = b"".join(
            b"*3\r\n$7\r\nmessage\r\n$6\r\nstream\r\n$%d\r\n%b\r\n" % (len(n), n.encode())
            for n in published)
        subscriber.expect(expected)
        subscriber.silent()
    assert len(published) > 100


def test_a_deep_pipeline_in_flight_loses_nothing(proxy):
    """Ten thousand requests sent in one go while the proxy is reloaded are answered in order."""
    with Client(proxy.port) as client:
        requests = b"".join(command("ECHO", f"{number:05}") for number in range(10_000))
        sender = threading.Thread(target=client.send, args=(requests,))
        sender.start()
        reload(proxy)
        client.expect(b"".join(b"$5\r\n%05d\r\n" % number for number in range(10_000)))
        sender.join()


def test_a_busy_session_moves_when_it_falls_idle(proxy, redis_server):
    """A client blocked in BLPOP during the reload is answered by the old process, then moves."""
    with Client(proxy.port) as client, Client(redis_server.port) as direct:
        client.send(command("BLPOP", "busy", "0"))
        proxy.wait_log("New connection")
        report = reload(proxy)
        direct.ask(command("RPUSH", "busy", "x"), b":1\r\n")
        client.expect(b"*2\r\n$4\r\nbusy\r\n$1\r\nx\r\n")
        proxy.wait_log("sessions moved late")
        client.ask(command("PING"), b"+PONG\r\n")
        assert proxy.wait() == 0
        assert reload(proxy)["sessions"]["moved"] == 1
        client.ask(command("PING"), b"+PONG\r\n")
    assert (report["sessions"]["moved"], report["sessions"]["kept"]) == (0, 1)


def test_a_changed_chain_drains_its_sessions(proxy, redis_server):
    """Sessions of a source whose chain has changed are closed between requests, not moved."""
    with Client(proxy.port) as client:
        client.ask(command("PING"), b"+PONG\r\n")
        changed = proxy.topology.replace('counter_name: "main"', 'counter_name: "other"')
        proxy.write_topology(changed)
        report = reload(proxy)
        client.eof()
    with Client(proxy.port) as client:
        client.ask(command("PING"), b"+PONG\r\n")
    assert (report["sessions"], report["reasons"]) == (
        {"moved": 0, "drained": 1, "kept": 0, "dropped": 0}, {"the chain has changed": 1})


def test_tcp_sessions_move_with_what_is_half_sent(tmp_path):
    """Byte streams go on in both directions, with a reader that had stopped and a half-close."""
    port, upstream = free_port(), socket.create_server(("127.0.0.1", 0))
    with upstream, ProxyProcess(
        tcp_topology(port, upstream.getsockname()[1]), hotreload_socket=tmp_path / "control.sock"
    ) as proxy:
        with Client(port) as client:
            server, _ = upstream.accept()
            with server:
                server.settimeout(20)
                data = bytes(range(256)) * 40_000
                sender = threading.Thread(target=server.sendall, args=(data,))
                sender.start()
                client.send(b"to the server")
                assert server.recv(100) == b"to the server"
                moved = [reload(proxy)["sessions"]["moved"] for _ in range(2)]
                client.socket.shutdown(socket.SHUT_WR)
                assert server.recv(100) == b""
                moved.append(reload(proxy)["sessions"]["moved"])
                client.expect(data)
                sender.join()
                server.sendall(b"the end")
                server.shutdown(socket.SHUT_WR)
                client.expect(b"the end")
                client.eof()
    assert moved == [1, 1, 1]


def test_unix_sockets_and_two_addresses_on_one_port_move(redis_server, tmp_path, mode):
    """Listeners on Unix sockets, IPv6, and one port of two addresses are handed over, each for itself."""
    port = free_port()
    addresses = [f"127.0.0.1:{port}", f"127.0.0.2:{port}", f"[::1]:{port}", f"unix:{tmp_path}/v.sock"]
    topology = "sources:\n" + "".join(
        valkey_topology(port, redis_server.port, mode=mode).split("sources:\n")[1]
        .replace(f'"127.0.0.1:{port}"', f'"{address}"', 1).replace('"valkey"', f'"v{number}"')
        .replace('"count"', f'"c{number}"').replace('"sink"', f'"s{number}"')
        for number, address in enumerate(addresses))
    with ProxyProcess(topology, hotreload_socket=tmp_path / "control.sock") as proxy:
        clients = []
        for family, where in (
            (socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET, ("127.0.0.2", port)),
            (socket.AF_INET6, ("::1", port)), (socket.AF_UNIX, f"{tmp_path}/v.sock"),
        ):
            client = socket.socket(family, socket.SOCK_STREAM)
            client.settimeout(10)
            client.connect(where)
            client.sendall(b"PING\r\n")
            assert client.recv(10) == b"+PONG\r\n"
            clients.append((client, family, where))
        reports = [reload(proxy) for _ in range(2)]
        for client, family, where in clients:
            client.sendall(b"PING\r\n")
            assert client.recv(10) == b"+PONG\r\n"
            client.close()
            with socket.socket(family, socket.SOCK_STREAM) as fresh:
                fresh.settimeout(10)
                fresh.connect(where)
                fresh.sendall(b"PING\r\n")
                assert fresh.recv(10) == b"+PONG\r\n"
    assert [(r["listeners"], r["sessions"]["moved"]) for r in reports] == [
        ({"kept": 4, "added": 0, "removed": 0}, 4)] * 2
    assert not (tmp_path / "v.sock").exists()


def test_more_listeners_than_fit_into_a_packet_are_handed_over(redis_server, tmp_path, mode):
    """300 listeners are handed over, and every one of them serves."""
    ports = [free_port() for _ in range(300)]
    entry = valkey_topology(0, redis_server.port, mode=mode).split("sources:\n")[1]
    topology = "sources:\n" + "".join(
        entry.replace(':0"', f':{port}"', 1).replace('"valkey"', f'"v{port}"')
        .replace('"count"', f'"c{port}"').replace('"sink"', f'"s{port}"')
        for port in ports)
    with ProxyProcess(topology, hotreload_socket=tmp_path / "control.sock") as proxy:
        report = reload(proxy)
        for port in ports:
            with Client(port) as client:
                client.ask(b"PING\r\n", b"+PONG\r\n")
    assert report["listeners"] == {"kept": 300, "added": 0, "removed": 0}
