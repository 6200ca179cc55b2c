"""The benchmark: ours beside others, in one run. ``scripts/bench --help``."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bench import plot, report
from bench.candidates import CANDIDATES, makers
from bench.machine import connection_cap, environment, raise_descriptor_limit
from bench.redis_benchmark import LoadError, version
from bench.results import Results
from bench.scenarios import SCENARIOS, Plan, Scenario
from bench.stage import Stage
from shotover_gevent.testing.server import ServerBinary, ServerError, find_server

# A quick run shows that everything works; its figures mean nothing.
QUICK_ROUNDS, QUICK_SECONDS, QUICK_CONNECTIONS = 1, 0.2, 100

# 128 and the number of the signal, as shells tell it.
EXIT_TERMINATED = 143

SERVER_HINT = "redis-server is not on PATH; on Debian: apt-get install redis-server"


def names(known: Sequence[str], text: str) -> list[str]:
    """A list with commas, in the order that the tables have. Raises ``ArgumentTypeError``."""
    chosen = {name.strip() for name in text.split(",")}
    if unknown := chosen - set(known):
        raise argparse.ArgumentTypeError(
            f"unknown: {', '.join(sorted(unknown))} (choose from {', '.join(known)})")
    return [name for name in known if name in chosen]


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description="Measure shotover-gevent beside other proxies, in one run.")
    for flag, known in (("--scenarios", list(SCENARIOS)), ("--candidates", list(CANDIDATES))):
        parser.add_argument(flag, type=partial(names, known), default=known, metavar="A,B",
                            help=f"by default all: {', '.join(known)}")
    parser.add_argument("--shotover", default="", metavar="PATH", help="a binary of Shotover Proxy")
    parser.add_argument("--rounds", type=partial(positive, int), metavar="N",
                        help="of every scenario; each has its own default")
    parser.add_argument("--seconds", type=partial(positive, float), metavar="N",
                        help="of a round; each scenario has its own default")
    parser.add_argument("--connections", type=partial(positive, int), metavar="N",
                        help="the most that are opened; default: up to 10,000, as the descriptors allow")
    parser.add_argument("--quick", action="store_true", help="as short as can be; the figures mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rounds there")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw pictures into this folder")
    parser.add_argument("--plot-format", choices=plot.FORMATS, default=plot.FORMATS[0])
    return parser.parse_args(arguments)


def positive(kind: Callable[[str], float], text: str) -> float:
    """A number above zero. Raises ``ArgumentTypeError``, and ``ValueError`` for what is no number."""
    value = kind(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return value


def planned(options: argparse.Namespace) -> list[Scenario]:
    """The scenarios, as long as they were asked for."""
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else None)
    seconds = options.seconds or (QUICK_SECONDS if options.quick else None)
    plan = Plan(rounds, seconds, options.quick)
    return [SCENARIOS[name](plan) for name in options.scenarios]


def measure(
    binary: ServerBinary, scenarios: Sequence[Scenario], candidates: Sequence[str], connections: int,
    shotover: str, results: Results,
) -> None:
    """Run the scenarios one after the other; progress goes to standard error."""
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:5.0f} s] {text}", file=sys.stderr, flush=True)

    with Stage(binary, makers(candidates, connections, shotover), connections, results, say) as stage:
        if not stage.peers:
            raise LoadError("no candidate can run here")
        for scenario in scenarios:
            say(f"{scenario.name}: {scenario.rounds} rounds of {scenario.seconds:g} s")
            scenario.run(stage)
    results.document["settings"]["duration_s"] = round(time.monotonic() - started)


def prepared(options: argparse.Namespace, binary: ServerBinary, scenarios: Sequence[Scenario]) -> Results:
    """An empty result with all that is known before the run."""
    descriptors = raise_descriptor_limit()
    connections = options.connections or (QUICK_CONNECTIONS if options.quick else connection_cap(descriptors))
    results = Results()
    results.document["environment"] = environment(descriptors)
    results.document["settings"] = {
        "quick": options.quick, "connections": min(connections, connection_cap(descriptors)),
        "rounds": {each.name: each.rounds for each in scenarios},
        "seconds": {each.name: each.seconds for each in scenarios},
        "tools": [f"Redis {binary.version}", version()],
    }
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit code: 1 if something that was asked for failed or cannot be done."""
    options = options_of(arguments)
    # Whatever was started is ended with the blocks that started it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    binary = find_server("redis-server")
    if binary is None:
        print(f"bench: {SERVER_HINT}", file=sys.stderr)
        return 1
    scenarios = planned(options)
    try:
        results = prepared(options, binary, scenarios)
        measure(binary, scenarios, options.candidates, results.document["settings"]["connections"],
                options.shotover, results)
    except (LoadError, ServerError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(report.terminal(results))
    if options.json:
        results.save(options.json)
    if options.plots:
        return _draw(results, options) or _code(results)
    return _code(results)


def _draw(results: Results, options: argparse.Namespace) -> int:
    try:
        for path in plot.draw(results, options.plots, options.plot_format):
            print(f"drawn: {path}", file=sys.stderr)
    except ImportError as error:
        print(f"bench: no pictures without matplotlib ({error}); pip install '.[bench]'", file=sys.stderr)
        return 1
    return 0


def _code(results: Results) -> int:
    return 1 if results.document["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
