"""One client of a Valkey source, from accept to close, in the process of the test."""

from __future__ import annotations

import fcntl
import logging
import socket
import sys
import termios
from collections.abc import Callable
from typing import ClassVar

import gevent
import pytest
from gevent.event import Event

from shotover_gevent.chain import Batch, Message
from shotover_gevent.codecs.resp import RESP
from shotover_gevent.deadline import Deadline
from shotover_gevent.errors import SessionEnd
from shotover_gevent.sinks.valkey_single import ValkeySinkSingle
from shotover_gevent.sources import session as module
from shotover_gevent.sources.base import BaseSession, EndReason
from shotover_gevent.sources.source import Source
from tests.client import Client, command
from tests.inprocess import Answerer, ScriptedServer, Step, connect, reset, serving, until

PING = command("PING")
INVALIDATE = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"
MESSAGE = b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\n1\r\n"
SUBSCRIBED = b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"


def replies(requests: Batch) -> Batch:
    """Each request answered by its last word."""
    return Batch.of(RESP, [Message(RESP, frame=value[-1]) for value in requests.values])


def sink(answer: Callable[[Batch], Batch] = replies) -> Answerer:
    """A sink of that function."""
    return Answerer(name="sink", answer=answer)


def valkey(server: ScriptedServer) -> ValkeySinkSingle:
    """A sink in front of the server."""
    return ValkeySinkSingle(name="v", remote_address=str(server.address), connect_timeout_ms=1000)


def bulk(*words: str) -> bytes:
    """Bulk strings."""
    return b"".join(b"$%d\r\n%b\r\n" % (len(word), word.encode()) for word in words)


def arrived(client: Client) -> int:
    """How many bytes the kernel has for the client."""
    return int.from_bytes(fcntl.ioctl(client.socket.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The log, from INFO on."""
    caplog.set_level(logging.INFO)
    return caplog


def ends(log: pytest.LogCaptureFixture) -> list[tuple[str, int]]:
    """Reason and number of requests of each session that has closed."""
    fields = [record.fields for record in log.records if record.message == "session closed"]  # type: ignore
    return [(each["reason"], each["requests"]) for each in fields]


def loud(log: pytest.LogCaptureFixture) -> list[str]:
    """Warnings and errors."""
    return [record.message for record in log.records if record.levelno >= logging.WARNING]


# -- requests ---------------------------------------------------------------------------------------


def test_requests_are_answered_however_they_are_cut(log: pytest.LogCaptureFixture) -> None:
    """Whole, in pieces, several at once; the end of the client ends the session."""
    with serving(sink()) as source:
        with connect(source) as client:
            client.ask(command("ECHO", "a"), bulk("a"))
            client.send(command("ECHO", "b") + command("ECHO", "c")[:9])
            client.expect(bulk("b"))
            client.ask(command("ECHO", "c")[9:] + PING, bulk("c", "PING"))
        until(lambda: ends(log))
    assert (ends(log), loud(log)) == ([("client closed", 4)], [])


def test_deep_pipelines_start_with_short_runs_which_grow() -> None:
    """Small answers double the length of the next runs, large ones make it shorter."""
    sizes: list[int] = []
    size = 1

    def answer(requests: Batch) -> Batch:
        sizes.append(len(requests))
        return Batch.of(RESP, [Message(RESP, frame=b"x" * size) for _ in requests.values])

    with serving(sink(answer)) as source, connect(source) as client:
        client.ask(PING * 1000, b"$1\r\nx\r\n" * 1000)
        client.ask(PING * 1000, b"$1\r\nx\r\n" * 1000)
        small, sizes[:] = list(sizes), []
        size = 10_000
        for _ in range(3):
            client.ask(PING * 1000, (b"$10000\r\n" + b"x" * size + b"\r\n") * 1000)
    assert (small, sizes) == ([128] * 7 + [104] + [1000], [1000, 1000, 1000])


def test_the_run_limit_follows_the_size_of_the_answers() -> None:
    """Between both bounds it stays; it never falls below one request nor rises without end."""
    seen = []
    with serving(sink()) as source, connect(source) as client:
        client.ask(PING, bulk("PING"))
        session = next(iter(source.sessions))
        for answered in (0, module.SMALL_RUN_BYTES, module.LARGE_RUN_BYTES, *[module.LARGE_RUN_BYTES + 1] * 5):
            session._adapt(answered)  # type: ignore[attr-defined]
            seen.append(session._run_limit)  # type: ignore[attr-defined]
        for _ in range(20):
            session._adapt(0)  # type: ignore[attr-defined]
        seen.append(session._run_limit)  # type: ignore[attr-defined]
    assert seen == [512, 512, 512, 128, 32, 8, 2, 1, module.LONGEST_RUN]


def test_answers_before_a_blocking_request_are_not_held_back() -> None:
    """They leave while it waits; what follows it waits with it."""
    may_go = Event()

    def answer(requests: Batch) -> Batch:
        if b"BLPOP" in requests.names:
            may_go.wait()
        return replies(requests)

    with serving(sink(answer)) as source, connect(source) as client:
        client.send(command("ECHO", "a") + command("BLPOP", "k", "0") + command("ECHO", "b"))
        client.expect(bulk("a"))
        client.silent(0.02)
        may_go.set()
        client.expect(bulk("0", "b"))


def test_a_session_that_waits_for_its_client_to_close_cannot_be_held() -> None:
    """What its chain had opened is closed already, so that nothing of it could move."""
    with serving(sink()) as source, connect(source) as client:
        client.ask(PING, bulk("PING"))
        (session,) = source.sessions
        assert session.hold()
        session.release()
        client.send(b"*1\r\n!PING\r\n")
        client.until(b"\r\n")
        client.eof()
        assert (session.hold(), session.is_held, list(source.sessions) == [session]) == (False, False, True)


class Together(Answerer):
    """A sink that has the answers of many sessions at once."""

    type_name: ClassVar[str] = "Answerer"
    answers_together: ClassVar[bool] = True


@pytest.mark.parametrize(
    ("kind", "size", "is_sent"),
    [(Answerer, 10, False), (Answerer, module.SOON_BYTES, True), (Together, 10, True)])
def test_a_short_answer_leaves_at_the_end_of_the_turn(kind: type[Answerer], size: int, is_sent: bool) -> None:
    """Unless those of other sessions leave now as well; a long one does not wait."""
    text, seen = "x" * size, []

    def answer(requests: Batch) -> Batch:
        gevent.get_hub().loop.run_callback(lambda: seen.append(arrived(client)))
        return replies(requests)

    with serving(kind(name="sink", answer=answer)) as source, connect(source) as client:
        client.ask(command(text), bulk(text))
    assert seen == [len(bulk(text)) if is_sent else 0]


@pytest.mark.parametrize("size", [10, 16_000])
def test_a_session_is_held_with_its_answer_sent(size: int) -> None:
    """The answer that was to leave at the end of the turn has left before; it could move now."""
    text, seen = "x" * size, []

    def hold(session: BaseSession) -> None:
        seen.append((session.is_idle, session.hold(), arrived(client)))

    def answer(requests: Batch) -> Batch:
        (session,) = source.sessions
        if not seen:
            gevent.get_hub().loop.run_callback(hold, session)  # when it is parked, before the turn ends
        return replies(requests)

    with serving(sink(answer)) as source, connect(source) as client:
        client.ask(command(text), bulk(text))
        (session,) = source.sessions
        client.send(PING)
        client.silent()
        session.release()
        client.expect(bulk("PING"))
    assert seen == [(True, True, len(bulk(text)))]


def test_a_session_whose_client_does_not_take_its_answer_is_held_when_it_has() -> None:
    """Until then it is busy, and reads nothing."""
    text = "x" * 16_000
    with serving(sink()) as source, connect(source) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.ask(PING, bulk("PING"))
        (session,) = source.sessions
        session.client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        asked = 0
        while session.blocked is None:
            client.send(command(text))
            asked += 1
            gevent.sleep(0.005)
        assert (session.hold(), session.blocked[0]) == (False, "client")
        client.expect(bulk(text) * asked)
        until(lambda: session.is_held)
        session.release()
        client.ask(PING, bulk("PING"))


def test_a_client_that_has_gone_before_its_answer_left_is_lost(log: pytest.LogCaptureFixture) -> None:
    """The session ends, although nobody waits for the sending."""
    with serving(sink(lambda requests: answer(requests))) as source:
        client = connect(source)

        def answer(requests: Batch) -> Batch:
            (session,) = source.sessions
            session.client.shutdown(socket.SHUT_WR)  # as if the kernel knew of the reset already
            return replies(requests)

        client.send(PING)
        until(lambda: ends(log))
        client.close()
    assert (ends(log), loud(log)) == ([("client lost", 1)], [])


def test_a_malformed_request_is_refused_after_the_others_were_answered(log: pytest.LogCaptureFixture) -> None:
    """The client gets the server's text, and the end, even while it goes on sending."""
    with serving(sink()) as source, connect(source) as client:
        client.send(command("ECHO", "a") + b"*1\r\n!PING\r\n" + b"x" * 1000)
        client.expect(bulk("a") + b"-ERR Protocol error: expected '$', got '!'\r\n")
        client.eof()
        client.close()
        until(lambda: ends(log))
    assert (ends(log), loud(log)) == (
        [("malformed request", 1)], ["failed to decode message: Protocol error: expected '$', got '!'"])


def test_a_failure_is_told_for_every_pending_request(log: pytest.LogCaptureFixture) -> None:
    """Those of the runs that were not begun as well; nothing runs after it."""
    runs: list[list[bytes]] = []

    def answer(requests: Batch) -> Batch:
        runs.append(requests.names)
        if b"BLPOP" in requests.names:
            raise ValueError("two\nlines")
        return replies(requests)

    with serving(sink(answer)) as source, connect(source) as client:
        client.send(command("ECHO", "a") + command("BLPOP", "k", "0") + PING * 2)
        error = (
            b"-ERR Internal shotover (or custom transform) bug (chain: s): Failed to send and/or receive "
            b"messages, the connection will now be closed.  Caused by:     0: Transform Answerer named "
            b"sink failed in chain s     1: two        lines\r\n")
        client.expect(bulk("a") + error * 3)
        client.eof()
        client.close()
        until(lambda: ends(log))
    assert (runs, ends(log), loud(log)) == (
        [[b"ECHO"], [b"BLPOP"]], [("failed", 4)],
        ["connection was unexpectedly terminated\n\nCaused by:\n"
         "    0: Failed to send and/or receive messages, the connection will now be closed.\n"
         "    1: Transform Answerer named sink failed in chain s\n    2: two\n       lines"])


def test_a_transform_may_end_the_session_without_a_word(log: pytest.LogCaptureFixture) -> None:
    """The end of a session is no failure: the client is closed, and nothing is logged but that."""

    def end(requests: Batch) -> Batch:
        raise SessionEnd("enough")

    with serving(sink(end)) as source, connect(source) as client:
        client.send(PING)
        client.eof()
        client.close()
        until(lambda: ends(log))
    assert loud(log) == []


@pytest.mark.parametrize("leave", [Client.close, reset], ids=["closed", "reset"])
def test_a_client_that_leaves_without_its_answer_is_no_error(
    log: pytest.LogCaptureFixture, leave: Callable[[Client], None]
) -> None:
    """What could not be sent is dropped, and the session is closed."""
    asked, may_answer = Event(), Event()

    def answer(requests: Batch) -> Batch:
        asked.set()
        may_answer.wait()
        return replies(requests)

    with serving(sink(answer)) as source:
        client = connect(source)
        client.send(PING)
        asked.wait()
        leave(client)
        may_answer.set()
        until(lambda: ends(log))
    assert loud(log) == []


def test_a_session_that_cannot_start_is_closed_and_logged(log: pytest.LogCaptureFixture) -> None:
    """The client sees the end; what was made is closed."""
    closed: list[str] = []

    def fail(context: object) -> None:
        raise ValueError("cannot start")

    steps = [Step(name="a", closed=lambda: closed.append("a")), Step(name="b", made=fail)]
    with serving(*steps, sink()) as source, connect(source) as client:
        client.eof()
        client.close()
        until(lambda: ends(log))
    assert (closed, ends(log), loud(log)) == (
        ["a"], [("failed", 0)], ["session ended by an unexpected error"])


# -- pushes -----------------------------------------------------------------------------------------


def test_pushes_leave_before_the_answer_that_they_came_before() -> None:
    """And those that came after the last answer, after it; while idle they leave at once."""
    hello = b"%1\r\n$5\r\nproto\r\n:3\r\n"

    def script(client: Client) -> None:
        client.expect(command("HELLO", "3"))
        client.send(hello)
        client.expect(PING * 2)
        client.send(INVALIDATE + b"+1\r\n" + INVALIDATE + b"+2\r\n" + INVALIDATE)
        client.expect(PING)
        client.send(b"+3\r\n")
        until(lambda: next(iter(source.sessions)).is_idle)
        client.send(INVALIDATE)

    with ScriptedServer(script) as server, serving(valkey(server)) as source, connect(source) as client:
        client.ask(command("HELLO", "3"), hello)
        client.ask(PING * 2, INVALIDATE + b"+1\r\n" + INVALIDATE + b"+2\r\n" + INVALIDATE)
        client.ask(PING, b"+3\r\n" + INVALIDATE)
        client.eof()


def test_a_transform_may_change_and_swallow_pushes_while_idle_and_while_asking() -> None:
    """What it forwards takes the place of what came."""

    def pushed(pushes: Batch, forward: Callable[[Batch], None]) -> None:
        if b"drop" not in pushes.raw:
            forward(Batch(RESP, b">1\r\n+seen\r\n", (None,)))

    hello, drop = b"%1\r\n$5\r\nproto\r\n:3\r\n", b">1\r\n+drop\r\n"

    def script(client: Client) -> None:
        client.expect(command("HELLO", "3"))
        client.send(hello)
        client.expect(PING)
        client.send(drop + INVALIDATE + b"+1\r\n")
        until(lambda: next(iter(source.sessions)).is_idle)
        client.send(INVALIDATE + drop)

    step = Step(name="a", pushed=pushed)
    with ScriptedServer(script) as server, serving(step, valkey(server)) as source, connect(source) as client:
        client.ask(command("HELLO", "3"), hello)
        client.ask(PING, b">1\r\n+seen\r\n+1\r\n>1\r\n+seen\r\n")
        client.eof()


def test_a_push_does_not_wait_for_a_request_that_waits_for_others() -> None:
    """A server sends them while a client is blocked, and they must not pile up for ever."""
    hello = b"%1\r\n$5\r\nproto\r\n:3\r\n"
    received = Event()

    def script(client: Client) -> None:
        client.expect(command("HELLO", "3"))
        client.send(hello)
        client.expect(command("BLPOP", "q", "0"))
        client.send(INVALIDATE)
        received.wait()
        client.send(b"_\r\n")

    with ScriptedServer(script) as server, serving(valkey(server)) as source, connect(source) as client:
        client.ask(command("HELLO", "3"), hello)
        client.send(command("BLPOP", "q", "0"))
        client.socket.settimeout(0.3)
        try:
            client.expect(INVALIDATE)
        finally:
            received.set()
        client.expect(b"_\r\n")


def test_a_subscriber_that_leaves_while_a_push_is_sent_is_no_error(log: pytest.LogCaptureFixture) -> None:
    """It is a client that has gone, whatever was on its way to it."""

    def script(peer: Client) -> None:
        peer.expect(command("SUBSCRIBE", "a"))
        peer.send(SUBSCRIBED)
        until(lambda: next(iter(source.sessions)).is_idle)
        # The session learns of both in one turn of the hub, of the message first.
        reset(client)
        peer.send(MESSAGE * 3)
        until(lambda: ends(log))

    with ScriptedServer(script) as server, serving(valkey(server)) as source:
        client = connect(source)
        client.ask(command("SUBSCRIBE", "a"), SUBSCRIBED)
        until(lambda: ends(log))
    assert loud(log) == []


# -- being stopped ----------------------------------------------------------------------------------


def stop_all(source: Source, reason: EndReason = EndReason.DRAIN) -> None:
    """Ask every session to stop."""
    for session in source.sessions:
        session.stop(reason)


def test_what_was_sent_before_the_stop_is_answered(log: pytest.LogCaptureFixture) -> None:
    """Requests that the session has not even read are answered, then it ends in order."""
    with serving(sink()) as source, connect(source) as client:
        client.ask(PING, bulk("PING"))
        client.send(command("ECHO", "a") + command("ECHO", "b"))
        stop_all(source)
        client.expect(bulk("a", "b"))
        client.eof()
        client.close()
        until(lambda: ends(log))
    assert (ends(log), loud(log)) == ([("drain", 3)], [])


def test_a_stop_waits_for_the_rest_of_a_request() -> None:
    """A client in the middle of a request may finish it."""
    request = command("ECHO", "a")
    with serving(sink()) as source, connect(source) as client:
        client.ask(PING + request[:9], bulk("PING"))
        stop_all(source)
        client.silent(0.02)
        client.send(request[9:])
        client.expect(bulk("a"))
        client.eof()


def test_a_stop_waits_for_the_rest_of_a_request_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that never finishes, or never stops asking, is closed when the grace is over."""
    monkeypatch.setattr(module, "STOP_GRACE_S", 0.05)
    with serving(sink()) as source, connect(source) as half, connect(source) as busy:
        half.ask(PING + PING[:5], bulk("PING"))
        busy.ask(PING, bulk("PING"))
        busy.socket.settimeout(5)
        stop_all(source)
        half.eof()
        with pytest.raises((AssertionError, ConnectionError)):
            while True:
                busy.ask(PING, bulk("PING"))


def test_a_stop_during_a_request_lets_it_finish(log: pytest.LogCaptureFixture) -> None:
    """The answer comes, then the end."""
    asked, may_answer = Event(), Event()

    def answer(requests: Batch) -> Batch:
        asked.set()
        may_answer.wait()
        return replies(requests)

    with serving(sink(answer)) as source, connect(source) as client:
        client.send(PING)
        asked.wait()
        stop_all(source)
        client.silent(0.02)
        may_answer.set()
        client.expect(bulk("PING"))
        client.eof()
        client.close()
        until(lambda: ends(log))
    assert ends(log) == [("drain", 1)]


def test_a_request_that_never_ends_is_cut_off_at_the_deadline(log: pytest.LogCaptureFixture) -> None:
    """The client sees the end, the transforms are closed, and a warning counts the sessions."""
    closed: list[str] = []
    asked = Event()

    def hang(requests: Batch) -> Batch:
        asked.set()
        Event().wait()
        return requests

    with serving(Step(name="a", closed=lambda: closed.append("a")), sink(hang)) as source:
        with connect(source) as client, connect(source) as idle:
            client.send(PING)
            asked.wait()
            until(lambda: len(source.sessions) == 2)
            stopping = gevent.spawn(source.stop, Deadline.after(0.1))
            idle.eof()
            idle.close()
            client.eof()
            stopping.get(timeout=5)
    assert (closed, sorted(ends(log)), loud(log)) == (
        ["a", "a"], [("aborted", 1), ("shutdown", 0)], ["1 sessions did not end in time and are closed"])


def test_an_idle_session_ends_after_the_timeout(
    monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    """Time counts between requests only."""
    from shotover_gevent.sources import source as source_module

    monkeypatch.setattr(source_module, "IDLE_CHECK_S", 0.01)

    def slow(requests: Batch) -> Batch:
        gevent.sleep(0.2)
        return replies(requests)

    with serving(sink(slow), timeout_s=0.1) as source, connect(source) as client:
        client.ask(PING, bulk("PING"))
        client.eof()
        client.close()
        until(lambda: ends(log))
    assert (ends(log), loud(log)) == ([("idle timeout", 1)], [])
