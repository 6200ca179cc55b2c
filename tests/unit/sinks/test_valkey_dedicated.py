"""The sink with a connection of its own, against a scripted server: what comes out, byte for byte.

The server waits for the whole request, then sends its pieces one by one, each when the one before it
was read. What follows ``OVER`` comes when all requests are answered and the session is idle.
"""

from __future__ import annotations

import array
import fcntl
import termios
from collections.abc import Sequence
from dataclasses import dataclass, field

import gevent
import pytest

from shotover_gevent.chain import SessionContext
from shotover_gevent.chain.chain import Chain, ChainConfig
from shotover_gevent.codecs.resp import RequestDecoder
from shotover_gevent.errors import ShotoverError, causes
from shotover_gevent.metrics import MetricStore
from shotover_gevent.sinks.valkey_single import ValkeySinkSingle
from tests.client import CLIENT_S, Client, command
from tests.inprocess import ScriptedServer, reset, session_context, summary, until

RESET = "reset"
OVER = "over"
Piece = bytes | str

GET = command("GET", "k")
HELLO = command("HELLO", "3")
HELLO_REPLY = b"%1\r\n$5\r\nproto\r\n:3\r\n"
INVALIDATE = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"
PLAIN = [b"$5\r\na\r\nb>\r\n", b"-ERR x\r\n", b"*2\r\n:1\r\n*1\r\n$-1\r\n", b"+OK\r\n"]
MIXED = [INVALIDATE, b"$1\r\nv\r\n", INVALIDATE, INVALIDATE, b"|1\r\n+ttl\r\n:9\r\n%1\r\n+a\r\n_\r\n", b"!5\r\nERR x\r\n"]
SUBSCRIBED = [
    b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n", b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\n1\r\n",
    b"*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n", b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"]


@dataclass
class Outcome:
    """What came out of the sink: the answers of each run, all bytes in their order, and the end."""

    runs: list[list[tuple[bytes, bytes]]] = field(default_factory=list)
    raw: bytes = b""
    error: list[str] = field(default_factory=list)
    failed_requests: float = 0


def converse(*runs: tuple[bytes, Sequence[Piece]]) -> Outcome:
    """Send the requests of each run, let the server send its pieces, and tell what came out.

    After the last run the session waits until the server has closed.
    """
    outcome, metrics = Outcome(), MetricStore()
    contexts: list[SessionContext] = []

    def serve(client: Client) -> None:
        for requests, pieces in runs:
            client.expect(requests)
            for piece in pieces:
                if piece == OVER:
                    until(lambda: contexts[0].park.is_idle)
                elif piece == RESET:
                    reset(client)
                else:
                    assert isinstance(piece, bytes)
                    client.send(piece)
                    until(lambda: is_read(contexts[0]))

    def session(config: ChainConfig) -> None:
        context = session_context(emit=lambda pushes: context.pushed.append(pushes.raw))
        contexts.append(context)
        chain, decoder = config.session(context), RequestDecoder()
        try:
            for requests, _ in runs:
                responses = chain.run(decoder.feed(requests))
                outcome.raw += responses.raw + context.take_pushed()
                outcome.runs.append(summary(responses))
            idle(chain, context)
        except ShotoverError as error:
            outcome.error = [type(error).__name__, *list(causes(error))[-1:]]
        finally:
            chain.close()
        outcome.raw += context.take_pushed()

    def idle(chain: Chain, context: SessionContext) -> None:
        while stream := context.park.wait_any(CLIENT_S):
            stream.owner.on_readable()

    with ScriptedServer(serve) as server:
        sink = ValkeySinkSingle(name="v", remote_address=str(server.address), connect_timeout_ms=1000)
        config = ChainConfig("c", "Valkey", [sink], metrics)
        gevent.spawn(session, config).get(timeout=CLIENT_S)
    outcome.failed_requests = metrics.counter(
        "shotover_failed_requests_count", "", chain="c", transform="ValkeySinkSingle").value
    return outcome


def is_read(context: SessionContext) -> bool:
    """Whether the sink has read all that was sent to it, or is gone."""
    if not context.park.streams:
        return True
    unread = array.array("i", [0])
    fcntl.ioctl(context.park.streams[0].socket.fileno(), termios.FIONREAD, unread)
    return unread[0] == 0


CLOSED = ["UpstreamClosed", "the database closed the connection"]
LOST = ["TransformError", "The other side of this connection closed the connection"]
CASES = {
    "plain": (b"", GET * 4, PLAIN, [(b"", raw) for raw in PLAIN], 1),
    "pushes": (
        HELLO, GET * 3, MIXED,
        [(MIXED[0], MIXED[1]), (MIXED[2] + MIXED[3], MIXED[4]), (b"", MIXED[5])], 0),
    "subscribe": (
        b"", command("SUBSCRIBE", "a", "b") + command("PING"), SUBSCRIBED,
        [(b"", b"".join(SUBSCRIBED[:3])), (b"", SUBSCRIBED[3])], 0),
}


@pytest.mark.parametrize("name", CASES)
def test_replies_may_be_cut_anywhere(name: str) -> None:
    """At every position the answers, their pushes and the counted errors are the same."""
    before, requests, replies, answers, errors = CASES[name]
    raw = b"".join(replies)
    runs = [(before, [HELLO_REPLY])] if before else []
    expected = Outcome(
        [[(b"", HELLO_REPLY)]] * len(runs) + [answers], HELLO_REPLY * len(runs) + raw, CLOSED, errors)
    wrong = {}
    for place in range(1, len(raw)):
        outcome = converse(*runs, (requests, [raw[:place], raw[place:]]))
        if outcome != expected:
            wrong[place] = outcome
    assert wrong == {}


def test_every_byte_may_come_alone() -> None:
    """A server that writes byte by byte is slow, and nothing else."""
    raw = b"".join(PLAIN)
    outcome = converse((GET * 4, [raw[i : i + 1] for i in range(len(raw))]))
    assert outcome == Outcome([CASES["plain"][3]], raw, CLOSED, 1)  # type: ignore[list-item]


def test_runs_follow_each_other_on_one_connection() -> None:
    """Plain runs and others may alternate; each gets its own answers."""
    subscribe, unsubscribe = command("SUBSCRIBE", "a"), command("UNSUBSCRIBE")
    gone = b"*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:0\r\n"
    outcome = converse(
        (GET, [b":1\r\n"]), (subscribe, [SUBSCRIBED[0]]), (unsubscribe, [SUBSCRIBED[1] + gone]),
        (GET * 2, [b":2\r\n:3\r\n"]), (HELLO, [HELLO_REPLY]), (GET, [INVALIDATE + b":4\r\n" + INVALIDATE]))
    assert outcome == Outcome(
        [[(b"", b":1\r\n")], [(b"", SUBSCRIBED[0])], [(SUBSCRIBED[1], gone)],
         [(b"", b":2\r\n"), (b"", b":3\r\n")], [(b"", HELLO_REPLY)], [(INVALIDATE, b":4\r\n")]],
        b"".join([b":1\r\n", SUBSCRIBED[0], SUBSCRIBED[1], gone, b":2\r\n:3\r\n", HELLO_REPLY, INVALIDATE,
                  b":4\r\n", INVALIDATE]), CLOSED)


def test_large_replies_come_through() -> None:
    """Beyond any buffer, in pieces, counted or looked at."""
    large = b"$3000000\r\n" + b">|!-\r\n" * 500_000 + b"\r\n"
    pieces = [large[i : i + 700_001] for i in range(0, len(large), 700_001)]
    outcome = converse((GET, pieces), (HELLO, [HELLO_REPLY]), (GET * 2, [*pieces, INVALIDATE + b":1\r\n"]))
    assert outcome.runs[0] == [(b"", large)]
    assert (outcome.runs[2], outcome.error) == ([(b"", large), (INVALIDATE, b":1\r\n")], CLOSED)


def test_messages_come_while_nothing_is_asked() -> None:
    """They are pushed as they come, also in halves; then the next request has its answer."""
    message = SUBSCRIBED[1]
    outcome = converse(
        (command("SUBSCRIBE", "a"), [SUBSCRIBED[0], OVER, message, message[:9], message[9:] + message[:5], message[5:]]))
    assert outcome == Outcome([[(b"", SUBSCRIBED[0])]], SUBSCRIBED[0] + message * 3, CLOSED)


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        ([], LOST),
        ([b":1\r\n"], LOST),
        ([b":1\r\n$5\r\nab"], LOST),
        ([b":1\r\n:2\r\n"], CLOSED),
        ([RESET], ["TransformError", "Connection reset by peer (os error 104)"]),
        ([b":1\r\n", RESET], ["TransformError", "Connection reset by peer (os error 104)"]),
        ([b":1\r\n:2\r\n", OVER, RESET], CLOSED),
        ([b"HTTP/1.1 400\r\n"],
         ["TransformError", "no value begins with b'H': b'HTTP/1.1 400\\r\\n'"]),
        ([b":1\r\n$x\r\n"], ["TransformError", "b'x' is no length"]),
        ([b":1\r\n:2\r\n", OVER, b"nonsense"],
         ["UpstreamError", "no value begins with b'n': b'nonsense'"]),
    ], ids=repr)
@pytest.mark.parametrize("before", [b"", HELLO], ids=["resp2", "resp3"])
def test_a_server_that_goes_or_talks_nonsense_ends_the_session(
    pieces: list[Piece], error: list[str], before: bytes
) -> None:
    """With an answer pending it is an error, with none it is the end."""
    runs: list[tuple[bytes, Sequence[Piece]]] = [(before, [HELLO_REPLY])] if before else []
    outcome = converse(*runs, (GET * 2, pieces))
    raw = HELLO_REPLY * len(runs) + (b"" if error[0] == "TransformError" else b":1\r\n:2\r\n")
    assert (outcome.error, outcome.raw) == (error, raw)


@pytest.mark.parametrize("replies", [[], [b":1\r\n"], [b":1\r\n+OK\r\n"]], ids=repr)
def test_after_quit_the_end_is_an_answer(replies: list[Piece]) -> None:
    """What was not answered is answered by nothing, unless it stood before QUIT."""
    outcome = converse((GET + command("QUIT") + GET, replies))
    if not replies:
        assert outcome.error == LOST
    else:
        raw = b"".join(piece for piece in replies if isinstance(piece, bytes))
        assert (outcome.raw, len(outcome.runs[0]), outcome.error[0]) == (raw, 3, "UpstreamClosed")


def test_extra_replies_are_passed_on_where_they_stood() -> None:
    """A wrong guess about the server leaves the client with the server's own bytes."""
    outcome = converse((GET, [b":1\r\n:2\r\n:3\r\n"]), (GET, [b":4\r\n:5\r\n", OVER, b":6\r\n"]))
    assert (outcome.raw, outcome.error) == (b"".join(b":%d\r\n" % i for i in range(1, 7)), CLOSED)


@pytest.mark.parametrize(
    ("head", "tail"),
    [(b"+EX", b"TRA\r\n"), (b"$11\r\nnot all", b" yet\r\n"), (b"+", b"EXTRA\r\n")], ids=repr)
def test_a_part_of_an_extra_reply_is_passed_on_where_it_stood(head: bytes, tail: bytes) -> None:
    """The beginning that came with the answer, and the rest that comes with the next one."""
    outcome = converse((GET, [b":1\r\n" + head]), (GET, [tail + b":2\r\n"]))
    assert (outcome.raw, outcome.error) == (b":1\r\n" + head + tail + b":2\r\n", CLOSED)
