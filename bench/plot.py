"""The results as pictures. Needs matplotlib; the same results make the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.results import Results

# Ours stand out, whatever the order.
OURS_COLOUR, OTHERS_COLOUR = "#2a7f62", "#9aa5b1"
OURS = ("tcp", "valkey", "valkey-shared")

FORMATS = ("svg", "png")

# An SVG otherwise has random names and the time in it; text stays text, so that no font is needed.
SETTINGS = {"svg.hashsalt": "shotover-gevent", "svg.fonttype": "none", "font.size": 9.0}
METADATA = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}


def draw(results: Results, folder: Path, kind: str = "svg") -> list[Path]:
    """Write all pictures for which there are results; returns their paths.

    Raises ``ImportError`` without matplotlib, and ``OSError`` if they cannot be written.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.rc_context(SETTINGS):
        for name, scenarios, plot in PICTURES:
            if results.document["rounds"].keys() >= set(scenarios):
                figure = plot(results, pyplot)
                written.append(folder / f"{name}.{kind}")
                figure.savefig(written[-1], format=kind, metadata=METADATA[kind], dpi=120)
                pyplot.close(figure)
                if kind == "svg":
                    _trim(written[-1])
    return written


def names(results: Results, kind: str = "svg") -> list[str]:
    """The file names that :func:`draw` would write."""
    measured = results.document["rounds"]
    return [f"{name}.{kind}" for name, scenarios, _ in PICTURES if measured.keys() >= set(scenarios)]


def _trim(path: Path) -> None:
    """matplotlib ends some lines with blanks, which no file here has."""
    path.write_text("".join(f"{line.rstrip()}\n" for line in path.read_text().splitlines()))


def _bars(axes: Any, results: Results, scenario: str, metric: str, scale: float) -> None:
    """A bar for each candidate, with the range of its rounds."""
    found = [(each["name"], values) for each in results.candidates
             if (values := results.values(scenario, each["name"], metric))]
    for place, (name, values) in enumerate(reversed(found)):
        middle = (results.median(scenario, name, metric) or 0.0) / scale
        around = [[middle - min(values) / scale], [max(values) / scale - middle]]
        axes.barh(place, middle, xerr=around, color=OURS_COLOUR if name in OURS else OTHERS_COLOUR,
                  ecolor="#444444", capsize=2)
    axes.set_yticks(range(len(found)), [name for name, _ in reversed(found)])


def _throughput(results: Results, pyplot: Any) -> Any:
    figure, all_axes = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for axes, scenario, title in zip(
        all_axes, ("unpipelined", "pipelined"), ("1 request in flight", "16 requests in flight"), strict=True
    ):
        _bars(axes, results, scenario, "rate", 1e3)
        axes.set(title=f"50 clients, {title}", xlabel="thousand requests a second")
    return figure


def _latency(results: Results, pyplot: Any) -> Any:
    figure, all_axes = pyplot.subplots(1, 3, figsize=(9, 3.0), layout="constrained", sharey=True)
    rate = results.document["settings"].get("latency_rate", 0)
    for axes, percentile in zip(all_axes, ("50", "99", "99.9"), strict=True):
        _bars(axes, results, "latency", f"p{percentile.replace('.', '')}_ms", 1.0)
        axes.set(title=f"p{percentile} at {rate:,} requests/s", xlabel="ms")
    return figure


def _connections(results: Results, pyplot: Any) -> Any:
    figure, axes = pyplot.subplots(figsize=(7, 3.4), layout="constrained")
    for each in results.candidates:
        name = each["name"]
        points = [
            (int(metric.removeprefix("own_us_")), results.median("connections", name, metric))
            for metric in results.metrics("connections", name) if metric.startswith("own_us_")]
        if points:
            axes.plot(*zip(*sorted(points), strict=True), marker="o", label=name,
                      linestyle="-" if name in OURS else ":")
    axes.set(xscale="log", xlabel="connections", ylabel="own CPU, us for a request", ylim=(0, None))
    axes.legend(fontsize=8)
    return figure


Picture = tuple[str, tuple[str, ...], Callable[[Results, Any], Any]]

PICTURES: tuple[Picture, ...] = (
    ("throughput", ("unpipelined", "pipelined"), _throughput),
    ("latency", ("latency",), _latency),
    ("connections", ("connections",), _connections),
)
