"""The clients that people use work through the proxy."""

import shutil
import subprocess

import pytest
import redis

from tests.harness import ProxyProcess, free_port
from tests.proxies import valkey_topology


@pytest.fixture(scope="module")
def port(redis_server, mode):
    """Where a proxy in front of Redis listens."""
    port = free_port()
    with ProxyProcess(valkey_topology(port, redis_server.port, mode=mode)) as proxy:
        proxy.wait_ready()
        yield port


def tool(name, pytestconfig):
    """A program of Debian's redis-tools; a missing one skips, or fails where servers are required."""
    path = shutil.which(name)
    if path is None:
        reason = f"{name} is not on PATH: apt-get install redis-tools"
        if pytestconfig.getoption("--require-servers"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return path


@pytest.mark.parametrize("pipeline", [(), ("-P", "16")], ids=["plain", "pipelined"])
def test_redis_benchmark_runs_all_its_tests(port, pipeline, pytestconfig):
    """Every default test of redis-benchmark, with 50 clients, ends without an error."""
    result = subprocess.run(
        [tool("redis-benchmark", pytestconfig), "-p", str(port), "-c", "50", "-n", "2000", "-q",
         *pipeline],
        capture_output=True, text=True, timeout=100,
    )
    lines = [line.split("\r")[-1] for line in result.stdout.splitlines()]
    finished = [line.split(":")[0] for line in lines if "requests per second" in line]
    assert (result.returncode, len(finished), "rror" in result.stdout + result.stderr) == (
        0, 20, False), result.stdout + result.stderr


def test_redis_cli_works(port, pytestconfig):
    """redis-cli talks RESP2 and RESP3, and reads from a pipe."""
    cli = [tool("redis-cli", pytestconfig), "-p", str(port)]

    def run(*arguments, text=None):
        return subprocess.run(
            [*cli, *arguments], input=text, capture_output=True, text=True, timeout=20
        ).stdout

    assert [
        run("SET", "cli", "value"),
        run("-3", "HSET", "cli-hash", "f", "v"),
        run("-3", "HGETALL", "cli-hash"),
        run(text="MULTI\nGET cli\nEXEC\n"),
        run("NOSUCH"),
    ] == [
        "OK\n", "1\n", "f v\n", "OK\nQUEUED\nvalue\n",
        "ERR unknown command 'NOSUCH', with args beginning with: \n\n",
    ]


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_works(port, protocol):
    """Commands, pipelines, transactions, scripts and pub/sub of redis-py, in both protocols."""
    client = redis.Redis(port=port, protocol=protocol, socket_timeout=10)
    with client, client.pubsub() as pubsub:
        client.flushall()
        assert client.set("k", "v") and client.get("k") == b"v"
        assert client.hset("h", mapping={"a": 1, "b": 2}) == 2
        assert client.hgetall("h") == {b"a": b"1", b"b": b"2"}
        assert client.zadd("z", {"m": 1.5}) == 1 and client.zscore("z", "m") == 1.5
        with client.pipeline(transaction=True) as pipe:
            assert pipe.incr("n").incr("n").execute() == [1, 2]
        with client.pipeline() as pipe:
            pipe.watch("n")
            client.incr("n")
            pipe.multi()
            pipe.incr("n")
            with pytest.raises(redis.WatchError):
                pipe.execute()
        assert client.eval("return {KEYS[1], ARGV[1]}", 1, "k", "a") == [b"k", b"a"]
        pubsub.subscribe("news")
        assert pubsub.get_message(timeout=5)["type"] == "subscribe"
        assert client.publish("news", "hello") == 1
        assert pubsub.get_message(timeout=5)["data"] == b"hello"
        assert sorted(client.scan_iter(count=1)) == [b"h", b"k", b"n", b"z"]
        with pytest.raises(redis.ResponseError):
            client.incr("h")
