"""``shotover-gevent reload --plan``: what a reload would do now. Nothing is touched.

Steps:
 1. Ask the process that serves how things are (``Status``), and ``/proc`` how it was started.
 2. Build what a successor would build of its command line: both files, every chain.
 3. Compare: which listeners stay, come and go; which sessions find their address and chain again.

What cannot be known before: sessions that are busy, or that their state pins to their process; and
whatever is different in the environment of the successor, since all is built in this process.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from shotover_gevent.config.check import check_files
from shotover_gevent.config.topology import Topology
from shotover_gevent.deadline import Deadline
from shotover_gevent.errors import HotReloadError, ShotoverError, causes, os_error_text
from shotover_gevent.hotreload.client import connect, resolve
from shotover_gevent.hotreload.command import environ_of, predecessor_at, serve_command
from shotover_gevent.hotreload.dialect import PROTOCOL, STEP_S, LeaseLost, Line, fingerprint
from shotover_gevent.hotreload.dialect import field as field_of
from shotover_gevent.hotreload.reason import TLS
from shotover_gevent.net.address import Address
from shotover_gevent.net.listener import bind_error
from shotover_gevent.sources.source import Source

KEPT, ADDED, REMOVED = "kept", "added", "removed"


class Built(Protocol):
    """What a successor would serve: the proxy, not started."""

    sources: Sequence[Source]


Parse = Callable[[Sequence[str]], argparse.Namespace]
Build = Callable[[Topology], Built]


@dataclass
class Change:
    """What would become of one listener, and of its sessions.

    ``drained`` is why its sessions would not move, ``problem`` why an added address cannot be bound.
    """

    what: str
    name: str
    address: str
    sessions: int = 0
    moved: int = 0
    drained: str = ""
    problem: str = ""

    def as_text(self) -> str:
        """One line."""
        return f"  {self.what:<8} {self.address}  {self.name}  {self._outlook()}"

    def _outlook(self) -> str:
        if self.what == ADDED:
            return f"cannot be bound: {self.problem}" if self.problem else "can be bound"
        if not self.sessions:
            return "no sessions"
        parts = [f"{self.moved} would move"] if self.moved else []
        if left := self.sessions - self.moved:
            parts.append(f"{left} would be drained: {self.drained}")
        return "sessions: " + ", ".join(parts)


@dataclass
class Plan:
    """What a reload would do; its fields are the keys of ``--json``, as in a report."""

    verdict: str = "plan"
    reason: str = ""
    duration_s: float = 0.0
    predecessor_pid: int | None = None
    listeners: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys((KEPT, ADDED, REMOVED), 0))
    sessions: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("moved", "drained", "kept", "dropped"), 0))
    reasons: dict[str, int] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)

    def add(self, changes: Sequence[Change]) -> None:
        """Count what would happen, and fail if it cannot."""
        self.changes = list(changes)
        self.listeners.update(Counter(change.what for change in changes))
        reasons: Counter[str] = Counter()
        for change in changes:
            self.sessions["moved"] += change.moved
            if left := change.sessions - change.moved:
                self.sessions["drained"] += left
                reasons[change.drained] += left
        self.reasons = dict(reasons)
        if problems := [change for change in changes if change.problem]:
            self.verdict = "failed"
            self.reason = "\n".join(
                f"cannot listen on {each.address}: {each.problem}" for each in problems)

    @property
    def is_ok(self) -> bool:
        """Whether a reload would begin; what happens then, only it can tell."""
        return self.verdict == "plan"

    def as_json(self) -> str:
        """One JSON object."""
        return json.dumps(asdict(self))

    def as_text(self) -> str:
        """Lines for a person."""
        lines = [change.as_text() for change in self.changes]
        if self.is_ok:
            counts = ", ".join(f"{count} {what}" for what, count in self.listeners.items())
            moved, drained = self.sessions["moved"], self.sessions["drained"]
            lines = [
                f"a reload would replace process {self.predecessor_pid}; listeners: {counts}",
                *lines, f"sessions: {moved} would move, {drained} would be drained"]
        else:
            lines.append(f"a reload would fail: {self.reason}")
        return "\n".join([*lines, "nothing was done"])


def plan(path: str, command: Sequence[str], parse: Parse, build: Build) -> Plan:
    """What a reload of the process that serves ``path`` would do.

    ``command`` replaces its command line; ``parse`` reads one without the program, ``build`` makes what
    would be served, without starting it.
    """
    started = time.monotonic()
    result = Plan()
    try:
        result.predecessor_pid = predecessor_at(path)
        status = ask_status(path)
        result.add(compare(status, _successor(result.predecessor_pid, command, parse, build)))
    except ShotoverError as error:
        result.verdict, result.reason = "failed", ": ".join(causes(error))
    result.duration_s = round(time.monotonic() - started, 3)
    return result


def ask_status(path: str) -> dict[str, Any]:
    """How things are with the process that serves ``path``. Raises ``HotReloadError``."""
    with Line(connect(path, Deadline.after(STEP_S))) as line:
        line.send("Status", {})
        try:
            _, status, _ = line.expect("Status")
        except LeaseLost as error:
            if isinstance(error.__cause__, TimeoutError):
                raise
            raise HotReloadError(
                "the process that serves cannot say what it serves: it speaks Shotover's dialect only; "
                "a reload would take over its listening sockets and move no session") from error
    if (protocol := field_of(status, "protocol", int)) != PROTOCOL:
        raise HotReloadError(f"the process that serves speaks protocol {protocol}, not {PROTOCOL}")
    return dict(status)


def compare(status: dict[str, Any], sources: Sequence[Source]) -> list[Change]:
    """What would become of each listener: those of ``status`` first, then those that are added."""
    sessions = field_of(status, "sessions", dict)
    after = {_bound(source.listen_addr): source for source in sources}
    changes = []
    for entry in field_of(status, "listeners", list):
        address = field_of(entry, "address", str)
        change = Change(KEPT, field_of(entry, "name", str), address, int(sessions.get(address, 0)))
        source = after.pop(address, None)
        if source is None:
            change.what, change.drained = REMOVED, f"nothing listens at {address}"
        elif fingerprint(source.state_identity) != entry.get("identity"):
            change.drained = "the chain has changed"
        elif source.tls is not None:
            change.drained = TLS
        else:
            change.moved = min(change.sessions, source.connection_limit)
            if change.moved < change.sessions:
                change.drained = "the connection limit is reached"
        changes.append(change)
    for address, source in after.items():
        error = bind_error(source.listen_addr)
        problem = os_error_text(error) if error is not None else ""
        changes.append(Change(ADDED, source.name, address, problem=problem))
    return changes


def _bound(address: Address) -> str:
    """How a process that listens there tells its address."""
    found = resolve(address)
    return str(address) if found is None else str(Address.of(found))


def _successor(
    predecessor: int, command: Sequence[str], parse: Parse, build: Build
) -> Sequence[Source]:
    """The sources that a successor of the process would have. Raises ``ShotoverError``."""
    proc = Path("/proc", str(predecessor))
    try:
        command = list(command) or serve_command(proc)
        folder = os.readlink(proc / "cwd")
        environ = environ_of(proc)
    except OSError as error:
        raise HotReloadError(f"cannot see how process {predecessor} was started: {error}") from error
    with _in_folder(folder, command):
        options = _options(command, parse)
        found = check_files(options.config_file, options.topology_file, environ=environ)
        if found.topology is None or found.config is None:
            raise HotReloadError(found.as_text())
        try:
            return build(found.topology).sources
        except ShotoverError:
            raise
        except Exception as error:  # a transform of theirs may raise anything
            raise HotReloadError(f"the chains cannot be built: {error!r}") from error


@contextlib.contextmanager
def _in_folder(folder: str, command: Sequence[str]) -> Iterator[None]:
    """Where the files of the command line are; ``python -m`` finds modules there, too."""
    before = list(sys.path)
    with contextlib.chdir(folder):
        if "-m" in command:
            sys.path.insert(0, folder)
        try:
            yield
        finally:
            sys.path[:] = before


def _options(command: Sequence[str], parse: Parse) -> argparse.Namespace:
    if "serve" not in command:
        raise HotReloadError(f"not a command line of shotover-gevent serve: {' '.join(command)}")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse(command[command.index("serve"):])
    except SystemExit:
        raise HotReloadError(
            f"the successor's command line is wrong: {said.getvalue().strip()}") from None
