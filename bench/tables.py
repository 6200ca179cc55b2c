"""Results as tables of medians, in reStructuredText, which a terminal shows well, too."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.goals import verdicts
from bench.results import Results
from bench.statistic import ratio

Row = Sequence[str]

# What the ratios in the tables refer to; the goals name their own.
BASE = "haproxy"

NOTHING = "n/a"
NUMBER = re.compile(r"n/a|-?[\d.,]+(e[+-]\d+)?")


@dataclass(frozen=True, slots=True)
class Column:
    """The median of a metric, divided by ``scale``; with ``is_ratio``, that of :data:`BASE` instead."""

    heading: str
    scenario: str
    metric: str
    scale: float = 1.0
    digits: int = 1
    is_ratio: bool = False

    def cell(self, results: Results, candidate: str) -> str:
        """Its text for one candidate."""
        value = results.median(self.scenario, candidate, self.metric)
        scale = results.median(self.scenario, BASE, self.metric) if self.is_ratio else self.scale
        shown = ratio(value, scale)
        return NOTHING if shown is None else f"{shown:,.{self.digits}f}"


@dataclass(frozen=True, slots=True)
class Table:
    """One question: its scenario, its title, and the columns beside the candidates' names."""

    scenario: str
    title: str
    columns: tuple[Column, ...]


def _table(scenario: str, title: str, *columns: tuple[str, str, float, int]) -> Table:
    """The first column is the one whose ratio is added."""
    first = Column(f"x {BASE}", scenario, columns[0][1], digits=2, is_ratio=True)
    plain = [Column(heading, scenario, metric, scale, digits) for heading, metric, scale, digits in columns]
    return Table(scenario, title, (plain[0], first, *plain[1:]))


_COSTS = (("own CPU us/req", "own_us", 1.0, 2), ("machine us/req", "busy_us", 1.0, 2))

TABLES = (
    _table("unpipelined", "Throughput, one request in flight",
           ("kreq/s", "rate", 1e3, 1), *_COSTS, ("p50 ms", "p50_ms", 1.0, 2), ("p99 ms", "p99_ms", 1.0, 2)),
    _table("pipelined", "Throughput, 16 requests in flight",
           ("kreq/s", "rate", 1e3, 1), *_COSTS),
    _table("latency", "Latency at a fixed rate",
           ("p99 ms", "p99_ms", 1.0, 2), ("p50 ms", "p50_ms", 1.0, 2), ("p99.9 ms", "p999_ms", 1.0, 2),
           ("client's lag p99 ms", "lag_p99_ms", 1.0, 2)),
    _table("large", "Values of 100 KB",
           ("MB / own CPU s", "bytes_per_own_s", 1e6, 0), ("MB / machine CPU s", "bytes_per_busy_s", 1e6, 0),
           ("req/s", "rate", 1.0, 0)),
    _table("connect", "New connections",
           ("connections/s", "rate", 1.0, 0), ("own CPU us", "own_us", 1.0, 1),
           ("machine us", "busy_us", 1.0, 1)),
    _table("start", "Start",
           ("ready after ms", "ready_ms", 1.0, 0), ("CPU ms", "cpu_ms", 1.0, 0),
           ("CPU ms of a successor", "successor_cpu_ms", 1.0, 0)),
    _table("idle", "Memory of an idle connection",
           ("KiB / connection", "bytes_per_connection", 1024.0, 2),
           ("MiB without", "empty_bytes", 2.0**20, 1)),
)

README = (
    Column("kreq/s, 1 in flight", "unpipelined", "rate", 1e3),
    Column(f"x {BASE}", "unpipelined", "rate", digits=2, is_ratio=True),
    Column("own CPU us/req", "unpipelined", "own_us"),
    Column("kreq/s, 16 in flight", "pipelined", "rate", 1e3, 0),
    Column(f"x {BASE}", "pipelined", "rate", digits=2, is_ratio=True),
    Column("p99 ms", "latency", "p99_ms", digits=2),
    Column("KiB / idle conn.", "idle", "bytes_per_connection", 1024.0),
)

RELOAD = (
    ("live connections", "clients"), ("errors", "errors"), ("reconnects", "reconnects"),
    ("longest reload, s", "reload_s"), ("longest pause of a request, ms", "pause_ms"),
    ("the same without a reload, ms", "pause_without_ms"),
)


def rst(head: Row, rows: Sequence[Row]) -> str:
    """A simple table; columns of numbers are aligned right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    places = [
        str.rjust if column and all(NUMBER.fullmatch(cell) for cell in column) else str.ljust
        for column in (list(zip(*rows, strict=True)) or [()] * len(head))]
    rule = "  ".join("=" * width for width in widths)

    def line(row: Row) -> str:
        cells = [place(cell, width) for place, cell, width in zip(places, row, widths, strict=True)]
        return "  ".join(cells).rstrip()

    return "\n".join([rule, line(head), rule, *map(line, rows), rule])


def medians(results: Results, columns: Sequence[Column]) -> str:
    """A row for each candidate that has a number in one of the columns."""
    rows = []
    for candidate in results.candidates:
        cells = [column.cell(results, candidate["name"]) for column in columns]
        if set(cells) != {NOTHING}:
            rows.append([candidate["name"], *cells])
    return rst(["candidate", *(column.heading for column in columns)], rows)


def by_connections(results: Results) -> str:
    """What a request costs, by the number of connections."""
    names = [each["name"] for each in results.candidates]
    counts = sorted({
        int(metric.removeprefix("own_us_")) for name in names
        for metric in results.metrics("connections", name) if metric.startswith("own_us_")})
    return medians(results, [
        Column(f"us at {count:,}", "connections", f"own_us_{count}", digits=1) for count in counts])


def reloads(results: Results) -> str:
    """What the clients saw of the reloads."""
    rows = [
        [heading, f"{value:g}"] for heading, metric in RELOAD
        if (value := results.median("reload", "valkey", metric)) is not None]
    return rst(["reloads under load", "valkey"], rows)


def goals(results: Results) -> str:
    """Each goal, what was measured, and whether it is met."""
    rows = [
        [verdict.goal.work, verdict.goal.candidate, verdict.goal.text, verdict.number, verdict.text]
        for verdict in verdicts(results)]
    return rst(["goal", "candidate", "wanted", "measured", "met"], rows)


def sections(results: Results) -> Iterator[tuple[str, str]]:
    """Title and table of everything that was measured."""
    measured = results.document["rounds"]
    for table in TABLES:
        if table.scenario in measured:
            yield table.title, medians(results, table.columns)
    if "connections" in measured:
        yield "CPU for a request, by the number of connections", by_connections(results)
    if "reload" in measured:
        yield "Reloads", reloads(results)
