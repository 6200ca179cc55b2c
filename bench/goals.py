"""What the proxy is meant to reach: ratios to others in the same run, and a few absolute numbers.

Whether a goal is met is computed from the results. A candidate that did not take part leaves its goals
open, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.results import Results
from bench.statistic import ratio, spread

KIB = 1024


@dataclass(frozen=True, slots=True)
class Goal:
    """``measured(results)`` must be at least, or at most, ``limit``; ``needs`` are the candidates in it."""

    work: str
    candidate: str
    limit: float
    is_at_least: bool
    unit: str
    scenario: str
    needs: tuple[str, ...]
    measured: Callable[[Results], float | None]

    @property
    def text(self) -> str:
        """The goal: ``at least 0.95 x haproxy``."""
        return f"at {'least' if self.is_at_least else 'most'} {self.limit:g} {self.unit}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal beside what was measured; ``None``: it was not, for the reason given."""

    goal: Goal
    measured: float | None
    is_met: bool | None
    reason: str = ""

    @property
    def text(self) -> str:
        """Whether it is met, for a table."""
        if self.is_met is None:
            return f"open: {self.reason}"
        return "yes" if self.is_met else "no"

    @property
    def number(self) -> str:
        """What was measured, for a table."""
        return "n/a" if self.measured is None else f"{self.measured:.3g}"


def judge(goal: Goal, results: Results) -> Verdict:
    """Compare a goal with the results."""
    measured = goal.measured(results)
    if measured is None:
        return Verdict(goal, None, None, _reason(goal, results))
    is_met = measured >= goal.limit if goal.is_at_least else measured <= goal.limit
    return Verdict(goal, measured, is_met)


def _reason(goal: Goal, results: Results) -> str:
    names = {each["name"] for each in results.candidates}
    absent = [name for name in goal.needs if name not in names]
    return f"without {', '.join(absent)}" if absent else f"{goal.scenario} was not measured"


def compared(
    work: str, candidate: str, base: str, limit: float, scenario: str, metric: str, at_least: bool = True
) -> Goal:
    """A goal for the ratio of two medians."""
    def measured(results: Results) -> float | None:
        return ratio(results.median(scenario, candidate, metric), results.median(scenario, base, metric))

    return Goal(work, candidate, limit, at_least, f"x {base}", scenario, (candidate, base), measured)


def absolute(
    work: str, candidate: str, limit: float, unit: str, scenario: str, metric: str, scale: float = 1.0
) -> Goal:
    """A goal for a median that must not exceed a number; ``scale`` is the unit in that of the metric."""
    def measured(results: Results) -> float | None:
        return ratio(results.median(scenario, candidate, metric), scale)

    return Goal(work, candidate, limit, False, unit, scenario, (candidate,), measured)


def flat(work: str, candidate: str, limit: float, scenario: str, prefix: str) -> Goal:
    """A goal for the largest median over the smallest, of all metrics that begin so."""
    def measured(results: Results) -> float | None:
        names = [name for name in results.metrics(scenario, candidate) if name.startswith(prefix)]
        medians = [value for name in names if (value := results.median(scenario, candidate, name))]
        return spread(medians) if len(medians) > 1 else None

    return Goal(work, candidate, limit, False, "x the least", scenario, (candidate,), measured)


PROTOCOL = ("valkey", "valkey-shared")
OURS = ("tcp", *PROTOCOL)

GOALS: tuple[Goal, ...] = (
    compared("requests/s, 1 in flight", "tcp", "haproxy", 0.95, "unpipelined", "rate"),
    *(compared("requests/s, 1 in flight", each, base, limit, "unpipelined", "rate")
      for each in PROTOCOL for base, limit in (("shotover", 1.5), ("envoy-redis", 1.0))),
    *(compared("requests/s, 16 in flight", each, base, limit, "pipelined", "rate")
      for each in PROTOCOL for base, limit in (("shotover", 1.5), ("envoy-redis", 1.35))),
    *(compared("bytes for a CPU second, 100 KB values", each, "haproxy", 0.9, "large", "bytes_per_own_s")
      for each in OURS),
    *(compared("p99 at half the maximum", each, "envoy-redis", 1.0, "latency", "p99_ms", at_least=False)
      for each in PROTOCOL),
    compared("p99 at half the maximum", "tcp", "envoy-tcp", 1.0, "latency", "p99_ms", at_least=False),
    *(absolute("memory of an idle connection", each, 24.0, "KiB", "idle", "bytes_per_connection", KIB)
      for each in OURS),
    *(absolute("CPU until a successor is ready", each, 400.0, "ms", "start", "successor_cpu_ms")
      for each in OURS),
    absolute("errors in reloads under load", "valkey", 0.0, "errors", "reload", "errors"),
    absolute("longest pause in reloads under load", "valkey", 250.0, "ms", "reload", "pause_ms"),
    *(flat("CPU for a request, 10 to 10,000 connections", each, 1.2, "connections", "own_us_")
      for each in OURS),
)


def verdicts(results: Results) -> list[Verdict]:
    """All goals beside the results."""
    return [judge(goal, results) for goal in GOALS]
