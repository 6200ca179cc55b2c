"""Sessions that share upstream connections, in front of a scripted database: who gets what, over which."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from valkey_script import OK, Answer, Database, shared

from shotover_gevent.chain import BuildContext
from shotover_gevent.chain.handoff import Luggage, Pinned
from shotover_gevent.codecs.resp import RequestDecoder
from shotover_gevent.codecs.resp_frames import encode
from shotover_gevent.errors import ShotoverError
from shotover_gevent.metrics import MetricStore
from shotover_gevent.sinks.valkey_shared import SharedSink
from shotover_gevent.sinks.valkey_single import ValkeySinkSingle
from shotover_gevent.sources.source import Source
from tests.client import Client, command
from tests.inprocess import ScriptedServer, connect, serving, session_context, until

GET = command("GET", "k")
ERROR = (
    b"-ERR Internal shotover (or custom transform) bug (chain: s): Failed to send and/or receive messages, the "
    b"connection will now be closed.  Caused by:     0: Transform ValkeySinkSingle named v failed in chain s     "
    b"1: %b\r\n")
LOST = ERROR % b"The other side of this connection closed the connection"


def echo(value: list[bytes]) -> bytes:
    """The reply that tells what it answers: the last word of a GET, otherwise what a server would say."""
    name = value[0].upper()
    fixed: dict[bytes, bytes] = {
        b"GET": encode(value[-1]), b"EXEC": b"*1\r\n+OK\r\n", b"CLIENT": b"$-1\r\n", b"WAIT": b":0\r\n",
        b"BLPOP": b"*-1\r\n", b"HELLO": b"*2\r\n$5\r\nproto\r\n:3\r\n"}
    if value[:2] in ([b"CLIENT", b"SETNAME"], [b"CLIENT", b"REPLY"], [b"CLIENT", b"TRACKING"]):
        return OK
    return fixed.get(name, OK)


@contextmanager
def proxy(answer: Answer = echo, **options: Any) -> Iterator[tuple[Source, Database, ValkeySinkSingle]]:
    """A proxy in front of the database; at the end nothing of it may be open or counted."""
    with Database(answer) as database:
        sink = shared(database, **options)
        with serving(sink) as source:
            yield source, database, sink
        until(lambda: database.open == 0)
        assert sink._upstream.connections == 0


def clients(source: Source, count: int) -> list[Client]:
    """So many clients, each of which has been answered once."""
    made = [connect(source) for _ in range(count)]
    for client in made:
        client.ask(GET, b"$1\r\nk\r\n")
    return made


def close(*made: Client) -> None:
    """They go."""
    for client in made:
        client.close()


# -- sharing ----------------------------------------------------------------------------------------


def test_clients_share_a_connection_and_each_gets_its_own_replies() -> None:
    """Whoever asks how much at the same time."""
    with proxy() as (source, database, sink):
        made = clients(source, 5)
        for turn in range(3):
            for number, client in enumerate(made):
                client.send(b"".join(command("GET", f"{number}-{turn}-{i}") for i in range(number + 1)))
            for number, client in enumerate(made):
                client.expect(b"".join(encode(b"%d-%d-%d" % (number, turn, i)) for i in range(number + 1)))
        found = (database.connections, sink._upstream.connections)
        close(*made)
        assert found == (1, 1)


def test_what_several_clients_send_at_the_same_time_arrives_in_one_read() -> None:
    """In the order of the clients, and the replies go back to them."""
    received: list[bytes] = []

    def handle(server: Client) -> None:
        while data := server.read(1_000_000):
            received.append(data)
            server.send(b"".join(encode(value[-1]) for value in RequestDecoder().feed(data).values))

    with ScriptedServer(handle) as server, serving(shared(server)) as source:
        made = clients(source, 3)
        received.clear()
        for number, client in enumerate(made):
            client.send(command("GET", str(number)))
        for number, client in enumerate(made):
            client.expect(b"$1\r\n%d\r\n" % number)
        close(*made)
    words = [value for data in received for value in RequestDecoder().feed(data).values]
    assert (len(received), sorted(words)) == (1, [[b"GET", b"0"], [b"GET", b"1"], [b"GET", b"2"]])


def test_sessions_are_spread_over_the_connections() -> None:
    """As many as are configured; each session stays with its own."""
    with proxy(connection_count=2) as (source, database, sink):
        made = clients(source, 6)
        for number, client in enumerate(made):
            client.ask(command("GET", str(number)), b"$1\r\n%d\r\n" % number)
        sizes = sorted(map(len, database.asked))
        close(*made)
        assert (database.connections, sizes) == (2, [6, 6])


def test_an_error_of_the_database_is_counted_and_passed_on() -> None:
    """It is the answer to one request."""
    metrics = MetricStore()
    with Database(lambda value: b"-ERR no\r\n") as database:
        sink = shared(database)
        with session(sink, metrics) as ask:
            found = ask(GET + GET)
        sink.close()
        until(lambda: database.open == 0)
    errors = metrics.counter("shotover_failed_requests_count", "", chain="c", transform="ValkeySinkSingle")
    latency = metrics.histogram("shotover_source_to_sink_latency_seconds", "", sink="ValkeySinkSingle")
    assert (found, errors.value, sum(latency.own)) == (b"-ERR no\r\n" * 2, 2, 0)


# -- a connection that breaks -----------------------------------------------------------------------


def test_a_connection_that_breaks_fails_those_who_wait_and_nobody_else() -> None:
    """They are told in Shotover's words; the others go on over a new one, and so do new clients."""
    with proxy(lambda value: b"" if value[-1] == b"slow" else None if value[-1] == b"die" else echo(value)) as (
            source, database, sink):
        made = clients(source, 4)
        made[0].send(command("GET", "slow"))
        until(lambda: database.asked[0][-1] == "GET slow")
        made[1].send(command("GET", "die") + GET)
        told = [made[0].until(b"\r\n"), made[1].until(b"\r\n") + made[1].until(b"\r\n")]
        for client in made[:2]:
            client.eof()
        for client in made[2:]:
            client.ask(GET, b"$1\r\nk\r\n")
        connections = database.connections
        close(*made)
    assert (told, connections) == ([LOST, LOST * 2], 2)


def test_nobody_notices_a_connection_that_ends_while_nobody_waits() -> None:
    """The next request is answered over another one."""
    with proxy() as (source, database, sink):
        made = clients(source, 2)
        database.end(0)
        until(lambda: sink._upstream.connections == 0)
        for client in made:
            client.ask(GET, b"$1\r\nk\r\n")
        close(*made)
        assert database.connections == 2


def test_a_session_that_is_ended_while_it_waits_shifts_no_replies() -> None:
    """What is its own is thrown away; those behind it get theirs."""
    waiting: list[Client] = []

    def handle(server: Client) -> None:
        waiting.append(server)
        server.expect(GET)
        server.send(b"+first\r\n")
        server.expect(command("GET", "secret") + command("GET", "mine"))
        until(lambda: len(source.sessions) == 1)
        server.send(b"+secret\r\n+mine\r\n")
        server.expect(GET)
        server.send(b"+last\r\n")
        server.eof()

    with ScriptedServer(handle) as server, serving(shared(server)) as source:
        one, other = connect(source), connect(source)
        one.ask(GET, b"+first\r\n")
        one.send(command("GET", "secret"))
        until(lambda: any(each._is_running for each in source.sessions))
        ended = next(each for each in source.sessions if each._is_running)
        other.send(command("GET", "mine"))
        until(lambda: all(each._is_running for each in source.sessions))
        ended.abort()
        other.expect(b"+mine\r\n")
        other.ask(GET, b"+last\r\n")
        close(one, other)


def test_a_session_that_waits_no_longer_gets_nothing_late() -> None:
    """When it asks for something else it is that which it is answered."""
    slow = command("GET", "slow")
    with Database(lambda value: b"" if value[-1] == b"slow" else b"+slow\r\n" + echo(value)) as database:
        config = shared(database)
        with session(config) as ask:
            with gevent.Timeout(0.05, False):
                ask(slow)
            found = ask(GET)
        config.close()
        until(lambda: database.open == 0)
    assert (found, database.asked) == (b"$1\r\nk\r\n", [["GET slow", "GET k"]])


# -- connections of one's own -----------------------------------------------------------------------


def test_a_transaction_has_a_connection_of_its_own() -> None:
    """Nobody else is on it until it is over; then it is spare, and others go on as before."""
    with proxy() as (source, database, sink):
        one, other = clients(source, 2)
        one.ask(command("MULTI"), OK)
        one.ask(command("SET", "a", "1"), OK)
        other.ask(command("GET", "x"), b"$1\r\nx\r\n")
        one.ask(command("EXEC"), b"*1\r\n+OK\r\n")
        one.ask(command("GET", "y"), b"$1\r\ny\r\n")
        other.ask(command("MULTI") + command("EXEC"), OK + b"*1\r\n+OK\r\n")
        close(one, other)
        assert database.asked == [
            ["GET k", "GET k", "GET x", "GET y"], ["MULTI", "SET a 1", "EXEC", "MULTI", "EXEC"]]


def test_a_batch_is_cut_where_it_needs_another_connection() -> None:
    """The answers come in order, whatever they came over."""
    with proxy() as (source, database, sink):
        client, = clients(source, 1)
        client.ask(
            command("GET", "a") + command("CLIENT", "SETNAME", "n") + command("GET", "b") + command("MULTI")
            + command("EXEC") + command("GET", "c") + command("SELECT", "2"),
            b"$1\r\na\r\n" + OK + b"$1\r\nb\r\n" + OK + b"*1\r\n+OK\r\n$1\r\nc\r\n" + OK)
        client.ask(command("GET", "d"), b"$1\r\nd\r\n")
        close(client)
        assert database.asked == [
            ["GET k", "GET a", "CLIENT GETNAME", "GET b"],
            ["CLIENT SETNAME n", "MULTI", "EXEC", "GET c", "SELECT 2"], ["SELECT 2", "GET d"]]


def test_the_credentials_of_a_client_are_its_own() -> None:
    """It shares with those of the same; a client without any never gets such a connection."""
    with proxy() as (source, database, sink):
        one, other, nobody = clients(source, 3)
        for client in (one, other):
            client.ask(command("AUTH", "u", "p"), OK)
            client.ask(command("GET", "a"), b"$1\r\na\r\n")
        nobody.ask(command("MULTI") + command("EXEC"), OK + b"*1\r\n+OK\r\n")
        nobody.ask(command("GET", "b"), b"$1\r\nb\r\n")
        close(one, other, nobody)
        assert database.asked == [
            ["GET k"] * 3 + ["GET b"], ["AUTH u p"], ["AUTH u p", "GET a", "GET a"], ["AUTH u p"],
            ["MULTI", "EXEC"]]


def test_a_client_that_tracks_keeps_its_connection_until_it_does_not() -> None:
    """What the server pushes there is passed on."""
    invalidate = b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n"
    with proxy() as (source, database, sink):
        client, = clients(source, 1)
        client.ask(command("HELLO", "3"), b"*2\r\n$5\r\nproto\r\n:3\r\n")
        client.ask(command("CLIENT", "TRACKING", "ON"), OK)
        database.clients[1].send(invalidate)
        client.expect(invalidate)
        client.ask(GET, b"$1\r\nk\r\n")
        client.ask(command("CLIENT", "TRACKING", "OFF"), OK)
        client.ask(command("GET", "a"), b"$1\r\na\r\n")
        close(client)
        assert (database.asked[1], database.asked[2]) == (
            ["HELLO 3", "CLIENT TRACKING ON", "GET k", "CLIENT TRACKING OFF"], ["HELLO 3", "GET a"])


def test_a_client_that_goes_takes_its_own_connection_along() -> None:
    """What it has set there is nobody's."""
    with proxy() as (source, database, sink):
        client, = clients(source, 1)
        client.ask(command("MULTI"), OK)
        before = sink._upstream.connections
        client.close()
        until(lambda: sink._upstream.connections == 1)
        assert before == 2


def test_a_client_whose_credentials_are_refused_by_then_is_told() -> None:
    """Those of others go on."""
    is_revoked: list[bool] = []
    with proxy(lambda value: b"-WRONGPASS no\r\n" if is_revoked and value[0] == b"AUTH" else echo(value)) as (
            source, database, sink):
        one, other = clients(source, 2)
        one.ask(command("AUTH", "p"), OK)
        is_revoked.append(True)
        text = ERROR % (b"destination %b refused AUTH: WRONGPASS no" % str(database.address).encode())
        one.ask(GET, text)
        one.eof()
        other.ask(GET, b"$1\r\nk\r\n")
        close(one, other)


# -- names ------------------------------------------------------------------------------------------


def test_the_name_of_a_client_is_its_own() -> None:
    """It is kept for it, and a connection of its own has it."""
    with proxy() as (source, database, sink):
        one, other = clients(source, 2)
        one.ask(command("CLIENT", "SETNAME", "one"), OK)
        one.ask(command("client", "getname"), b"$3\r\none\r\n")
        other.ask(command("CLIENT", "GETNAME"), b"$-1\r\n")
        other.ask(command("CLIENT", "SETINFO", "lib-name", "x"), OK)
        one.ask(command("MULTI") + command("EXEC"), OK + b"*1\r\n+OK\r\n")
        one.ask(command("CLIENT", "SETNAME", ""), OK)
        one.ask(command("CLIENT", "GETNAME"), b"$-1\r\n")
        close(one, other)
        assert (set(database.asked[0]), database.asked[1]) == (
            {"GET k", "CLIENT GETNAME"}, ["CLIENT SETNAME one", "MULTI", "EXEC"])


@pytest.mark.parametrize(
    "words", [("CLIENT", "SETNAME", "a b"), ("CLIENT", "SETINFO", "LIB-NAME", "a\n"), ("CLIENT", "SETINFO", "X", "a")],
    ids=str)
def test_the_server_says_what_is_wrong_with_a_name(words: tuple[str, ...]) -> None:
    """And it is not kept."""
    def answer(value: list[bytes]) -> bytes:
        return b"-ERR wrong\r\n" if value == [word.encode() for word in words] else echo(value)

    with proxy(answer) as (source, database, sink):
        client, = clients(source, 1)
        client.ask(command(*words), b"-ERR wrong\r\n")
        client.ask(command("CLIENT", "GETNAME"), b"$-1\r\n")
        close(client)


def test_who_may_not_use_names_is_told() -> None:
    """As the server tells it."""
    denied = b"-NOPERM no\r\n"
    with proxy(lambda value: denied if value[0] == b"CLIENT" else echo(value)) as (source, database, sink):
        client, = clients(source, 1)
        for words in (("SETNAME", "n"), ("GETNAME",), ("SETINFO", "LIB-VER", "1")):
            client.ask(command("CLIENT", *words), denied)
        close(client)


# -- WAIT -------------------------------------------------------------------------------------------


def test_wait_takes_turns_on_the_connection_of_what_was_written() -> None:
    """Others are answered in between; the answer is that of the last turn."""
    acknowledged = [0]

    def answer(value: list[bytes]) -> bytes:
        return b":%d\r\n" % acknowledged[0] if value[0] == b"WAIT" else echo(value)

    with proxy(answer) as (source, database, sink):
        one, other = clients(source, 2)
        one.send(command("WAIT", "1", "0"))
        until(lambda: database.asked[0].count("WAIT 1 1") > 2)
        other.ask(command("GET", "a"), b"$1\r\na\r\n")
        acknowledged[0] = 1
        one.expect(b":1\r\n")
        close(one, other)
        assert set(database.asked[0]) == {"GET k", "GET a", "WAIT 1 1"}


def test_who_has_waited_writes_over_a_connection_of_its_own_until_reset() -> None:
    """So that the next WAIT knows of all that was written, in transactions, too."""
    with proxy(lambda value: b":1\r\n" if value[0] == b"WAIT" else echo(value)) as (source, database, sink):
        client, = clients(source, 1)
        client.ask(command("WAIT", "1", "0"), b":1\r\n")
        client.ask(GET, b"$1\r\nk\r\n")
        client.ask(command("WAIT", "1", "500"), b":1\r\n")
        client.ask(command("RESET"), echo([b"RESET"]))
        client.ask(GET, b"$1\r\nk\r\n")
        close(client)
        assert database.asked == [
            ["GET k", "WAIT 1 1", "WAIT 1 1", "GET k"], ["GET k", "WAIT 1 500", "RESET"]]


def test_wait_is_about_ones_own_connection_too() -> None:
    """What was written there must have arrived as well; the rest of the time is the server's."""
    with proxy(lambda value: b":1\r\n" if value[0] == b"WAIT" else echo(value)) as (source, database, sink):
        client, = clients(source, 1)
        client.ask(command("WATCH", "k"), OK)
        client.ask(command("WAIT", "1", "500"), b":1\r\n")
        close(client)
        assert database.asked == [["GET k", "WAIT 1 1"], ["WATCH k", "WAIT 1 500"]]


def test_wait_ends_with_its_time() -> None:
    """The answer is what the server said last; what follows it in the batch follows it."""
    with proxy() as (source, database, sink):
        client, = clients(source, 1)
        client.ask(GET + command("WAIT", "1", "20") + GET, b"$1\r\nk\r\n:0\r\n$1\r\nk\r\n")
        close(client)


def test_wait_ends_with_an_error() -> None:
    """As a server does that cannot wait."""
    error = b"-ERR not on a replica\r\n"
    with proxy(lambda value: error if value[0] == b"WAIT" else echo(value)) as (source, database, sink):
        client, = clients(source, 1)
        client.ask(command("WAIT", "1", "0"), error)
        close(client)


def test_wait_ends_with_its_client() -> None:
    """Nobody would get the answer."""
    with proxy() as (source, database, sink):
        client, = clients(source, 1)
        client.send(command("WAIT", "1", "0"))
        until(lambda: "WAIT 1 1" in database.asked[0])
        client.close()
        until(lambda: not source.sessions)


def test_wait_in_a_transaction_is_queued_like_any_other() -> None:
    """It does not wait there."""
    with proxy(lambda value: b"+QUEUED\r\n" if value[0] == b"WAIT" else echo(value)) as (source, database, sink):
        client, = clients(source, 1)
        client.ask(command("MULTI"), OK)
        client.ask(command("WAIT", "1", "0") + command("EXEC"), b"+QUEUED\r\n*1\r\n+OK\r\n")
        close(client)
        assert database.asked == [["GET k"], ["MULTI", "WAIT 1 0", "EXEC"]]


# -- QUIT -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [0, 1, 500])
def test_quit_ends_the_session_and_not_the_connection(behind: int) -> None:
    """What comes before it is answered, and what was sent behind it is not, nor does it arrive."""
    with proxy() as (source, database, sink):
        one, other = clients(source, 2)
        one.send(GET + command("QUIT") + command("GET", "behind") * behind)
        one.expect(b"$1\r\nk\r\n" + OK)
        one.eof()
        other.ask(GET, b"$1\r\nk\r\n")
        close(one, other)
        assert database.asked == [["GET k"] * 4]


def test_quit_of_a_client_with_its_own_connection() -> None:
    """That is closed, too; in a transaction the server says goodbye itself, and closes."""
    with proxy() as (source, database, sink):
        client, watching = clients(source, 2)
        watching.ask(command("WATCH", "k"), OK)
        watching.ask(command("QUIT"), OK)
        watching.eof()
        until(lambda: sink._upstream.connections == 1)
        client.ask(command("MULTI"), OK)
        client.ask(command("QUIT"), OK)
        database.end(2)
        client.eof()
        watching.close()
        until(lambda: sink._upstream.connections == 1)
        close(client)


@pytest.mark.parametrize("words", [("QUIT",), ("WAIT", "1", "10")], ids=str)
def test_a_client_that_wants_no_replies_gets_none(words: tuple[str, ...]) -> None:
    """Not even those that would be made here."""
    def answer(value: list[bytes]) -> bytes | None:
        is_off = "CLIENT REPLY OFF" in database.asked[-1] and value != [b"CLIENT", b"REPLY", b"ON"]
        return None if value == [b"QUIT"] else b"" if is_off else echo(value)

    with proxy(answer) as (source, database, sink):
        client, = clients(source, 1)
        client.send(command("CLIENT", "REPLY", "OFF") + command(*words))
        if words == ("QUIT",):
            client.eof()
        else:
            client.ask(command("CLIENT", "REPLY", "ON"), OK)
        close(client)


def test_what_is_taken_for_http_ends_the_session_without_an_answer() -> None:
    """As the server would; others stay."""
    with proxy() as (source, database, sink):
        client, = clients(source, 1)
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n")
        client.eof()
        close(client)
        assert database.asked == [["GET k"]]


# -- a sink alone -----------------------------------------------------------------------------------


@contextmanager
def session(
    config: ValkeySinkSingle, metrics: MetricStore | None = None, sinks: list[SharedSink] | None = None
) -> Iterator[Callable[[bytes], bytes]]:
    """A function that answers the requests of one session."""
    if config._pool is None:
        config.build(BuildContext(metrics=metrics or MetricStore(), chain="c", protocol="Valkey"))
    sink = config.session(session_context())
    assert isinstance(sink, SharedSink)
    if sinks is not None:
        sinks.append(sink)
    try:
        yield lambda raw: sink.transform(RequestDecoder().feed(raw), no_next).raw
    finally:
        sink.close()


def no_next(requests: object) -> Any:
    """Nothing stands below a sink."""
    raise AssertionError


def error_of(ask: Callable[[bytes], bytes], raw: bytes) -> str:
    """The type of the error that these requests end with."""
    with pytest.raises(ShotoverError) as caught:
        ask(raw)
    return type(caught.value).__name__


def test_nothing_was_sent_only_if_nothing_was_sent() -> None:
    """Who tries again must know: once a part of a batch was sent, it may have been done."""
    with Database(lambda value: b"-ERR no\r\n" if value[0] == b"AUTH" else echo(value)) as database:
        config = shared(database)
        sinks: list[SharedSink] = []
        with session(config, sinks=sinks) as ask:
            first = ask(GET)
            sinks[0]._state.auth = (b"revoked",)  # as if the password had been changed since
            found = [error_of(ask, command("MULTI") + GET), error_of(ask, GET + command("MULTI"))]
        config.close()
        until(lambda: database.open == 0)
    assert (first, found) == (b"$1\r\nk\r\n", ["NothingSent", "UpstreamError"])


def test_a_session_that_has_quit_answers_nothing_more() -> None:
    """Whatever comes then."""
    with Database(echo) as database:
        config = shared(database)
        with session(config) as ask:
            found = [ask(GET + command("QUIT") + GET), error_of(ask, GET), error_of(ask, command("MULTI"))]
        config.close()
        until(lambda: database.open == 0)
    assert (found, database.asked) == ([b"$1\r\nk\r\n" + OK, "UpstreamClosed", "UpstreamClosed"], [["GET k"]])


def moved(*before: bytes) -> tuple[list[object], list[list[str]]]:
    """What a session that has sent this exports, and what its successor is answered after that.

    Both processes are this one, so that the sink of each has a pool of its own.
    """
    with Database(echo) as database:
        old, new = shared(database), shared(database)
        sinks: list[SharedSink] = []
        luggage = Luggage()
        with session(old, sinks=sinks) as ask:
            for raw in before:
                ask(raw)
            state = json.loads(json.dumps(sinks[0].export(luggage)))
            copies = Luggage([sock.dup() for sock in luggage.sockets])
        old.close()
        with session(new, sinks=sinks) as ask:
            sinks[1].adopt(state, copies)
            try:
                answer: object = ask(GET + command("CLIENT", "GETNAME"))
            except ShotoverError as error:
                answer = type(error).__name__
            opened = new._upstream.connections
        new.close()
        until(lambda: database.open == 0)
        return [len(luggage.sockets), answer, opened, new._upstream.connections], database.asked


def test_a_plain_session_travels_without_a_connection() -> None:
    """The successor's group has its identity; the name goes along."""
    found, asked = moved(command("AUTH", "p") + command("CLIENT", "SETNAME", "n"), GET)
    assert (found, asked[-1]) == ([0, b"$1\r\nk\r\n$1\r\nn\r\n", 1, 0], ["AUTH p", "GET k", "CLIENT GETNAME"])


def test_a_session_travels_with_its_own_connection() -> None:
    """In the middle of a transaction; nothing is made anew."""
    found, asked = moved(command("CLIENT", "SETNAME", "n"), command("WATCH", "k"), command("MULTI"))
    assert (found, asked[-1]) == (
        [1, b"$1\r\nk\r\n$-1\r\n", 1, 0],
        ["CLIENT SETNAME n", "WATCH k", "MULTI", "GET k", "CLIENT GETNAME"])


def test_a_session_that_has_quit_stays_so() -> None:
    """Also in another process."""
    found, asked = moved(GET, command("QUIT"))
    assert (found, asked) == ([0, "UpstreamClosed", 0, 0], [["GET k"]])


def test_a_session_whose_own_connection_is_busy_stays() -> None:
    """It is pinned until it is answered."""
    with Database(lambda value: b"" if value[0] == b"BLPOP" else echo(value)) as database:
        config = shared(database)
        sinks: list[SharedSink] = []

        def run() -> None:
            with session(config, sinks=sinks) as ask:
                ask(command("BLPOP", "k", "0"))

        waiting = gevent.spawn(run)
        until(lambda: database.asked)
        with pytest.raises(Pinned):
            sinks[0].export(Luggage())
        waiting.kill()
        config.close()
        until(lambda: database.open == 0)
        assert config._upstream.connections == 0
