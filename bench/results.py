"""The results of a run: every round of every candidate, as a JSON document. Everything else is computed.

The document::

    {"format": 1,
     "environment": {...},                         bench.machine.environment
     "settings": {...},                            what was asked for, and what it came to
     "candidates": [{"name", "title", "version"}], in the order of all tables
     "missing": {"shotover": "why"},
     "failures": ["what did not run"],
     "rounds": {"unpipelined": {"haproxy": {"rate": [52301.0, ...], ...}}}}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bench.statistic import median

FORMAT = 1

# More digits than any of the clocks can tell.
DIGITS = 6

C = TypeVar("C")


class Results:
    """What a run has found so far, or what a file keeps of one."""

    def __init__(self, document: dict[str, Any] | None = None) -> None:
        self.document: dict[str, Any] = document or {
            "format": FORMAT, "environment": {}, "settings": {}, "candidates": [], "missing": {},
            "failures": [], "rounds": {},
        }

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read a file. Raises ``OSError``, and ``ValueError`` for a file of another format."""
        document = json.loads(path.read_text())
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ValueError(f"{path} is no result of this version of the benchmark; run it again")
        return cls(document)

    def save(self, path: Path) -> None:
        """Write a file that :meth:`load` reads; the same results make the same bytes."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.document, indent=1, sort_keys=True) + "\n")

    def add(self, scenario: str, candidate: str, measured: Mapping[str, float | None]) -> None:
        """Keep a round; what could not be measured in it is ``None``, and is left out."""
        kept = self.document["rounds"].setdefault(scenario, {}).setdefault(candidate, {})
        for metric, value in measured.items():
            if value is not None:
                kept.setdefault(metric, []).append(round(value, DIGITS))

    def values(self, scenario: str, candidate: str, metric: str) -> list[float]:
        """A metric in each round, in their order; empty if it was not measured."""
        found: list[float] = self.document["rounds"].get(scenario, {}).get(candidate, {}).get(metric, [])
        return found

    def median(self, scenario: str, candidate: str, metric: str) -> float | None:
        """The median of the rounds."""
        return median(self.values(scenario, candidate, metric))

    def metrics(self, scenario: str, candidate: str) -> list[str]:
        """What was measured of a candidate."""
        return list(self.document["rounds"].get(scenario, {}).get(candidate, {}))

    @property
    def candidates(self) -> list[dict[str, str]]:
        """Those that took part."""
        found: list[dict[str, str]] = self.document["candidates"]
        return found

    @property
    def missing(self) -> dict[str, str]:
        """Those that did not, and why."""
        found: dict[str, str] = self.document["missing"]
        return found


def interleaved(candidates: Sequence[C], rounds: int) -> Iterator[C]:
    """Every candidate once a round; each round begins with the next one.

    So none always follows the same other one.
    """
    for number in range(rounds):
        at = number % len(candidates) if candidates else 0
        yield from candidates[at:]
        yield from candidates[:at]
