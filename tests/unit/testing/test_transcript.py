"""A transcript is played against a real proxy, and the first line that goes another way is told."""

from __future__ import annotations

import pytest

from shotover_gevent.chain import Batch, Next, SessionContext, Transform, TransformConfig
from shotover_gevent.errors import UsageError
from shotover_gevent.sinks.null import NullSink
from shotover_gevent.sinks.valkey_single import ValkeySinkSingle
from shotover_gevent.testing import FakeUpstream, command, run_transcript
from shotover_gevent.testing.transcript_line import payload
from shotover_gevent.transforms.query_type_filter import QueryTypeFilter

PASSING = {
    "a request and its response": """
        # the client asks for what is there
        >  GET k
        >> GET k
        << value
        <  value
        """,
    "a pipeline": """
        >  b"PING\\r\\nGET k\\r\\n"
        >> b"PING\\r\\n" b'GET k\\r\\n'
        << b"+PONG\\r\\n$"
        << b"1\\r\\nv\\r\\n"
        <  +PONG
        <  v
        """,
    "a push while nothing is asked": """
        >  SUBSCRIBE c
        >> SUBSCRIBE c
        << [subscribe c :1]
        <  [subscribe c :1]
        << [message c "hello world"]
        <  [message c "hello world"]
        """,
    "two clients with a connection each": """
        1>  GET a
        1>> GET a
        2>  GET b
        2>> GET b
        2<< nil
        1<< :1
        1<  :1
        2<  nil
        """,
    "an upstream that goes": """
        >  GET k
        >> GET k
        << b"$5\\r\\nhe"
        << (reset)
        <  -ERR Internal shotover (or custom transform) bug (chain: transcript): Failed to send...
        <  (closed)
        """,
    "a client that goes": """
        >  PING
        >> PING
        << +PONG
        <  +PONG
        >  (close)
        >> (closed)
        """,
    "nothing": """
        >  GET k
        >> GET k
        <  (nothing)
        << _
        <  _
        >> (nothing)
        """,
}


@pytest.mark.parametrize("name", PASSING)
def test_a_transcript_that_is_true_passes(name: str) -> None:
    """A chain without a sink asks the upstream of the transcript."""
    run_transcript([], PASSING[name])


def test_a_transform_is_seen_from_both_sides() -> None:
    """What it answers itself does not reach the upstream."""
    run_transcript([QueryTypeFilter(name="f", DenyList=["Write"])], """
        >  SET k v
        <  -ERR Message was filtered out by shotover
        >  b"SET k v\\r\\nGET k\\r\\n"
        >> b"GET k\\r\\n"
        << nil
        <  -ERR Message was filtered out by shotover
        <  nil
    """)


TOPOLOGY = """\
sources:
  - Valkey:
      name: "v"
      listen_addr: "127.0.0.1:0"
      chain:
        - QueryTypeFilter: {name: "f", AllowList: [Read]}
        - ValkeySinkSingle: {name: "s", remote_address: "{upstream}", connect_timeout_ms: 1000}
"""
DATA = {"sources": [{"Valkey": {"name": "v", "listen_addr": "127.0.0.1:0", "chain": [
    {"QueryTypeFilter": {"name": "f", "AllowList": ["Read"]}},
    {"ValkeySinkSingle": {"name": "s", "remote_address": "{upstream}", "connect_timeout_ms": 1000}},
]}}]}


def with_sink(upstream: FakeUpstream) -> list[TransformConfig]:
    """A chain of its own."""
    return [QueryTypeFilter(name="f", AllowList=["Read"]),
            ValkeySinkSingle(name="s", remote_address=upstream.address, connect_timeout_ms=1000)]


@pytest.mark.parametrize("target", [TOPOLOGY, DATA, with_sink], ids=["YAML", "data", "function"])
def test_a_topology_may_be_given(target: object) -> None:
    """As YAML, as data, or as a function that makes the chain."""
    run_transcript(target, """
        >  DEL k
        <  -ERR Message was filtered out by shotover
        >  GET k
        >> GET k
        << v
        <  v
    """)  # type: ignore[arg-type]


def test_bytes_without_messages_have_transcripts_too() -> None:
    """In a ``Tcp`` chain every payload is bytes."""
    run_transcript([], """
        >  b"hello"
        >> b"hello"
        << b"\\x00\\xff"
        <  b"\\x00\\xff"
        << (close)
        <  (closed)
    """, protocol="Tcp")


FAILING = {
    "another response": (
        """
        >  GET k
        >> GET k
        << [a b]
        <  [a "c"]
        """,
        """\
line 5 of the transcript
    > GET k
    >> GET k
    << [a b]
--> <  [a "c"]
      '*2\\r\\n'
      '$1\\r\\n'
      'a\\r\\n'
      '$1\\r\\n'
    - 'c\\r\\n'
    + 'b\\r\\n'"""),
    "after the end": (
        """
        >  GET k
        >> GET k
        << b"-ERR no"
        << (close)
        << (close)
        """,
        """\
line 6 of the transcript
    >> GET k
    << b"-ERR no"
    << (close)
--> << (close)
    this connection has ended before"""),
    "a beginning of something else": (
        """
        >  GET k
        >> GET k
        << -ERR no
        <  -ERR yes...
        """,
        """\
line 5 of the transcript
    > GET k
    >> GET k
    << -ERR no
--> <  -ERR yes...
    - '-ERR yes'
    + '-ERR no\\r\\n'"""),
    "too little": (
        """
        >  GET k
        >> GET k
        << b"$5\\r\\nv"
        <  value
        """,
        """\
line 5 of the transcript
    > GET k
    >> GET k
    << b"$5\\r\\nv"
--> <  value
    - '$5\\r\\n'
    - 'value\\r\\n'
    and nothing more within 0.2 s"""),
    "the end": (
        """
        >  PING
        >> PING
        << (close)
        >> PING
        """,
        """\
line 5 of the transcript
    > PING
    >> PING
    << (close)
--> >> PING
    this connection has ended before"""),
    "nobody asks": (
        """
        >  PING
        <  +PONG
        >> PING
        """,
        """\
line 4 of the transcript
    > PING
    <  +PONG
--> >> PING
    the proxy has made 0 connections to the upstream"""),
    "something else than nothing": (
        """
        >  PING
        <  (nothing)
        """,
        """\
line 3 of the transcript
    > PING
--> <  (nothing)
    expected nothing
    received b'-ERR Handled by shotover null transform\\r\\n'"""),
    "no end": (
        """
        >  PING
        <  (closed)
        """,
        """\
line 3 of the transcript
    > PING
--> <  (closed)
    expected (closed)
    received b'-ERR Handled by shotover null transform\\r\\n'"""),
    "more than is told": (
        """
        >  PING
        """,
        """\
after the last line of the transcript, client 1 received
    b'-ERR Handled by shotover null transform\\r\\n'"""),
}
ANSWERED_BY_NOBODY = ("something else than nothing", "no end", "more than is told")


@pytest.mark.parametrize("name", FAILING)
def test_the_line_that_fails_is_told_with_the_difference(name: str) -> None:
    """With the lines before it."""
    text, said = FAILING[name]
    chain: list[TransformConfig] = [NullSink(name="n")] if name in ANSWERED_BY_NOBODY else []
    if name == "nobody asks":
        chain = [Pong(name="p")]
    with pytest.raises(AssertionError) as caught:
        run_transcript(chain, text, timeout_s=0.2)
    lines = [line.rstrip() for line in str(caught.value).splitlines()]
    wanted = [line.rstrip().replace("    > ", "    >  ") for line in said.splitlines()]
    assert lines[: len(wanted)] == wanted


class Pong(TransformConfig):
    """Answers everything by ``+PONG``, and asks nobody."""

    def session(self, context: SessionContext) -> Transform:
        """Its transform."""
        return _Pong()


class _Pong(Transform):
    def transform(self, requests: Batch, next: Next) -> Batch:
        for message in requests:
            message.frame = type(requests.codec.parse(b"+x\r\n"))(b"PONG")
        return requests


MISTAKES = {
    "PING": "a line begins with >, >>, <<, < or #",
    "> (closed)": "here a line may say (close), (reset)",
    "< (close)": "here a line may say (closed), (reset), (nothing)",
    "<": "nothing follows",
    "< a b": "a line holds one response; a text of several words stands in quotes",
    "< [a": "a bracket is open",
    "< a]": "a bracket closes that was not opened",
    "< %[a]": "a map has a value for each key",
    '< "a': 'a quote is open: "a',
    '> GET "a': 'a quote is open:  "a',
    '> b"a" c': "no bytes: c",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_line_that_cannot_be_read_is_the_mistake_of_the_test(line: str) -> None:
    """Its number, the line, and what is wrong."""
    with pytest.raises(UsageError) as caught:
        run_transcript([], f"\n{line}\n")
    assert str(caught.value) == f"line 2 of the transcript, {line!r}: {MISTAKES[line]}"


PAYLOADS = [
    ('b"a\\x00" b\'b\'', False, b"a\0b"), ("GET [k] \"a b\\r\\n\"", True, command("GET", "[k]", "a b\r\n")),
    ("+OK", False, b"+OK\r\n"), ("-ERR no such thing", False, b"-ERR no such thing\r\n"),
    ("#t", False, b"#t\r\n"), ("_", False, b"_\r\n"), (",1.5", False, b",1.5\r\n"), ("nil", False, b"$-1\r\n"),
    ("v", False, b"$1\r\nv\r\n"), ('"ä"', False, b"$2\r\n\xc3\xa4\r\n"), ("-", False, b"-\r\n"),
    ("[a :1 [nil +OK]]", False, b"*3\r\n$1\r\na\r\n:1\r\n*2\r\n$-1\r\n+OK\r\n"), ("[]", False, b"*0\r\n"),
    (">[x]", False, b">1\r\n$1\r\nx\r\n"), ("~[:1]", False, b"~1\r\n:1\r\n"),
    ("%[a :1]", False, b"%1\r\n$1\r\na\r\n:1\r\n"),
]


@pytest.mark.parametrize(("text", "is_request", "data"), PAYLOADS, ids=lambda value: repr(value)[:30])
def test_what_follows_on_a_line_stands_for_bytes(text: str, is_request: bool, data: bytes) -> None:
    """In the escapes of Python, or in the short form of RESP."""
    assert payload(text, is_request) == data
