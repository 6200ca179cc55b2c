"""The processes that come from one, by a mark in their environment.

A proxy that is replaced while it runs leaves a successor that is nobody's child any more. Both still
have the environment that the first was started with, so a variable in it finds them all.

Rules:
 1. Only processes with the mark are signalled, and they are looked up anew before each signal.
 2. They are signalled through a pidfd: a number that was given to another process meanwhile is never hit.
"""

from __future__ import annotations

import os
import secrets
import select
import signal
import time
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "SHOTOVER_GEVENT_FAMILY"

# How long a signalled process may take before it is killed. A proxy gives its sessions up to 10 s.
STOP_S = 15.0

# A killed process ends as soon as the kernel gets to it.
KILL_S = 5.0


class Family:
    """All processes started with :attr:`environ`, and those that they start in turn."""

    def __init__(self) -> None:
        self.mark = f"{os.getpid()}-{secrets.token_hex(8)}"

    def environ(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """``base`` (by default the environment of this process) with the mark."""
        return {**(os.environ if base is None else base), VARIABLE: self.mark}

    def pids(self) -> list[int]:
        """The members that run now, sorted."""
        numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return sorted(pid for pid in numbers if pid != os.getpid() and self._has_mark(pid))

    def stop(self, timeout_s: float = STOP_S) -> list[int]:
        """End all members by SIGTERM, after ``timeout_s`` by SIGKILL; returns who had to be killed."""
        self._signal(signal.SIGTERM, timeout_s)
        killed = self.pids()
        if killed:
            self._signal(signal.SIGKILL, KILL_S)
        return killed

    def _has_mark(self, pid: int) -> bool:
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False  # it has ended, or belongs to somebody else
        return f"{VARIABLE}={self.mark}".encode() in environ.split(b"\0")

    def _signal(self, number: signal.Signals, timeout_s: float) -> None:
        """Signal every member, those that appear meanwhile too, until none is left or time is over."""
        until = time.monotonic() + timeout_s
        signalled: set[int] = set()
        while (pids := self.pids()) and time.monotonic() < until:
            for pid in pids:
                if pid not in signalled:
                    signalled.add(pid)
                    self._signal_one(pid, number)
            _wait_for_end(pids[0], min(0.1, max(0.0, until - time.monotonic())))

    def _signal_one(self, pid: int, number: signal.Signals) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            if self._has_mark(pid):
                signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            pass  # it has ended by itself
        finally:
            os.close(pidfd)


def _wait_for_end(pid: int, timeout_s: float) -> None:
    """Wait until the process has ended (whether its parent has noticed or not)."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()  # select() cannot wait for descriptors from 1024 on
        poll.register(pidfd, select.POLLIN)
        poll.poll(timeout_s * 1000)
    finally:
        os.close(pidfd)
