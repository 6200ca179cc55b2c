"""The connections of a shared upstream: who gets which, how they are greeted, and when they are closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import gevent
import pytest
from gevent.event import Event
from valkey_script import OK, Answer, Database, shared

from shotover_gevent.chain import BuildContext
from shotover_gevent.codecs.resp_state import Identity
from shotover_gevent.errors import NothingSent
from shotover_gevent.metrics import MetricStore
from shotover_gevent.net.park import Park
from shotover_gevent.net.stream import ReceiveBuffer, Stream
from shotover_gevent.sinks import valkey_pool as module
from shotover_gevent.sinks.valkey_connection import SharedConnection
from shotover_gevent.sinks.valkey_pool import Group, Place, UpstreamPool
from shotover_gevent.sinks.valkey_single import ValkeySinkSingle
from tests.client import CLIENT_S
from tests.inprocess import until

NOBODY = Identity()
BOB = Identity((b"bob", b"secret"), 3, True)
ANN = Identity((b"ann", b"other"))
HELLO = b"*2\r\n$5\r\nproto\r\n:3\r\n"
LOST = "shotover_gevent_shared_connections_lost_count"
SEPARATIONS = "shotover_gevent_own_connections_count"


@dataclass
class Made:
    """A pool in front of a scripted database."""

    database: Database
    config: ValkeySinkSingle
    pool: UpstreamPool
    metrics: MetricStore

    def take(self, identity: Identity = NOBODY, name: bytes = b"") -> Stream:
        """A connection of one's own."""
        return self.pool.take(identity, name, Place(Park(), ReceiveBuffer()))

    def connection(self, group: Group, number: int = 0) -> SharedConnection:
        """A shared one."""
        return self.pool.connection(group, number, ReceiveBuffer())

    def counted(self, name: str) -> float:
        """The value of a counter."""
        return self.metrics.counter(name, "", chain="c").value

    @property
    def uses(self) -> tuple[int, int, int, int]:
        """How many connections are shared, own, and spare, and how many are open at all."""
        return (
            self.pool._shared(), self.pool._own, len(self.pool._spare), self.config._upstream.connections)


@contextmanager
def pool(answer: Answer = lambda value: OK, **options: int) -> Iterator[Made]:
    """A pool, which is closed at the end; then no connection may be open or counted."""
    with Database(answer) as database:
        config, metrics = shared(database, **options), MetricStore()
        config.build(BuildContext(metrics=metrics, chain="c", protocol="Valkey"))
        made = Made(database, config, config._pool, metrics)
        yield made
        config.close()
        until(lambda: database.open == 0)
        assert made.uses == (0, 0, 0, 0)


# -- shared connections -----------------------------------------------------------------------------


def test_who_has_one_identity_shares_one_connection() -> None:
    """Others have another one, made when it is needed."""
    with pool() as made:
        group, other = made.pool.join(NOBODY), made.pool.join(ANN)
        before = made.database.connections
        assert made.pool.join(NOBODY) is group
        first = [made.connection(group, number) for number in range(3)]
        second = made.connection(other)
        until(lambda: made.database.connections == 2)
        assert (before, len(set(first)), second in first, made.uses, made.database.asked[1]) == (
            0, 1, False, (2, 0, 0, 2), ["AUTH ann other"])


def test_sessions_are_spread_over_the_connections() -> None:
    """By their number, so that each stays with its own."""
    with pool(connection_count=3) as made:
        group = made.pool.join(NOBODY)
        found = [made.connection(group, number) for number in (1, 2, 3, 4, 7, 9)]
        assert (len(set(found)), found[0] is found[3] is found[4], found[2] is found[5], made.uses) == (
            3, True, True, (3, 0, 0, 3))


def at_once(*calls: Callable[[], object]) -> list[str]:
    """What each call returns or raises, all at the same time."""
    def result(call: Callable[[], object]) -> str:
        try:
            return repr(call())
        except NothingSent as error:
            return str(error)
    greenlets = [gevent.spawn(result, call) for call in calls]
    return [greenlet.get(timeout=10) for greenlet in greenlets]


def test_one_attempt_to_connect_serves_all_who_wait() -> None:
    """Also if the one who began it goes meanwhile."""
    answered = Event()
    with pool(lambda value: answered.wait(CLIENT_S) and OK) as made:
        group = made.pool.join(ANN)
        first = gevent.spawn(made.connection, group)
        others = [gevent.spawn(made.connection, group) for _ in range(3)]
        until(lambda: made.database.asked)
        first.kill()
        answered.set()
        found = {greenlet.get(timeout=5) for greenlet in others}
        assert (len(found), made.database.connections) == (1, 1)


def test_one_failure_to_connect_reaches_all_who_wait() -> None:
    """The next request is another attempt."""
    with pool(lambda value: b"-WRONGPASS no\r\n") as made:
        group = made.pool.join(ANN)
        found = at_once(*[lambda: made.connection(group)] * 3)
        attempts = made.database.connections
        made.database.answer = lambda value: OK
        made.connection(group)
        text = f"destination {made.database.address} refused AUTH: WRONGPASS no"
        assert (found, attempts, made.uses) == ([text] * 3, 1, (1, 0, 0, 1))


def test_nobody_can_be_reached() -> None:
    """The error says where, and nothing is open."""
    with pool() as made:
        made.database._server.stop()
        group = made.pool.join(NOBODY)
        found = at_once(lambda: made.connection(group), lambda: made.take())
        assert (found, made.uses) == (
            [f"Failed to connect to destination {made.database.address}"] * 2, (0, 0, 0, 0))


def test_a_defect_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong as a connection is made ends the wait for it, and is shown."""
    def fail(*of: object) -> None:
        raise RuntimeError("a defect")

    shown: list[object] = []
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda *error: shown.append(str(error[2])))
    with pool() as made:
        group = made.pool.join(NOBODY)
        monkeypatch.setattr(ValkeySinkSingle, "dial", fail)
        found = at_once(*[lambda: made.connection(group)] * 2)
        assert (found, shown, made.uses) == (["the connection could not be made"] * 2, ["a defect"], (0, 0, 0, 0))


def test_a_broken_connection_is_replaced() -> None:
    """At the next request; it was counted."""
    with pool() as made:
        group = made.pool.join(NOBODY)
        first = made.connection(group)
        until(lambda: made.database.clients)
        made.database.end(0)
        until(lambda: first.failure)
        between = made.uses
        second = made.connection(group)
        assert (between, second is first, second.failure, made.uses, made.counted(LOST)) == (
            (0, 0, 0, 0), False, None, (1, 0, 0, 1), 1)


def test_a_connection_that_breaks_as_it_is_made_is_given_to_nobody() -> None:
    """Whoever has waited for it is told, and nothing was sent."""
    with pool() as made:
        group = made.pool.join(NOBODY)
        found = at_once(lambda: made.connection(group).close(), lambda: made.connection(group))
        assert (found, made.uses) == (["None", "Shotover closed the connection"], (0, 0, 0, 0))


def test_a_connection_that_nobody_waits_for_any_more_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its group has gone while it was being made."""
    monkeypatch.setattr(module, "KEEP_S", 0.01)
    answered = Event()
    with pool(lambda value: answered.wait(CLIENT_S) and OK) as made:
        group = made.pool.join(ANN)
        waiting = gevent.spawn(made.connection, group)
        until(lambda: made.database.asked)
        waiting.kill()
        made.pool.leave(group)
        until(lambda: not made.pool._groups)
        answered.set()
        until(lambda: made.database.open == 0)
        assert (made.uses, made.counted(LOST)) == ((0, 0, 0, 0), 0)


def test_groups_without_sessions_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a moment; that is no loss. Others stay, and whoever comes back in time finds its group."""
    monkeypatch.setattr(module, "KEEP_S", 0.05)
    with pool() as made:
        kept, gone = made.pool.join(NOBODY), made.pool.join(ANN)
        connection = made.connection(kept)
        made.connection(gone)
        made.pool.leave(kept)
        made.pool.leave(gone)
        back = made.pool.join(NOBODY)
        until(lambda: made.pool._shared() == 1)
        assert (back is kept, connection.failure, list(made.pool._groups), made.uses, made.counted(LOST)) == (
            True, None, [NOBODY], (1, 0, 0, 1), 0)


# -- the handshake ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identity", "name", "asked"),
    [
        (NOBODY, b"", []),
        (Identity((b"secret",)), b"", ["AUTH secret"]),
        (Identity(database=7), b"n", ["SELECT 7", "CLIENT SETNAME n"]),
        (BOB, b"n", ["AUTH bob secret", "HELLO 3", "SELECT 3", "CLIENT SETNAME n"]),
    ], ids=repr)
def test_a_new_connection_gets_its_identity(identity: Identity, name: bytes, asked: list[str]) -> None:
    """Before anybody uses it, in one write."""
    with pool(lambda value: HELLO if value[0] == b"HELLO" else OK) as made:
        stream = made.take(identity, name)
        until(lambda: made.database.asked)
        found = (made.database.asked, made.uses, made.counted(SEPARATIONS))
        made.pool.throw_away(stream)
        assert found == ([asked], (0, 1, 0, 1), 1)


@pytest.mark.parametrize("refused", ["AUTH", "HELLO", "SELECT", "CLIENT"])
def test_a_server_that_refuses_the_identity(refused: str) -> None:
    """The error has its words, and the connection is closed."""
    def answer(value: list[bytes]) -> bytes:
        return b"-ERR because\r\n" if value[0].decode() == refused else OK

    with pool(answer) as made:
        assert (at_once(lambda: made.take(BOB, b"n")), made.uses) == (
            [f"destination {made.database.address} refused {refused}: ERR because"], (0, 0, 0, 0))


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (None, "The other side of this connection closed the connection"),
        (b"HTTP/1.1 400\r\n", "Message decode error no value begins with b'H': b'HTTP/1.1 400\\r\\n'"),
        (OK * 2, "the server says more than it was asked"),
        (OK + b"+", "the server says more than it was asked"),
    ], ids=repr)
def test_a_server_that_answers_the_handshake_wrong(reply: bytes | None, error: str) -> None:
    """What is wrong is said, for a shared connection and for one's own."""
    with pool(lambda value: reply) as made:
        group = made.pool.join(ANN)
        found = at_once(lambda: made.take(ANN), lambda: made.connection(group))
        assert (found, made.uses) == ([error] * 2, (0, 0, 0, 0))


def test_a_server_that_does_not_answer_the_handshake() -> None:
    """It has the time of connecting."""
    with pool(lambda value: b"", connect_timeout_ms=50) as made:
        group = made.pool.join(ANN)
        found = at_once(lambda: made.take(ANN), lambda: made.connection(group))
        assert (found, made.uses) == (
            [f"destination {made.database.address} did not answer the handshake in time"] * 2, (0, 0, 0, 0))


def test_a_session_that_goes_during_its_handshake() -> None:
    """It leaves nothing open, with a new connection or a spare one."""
    with pool() as made:
        made.pool.give_back(made.take(), NOBODY, b"")
        made.database.answer = lambda value: b""
        found = []
        for _ in range(2):
            session = gevent.spawn(made.take, ANN)
            until(lambda: sum(map(len, made.database.asked)) == len(found) + 1)
            session.kill()
            found.append(made.uses)
        assert found == [(0, 0, 0, 0)] * 2


# -- spare connections ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "old_name", "after", "name", "asked"),
    [
        (NOBODY, b"", NOBODY, b"", []),
        (BOB, b"n", BOB, b"n", []),
        (NOBODY, b"", BOB, b"n", ["AUTH bob secret", "HELLO 3", "SELECT 3", "CLIENT SETNAME n"]),
        (BOB, b"n", BOB._replace(database=0, is_resp3=False), b"", ["HELLO 2", "SELECT 0", "CLIENT SETNAME "]),
    ], ids=repr)
def test_a_spare_connection_gets_what_it_lacks(
    before: Identity, old_name: bytes, after: Identity, name: bytes, asked: list[str]
) -> None:
    """And nothing that it has already."""
    with pool(lambda value: HELLO if value[0] == b"HELLO" else OK) as made:
        made.pool.give_back(made.take(before, old_name), before, old_name)
        spare = made.uses
        first = len(until(lambda: made.database.asked)[0])
        stream = made.take(after, name)
        found = (spare, made.database.asked[0][first:], made.uses, made.database.connections)
        made.pool.throw_away(stream)
        assert found == ((0, 0, 1, 1), asked, (0, 1, 0, 1), 1)


@pytest.mark.parametrize("other", [NOBODY, ANN], ids=repr)
def test_a_spare_connection_is_not_used_with_other_credentials(other: Identity) -> None:
    """Neither by a client without, nor by one that has others."""
    with pool(lambda value: HELLO if value[0] == b"HELLO" else OK) as made:
        made.pool.give_back(made.take(BOB), BOB, b"")
        stream = made.take(other)
        until(lambda: len(made.database.asked) == 2)
        found = (made.uses, made.database.connections)
        made.pool.throw_away(stream)
        assert found == ((0, 1, 1, 2), 2)


def test_the_spare_connection_that_fits_is_preferred() -> None:
    """It needs no handshake; among those that fit alike it is the youngest."""
    with pool() as made:
        streams = [made.take(identity) for identity in (NOBODY, ANN, ANN, NOBODY)]
        for stream, identity in zip(streams, (NOBODY, ANN, ANN, NOBODY)):
            made.pool.give_back(stream, identity, b"")
        taken = [made.take(ANN), made.take(ANN), made.take(NOBODY)]
        found = [streams.index(stream) for stream in taken]
        for stream in taken:
            made.pool.throw_away(stream)
        assert found == [2, 1, 3]


def test_spare_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given back beyond that is closed."""
    monkeypatch.setattr(module, "MAX_SPARE", 2)
    with pool() as made:
        streams = [made.take() for _ in range(3)]
        for stream in streams:
            made.pool.give_back(stream, NOBODY, b"")
        assert ([stream.is_closed for stream in streams], made.uses) == ([False, False, True], (0, 0, 2, 2))


def test_spare_connections_are_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody needs them any more."""
    monkeypatch.setattr(module, "KEEP_S", 0.01)
    with pool() as made:
        made.pool.give_back(made.take(), NOBODY, b"")
        until(lambda: made.uses == (0, 0, 0, 0))
        assert made.pool._tidying is None


@pytest.mark.parametrize("is_talking", [False, True])
def test_a_spare_connection_that_ends_or_talks_is_closed(is_talking: bool) -> None:
    """Nothing that it says may be taken for an answer."""
    with pool() as made:
        made.pool.give_back(made.take(), NOBODY, b"")
        client = until(lambda: made.database.clients)[0]
        client.send(OK) if is_talking else made.database.end(0)
        until(lambda: made.uses == (0, 0, 0, 0))
        stream = made.take()
        assert made.uses == (0, 1, 0, 1)
        made.pool.throw_away(stream)


def test_a_spare_connection_that_fails_is_replaced_by_a_fresh_one() -> None:
    """Its age may be all that is wrong."""
    def answer(value: list[bytes]) -> bytes | None:
        return None if made.database.connections == 1 else OK

    with pool(answer) as made:
        made.pool.give_back(made.take(), NOBODY, b"")
        stream = made.take(ANN)
        found = (made.database.asked, made.uses)
        made.pool.throw_away(stream)
        assert found == ([["AUTH ann other"]] * 2, (0, 1, 0, 1))


# -- the end ----------------------------------------------------------------------------------------


def test_closing_ends_all_but_what_sessions_own() -> None:
    """Those are closed by them; what is given back then is not kept, and what was shared is no loss."""
    with pool() as made:
        made.connection(made.pool.join(NOBODY))
        own, spare = made.take(), made.take()
        made.pool.give_back(spare, NOBODY, b"")
        before = made.uses
        made.config.close()
        after = made.uses
        made.pool.give_back(own, NOBODY, b"")
        assert (before, after, made.uses, made.counted(LOST)) == (
            (1, 1, 1, 3), (0, 1, 0, 1), (0, 0, 0, 0), 0)


def test_who_waits_for_a_connection_when_all_is_closed_is_told() -> None:
    """Nothing was sent, and the connection does not stay."""
    answered = Event()
    with pool(lambda value: answered.wait(CLIENT_S) and OK) as made:
        group = made.pool.join(ANN)
        waiting = gevent.spawn(at_once, lambda: made.connection(group))
        until(lambda: made.database.asked)
        made.config.close()
        answered.set()
        assert (waiting.get(timeout=5), made.uses) == (["Shotover closed the connection"], (0, 0, 0, 0))


def test_an_adopted_connection_is_counted_and_given_back_like_any_other() -> None:
    """It was made by another process."""
    with pool() as made:
        stream = made.config.dial(Place(Park(), ReceiveBuffer()))
        made.pool.adopted()
        adopted = made.uses
        made.pool.give_back(stream, NOBODY, b"")
        assert (adopted, made.uses) == ((0, 1, 0, 1), (0, 0, 1, 1))


def test_the_uses_of_connections_are_metrics() -> None:
    """Shared, own and spare ones."""
    with pool() as made:
        made.connection(made.pool.join(NOBODY))
        streams = [made.take() for _ in range(3)]
        made.pool.give_back(streams.pop(), NOBODY, b"")
        gauges = next(
            family.children for family in made.metrics.families()
            if family.name == "shotover_gevent_pool_connections")
        found = {dict(labels)["use"]: gauge.value for labels, gauge in gauges.items()}
        for stream in streams:
            made.pool.throw_away(stream)
        assert found == {"shared": 1, "own": 2, "spare": 1}
