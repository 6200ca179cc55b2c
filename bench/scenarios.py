"""What is measured, one class a question.

Rules:
 1. Rounds of all candidates are interleaved; a round's numbers are kept as they are.
 2. CPU time is that of the machine (``busy``) and of the candidate's processes (``own``), from just
    before a round to just after it, divided by the requests of the round. The machine's clock has
    steps of 10 ms; what is zero was not measured.
 3. A candidate that fails in a scenario is told and left out there; the others go on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bench import redis_benchmark
from bench.machine import ROOT, Sample
from bench.ours import Ours, OursValkey
from bench.peers import SMALL_KEY, Missing, Peer, answers
from bench.redis_benchmark import LoadError
from bench.results import interleaved
from bench.stage import LARGE_BYTES, LARGE_KEY, PacedClient, Stage

CLIENTS = 50
MICRO = 1e6

# What a rate is estimated from before the first round.
FIRST_REQUESTS = 2000

# The paced client needs about 15 us of one core for a request: beyond this, it would measure itself.
MAX_RATE = 30_000.0

# A rate that every candidate can serve with a fraction of a core.
CONNECTIONS_RATE = 10_000.0

SOAK_S = 300.0

Measured = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long scenarios take; ``None``: as long as each takes by default. Quick: with few clients."""

    rounds: int | None = None
    seconds: float | None = None
    is_quick: bool = False


class Scenario:
    """One question. ``rounds`` and ``seconds`` (of a round) are what a full run takes."""

    name: ClassVar[str]
    rounds: int = 5
    seconds: float = 2.0

    def __init__(self, plan: Plan | None = None) -> None:
        plan = plan or Plan()
        self.rounds = plan.rounds or self.rounds
        self.seconds = plan.seconds or self.seconds
        self.is_quick = plan.is_quick

    def run(self, stage: Stage) -> None:
        """Measure every candidate in every round."""
        for peer in interleaved(self.takes_part(stage), self.rounds):
            self.attempt(stage, peer)

    def takes_part(self, stage: Stage) -> list[Peer]:
        """The candidates of whom it can be asked."""
        return stage.peers

    def attempt(self, stage: Stage, peer: Peer) -> None:
        """One round; a failure is kept in the results, and said."""
        try:
            if not answers(peer.port):
                raise LoadError("it does not answer any more")
            stage.results.add(self.name, peer.name, self.measure(stage, peer))
        except (LoadError, Missing) as error:
            stage.results.document["failures"].append(f"{self.name}: {peer.name}: {error}")
            stage.say(f"FAILED: {self.name}: {peer.name}: {error}")

    def measure(self, stage: Stage, peer: Peer) -> Measured:
        """One round of one candidate. Raises :class:`~bench.redis_benchmark.LoadError`."""
        raise NotImplementedError


class ClosedLoop(Scenario):
    """50 clients that send again when they are answered: how much goes through, and what it costs."""

    key: ClassVar[bytes] = SMALL_KEY
    pipeline: ClassVar[int] = 1
    keep: ClassVar[bool] = True

    def __init__(self, plan: Plan | None = None) -> None:
        super().__init__(plan)
        self._rates: dict[str, float] = {}

    def load(self, peer: Peer, requests: int) -> redis_benchmark.Load:
        """Send so many requests."""
        return redis_benchmark.run(
            peer.port, requests, "GET", self.key.decode(), clients=CLIENTS, pipeline=self.pipeline,
            keep=self.keep)

    def rate(self, peer: Peer) -> float:
        """What the candidate did in the last round, or does in a short one now."""
        if peer.name not in self._rates:
            self._rates[peer.name] = self.load(peer, FIRST_REQUESTS * self.pipeline).rate
        return self._rates[peer.name]

    def measure(self, stage: Stage, peer: Peer) -> Measured:
        """As many requests as take the time of a round."""
        requests = max(CLIENTS, int(self.rate(peer) * self.seconds))
        before = Sample.take(peer.tree)
        load = self.load(peer, requests)
        used = before.until(Sample.take(peer.tree))
        self._rates[peer.name] = load.rate
        return {"rate": load.rate, "p50_ms": load.p50_ms, "p99_ms": load.p99_ms, **self.costs(used, requests)}

    def costs(self, used: Sample, requests: int) -> Measured:
        """Microseconds of CPU for a request."""
        return per_request(used, requests)


def per_request(used: Sample, requests: float) -> Measured:
    """Microseconds of CPU for a request, of the machine and of the candidate."""
    return {"busy_us": _per(used.busy_s, requests), "own_us": _per(used.own_s, requests)}


def _per(seconds: float | None, requests: float) -> float | None:
    return seconds / requests * MICRO if seconds else None


class Unpipelined(ClosedLoop):
    """One request in flight on each connection."""

    name = "unpipelined"


class Pipelined(ClosedLoop):
    """16 requests in flight on each connection."""

    name = "pipelined"
    pipeline = 16


class Large(ClosedLoop):
    """Values of 100 KB: what the bytes cost."""

    name = "large"
    rounds = 3
    key = LARGE_KEY

    def costs(self, used: Sample, requests: int) -> Measured:
        """Bytes for a second of CPU, besides the time for a request."""
        size = requests * LARGE_BYTES
        return {**super().costs(used, requests),
                "bytes_per_own_s": size / used.own_s if used.own_s else None,
                "bytes_per_busy_s": size / used.busy_s if used.busy_s else None}


class Connect(ClosedLoop):
    """A new connection for each request: how many a second, and what one costs."""

    name = "connect"
    rounds, seconds = 3, 1.5
    keep = False


class Latency(Scenario):
    """Latencies at one rate for all: half of what the slowest can do, 50 connections, open loop."""

    name = "latency"
    rounds, seconds = 3, 4.0

    def run(self, stage: Stage) -> None:
        """Find the rate first; whoever has none fails in the rounds, too, and is told there."""
        rates = [rate for peer in stage.peers if (rate := self.maximum(stage, peer)) is not None]
        self.rate = min([MAX_RATE, *(rate / 2 for rate in rates)])
        stage.results.document["settings"]["latency_rate"] = round(self.rate)
        super().run(stage)

    def maximum(self, stage: Stage, peer: Peer) -> float | None:
        """The median of this run's unpipelined rounds, or what a short one finds now."""
        known = stage.results.median(Unpipelined.name, peer.name, "rate")
        try:
            return Unpipelined().rate(peer) if known is None else known
        except LoadError:
            return None

    def measure(self, stage: Stage, peer: Peer) -> Measured:
        """The percentiles of one round, as the client found them."""
        with PacedClient(peer.port, CLIENTS, self.rate, self.seconds) as client:
            found = client.play()
        return {name: found[name] for name in ("p50_ms", "p99_ms", "p999_ms", "max_ms", "lag_p99_ms")}


class Connections(Scenario):
    """What a request costs at 10 to 10,000 connections, at one rate, spread evenly over all of them."""

    name = "connections"
    rounds = 3

    def takes_part(self, stage: Stage) -> list[Peer]:
        """Those that have a process whose CPU time can be read."""
        return [peer for peer in stage.peers if peer.pid is not None]

    def counts(self, stage: Stage) -> list[int]:
        """The numbers of connections."""
        return [count for count in (10, 100, 1000) if count < stage.connections] + [stage.connections]

    def run(self, stage: Stage) -> None:
        """All candidates at one number, then at the next."""
        for count in self.counts(stage):
            self.count = count
            super().run(stage)

    def measure(self, stage: Stage, peer: Peer) -> Measured:
        """The CPU time begins to count when all connections are open and have been answered."""
        stage.settle(peer)
        with PacedClient(peer.port, self.count, CONNECTIONS_RATE, self.seconds) as client:
            stage.settle(peer)
            before = Sample.take(peer.tree)
            found = client.play()
            used = before.until(Sample.take(peer.tree))
        costs = per_request(used, found["requests"])
        return {f"own_us_{self.count}": costs["own_us"], f"p99_ms_{self.count}": found["p99_ms"]}


class Idle(Scenario):
    """Memory that a connection holds when nothing is sent on it, the one to the database included."""

    name = "idle"
    rounds = 1

    def takes_part(self, stage: Stage) -> list[Peer]:
        """Those that have a process."""
        return [peer for peer in stage.peers if peer.pid is not None]

    def measure(self, stage: Stage, peer: Peer) -> Measured:
        """By how much a new process grows with all its connections, each used once."""
        with peer.fresh() as fresh:
            tree = fresh.tree
            assert tree is not None
            empty = tree.memory_bytes()
            with PacedClient(fresh.port, stage.connections):
                stage.settle(fresh)
                grown = tree.memory_bytes() - empty
            stage.settle(fresh)
        return {"bytes_per_connection": grown / stage.connections, "empty_bytes": float(empty)}


class Start(Idle):
    """From the start of the process to its first answer; for ours, of a successor too."""

    name = "start"
    rounds = 5

    def measure(self, stage: Stage, peer: Peer) -> Measured:
        """Time and CPU time until it has answered."""
        fresh = peer.fresh()
        try:
            ready_s = fresh.start()
            tree = fresh.tree
            assert tree is not None
            measured: Measured = {"ready_ms": ready_s * 1000, "cpu_ms": tree.cpu_s() * 1000}
            if isinstance(fresh, Ours):
                measured["successor_cpu_ms"] = fresh.reload().cpu_s() * 1000
        finally:
            fresh.stop()
        return measured


class Reload(Scenario):
    """Reloads under 2,000 live connections: what their clients see (:mod:`bench.reload_soak`)."""

    name = "reload"
    rounds = 1

    reloads, clients, rate = 3, 2000, 4000.0

    def takes_part(self, stage: Stage) -> list[Peer]:
        """The soak starts a proxy of its own; nobody else's connections survive."""
        return [peer for peer in stage.peers if peer.name == OursValkey.name]

    def measure(self, stage: Stage, peer: Peer) -> Measured:
        """A run of the soak."""
        with tempfile.TemporaryDirectory(prefix="shotover-bench-") as folder:
            file = Path(folder, "soak.json")
            self._soak(file)
            found = json.loads(file.read_text())["summary"]
        return {
            "errors": found["errors"], "reconnects": found["reconnects"], "clients": found["clients"],
            "pause_ms": found["longest_pause_ms"], "reload_s": found["longest_reload_s"],
            "pause_without_ms": found["longest_pause_without_reload_ms"],
        }

    def _soak(self, file: Path) -> None:
        clients, rate = (20, 200.0) if self.is_quick else (self.clients, self.rate)
        command = [
            sys.executable, "-m", "bench.reload_soak", "--reloads", str(self.reloads),
            "--clients", str(clients), "--rate", str(rate), "--server", "redis-server", "--json", str(file)]
        try:
            result = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=SOAK_S, check=False,
                stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired as error:
            raise LoadError(f"the soak did not end within {SOAK_S:g} s") from error
        if not file.exists():
            raise LoadError(f"the soak failed: {result.stderr.strip()}")


SCENARIOS: dict[str, type[Scenario]] = {each.name: each for each in (
    Unpipelined, Pipelined, Latency, Large, Connect, Start, Idle, Connections, Reload)}
