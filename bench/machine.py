"""What is measured on, and what it costs: the machine's facts, CPU time, memory, descriptors."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import gevent
import psutil

ROOT = Path(__file__).resolve().parents[1]

# Descriptors of a proxy besides its connections: listeners, logs, epoll, control sockets.
SPARE_DESCRIPTORS = 200

# More connections than the goals speak of are never opened.
MAX_CONNECTIONS = 10_000

_GIT_S = 10.0

# CPUCLOCK_SCHED of linux/posix-timers.h: the time that the scheduler has counted.
_SCHEDULED = 2


def busy_s() -> float:
    """CPU seconds that the whole machine has worked since it started; all but idle, iowait and steal."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def process_cpu_s(pid: int) -> float:
    """CPU seconds of a process, all its threads together; 0 if it has ended.

    ``/proc`` tells them in steps of 10 ms; the clock of the process counts nanoseconds. Its number is what
    ``clock_getcpuclockid(3)`` makes of the process's: the complement, and three bits for the kind.
    """
    try:
        return time.clock_gettime(~pid << 3 | _SCHEDULED)
    except OSError:
        return 0.0


class Tree:
    """A process and its descendants. One that ends meanwhile counts for nothing from then on."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)

    def _members(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]

    def cpu_s(self) -> float:
        """CPU seconds, user and system, of all members so far."""
        return sum(process_cpu_s(p.pid) for p in self._members())

    def memory_bytes(self) -> int:
        """Memory that only the members have: it would be free without them. Kernel buffers are not in it."""
        return sum(int(p.memory_full_info().uss) for p in self._members())


@dataclass(frozen=True, slots=True)
class Sample:
    """CPU seconds of the machine and of one candidate (``None``: it has no process) at one moment."""

    busy_s: float
    own_s: float | None

    @classmethod
    def take(cls, tree: Tree | None) -> Sample:
        """Read both now."""
        return cls(busy_s(), None if tree is None else tree.cpu_s())

    def until(self, later: Sample) -> Sample:
        """What was used from this one to a later one."""
        own_s = None if self.own_s is None or later.own_s is None else later.own_s - self.own_s
        return Sample(later.busy_s - self.busy_s, own_s)


def raise_descriptor_limit() -> int:
    """Allow as many descriptors as may be, here and in what is started from here; returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def connection_cap(descriptors: int) -> int:
    """How many connections a proxy can have that needs two descriptors for each, the client's and its own."""
    return min(MAX_CONNECTIONS, (descriptors - SPARE_DESCRIPTORS) // 2)


def environment(descriptors: int) -> dict[str, object]:
    """What a reader must know of the machine and of this checkout."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "commit": git("rev-parse", "--short", "HEAD") or "unknown",
        "dirty": bool(git("status", "--porcelain")),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "gevent": gevent.__version__,
        "descriptor_limit": descriptors,
        "load_before": round(os.getloadavg()[0], 2),
    }


def git(*arguments: str) -> str:
    """What git says of this checkout; empty if it is none."""
    try:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=_GIT_S,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def cpu_model() -> str:
    """The processor, as Linux names it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
