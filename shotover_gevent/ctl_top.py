"""``shotover-gevent ctl top``: the sources of a process, live.

Each look asks the process for its sums; a rate is the difference to the look before. A reload in between
changes the process: its sums begin anew, and so does the difference.
"""

from __future__ import annotations

import contextlib
import curses
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from shotover_gevent.errors import HotReloadError, causes
from shotover_gevent.exits import EXIT_OK
from shotover_gevent.terminal import is_terminal, size, span, table

REFRESH_S = 1.0

# How many looks in a row may find nobody: a process that is being replaced answers at any time, one
# that is started anew needs some seconds.
PATIENCE = 5

Look = Callable[[], dict[str, Any]]
Say = Callable[[str, TextIO], None]

_SUMS = {"requests_per_s": "requests", "received_per_s": "bytes_received", "sent_per_s": "bytes_sent"}


class Watch:
    """Looks again and again. ``rates`` are those between the last two looks, by source."""

    def __init__(self, look: Look, clock: Callable[[], float] = time.monotonic) -> None:
        self._look = look
        self._clock = clock
        self._at = clock()
        self._misses = 0
        self.found = look()
        self.rates: dict[str, dict[str, float]] = {
            each["name"]: dict.fromkeys(_SUMS, 0.0) for each in self.found["sources"]}
        self.problem = ""

    def look(self) -> None:
        """Look again. Raises ``HotReloadError`` when nobody has answered for :data:`PATIENCE` looks."""
        try:
            found = self._look()
        except HotReloadError as error:
            self._misses += 1
            self.problem = ": ".join(causes(error))
            if self._misses >= PATIENCE:
                raise
            return
        self._misses, self.problem = 0, ""
        now = self._clock()
        before, self.found = self.found, found
        seconds, self._at = max(now - self._at, 1e-3), now
        sums = {each["name"]: each for each in before["sources"]} if before["pid"] == found["pid"] else {}
        self.rates = {
            each["name"]: {
                rate: (each[name] - sums.get(each["name"], {}).get(name, 0)) / seconds
                for rate, name in _SUMS.items()}
            for each in found["sources"]}

    def as_json(self) -> str:
        """One line."""
        sources = [
            {"name": each["name"], "sessions": each["sessions"], **{
                name: round(rate, 1) for name, rate in self.rates[each["name"]].items()}}
            for each in self.found["sources"]]
        return json.dumps({"at": round(time.time(), 3), "pid": self.found["pid"], "sources": sources})

    def lines(self) -> Iterator[str]:
        """A line for each source, for whoever has no terminal."""
        at = time.strftime("%H:%M:%S")
        for each in self.found["sources"]:
            rates = self.rates[each["name"]]
            yield (
                f"{at} {each['name']}: {rates['requests_per_s']:.0f} requests/s, "
                f"{each['sessions']} sessions, {size(rates['received_per_s'])}/s in, "
                f"{size(rates['sent_per_s'])}/s out")

    def screen(self) -> list[str]:
        """What a terminal shows."""
        found = self.found
        ready = "ready" if found["ready"] else "; ".join(found["obstacles"])
        head = (
            f"shotover-gevent {found['version']}  process {found['pid']}  {ready}  "
            f"up {span(found['uptime_s'])}  {size(found['memory_bytes'])}")
        rows = [self._row(each, self.rates[each["name"]]) for each in found["sources"]]
        lines = [head, "", *table(
            ("source", "type", "requests/s", "sessions", "running", "blocked", "in/s", "out/s"), rows,
            right=(2, 3, 4, 5, 6, 7))]
        failing = [each for each in found["upstreams"] if each["state"] == "failing"]
        lines += ["", *(f"{each['address']} fails: {each['failure']}" for each in failing)]
        return [*lines, self.problem, "q quits"]

    def _row(self, source: Mapping[str, Any], rates: Mapping[str, float]) -> tuple[str, ...]:
        states = source["session_states"]
        return (
            source["name"], source["type"], f"{rates['requests_per_s']:.0f}",
            f"{source['sessions']}/{source['connection_limit']}", str(states["running"]),
            str(states["blocked"]), size(rates["received_per_s"]), size(rates["sent_per_s"]))


def run(look: Look, count: int | None, is_json: bool, say: Say) -> int:
    """Show until ``q``, an interrupt, or ``count`` refreshes; returns the exit code."""
    watch = Watch(look)
    if not is_json and is_terminal(sys.stdout) and is_terminal(sys.stdin):
        with contextlib.suppress(curses.error):  # a terminal of a kind that nobody has described
            curses.wrapper(_show, watch, count)
            return EXIT_OK
    try:
        number = 0
        while count is None or number < count:
            number += 1
            time.sleep(REFRESH_S)
            watch.look()
            say(watch.as_json() if is_json else "\n".join(watch.lines()), sys.stdout)
    except KeyboardInterrupt:
        pass
    return EXIT_OK


def _show(screen: curses.window, watch: Watch, count: int | None) -> None:
    with contextlib.suppress(curses.error):
        curses.curs_set(0)
    screen.timeout(int(REFRESH_S * 1000))
    number = 0
    due = time.monotonic()
    while count is None or number < count:
        _draw(screen, watch.screen())
        try:
            key = screen.getch()
        except KeyboardInterrupt:
            return
        if key in (ord("q"), ord("Q"), 27):
            return
        if time.monotonic() - due >= REFRESH_S * 0.9:  # not for every key, nor for a resize
            due = time.monotonic()
            watch.look()
            number += 1


def _draw(screen: curses.window, lines: list[str]) -> None:
    height, width = screen.getmaxyx()
    screen.erase()
    for number, line in enumerate(lines[:height]):
        # The last column stays free: writing there moves the cursor off the screen, which is an error.
        screen.addnstr(number, 0, line, max(0, width - 1), curses.A_BOLD if number in (0, 2) else 0)
    screen.refresh()
