"""Where the keys of a request are: positions in the words of a command, as ``COMMAND`` of Redis 7.0 and
Valkey 9.1 tells them. A test compares the table with a real server.

A command that is not listed is taken to have one key, its first argument: that is true of most, and of
nearly all commands of modules.
"""

from __future__ import annotations

from collections.abc import Sequence

_NONE = frozenset(
    {
        b"ACL", b"ASKING", b"AUTH", b"BGREWRITEAOF", b"BGSAVE", b"CLIENT", b"CLUSTER", b"COMMAND",
        b"COMMANDLOG", b"CONFIG", b"DBSIZE", b"DEBUG", b"DISCARD", b"ECHO", b"EXEC", b"FAILOVER",
        b"FLUSHALL", b"FLUSHDB", b"FUNCTION", b"HELLO", b"INFO", b"KEYS", b"LASTSAVE", b"LATENCY",
        b"LOLWUT", b"MODULE", b"MONITOR", b"MULTI", b"PFSELFTEST", b"PING", b"PSUBSCRIBE", b"PSYNC",
        b"PUBLISH", b"PUBSUB", b"PUNSUBSCRIBE", b"QUIT", b"RANDOMKEY", b"READONLY", b"READWRITE",
        b"REPLCONF", b"REPLICAOF", b"RESET", b"ROLE", b"SAVE", b"SCAN", b"SCRIPT", b"SELECT",
        b"SHUTDOWN", b"SLAVEOF", b"SLOWLOG", b"SUBSCRIBE", b"SWAPDB", b"SYNC", b"TIME", b"UNSUBSCRIBE",
        b"UNWATCH", b"WAIT", b"WAITAOF",
    }
)

_ALL = slice(1, None)
_ALL_BUT_LAST = slice(1, -1)
_FIRST_TWO = slice(1, 3)

_SLICES: dict[bytes, slice] = {
    **dict.fromkeys(
        (
            b"DEL", b"EXISTS", b"MGET", b"PFCOUNT", b"PFMERGE", b"SDIFF", b"SDIFFSTORE", b"SINTER",
            b"SINTERSTORE", b"SSUBSCRIBE", b"SUNION", b"SUNIONSTORE", b"SUNSUBSCRIBE", b"TOUCH",
            b"UNLINK", b"WATCH",
        ), _ALL),
    **dict.fromkeys((b"MSET", b"MSETNX"), slice(1, None, 2)),
    **dict.fromkeys((b"BLPOP", b"BRPOP", b"BZPOPMAX", b"BZPOPMIN"), _ALL_BUT_LAST),
    **dict.fromkeys(
        (
            b"BLMOVE", b"BRPOPLPUSH", b"COPY", b"GEOSEARCHSTORE", b"LCS", b"LMOVE", b"RENAME",
            b"RENAMENX", b"RPOPLPUSH", b"SMOVE", b"ZRANGESTORE",
        ), _FIRST_TWO),
    b"BITOP": slice(2, None),
    b"MIGRATE": slice(3, 4),
    # OBJECT ENCODING key, and its kin.
    **dict.fromkeys((b"MEMORY", b"OBJECT", b"PFDEBUG", b"XGROUP", b"XINFO"), slice(2, 3)),
}

#: At which place the number of keys stands, which follow it; and how far apart they are.
_NUMBERED: dict[bytes, tuple[int, int]] = {
    **dict.fromkeys(
        (b"LMPOP", b"SINTERCARD", b"ZDIFF", b"ZINTER", b"ZINTERCARD", b"ZMPOP", b"ZUNION"), (1, 1)),
    **dict.fromkeys(
        (
            b"BLMPOP", b"BZMPOP", b"EVAL", b"EVALSHA", b"EVALSHA_RO", b"EVAL_RO", b"FCALL", b"FCALL_RO",
            b"ZDIFFSTORE", b"ZINTERSTORE", b"ZUNIONSTORE",
        ), (2, 1)),
    b"MSETEX": (1, 2),
}
_WITH_DESTINATION = frozenset({b"ZDIFFSTORE", b"ZINTERSTORE", b"ZUNIONSTORE"})
_STREAMS = frozenset({b"XREAD", b"XREADGROUP"})


def keys_of(words: Sequence[bytes]) -> list[bytes]:
    """The keys of a request in their order; none where it has none, or is not well-formed."""
    name = words[0].upper() if words else b""
    if name in _NONE:
        return []
    if name in _NUMBERED:
        return _numbered(name, words)
    if name in _STREAMS:
        return _streams(words)
    return list(words[_SLICES.get(name, slice(1, 2))])


def _numbered(name: bytes, words: Sequence[bytes]) -> list[bytes]:
    at, step = _NUMBERED[name]
    count = words[at] if len(words) > at else b""
    if not (count.isdigit() and len(count) < 10):
        return []
    keys = list(words[at + 1 : at + 1 + int(count) * step : step])
    return [words[1], *keys] if name in _WITH_DESTINATION else keys


def _streams(words: Sequence[bytes]) -> list[bytes]:
    """The first half of what follows ``STREAMS``: the other half are ids."""
    for at, word in enumerate(words):
        if word.upper() == b"STREAMS":
            rest = words[at + 1 :]
            return list(rest[: len(rest) // 2])
    return []
