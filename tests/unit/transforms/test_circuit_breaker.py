"""CircuitBreaker answers in the place of a database that fails."""

from __future__ import annotations

import pytest

from shotover_gevent.chain import Batch, BuildContext, Transform
from shotover_gevent.codecs.resp import RequestDecoder
from shotover_gevent.errors import ClientGone, UpstreamClosed, UpstreamError
from shotover_gevent.metrics import MetricStore
from shotover_gevent.testing import TransformSession
from shotover_gevent.transforms.circuit_breaker import CircuitBreaker
from tests.client import command
from tests.inprocess import session_context

PING, GET = command("PING"), command("GET", "k")
OPEN = b"-ERR The circuit breaker cb is open: the database is not asked\r\n"


def a_breaker(**fields: object) -> tuple[CircuitBreaker, MetricStore]:
    """A configuration that was built, and its metrics."""
    metrics = MetricStore()
    config = CircuitBreaker(name="cb", **{"consecutive_failures": 2, "open_ms": 86_400_000, **fields})
    config.build(BuildContext(metrics, "c", "Valkey"))
    return config, metrics


def numbers(metrics: MetricStore) -> dict[str, float]:
    """Each metric by its name, and by the state that it counts."""
    return {
        family.name.removeprefix("shotover_gevent_circuit_breaker_") + dict(key).get("state", ""): metric.value
        for family in metrics.families() for key, metric in family.children.items()}  # type: ignore[union-attr]


def lose(config: CircuitBreaker, error: Exception, times: int = 2) -> None:
    """Let sessions end by that error."""
    for _ in range(times):
        with TransformSession(config, is_built=True) as session, pytest.raises(type(error)):
            session.below.failure = error
            session.ask(PING)


def test_it_opens_for_all_sessions_and_answers_without_asking(caplog: pytest.LogCaptureFixture) -> None:
    """Sessions go on; what is refused is counted."""
    config, metrics = a_breaker()
    at_start = numbers(metrics)
    lose(config, UpstreamError("lost"))
    with TransformSession(config, is_built=True) as session:
        assert (session.ask(PING, GET), session.ask(PING), session.below.asked) == ([OPEN, OPEN], [OPEN], [])
    assert at_start == {
        "state": 0, "refused_count": 0, "transitions_countclosed": 0, "transitions_counthalf-open": 0,
        "transitions_countopen": 0}
    assert numbers(metrics) == at_start | {"state": 2, "refused_count": 3, "transitions_countopen": 1}
    assert caplog.messages == ["circuit breaker cb is open: 2 failures in a row"]


@pytest.mark.parametrize("error", [UpstreamClosed("end"), ClientGone("gone")], ids=repr)
def test_the_end_of_a_session_is_no_failure(error: Exception) -> None:
    """A client that goes, and a database that closes with nothing pending, say nothing of its health."""
    config, metrics = a_breaker()
    lose(config, error, times=5)
    assert numbers(metrics)["state"] == 0


@pytest.mark.parametrize(("codes", "state"), [(["LOADING"], 2), (["BUSY"], 0), ([], 0)])
def test_error_replies_are_failures_if_their_code_is_listed(codes: list[str], state: int) -> None:
    """Such a reply still reaches the client."""
    config, metrics = a_breaker(failure_codes=codes)
    with TransformSession(config, answer=lambda message: b"-LOADING wait\r\n", is_built=True) as session:
        assert session.ask(PING) + session.ask(PING) == [b"-LOADING wait\r\n"] * 2
    assert numbers(metrics)["state"] == state


def test_a_probe_closes_it_and_requests_that_wait_are_no_probes() -> None:
    """The first that can be answered soon."""
    config, metrics = a_breaker()
    lose(config, UpstreamError("lost"))
    with TransformSession(config, is_built=True) as session:
        breaker = config._breaker
        breaker._since -= 90_000
        refused = session.ask(command("BLPOP", "k", "0"))
        answered = session.ask(PING)
        assert (refused, answered == [OPEN], numbers(metrics)["state"]) == ([OPEN], False, 0)


def test_a_transaction_that_it_cuts_off_is_discarded() -> None:
    """EXEC reaches the server as DISCARD, although the breaker is open."""
    config, _ = a_breaker()
    with TransformSession(config, answer=lambda message: b"+OK\r\n", is_built=True) as session:
        session.ask(command("MULTI"))
        lose(config, UpstreamError("lost"))
        answers = session.ask(GET) + session.ask(command("EXEC"))
        assert (answers, session.below.asked[1:]) == (
            [OPEN, b"-EXECABORT Transaction discarded because of previous errors.\r\n"], [command("DISCARD")])


def test_what_is_answered_here_says_nothing_of_the_database() -> None:
    """The rest of a transaction that was refused is no probe that succeeds."""
    config, metrics = a_breaker()
    lose(config, UpstreamError("lost"))
    with TransformSession(config, is_built=True) as session:
        session.ask(command("MULTI"))
        config._breaker._since -= 90_000
        session.ask(GET, command("EXEC"))
        assert (numbers(metrics)["state"], session.below.asked) == (1, [])


def test_a_run_that_is_ended_from_outside_makes_room_for_another_probe() -> None:
    """Its client was closed by an operator."""
    config, metrics = a_breaker()
    lose(config, UpstreamError("lost"))
    config._breaker._since -= 90_000
    transform: Transform = config.session(session_context())

    def aborted(requests: Batch) -> Batch:
        raise GeneratorExit

    with pytest.raises(GeneratorExit):
        transform.transform(RequestDecoder().feed(PING), aborted)
    with TransformSession(config, is_built=True) as session:
        session.ask(PING)
    assert numbers(metrics)["state"] == 0


def test_codes_are_checked() -> None:
    """A list with something else is a problem."""
    assert CircuitBreaker(name="cb", failure_codes=["loading"]).problems() == [
        "CircuitBreaker:",
        '  failure_codes: "loading" is no first word of an error reply; write it as LOADING']
