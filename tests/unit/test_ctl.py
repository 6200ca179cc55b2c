"""What ``ctl`` says, and how it reads its command line."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from shotover_gevent.cli import main
from shotover_gevent.ctl import _duration, sessions_text, status_text
from shotover_gevent.ctl_top import PATIENCE, Watch
from shotover_gevent.errors import HotReloadError


def status(pid: int = 7, **sums: int) -> dict[str, Any]:
    """How things are, with one source."""
    source = {
        "name": "v", "type": "Valkey", "address": "127.0.0.1:1", "listener": "accepting", "sessions": 2,
        "connection_limit": 512, "requests": 0, "bytes_received": 0, "bytes_sent": 0,
        "session_states": {"idle": 1, "running": 1, "blocked": 0, "held": 0}, **sums}
    return {
        "version": "1", "pid": pid, "state": "serving", "ready": True, "obstacles": [], "uptime_s": 61.0,
        "memory_bytes": 1024, "descriptors": 9, "sources": [source], "upstreams": [], "last_reload": None}


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("60s", 60), ("1.5m", 90), ("2h", 7200)])
def test_times_have_units(text: str, seconds: float) -> None:
    """Seconds without one."""
    assert _duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "1d", "x", "5 s", "200h", "1e3"])
def test_other_times_are_wrong(text: str) -> None:
    """The way out is in the text."""
    with pytest.raises(argparse.ArgumentTypeError, match="such as 90, 60s, 5m or 1h"):
        _duration(text)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ctl"], "the following arguments are required: COMMAND"),
        (["ctl", "status"], "the following arguments are required: --hotreload-socket"),
        (["ctl", "sessions", "--hotreload-socket", "x", "--now"], "--now needs --close ID"),
        (["ctl", "sessions", "--hotreload-socket", "x", "--close", "0"], "'0' is not a number from 1 on"),
        (["ctl", "drain", "--hotreload-socket", "x", "--seconds", "no"], "'no' is not a time up to a week"),
        (["ctl", "top", "--hotreload-socket", "x", "--wrong"], "unrecognized arguments: --wrong"),
    ],
)
def test_wrong_usage_is_explained(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With exit code 2 and the usage of the command concerned."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert (caught.value.code, said in capsys.readouterr().err) == (2, True)


def test_a_status_for_people() -> None:
    """Not ready, databases, a reload that failed."""
    found = status()
    found |= {"ready": False, "obstacles": ["a", "b"], "last_reload": {
        "result": "failed", "reason": "it broke", "ended_at": 0.0}}
    found["upstreams"] = [{
        "address": "db:1", "transform": "T", "chain": "c", "state": "failing", "connections": 0,
        "connects": 1, "failures": 2}]
    lines = status_text(found).splitlines()
    assert lines[0] == "shotover-gevent 1, process 7, serving, not ready: a; b, up 1 min 1 s"
    assert lines[7].split() == ["db:1", "T", "of", "c", "failing", "0", "1", "2"]
    assert lines[-1].startswith("last reload: failed, ") and lines[-1].endswith(" ago: it broke")


def test_no_sessions_are_a_short_list() -> None:
    """Just their number."""
    assert sessions_text([]) == "0 sessions"


def test_rates_are_differences() -> None:
    """Between two looks; a process that took over starts anew."""
    now, looks = [0.0], [
        status(), status(requests=10, bytes_sent=1000), status(pid=8, requests=4)]
    watch = Watch(lambda: looks.pop(0), lambda: now[0])
    rates = []
    for now[0] in (2.0, 4.0):
        watch.look()
        rates.append((watch.rates["v"]["requests_per_s"], watch.rates["v"]["sent_per_s"]))
    assert rates == [(5.0, 500.0), (2.0, 0.0)]


def test_top_is_patient_for_a_while() -> None:
    """What it knew stays on the screen, with what is wrong; then it gives up."""
    found: list[dict[str, Any]] = [status()]

    def look() -> dict[str, Any]:
        if not found:
            raise HotReloadError("nobody there")
        return found.pop()

    watch = Watch(look)
    for _ in range(PATIENCE - 1):
        watch.look()
    screen = watch.screen()
    with pytest.raises(HotReloadError):
        watch.look()
    assert (screen[0].startswith("shotover-gevent 1  process 7  ready"), screen[-2:]) == (
        True, ["nobody there", "q quits"])
