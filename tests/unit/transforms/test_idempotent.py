"""The table of what may be done twice."""

from __future__ import annotations

import pytest

from shotover_gevent.testing.server import RealServer
from shotover_gevent.transforms.idempotent import KEYLESS, READS, WRITES, is_idempotent
from tests.client import Client, command

# In Valkey 9.1 and not in Redis 7.0.
NEWER = {b"HEXPIRETIME", b"HPEXPIRETIME", b"HPTTL", b"HTTL"}


@pytest.mark.parametrize(
    ("request_line", "expected"),
    [
        ("GET k", True), ("PING", True), ("SET k v", True), ("SET k v EX 10", True), ("SET k v NX", False),
        ("SET k v get", False), ("ZADD z 1 a", True), ("ZADD z INCR 1 a", False), ("EXPIRE k 10", True),
        ("EXPIRE k 10 GT", False), ("DEL k", True), ("INCR k", False), ("LPUSH l a", False),
        ("EXEC", False), ("BLPOP l 0", False), ("NOSUCH", False), ("HSET h NX 1", True),
    ])
def test_what_depends_on_the_state_before_is_not_idempotent(request_line: str, expected: bool) -> None:
    """Reads are, writes that set a state are, and options can take that away."""
    words = request_line.encode().split()
    assert is_idempotent(words[0], words) is expected


def flags(server: RealServer, names: set[bytes]) -> dict[bytes, bool | None]:
    """Whether each command is ``readonly``, as the server says; ``None`` for one that it does not have."""
    found: dict[bytes, bool | None] = {}
    with Client(server.port) as client:
        for name in sorted(names):
            client.send(command("COMMAND", "INFO", name) + command("ECHO", "|end|"))
            answer = client.until(b"|end|\r\n")
            found[name] = None if answer.startswith((b"*1\r\n*-1", b"*1\r\n$-1")) else b"+readonly\r\n" in answer
    return found


def test_the_table_is_what_servers_say(server: RealServer) -> None:
    """What is a read there is one here, and what is a write here is none there."""
    reads, others = flags(server, set(READS)), flags(server, WRITES | KEYLESS)
    assert {name for name, is_read in reads.items() if not is_read} <= NEWER
    assert {name: is_read for name, is_read in others.items() if is_read is not False} == {}
