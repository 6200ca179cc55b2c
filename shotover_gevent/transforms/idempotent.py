"""Which requests of Valkey may be sent a second time.

READS are the commands with the flag ``readonly`` in the answer to ``COMMAND`` of Redis 7.0 and Valkey
9.1, without those that wait (XREAD), and a few that touch no key. A test holds the table against a real
server.

WRITES were chosen by their documentation: done twice in a row they leave what they leave when done once;
their reply may tell a difference (DEL counts what there was to delete), which is why they are not sent
again when anybody could have done them already. What depends on the state before (INCR, APPEND, LPUSH,
SETNX), on chance (SPOP) or on other keys that it may be writing to (BITOP, SUNIONSTORE) is not among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

READS = frozenset(
    {
        b"BITCOUNT", b"BITFIELD_RO", b"BITPOS", b"DBSIZE", b"DUMP", b"EVALSHA_RO", b"EVAL_RO",
        b"EXISTS", b"EXPIRETIME", b"FCALL_RO", b"GEODIST", b"GEOHASH", b"GEOPOS",
        b"GEORADIUSBYMEMBER_RO", b"GEORADIUS_RO", b"GEOSEARCH", b"GET", b"GETBIT", b"GETRANGE",
        b"HEXISTS", b"HEXPIRETIME", b"HGET", b"HGETALL", b"HKEYS", b"HLEN", b"HMGET", b"HPEXPIRETIME",
        b"HPTTL", b"HRANDFIELD", b"HSCAN", b"HSTRLEN", b"HTTL", b"HVALS", b"KEYS", b"LCS", b"LINDEX",
        b"LLEN", b"LPOS", b"LRANGE", b"MGET", b"PEXPIRETIME", b"PFCOUNT", b"PTTL", b"RANDOMKEY", b"SCAN",
        b"SCARD", b"SDIFF", b"SINTER", b"SINTERCARD", b"SISMEMBER", b"SMEMBERS", b"SMISMEMBER",
        b"SORT_RO", b"SRANDMEMBER", b"SSCAN", b"STRLEN", b"SUBSTR", b"SUNION", b"TOUCH", b"TTL",
        b"TYPE", b"XLEN", b"XPENDING", b"XRANGE", b"XREVRANGE", b"ZCARD", b"ZCOUNT", b"ZDIFF", b"ZINTER",
        b"ZINTERCARD", b"ZLEXCOUNT", b"ZMSCORE", b"ZRANDMEMBER", b"ZRANGE", b"ZRANGEBYLEX",
        b"ZRANGEBYSCORE", b"ZRANK", b"ZREVRANGE", b"ZREVRANGEBYLEX", b"ZREVRANGEBYSCORE", b"ZREVRANK",
        b"ZSCAN", b"ZSCORE", b"ZUNION",
    }
)
#: They read no key, and say the same to whoever asks again.
KEYLESS = frozenset({b"ECHO", b"INFO", b"LASTSAVE", b"PING", b"TIME"})

WRITES = frozenset(
    {
        b"DEL", b"EXPIRE", b"EXPIREAT", b"GEOADD", b"HDEL", b"HMSET", b"HSET", b"LSET", b"MSET",
        b"PERSIST", b"PEXPIRE", b"PEXPIREAT", b"PFADD", b"PSETEX", b"SADD", b"SET", b"SETBIT", b"SETEX",
        b"SETRANGE", b"SREM", b"UNLINK", b"ZADD", b"ZREM", b"ZREMRANGEBYLEX", b"ZREMRANGEBYSCORE",
    }
)

# Options by which a command of WRITES depends on the state before it.
_CONDITIONS = frozenset({b"NX", b"XX", b"GT", b"LT", b"GET", b"IFEQ", b"INCR"})
_CONDITIONAL = frozenset({b"SET", b"EXPIRE", b"EXPIREAT", b"PEXPIRE", b"PEXPIREAT", b"ZADD", b"GEOADD"})


def is_read(name: bytes) -> bool:
    """Whether a command changes nothing."""
    return name in READS or name in KEYLESS


def is_idempotent(name: bytes, value: Any) -> bool:
    """Whether a request, done twice in a row, leaves what it leaves when done once."""
    if is_read(name):
        return True
    return name in WRITES and not (name in _CONDITIONAL and _has_condition(value))


def _has_condition(words: Sequence[bytes]) -> bool:
    """Whether an option of a request looks at the state before. A value may look like one."""
    return any(word.upper() in _CONDITIONS for word in words[2:])
