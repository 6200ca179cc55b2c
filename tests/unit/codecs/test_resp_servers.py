"""Requests as real servers read them: the same commands run, the same words refuse the rest."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from resp_samples import ECHO, PING, answers, command, good_streams, read_all, streams

from shotover_gevent.codecs.resp import RequestDecoder
from shotover_gevent.codecs.resp_frames import encode, parse
from shotover_gevent.codecs.resp_replies import ReplyScanner
from shotover_gevent.testing.server import RealServer

HAND_PICKED = [
    b"", b"\r\n", b"\n", b" \r\n", b"\t \n", b"\r\r\n", b"*0\r\n", b"*-1\r\n", b"*-7\r\n",
    b"*-9223372036854775808\r\n", b"*-9223372036854775809\r\n", b"*9223372036854775808\r\n",
    b"*2147483647\r\n", b"*2147483648\r\n", b"*1048577\r\n", b"*\r\n", b"* 1\r\n", b"*1 \r\n",
    b"*01\r\n", b"*+1\r\n", b"*-0\r\n", b"*--1\r\n", b"*1x\r\n", b"*1.0\r\n", b"*0x1\r\n", b"**1\r\n",
    b"*1\n$4\nPING\n", b"*1\r\n$4\nPING\r\n", b"*1\r\n", b"*1\r", b"*1\r\n$4\r\nPING\r",
    b"*1\r\n$4\r\nPIN\r\n", b"*1\r\n$3\r\nPING\r\n", b"*1\r\n$4\r\nPINGxx", b"*1\rX$4\r\nPING\r\n",
    b"*1\r\n$4\rXPING\r\n", b"*0\rX", b"*1\r\n$4\r\nPING\rx", b"*1\r\n$\r\n", b"*1\r\n$-1\r\n",
    b"*1\r\n$-0\r\n", b"*1\r\n$04\r\nPING\r\n", b"*1\r\n$+4\r\nPING\r\n", b"*1\r\n$4 \r\nPING\r\n",
    b"*1\r\n$536870912\r\n", b"*1\r\n$536870913\r\n", b"*1\r\n$99999999999999999999\r\n",
    b"*1\r\n$0\r\n\r\n", b"*2\r\n$4\r\nECHO\r\n$0\r\n\r\n", b"*2\r\n$4\r\nECHO\r\n$2\r\n\r\n\r\n",
    b"*1\r\n:4\r\n", b"*1\r\n+PING\r\n", b"*1\r\n(4\r\n", b"*1\r\n=8\r\ntxt:PING\r\n", b"*1\r\n_\r\n",
    b"*1\r\n*1\r\n$4\r\nPING\r\n", b"*1\r\n\r\n", b"*1\r\n\n\r\n", b"*1\r\n\xff\r\n", b"*1\r\nPING\r\n",
    b"*2\r\n$4\r\nECHO\r\n*1\r\n", b"~1\r\n$4\r\nPING\r\n", b">1\r\n$4\r\nPING\r\n",
    b"|1\r\n$4\r\nPING\r\n", b"%1\r\n$4\r\nPING\r\n", b"+PING\r\n", b"$4\r\nPING\r\n", b":1\r\n", b"_\r\n",
    b"PING\r\n", b"PING\n", b"ping a\r\n", b"  PING\t a \r\n", b"PING\rfoo\n", b"\vPING\r\n",
    b"ECHO 'a b'\r\n", b'ECHO "a b"\r\n', b"ECHO a'b c'\r\n", b'ECHO a"b c"\r\n', b"ECHO 'a'b\r\n",
    b'ECHO "a"b\r\n', b"ECHO 'a''b'\r\n", b"ECHO ''\r\n", b'""\r\n', b"ECHO '\r\n", b'ECHO "a\r\n',
    b'ECHO "a\\\r\n', b'ECHO "\\x41\\x4g\\n\\r\\t\\b\\a\\q\\"\\\\"\r\n', b"ECHO 'a\\'b\\n\\x41'\r\n",
    b"ECHO a\\ b\r\n", b'ECHO \\"a\r\n', b"ECHO a\vb\r\n", b"ECHO 'a'\vb\r\n", b"ECHO \xc3\xa9\r\n",
    b'ECHO "a\xffb"\r\n', b"ECHO '\x80'\r\n", b"*1\0\r\n", b"*1\r\n\0\r\n", b"PING\0\r\n",
    b"*1\r\n$4\0\r\nPING\r\n", b"A" * 65537, b"A" * 65536, b"*" + b"1" * 65536, b"*" + b"1" * 65535,
    b"*1\r\n" + b"$" * 65537, b"*1\r\n" + b"$" * 65536,
]

# Redis runs what Valkey refuses; on a NUL byte, Redis waits for ever.
_OWN_WORDS = ("invalid CRLF in request", "NUL byte in inline request")
_QUOTES = re.compile(rb"['\"\xff]")


def expected(server: RealServer, data: bytes) -> tuple[bytes, bool]:
    """What the server must say to ``data``, and whether it may say more."""
    raw, _, error = read_all(RequestDecoder(), [data])
    replies = answers(server.port, raw)
    is_ours = any(words in error for words in _OWN_WORDS) or b"\0" in data
    # Valkey reads quotes and the byte 0xff of inline commands in its own way.
    is_ours |= server.binary.is_valkey and _QUOTES.search(data) is not None
    return replies if is_ours else replies + error.encode("latin-1"), is_ours


def check(server: RealServer, data: bytes) -> None:
    """Assert that the server answers ``data`` like what is passed on of it, and the error."""
    replies, may_go_on = expected(server, data)
    actual = answers(server.port, data)
    if may_go_on and server.binary.is_valkey:
        return
    assert (actual[: len(replies)] if may_go_on else actual) == replies


def embedded(data: bytes) -> bytes:
    """``data`` between requests that are all right.

    Not before one if it is a long line: a server lets a line pass whose end comes in the same read.
    """
    return ECHO + data + (PING if len(data) < 65535 else b"")


@pytest.mark.parametrize("data", HAND_PICKED, ids=lambda data: repr(data[:40]))
def test_odd_requests_are_read_as_the_server_reads_them(server: RealServer, data: bytes):
    """The server answers odd bytes like what is passed on of them, and the error of the decoder."""
    check(server, embedded(data))


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(streams)
def test_any_request_is_read_as_the_server_reads_it(server: RealServer, data: bytes):
    """The server answers any bytes like what is passed on of them, and the error of the decoder."""
    check(server, data)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(good_streams)
def test_what_is_passed_on_means_what_was_decoded(server: RealServer, data: bytes):
    """Each server answers the bytes passed on like the canonical form of the decoded arguments."""
    raw, values, _ = read_all(RequestDecoder(), [data])
    canonical = b"".join(map(command, values))
    assert answers(server.port, raw) == answers(server.port, canonical)


@pytest.mark.parametrize("data", HAND_PICKED, ids=lambda data: repr(data[:40]))
def test_no_server_reads_odd_requests_in_another_way(server: RealServer, data: bytes):
    """What is passed on of odd bytes is, for each server, the decoded arguments and nothing else."""
    raw, values, _ = read_all(RequestDecoder(), [embedded(data)])
    canonical = b"".join(map(command, values))
    assert answers(server.port, raw) == answers(server.port, canonical)


SCRIPTS = [
    b"return 1", b"return 'a'", b"return {1,'a',{}}", b"return false", b"return {ok='fine'}",
    b"return redis.error_reply('ERR no')", b"redis.setresp(3) return {double=1.5}",
    b"redis.setresp(3) return {double=-1/0}", b"redis.setresp(3) return {big_number='123456789'}",
    b"redis.setresp(3) return {map={a=1,b={map={}}}}", b"redis.setresp(3) return {set={a=true}}",
    b"redis.setresp(3) return {verbatim_string={format='txt',string='a'}}",
    b"redis.setresp(3) return true", b"redis.setresp(3) return {true,false}",
]


@pytest.mark.parametrize("version", [b"2", b"3"])
def test_replies_survive_parsing_and_encoding(server: RealServer, version: bytes):
    """Whatever a server replies is cut where it ends, parsed, and encoded to the same bytes."""
    requests = [[b"HELLO", version], [b"CONFIG", b"GET", b"*"], [b"COMMAND"], [b"NOTHING"]]
    requests += [[b"EVAL", script, b"0"] for script in SCRIPTS] + [[b"SUBSCRIBE", b"a"], [b"QUIT"]]
    data = b"".join(map(command, requests))
    replies = ReplyScanner().feed(answers(server.port, data, may_end=False))
    assert len(replies) == len(requests)
    assert [encode(parse(reply)) for reply in replies] == replies
