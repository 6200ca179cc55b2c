"""A breaker opens when too much fails, and closes when probes succeed."""

from __future__ import annotations

import pytest

from shotover_gevent.transforms.breaker import Breaker, Limits, State


class Lab:
    """A breaker, its clock, and what it said."""

    def __init__(self, in_a_row: int = 3, ratio: float = 0.5, minimum: int = 4, probes: int = 1) -> None:
        self.now = 1000.0
        self.said: list[tuple[str, str]] = []
        self.breaker = Breaker(
            Limits(in_a_row, ratio, minimum, window_s=10.0, open_s=5.0, probes=probes),
            lambda state, reason: self.said.append((state.word, reason)), lambda: self.now)

    def run(self, outcomes: str) -> None:
        """Runs one after the other: ``+`` succeeds, ``-`` fails, ``.`` says nothing, ``1`` is a second."""
        for outcome in outcomes:
            if outcome == "1":
                self.now += 1
                continue
            ticket = self.breaker.admit()
            assert ticket is not None
            if outcome == ".":
                self.breaker.release(ticket)
            else:
                self.breaker.record(ticket, outcome == "-")


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        ("--+--", []),
        ("---", [("open", "3 failures in a row")]),
        ("-.-.-", [("open", "3 failures in a row")]),
        ("+-+-", [("open", "2 of 4 failed within 10 s")]),
        ("++-++-", []),
        ("--" + "1" * 11 + "+-+", []),
    ])
def test_failures_open_it(outcomes: str, said: list[tuple[str, str]]) -> None:
    """So many in a row, or such a share of enough runs within the window; successes count for both."""
    lab = Lab(ratio=0.5, minimum=4) if outcomes == "+-+-" else Lab(ratio=0.9)
    lab.run(outcomes)
    assert lab.said == said


def test_it_stays_open_for_its_time_and_lets_one_probe_pass_then() -> None:
    """The probe's success closes it, and what is behind it has to wait for that."""
    lab = Lab()
    lab.run("---1111")
    early = lab.breaker.admit()
    lab.run("1")
    probe, second = lab.breaker.admit(), lab.breaker.admit()
    assert (early, second, lab.breaker.state) == (None, None, State.HALF_OPEN)
    assert probe is not None
    lab.breaker.record(probe, False)
    lab.run("+--+")
    assert (lab.breaker.state, [word for word, _ in lab.said]) == (
        State.CLOSED, ["open", "half-open", "closed"])


def test_a_probe_that_fails_opens_it_again() -> None:
    """For as long as before."""
    lab = Lab()
    lab.run("---11111-1111")
    assert (lab.breaker.admit(), lab.said[-1]) == (None, ("open", "a probe failed"))


def test_as_many_probes_have_to_succeed_as_may_pass() -> None:
    """And never more pass at a time; one that says nothing makes room for another."""
    lab = Lab(probes=2)
    lab.run("---11111.")
    first, second, third = (lab.breaker.admit() for _ in range(3))
    assert third is None and first is not None and second is not None
    lab.breaker.record(first, False)
    between = (lab.breaker.state, lab.breaker.admit())
    lab.breaker.record(second, False)
    assert (between, lab.breaker.state) == ((State.HALF_OPEN, None), State.CLOSED)


def test_a_probe_that_is_not_answered_has_failed() -> None:
    """Its late answer says nothing any more."""
    lab = Lab()
    lab.run("---11111")
    probe = lab.breaker.admit()
    assert probe is not None
    lab.run("11111")
    refused = lab.breaker.admit()
    lab.breaker.record(probe, False)
    assert (refused, lab.breaker.state, lab.said[-1]) == (
        None, State.OPEN, ("open", "a probe was not answered"))


def test_what_may_take_long_is_no_probe() -> None:
    """It is refused while the breaker is half-open."""
    lab = Lab()
    lab.run("---11111")
    assert (lab.breaker.admit(may_probe=False), lab.breaker.admit() is None) == (None, False)


def test_the_outcome_of_a_run_of_an_earlier_state_is_ignored() -> None:
    """A slow failure does not open a breaker that has recovered, nor does a slow success close one."""
    lab = Lab(in_a_row=1)
    slow = [lab.breaker.admit() for _ in range(3)]
    lab.run("-11111")
    for ticket, has_failed in zip(slow, (False, True, True)):
        assert ticket is not None
        lab.breaker.record(ticket, has_failed)
    lab.run("+")
    assert lab.breaker.state is State.CLOSED
