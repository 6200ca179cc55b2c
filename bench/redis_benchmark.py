"""redis-benchmark: as many requests as fit, each client sending again when it has been answered."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from dataclasses import dataclass

from bench.peers import Missing, first_match

PROGRAM = "redis-benchmark"
HINT = f"{PROGRAM} is not on PATH; on Debian: apt-get install redis-tools"

# A run is planned to take a few seconds. Where nobody listens, the program tries for ever.
RUN_S = 60.0


class LoadError(Exception):
    """Load cannot be made, or was not answered; the text says why."""


@dataclass(frozen=True, slots=True)
class Load:
    """One run: requests a second as measured by the clients, and their latencies in milliseconds."""

    requests: int
    rate: float
    p50_ms: float
    p99_ms: float


def version() -> str:
    """Name and version. Raises :class:`LoadError` if it is not installed."""
    if shutil.which(PROGRAM) is None:
        raise LoadError(HINT)
    try:
        return "redis-benchmark " + first_match([PROGRAM, "--version"], r"([\d.]+)")
    except Missing as error:
        raise LoadError(str(error)) from error


def run(
    port: int, requests: int, *command: str, clients: int = 50, pipeline: int = 1, keep: bool = True
) -> Load:
    """Send ``command`` so many times. Raises :class:`LoadError`.

    ``pipeline`` requests are in flight on each connection; without ``keep`` each request has a new one.
    """
    clients = min(clients, requests)
    line = [PROGRAM, "-p", str(port), "-n", str(requests), "-c", str(clients), "-P", str(pipeline),
            "-k", "1" if keep else "0", "--csv", *command]
    try:
        result = subprocess.run(
            line, capture_output=True, text=True, timeout=RUN_S, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise LoadError(HINT) from error
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"no end within {RUN_S:g} s: {' '.join(line)}") from error
    if result.returncode:
        raise LoadError(f"{' '.join(line)} ended with {result.returncode}: {result.stderr.strip()}")
    return parse(result.stdout, requests)


def parse(output: str, requests: int) -> Load:
    """Read the output of ``--csv``: a header and one line. Raises :class:`LoadError` for anything else.

    The header is written since Redis 6.2; it names the columns, so that their order does not matter.
    """
    rows = list(csv.DictReader(io.StringIO(output)))
    if len(rows) != 1:
        raise LoadError(f"not the output of one run: {output!r}")
    try:
        return Load(requests, *(float(rows[0][name]) for name in ("rps", "p50_latency_ms", "p99_latency_ms")))
    except (KeyError, TypeError, ValueError) as error:
        raise LoadError(f"not the output of {PROGRAM} --csv: {output!r}") from error
