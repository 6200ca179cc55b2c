"""A few seconds of comparison with HAProxy for every change: ``python -m bench.guard``.

It records how this checkout compares, on a machine that may be doing anything else. A time is no reason
to fail; that something does not run is.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bench.__main__ import SERVER_HINT, measure
from bench.machine import environment, raise_descriptor_limit
from bench.redis_benchmark import LoadError, version
from bench.results import Results
from bench.scenarios import CLIENTS, Plan, Unpipelined
from bench.statistic import ratio
from bench.tables import BASE
from shotover_gevent.testing.server import ServerError, find_server

CANDIDATES = (BASE, "tcp", "valkey")
ROUNDS, SECONDS = 3, 2.0

# 50 clients, and those that ask whether a candidate is up.
CONNECTIONS = 2 * CLIENTS


def ratios(results: Results) -> dict[str, float | None]:
    """Throughput of each of ours, one request in flight, in that of HAProxy."""
    base = results.median(Unpipelined.name, BASE, "rate")
    found = {name: ratio(results.median(Unpipelined.name, name, "rate"), base) for name in CANDIDATES[1:]}
    return {name: None if value is None else round(value, 3) for name, value in found.items()}


def record(results: Results) -> dict[str, Any]:
    """What is written: the ratios, the rates that they come from, and on what they were measured."""
    return {
        "ratios": ratios(results), "base": BASE,
        "rates": {name: results.values(Unpipelined.name, name, "rate") for name in CANDIDATES},
        **results.document["environment"],
    }


def problems(results: Results) -> list[str]:
    """What did not run."""
    return [*(f"{name}: {reason}" for name, reason in results.missing.items()),
            *results.document["failures"]]


def main(arguments: list[str] | None = None) -> int:
    """Run it; returns the exit code: 1 if anything does not run."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.guard", description="Compare with HAProxy, briefly.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the ratios there")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N")
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="N", help="of a round")
    options = parser.parse_args(arguments)
    binary = find_server("redis-server")
    if binary is None:
        print(f"guard: {SERVER_HINT}", file=sys.stderr)
        return 1
    results = Results()
    try:
        results.document["environment"] = environment(raise_descriptor_limit())
        version()
        scenario = Unpipelined(Plan(options.rounds, options.seconds))
        measure(binary, [scenario], CANDIDATES, CONNECTIONS, "", results)
    except (LoadError, ServerError) as error:
        results.document["failures"].append(str(error))
    if found := problems(results):
        print("\n".join(f"guard: {text}" for text in found), file=sys.stderr)
        return 1
    for name, value in ratios(results).items():
        print(f"guard: throughput of {name}, one request in flight: {value} x {BASE}")
    if options.json:
        options.json.write_text(json.dumps(record(results), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
