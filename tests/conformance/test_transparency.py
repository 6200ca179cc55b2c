"""A client cannot tell the Valkey source from the server: the same session, byte for byte.

Each scenario runs twice, against the server and through the proxy, each time after FLUSHALL. What
must differ (client ids, ports, times) is masked.
"""

import re

import pytest

from tests.conformance.transcript import Transcript
from tests.harness import command

pytestmark = pytest.mark.server

MASKS = [
    (re.compile(rb"(\$2\r\nid\r\n):\d+"), rb"\1:ID"),
    (re.compile(rb"\+\d+\.\d{6} \[(\d+) [^\]]*\]"), rb"+TIME [\1 PEER]"),
    (re.compile(rb"age=\d+|idle=\d+|id=\d+|l?addr=[\d.:]+|fd=\d+"), b"MASKED"),
]


def pubsub_resp2(client, other):
    """Confirmations per channel, messages, patterns, PING while subscribed, unsubscribing."""
    client.send("SUBSCRIBE", "a", "b")
    client.until(rb":2\r\n")
    other.call("PUBLISH", "a", "1")
    client.until(rb"\$1\r\n1\r\n")
    client.call("PSUBSCRIBE", "n*", "m*")
    other.call("PUBLISH", "news", "2")
    client.until(rb"\$1\r\n2\r\n")
    client.call("GET", "not-allowed-here")
    client.call("UNSUBSCRIBE", "a")
    client.call("UNSUBSCRIBE")
    client.call("PUNSUBSCRIBE")
    client.call("UNSUBSCRIBE")
    client.call("SET", "k", "v")


def pubsub_resp3(client, other):
    """In RESP3 confirmations and messages are pushes among the replies."""
    client.call("HELLO", "3")
    client.call("SUBSCRIBE", "a", "b")
    other.call("PUBLISH", "a", "1")
    client.sync()
    client.send("SET", "k", "v")
    client.send("PUBLISH", "b", "self")
    client.send("GET", "k")
    client.sync()
    client.call("UNSUBSCRIBE")
    client.call("SSUBSCRIBE", "shard")
    other.call("SPUBLISH", "shard", "x")
    client.sync()
    client.call("SUNSUBSCRIBE")


def pipelined_subscribe(client, other):
    """Subscribing in the middle of a pipeline keeps every reply in its place."""
    client.raw(
        command("SET", "k", "v") + command("SUBSCRIBE", "a", "b", "c") + command("PING")
        + command("UNSUBSCRIBE") + command("GET", "k")
    )
    client.sync()


def hello_back_and_forth(client, other):
    """HELLO changes the protocol in mid-connection, both ways, and refuses other versions."""
    client.call("HSET", "h", "f", "v")
    client.call("HGETALL", "h")
    client.call("HELLO", "3")
    client.call("HGETALL", "h")
    client.call("GET", "missing")
    client.call("ZADD", "z", "1.5", "m")
    client.call("ZSCORE", "z", "m")
    client.call("HELLO", "4")
    client.call("HELLO", "2")
    client.call("HGETALL", "h")
    client.call("HELLO")


def monitor(client, other):
    """The stream of commands, and how RESET ends it."""
    client.send("MONITOR")
    client.until(rb"\+OK\r\n")
    other.call("SET", "k", "v")
    client.until(rb'"SET" "k" "v"\r\n')
    client.send("RESET")
    client.until(rb"\+RESET\r\n")
    client.call("GET", "k")


def monitor_with_requests(client, other):
    """Commands of the monitoring client are answered among the stream."""
    client.send("MONITOR")
    client.until(rb"\+OK\r\n")
    client.call("SET", "x", "1")
    client.call("GET", "x")


def client_reply(client, other):
    """Nothing answers while replies are off or skipped."""
    client.send("CLIENT", "REPLY", "OFF")
    client.send("SET", "a", "1")
    client.send("GET", "a")
    client.send("CLIENT", "REPLY", "ON")
    client.until(rb"\+OK\r\n")
    client.raw(command("CLIENT", "REPLY", "SKIP") + command("SET", "b", "2") + command("GET", "b"))
    client.sync()
    client.raw(command("CLIENT", "REPLY", "SKIP") + command("CLIENT", "REPLY", "SKIP"))
    client.raw(command("GET", "a") + command("GET", "b"))
    client.sync()
    client.call("CLIENT", "REPLY", "NONSENSE")


def client_reply_off_then_reset(client, other):
    """RESET turns replies on again."""
    client.send("CLIENT", "REPLY", "OFF")
    client.send("SET", "a", "1")
    client.send("RESET")
    client.until(rb"\+RESET\r\n")
    client.call("GET", "a")


def transactions(client, other):
    """MULTI, EXEC, DISCARD, errors at queueing, WATCH that fails and one that holds."""
    client.raw(command("MULTI") + command("SET", "k", "1") + command("GET", "k") + command("EXEC"))
    client.sync()
    client.raw(command("MULTI") + command("NOSUCH") + command("EXEC"))
    client.sync()
    client.call("WATCH", "k")
    other.call("SET", "k", "2")
    client.raw(command("MULTI") + command("SET", "k", "3"))
    client.until(rb"\+QUEUED\r\n")
    client.send("EXEC")
    client.sync()
    client.call("WATCH", "k")
    client.raw(command("MULTI") + command("INCR", "k") + command("EXEC"))
    client.sync()
    client.raw(command("MULTI") + command("MULTI") + command("PING") + command("DISCARD"))
    client.sync()


def special_inside_multi(client, other):
    """Commands that change the connection are queued like others inside MULTI."""
    client.raw(
        command("MULTI") + command("SUBSCRIBE", "inside") + command("PING") + command("EXEC")
    )
    client.sync()
    other.call("PUBLISH", "inside", "hello")
    client.until(rb"hello\r\n")
    client.call("UNSUBSCRIBE")
    client.call("GET", "k")


def blocking(client, other):
    """A blocking command is answered when another client acts; what came before is not held back."""
    client.raw(command("SET", "k", "v") + command("BLPOP", "list", "5") + command("GET", "k"))
    client.until(rb"\+OK\r\n")
    other.call("RPUSH", "list", "item")
    client.sync()
    client.call("BLPOP", "empty", "0.05")
    client.call("XREAD", "BLOCK", "20", "STREAMS", "s", "$")
    client.raw(command("MULTI") + command("BLPOP", "empty", "0") + command("EXEC"))
    client.sync()


def tracking_resp3(client, other):
    """Invalidations arrive as pushes."""
    client.call("HELLO", "3")
    client.call("CLIENT", "TRACKING", "ON")
    client.call("SET", "k", "1")
    client.call("GET", "k")
    other.call("SET", "k", "2")
    client.until(rb"invalidate.*\r\nk\r\n")
    client.call("GET", "k")
    client.raw(command("GET", "k") + command("SET", "k", "3") + command("GET", "k"))
    client.sync()


def tracking_broadcast_resp2(client, other):
    """In RESP2 invalidations are redirected to a subscriber."""
    client.send("CLIENT", "ID")
    number = client.until(rb":(\d+)\r\n").group(1)
    client.send("SUBSCRIBE", "__redis__:invalidate")
    client.until(rb":1\r\n")
    client.received = client.received.replace(b":" + number, b":ID", 1)
    client._position = len(client.received)
    other.call("CLIENT", "TRACKING", "ON", "BCAST", "REDIRECT", number)
    other.call("SET", "tracked", "1")
    client.until(rb"tracked\r\n")


def kill_self(client, other):
    """CLIENT KILL of oneself: the reply, then the end."""
    client.send("CLIENT", "ID")
    number = client.until(rb":(\d+)\r\n").group(1)
    client.received = b""
    client._position = 0
    client.send("CLIENT", "KILL", "ID", number, "SKIPME", "no")
    client.end()


def killed_by_another(client, other):
    """CLIENT KILL by somebody else closes an idle client, without a text."""
    client.send("CLIENT", "ID")
    number = client.until(rb":(\d+)\r\n").group(1)
    client.received = b""
    client._position = 0
    other.call("CLIENT", "KILL", "ID", number)
    client.end()


def quit_in_a_pipeline(client, other):
    """QUIT is answered, what follows is not."""
    client.raw(command("SET", "k", "v") + command("QUIT") + command("GET", "k"))
    client.end()


def keyspace_notifications(client, other):
    """Notifications are messages of channels."""
    other.call("CONFIG", "SET", "notify-keyspace-events", "KEA")
    client.send("PSUBSCRIBE", "__key*__:*")
    client.until(rb":1\r\n")
    other.send("SET", "noted", "1")
    client.until(rb"__keyevent@0__:set\r\n\$5\r\nnoted\r\n")
    other.call("CONFIG", "SET", "notify-keyspace-events", "")


def empty_and_inline(client, other):
    """Empty lines are ignored; inline commands work, with quotes and without a carriage return."""
    client.raw(b"\r\n\r\nPING\r\n\nSET k 'a b'\r\nGET \"k\"\n*0\r\n*-1\r\nset n \"\\x41\\n\"\r\n")
    client.sync()
    client.call("GET", "n")


def nested_replies(client, other):
    """Replies may hold replies, and hold themselves."""
    client.call("EVAL", "return {1,{2,{3,'x',{}},false},redis.status_reply('S')}", "0")
    client.call("EVAL", "return redis.error_reply('MY error')", "0")
    client.call("COMMAND", "INFO", "get", "nosuch")
    client.call("HELLO", "3")
    client.call("EVAL", "redis.setresp(3); return {1,{double=3.5},true,false}", "0")
    client.call("DEBUG", "PROTOCOL", "ATTRIB")
    for kind in ("STRING", "INTEGER", "DOUBLE", "NULL", "ARRAY", "SET", "MAP", "PUSH", "BIGNUM",
                 "TRUE", "FALSE", "VERBATIM"):
        client.call("DEBUG", "PROTOCOL", kind)


def large_values(client, other):
    """Large values and many values pass unharmed."""
    client.call("SET", "big", b"x" * 3_000_000)
    client.call("GET", "big")
    client.call("RPUSH", "list", *map(str, range(20_000)))
    client.call("LRANGE", "list", "0", "-1")
    client.call("SET", "crlf", b"\r\n+OK\r\n$-1\r\n*0\r\n>3\r\n|1\r\n")
    client.call("GET", "crlf")


def deep_pipeline(client, other):
    """Ten thousand requests in one go are answered in order."""
    client.raw(b"".join(command("SET", i, i) + command("GET", i) for i in map(str, range(5000))))
    client.sync()


def bytewise(client, other):
    """Requests may arrive byte by byte."""
    for byte in command("SET", "k", "slow") + b"GET k\r\n":
        client.raw(bytes([byte]))
    client.sync()


def databases(client, other):
    """Each client is in its own database; one that does not exist changes nothing."""
    client.call("SET", "where", "0")
    client.call("SELECT", "3")
    client.call("SET", "where", "3")
    other.call("GET", "where")
    client.call("SELECT", "99")
    client.call("SELECT", "x")
    client.call("SELECT")
    client.call("GET", "where")
    client.raw(command("SELECT", "0") + command("GET", "where") + command("SELECT", "3"))
    client.raw(command("MULTI") + command("SELECT", "5") + command("SET", "where", "5"))
    client.raw(command("DISCARD") + command("GET", "where"))
    client.raw(command("MULTI") + command("SELECT", "5") + command("SET", "where", "5") + command("EXEC"))
    client.call("GET", "where")
    client.call("SWAPDB", "5", "3")
    client.call("GET", "where")


def users(client, other):
    """Who a client is follows successful replies only."""
    other.call("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@read", "+@connection", "+acl|whoami")
    client.call("ACL", "WHOAMI")
    client.call("AUTH", "reader", "wrong")
    client.call("ACL", "WHOAMI")
    client.call("AUTH", "reader", "secret")
    client.call("ACL", "WHOAMI")
    client.call("SET", "k", "v")
    client.call("GET", "k")
    client.call("HELLO", "3", "AUTH", "reader", "wrong")
    client.call("HELLO", "3", "AUTH", "reader", "secret", "SETNAME", "bob")
    client.call("CLIENT", "GETNAME")
    client.call("HGETALL", "missing")
    client.send("RESET")
    client.until(rb"\+RESET\r\n")
    client.call("ACL", "WHOAMI")
    client.call("CLIENT", "GETNAME")
    client.call("SET", "k", "v")
    other.call("ACL", "DELUSER", "reader")


def client_names(client, other):
    """Names and libraries of clients are answered as the server does, what is wrong with them, too."""
    client.call("CLIENT", "GETNAME")
    client.call("CLIENT", "SETNAME", "bob")
    client.call("CLIENT", "SETNAME", "has space")
    client.call("client", "getname")
    client.call("CLIENT", "SETNAME")
    client.call("CLIENT", "SETNAME", "a", "b")
    client.call("CLIENT", "SETINFO", "NONSENSE", "x")
    client.raw(command("CLIENT", "SETNAME", "eve") + command("GET", "k") + command("CLIENT", "GETNAME"))
    client.raw(command("MULTI") + command("CLIENT", "SETNAME", "tx") + command("EXEC"))
    client.call("CLIENT", "GETNAME")
    client.call("HELLO", "3")
    client.call("CLIENT", "GETNAME")
    client.call("CLIENT", "SETNAME", "")
    client.call("CLIENT", "GETNAME")
    client.call("CLIENT", "NOSUCH")
    client.call("CLIENT")


def waiting_for_replicas(client, other):
    """WAIT without replicas answers 0, at once or when its time is over."""
    client.call("SET", "k", "v")
    client.call("WAIT", "0", "100")
    client.call("WAIT", "1", "30")
    client.call("WAIT", "1", "-1")
    client.call("WAIT", "x", "1")
    client.call("WAIT", "1")
    client.raw(command("MULTI") + command("WAIT", "1", "1000") + command("EXEC"))
    client.sync()


def watching(client, other):
    """A watched key makes the transaction fail, also after other commands in between."""
    client.call("WATCH", "k")
    client.call("GET", "k")
    other.call("SET", "k", "2")
    client.raw(command("MULTI") + command("SET", "k", "3") + command("EXEC"))
    client.call("WATCH", "k")
    client.call("UNWATCH")
    other.call("SET", "k", "4")
    client.raw(command("MULTI") + command("GET", "k") + command("EXEC"))
    client.call("EXEC")
    client.call("DISCARD")
    client.call("UNWATCH")


def switches(client, other):
    """What a client puts on, and off again, for its connection."""
    client.call("CLIENT", "NO-EVICT", "ON")
    client.call("GET", "k")
    client.call("CLIENT", "NO-EVICT", "OFF")
    client.call("CLIENT", "NO-EVICT", "MAYBE")
    client.call("HELLO", "3")
    client.call("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "t")
    other.call("SET", "tracked", "1")
    client.until(rb"tracked\r\n")
    client.call("CLIENT", "TRACKING", "OFF")
    other.call("SET", "tracked", "2")
    client.call("GET", "tracked")
    client.call("READONLY")
    client.call("READWRITE")
    client.call("ASKING")


def scripts_and_streams(client, other):
    """Scripts and streams, and what is about scripts."""
    client.call("SCRIPT", "KILL")
    client.call("SCRIPT", "EXISTS", "0" * 40)
    client.call("FUNCTION", "STATS")
    client.call("FUNCTION", "KILL")
    client.call("XADD", "s", "1-1", "f", "v")
    client.call("XREAD", "STREAMS", "s", "0")
    client.call("XREAD", "BLOCK", "10", "STREAMS", "s", "0")
    client.call("XGROUP", "CREATE", "s", "g", "0")
    client.call("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">")
    client.call("XREADGROUP", "GROUP", "g", "c", "BLOCK", "10", "STREAMS", "s", ">")
    client.call("EVAL", "redis.call('SELECT', 7); return redis.call('SET', 'there', '1')", "0")
    client.call("GET", "there")


def quit_alone(client, other):
    """QUIT is answered, and the connection closed."""
    client.call("GET", "k")
    client.send("QUIT")
    client.end()


def not_http(client, other):
    """What looks like an attack by HTTP ends the connection without an answer."""
    client.call("GET", "k")
    client.raw(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n")
    client.end()


MALFORMED = {
    "mbulk-length": b"*abc\r\n",
    "mbulk-too-long": b"*3000000000\r\n",
    "no-dollar": b"*1\r\n+PING\r\n",
    "no-dollar-bignum": b"*1\r\n(123\r\n",
    "no-dollar-verbatim": b"*1\r\n=8\r\ntxt:PING\r\n",
    "nested": b"*1\r\n*1\r\n$4\r\nPING\r\n",
    "bulk-length": b"*1\r\n$abc\r\n",
    "negative-bulk": b"*1\r\n$-1\r\n",
    "bulk-too-long": b"*1\r\n$2000000000\r\n",
    "unbalanced": b"SET k 'x\r\n",
    "too-big-inline": b"x" * 70_000,
    "big-count-line": b"*" + b"1" * 70_000,
    "big-bulk-line": b"*1\r\n$" + b"1" * 70_000,
}


def malformed(data):
    """A scenario that sends one good request and then something malformed."""

    def scenario(client, other):
        client.raw(command("SET", "k", "v") + data)
        client.end()

    return scenario


SCENARIOS = {
    function.__name__: function
    for function in (
        pubsub_resp2, pubsub_resp3, pipelined_subscribe, hello_back_and_forth, monitor,
        monitor_with_requests, client_reply, client_reply_off_then_reset, transactions,
        special_inside_multi, blocking, tracking_resp3, tracking_broadcast_resp2, kill_self,
        killed_by_another, quit_in_a_pipeline, keyspace_notifications, empty_and_inline,
        nested_replies, large_values, deep_pipeline, bytewise, databases, users, client_names,
        waiting_for_replicas, watching, switches, scripts_and_streams, quit_alone, not_http,
    )
} | {f"malformed-{name}": malformed(data) for name, data in MALFORMED.items()}


def record(scenario, port, direct_port):
    """Run a scenario; returns what the client received, masked, and whether it was closed."""
    other = Transcript(direct_port)
    other.call("FLUSHALL")
    client = Transcript(port)
    try:
        scenario(client, other)
    finally:
        client.close()
        other.close()
    received = client.received
    for pattern, replacement in MASKS:
        received = pattern.sub(replacement, received)
    return received, client.is_over


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_proxy_answers_as_the_server(name, server, valkey_proxy):
    """The client receives the same bytes from both, and both close or stay open."""
    scenario = SCENARIOS[name]
    direct = record(scenario, server.port, server.port)
    proxied = record(scenario, valkey_proxy.port, server.port)
    assert proxied == direct
