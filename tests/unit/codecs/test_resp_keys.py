"""The keys of requests are found where servers find them."""

from __future__ import annotations

import pytest
import redis

from shotover_gevent.codecs.resp_keys import keys_of
from shotover_gevent.testing.server import RealServer


@pytest.mark.parametrize(
    ("request_line", "keys"),
    [
        ("get k", "k"), ("SET k v EX 10", "k"), ("PING", ""), ("PING text", ""), ("MGET a b c", "a b c"),
        ("MSET a 1 b 2", "a b"), ("BLPOP a b 0", "a b"), ("RENAME a b", "a b"), ("BITOP AND d a b", "d a b"),
        ("EVAL script 2 a b x", "a b"), ("EVAL script 0 x", ""), ("EVAL script", ""), ("EVAL script x", ""),
        ("EVAL script 99999999999 a", ""), ("ZUNIONSTORE d 2 a b WEIGHTS 1 2", "d a b"), ("ZUNION 2 a b", "a b"),
        ("MSETEX 2 a 1 b 2 EX 3", "a b"), ("XREAD COUNT 2 streams a b 0 0", "a b"), ("XREAD", ""),
        ("OBJECT ENCODING k", "k"), ("JSON.GET k", "k"), ("GET", ""), ("", ""),
    ])
def test_keys_are_found(request_line: str, keys: str) -> None:
    """Wherever a command has them; what is not well-formed has none."""
    assert keys_of(request_line.encode().split()) == keys.encode().split()


def test_the_table_is_what_servers_say(server: RealServer) -> None:
    """For every command whose keys have fixed places, of Redis and of Valkey."""
    with redis.Redis(port=server.port) as client:
        commands = client.execute_command("COMMAND")
    words = [b"%d" % number for number in range(8)]
    wrong = {}
    for name, facts in commands.items():
        if "movablekeys" in facts["flags"] or name.upper() in ("MEMORY", "OBJECT", "XGROUP", "XINFO"):
            continue  # the subcommands of these have keys
        first, last, step = facts["first_key_pos"], facts["last_key_pos"], facts["step_count"]
        wanted = words[first : (len(words) + last if last < 0 else last) + 1 : step] if first else []
        found = keys_of([name.encode(), *words[1:]])
        if found != wanted:
            wrong[name] = (wanted, found)
    assert wrong == {}
