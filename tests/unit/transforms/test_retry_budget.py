"""Retries are a share of the requests, and wait by chance."""

from __future__ import annotations

from random import Random

import pytest

from shotover_gevent.transforms.retry_budget import RetryBudget, full_jitter


def test_the_budget_is_a_share_of_the_requests_and_a_minimum() -> None:
    """Of the last ten seconds; what is denied uses nothing up."""
    now = [1000.0]
    budget = RetryBudget(0.2, 1, lambda: now[0])
    reserve = [budget.withdraw(10), budget.withdraw(1)]
    budget.deposit(100)
    share = [budget.withdraw(21), budget.withdraw(20), budget.withdraw(1)]
    now[0] += 11
    assert (reserve, share, budget.withdraw(11), budget.withdraw(10)) == (
        [True, False], [False, True, False], False, True)


@pytest.mark.parametrize(("attempt", "limit_s"), [(1, 0.025), (2, 0.05), (3, 0.1), (4, 0.1), (9, 0.1)])
def test_the_limit_of_the_wait_doubles_up_to_a_bound(attempt: int, limit_s: float) -> None:
    """Each wait is between nothing and the limit, and comes near both ends."""
    waits = [full_jitter(Random(seed), 0.025, 0.1, attempt) for seed in range(200)]
    assert (0 <= min(waits) < limit_s / 10, limit_s * 0.9 < max(waits) <= limit_s) == (True, True)


def test_a_seed_makes_the_waits_repeatable() -> None:
    """For tests."""
    one, other = Random(7), Random(7)
    assert [full_jitter(one, 1, 8, n) for n in (1, 2, 3)] == [full_jitter(other, 1, 8, n) for n in (1, 2, 3)]
