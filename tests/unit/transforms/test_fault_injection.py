"""FaultInjection lets requests suffer as it was told, and no others."""

from __future__ import annotations

import io
import logging
from typing import Any

import gevent
import pytest

from shotover_gevent.chain import BuildContext
from shotover_gevent.chain.transform import Endpoint
from shotover_gevent.errors import ClientGone, SessionEnd
from shotover_gevent.metrics import MetricStore
from shotover_gevent.testing import TransformSession
from shotover_gevent.transforms import fault_injection as module
from shotover_gevent.transforms.fault_injection import FaultInjection, InjectedFault
from tests.client import command

GET, SET = command("GET", "k"), command("SET", "k", "v")
INJECTED = b"-ERR fault injected\r\n"
OK = b"+OK\r\n"


class Lab:
    """An injector with these faults, and a session of it; ``slept`` are its delays."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *faults: dict[str, Any], **fields: Any) -> None:
        self.slept: list[float] = []
        monkeypatch.setattr(module.gevent, "sleep", self.slept.append)
        self.metrics = MetricStore()
        self.endpoints: list[Endpoint] = []
        self.config = FaultInjection(name="chaos", faults=[InjectedFault(**each) for each in faults], **fields)
        self.config.build(BuildContext(self.metrics, "c", "Valkey", self.endpoints))
        self.session = TransformSession(self.config, answer=lambda message: OK, is_built=True)

    def numbers(self) -> dict[str, float]:
        """How many faults of each kind, and whether it is on; without zeros."""
        return {
            dict(key).get("kind", "on"): metric.value  # type: ignore[union-attr]
            for family in self.metrics.families() for key, metric in family.children.items()
            if metric.value}  # type: ignore[union-attr]


def always(kind: str, **fields: Any) -> dict[str, Any]:
    """A fault that happens to every request that it is for."""
    return {"kind": kind, "percentage": 100, **fields}


def test_errors_are_answered_at_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the commands of the fault, in any case; the others pass. The first fault that fits has its way."""
    lab = Lab(
        monkeypatch, always("error", commands=["get"], error="LOADING later"),
        always("error", commands=["GET", "DEL"]))
    assert (lab.session.ask(GET, SET, command("get", "k"), command("DEL", "k")), lab.session.below.asked) == (
        [b"-LOADING later\r\n", OK, b"-LOADING later\r\n", INJECTED], [SET])
    assert lab.numbers() == {"on": 1, "error": 3}


def test_a_transaction_with_a_fault_is_discarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the server would do it; EXEC itself cannot be refused."""
    lab = Lab(monkeypatch, always("error", commands=["SET", "EXEC"]))
    answers = lab.session.ask(command("MULTI"), SET, command("EXEC"))
    assert (answers, b"".join(lab.session.below.asked), lab.numbers()["error"]) == (
        [OK, INJECTED, b"-EXECABORT Transaction discarded because of previous errors.\r\n"],
        command("MULTI") + command("DISCARD"), 1)


def test_a_run_is_delayed_by_the_longest_delay_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And then goes on."""
    lab = Lab(
        monkeypatch, always("delay", delay_ms=100, commands=["SET"]), always("delay", delay_ms=50),
        always("delay", delay_ms=1000, jitter_ms=500, commands=["DEL"]), seed=1)
    for requests in ([GET, GET], [GET, SET], [command("DEL", "k")]):
        assert lab.session.ask(*requests) == [OK] * len(requests)
    assert (lab.slept[:2], 1.0 < lab.slept[2] < 1.5, lab.numbers()) == ([0.05, 0.1], True, {"on": 1, "delay": 7})


def test_nobody_is_asked_for_a_client_that_went_during_a_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session ends."""
    lab = Lab(monkeypatch, always("delay", delay_ms=1))
    lab.session.context.client_is_gone = lambda: True
    with pytest.raises(ClientGone):
        lab.session.ask(GET)
    assert lab.session.below.asked == []


@pytest.mark.parametrize(("when", "asked"), [("before", []), ("after", [GET + SET])])
def test_a_connection_is_closed_before_or_after_the_database_is_asked(
    monkeypatch: pytest.MonkeyPatch, when: str, asked: list[bytes]
) -> None:
    """The client learns nothing; it is no failure."""
    lab = Lab(monkeypatch, always("close", commands=["SET"], when=when))
    assert lab.session.ask(GET) == [OK]
    lab.session.below.asked.clear()
    with pytest.raises(SessionEnd, match="^the transform chaos closes the connection on purpose$"):
        lab.session.ask(GET, SET)
    assert (lab.session.below.asked, lab.numbers()) == (asked, {"on": 1, "close": 1})


def test_a_percentage_is_drawn_and_a_seed_repeats_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """About the right number, and the same ones."""
    found = []
    for _ in range(2):
        lab = Lab(monkeypatch, {"kind": "error", "percentage": 12.5}, seed=11)
        found.append([answer == INJECTED for _ in range(10) for answer in lab.session.ask(*[GET] * 100)])
    assert (80 < sum(found[0]) < 170, found[0]) == (True, found[1])


def test_it_can_be_off_at_the_start_and_be_switched(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """For all sessions, from then on; a transaction that was cut off before still fails."""
    caplog.set_level(logging.INFO)
    lab = Lab(monkeypatch, always("error"), enabled=False, switch_port=4711)
    (endpoint,) = lab.endpoints

    def put(body: bytes) -> bytes:
        environ = {"REQUEST_METHOD": "PUT", "PATH_INFO": "/transform/fault-injection/state",
                   "wsgi.input": io.BytesIO(body)}
        return b"".join(endpoint.application(environ, lambda status, headers: None))

    off = lab.session.ask(GET)
    switched = put(b"on"), lab.session.ask(command("MULTI"))
    assert put(b"maybe") == b"HTTP 500 error: Invalid state: \"maybe\", should be 'on' or 'off'"
    put(b"off")
    assert (off, switched, lab.session.ask(GET, command("EXEC"), GET)) == (
        [OK], (b"", [OK]), [INJECTED, b"-EXECABORT Transaction discarded because of previous errors.\r\n", OK])
    assert (str(endpoint.address), caplog.messages, lab.numbers()) == (
        "127.0.0.1:4711",
        ["fault injection chaos is switched on", "fault injection chaos is switched off"], {"error": 1})


def test_problems_are_told_together() -> None:
    """With the fault that each is in."""
    faults = [
        InjectedFault(kind="delay", percentage=1), InjectedFault(kind="close", percentage=1, error="no\n"),
        InjectedFault(kind="error", percentage=1, delay_ms=3, when="after"),
        InjectedFault(kind="error", percentage=1, error="LOADING"),
    ]
    assert FaultInjection(name="f", faults=faults).problems() == [
        "FaultInjection:", "  faults[0]: a delay needs delay_ms or jitter_ms",
        '  faults[1]: error: "no\n" must be one line that begins with a code, such as LOADING',
        "  faults[1]: error is for the kind error, not close",
        "  faults[2]: delay_ms is for the kind delay, not error",
        "  faults[2]: when is for the kind close, not error"]


def test_a_delay_lets_others_run() -> None:
    """It waits as a greenlet does."""
    config = FaultInjection(
        name="f", faults=[InjectedFault(kind="delay", percentage=100, delay_ms=20)])
    ran: list[str] = []
    with TransformSession(config) as session, gevent.Timeout(10):
        other = gevent.spawn(ran.append, "other")
        session.ask(GET)
        ran.append("request")
        other.join()
    assert ran == ["other", "request"]
