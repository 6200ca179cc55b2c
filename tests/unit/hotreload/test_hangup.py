"""SIGHUP starts one reload at a time, and its verdict is one line of the log."""

import json
import sys

import pytest
from reload_kit import wait_until

from shotover_gevent.hotreload import hangup
from shotover_gevent.hotreload.hangup import SelfReload, log_verdict

REPORT = {
    "verdict": "ok", "reason": "", "duration_s": 0.5, "predecessor_pid": 1, "successor_pid": 2,
    "listeners": {"kept": 1, "added": 0, "removed": 0},
    "sessions": {"moved": 3, "drained": 0, "kept": 0, "dropped": 0}, "reasons": {},
    "longest_pause_ms": 1.5}


def lines(log):
    """Level and text of what was logged."""
    return [(record.levelname, record.getMessage()) for record in log.records]


def program(monkeypatch, code):
    """Let the command be a program of the test."""
    original = hangup.subprocess.Popen
    monkeypatch.setattr(
        hangup.subprocess, "Popen", lambda command, **options: original([sys.executable, "-c", code], **options))


def test_a_report_is_one_line_with_its_numbers(log):
    """The numbers are fields, so that they can be found by name."""
    log_verdict(json.dumps(REPORT).encode(), 0)
    (record,) = log.records
    assert (record.levelname, record.getMessage(), record.fields) == (
        "INFO", "hot reload: ok: process 2 has taken over", {
            "moved": 3, "drained": 0, "kept": 0, "dropped": 0, "listeners_kept": 1, "listeners_added": 0,
            "listeners_removed": 0, "duration_s": 0.5, "longest_pause_ms": 1.5})


@pytest.mark.parametrize("output,text", [
    (json.dumps(REPORT | {"verdict": "failed", "reason": "because"}).encode(), "because"),
    (b"", "the command ended with 3 and said: nothing"),
    (b"Traceback\n", "the command ended with 3 and said: Traceback"),
    (b"[]", "the command ended with 3 and said: []"),
])
def test_anything_else_is_an_error(log, output, text):
    """A reason is told as it is, and so is what is no report."""
    log_verdict(output, 3)
    assert lines(log) == [("ERROR", f"hot reload: failed: {text}")]


@pytest.mark.parametrize("path,is_serving,text", [
    (None, True, "SIGHUP: this process cannot be reloaded, since it has no control socket; start it "
                 "with --hotreload-socket PATH"),
    ("x.sock", False, "SIGHUP refused: this process does not serve yet, or no longer"),
])
def test_what_cannot_be_reloaded_says_so(log, path, is_serving, text):
    """Nothing is started."""
    reload = SelfReload(path, lambda: is_serving)
    reload.start()
    assert (lines(log), reload.is_running) == ([("WARNING", text)], False)


def test_a_second_one_is_refused_and_a_third_works(log, monkeypatch):
    """One at a time; the command is asked for each."""
    program(monkeypatch, f"print({json.dumps(json.dumps(REPORT))})")
    reload = SelfReload("x.sock", lambda: True)
    reload.start()
    reload.start()
    wait_until(lambda: not reload.is_running, 20)
    reload.start()
    reload.join(20)
    started, ok = ("INFO", "SIGHUP: starting a successor"), ("INFO", "hot reload: ok: process 2 has taken over")
    assert sorted(lines(log)) == sorted(
        [("WARNING", "SIGHUP refused: a reload is in progress"), started, ok, started, ok])


def test_a_command_that_hangs_is_ended(log, monkeypatch):
    """After its own deadline and a bit, by SIGKILL."""
    program(monkeypatch, "import signal; signal.pause()")
    monkeypatch.setattr(hangup, "EXTRA_S", 0.05)
    reload = SelfReload("x.sock", lambda: True, timeout_s=0.05)
    reload.start()
    reload.join(20)
    assert lines(log)[-1] == ("ERROR", "hot reload: failed: the command ended with -9 and said: nothing")


def test_the_end_of_the_process_does_not_wait_for_long(monkeypatch):
    """A reload in progress is waited for until the time given is over."""
    program(monkeypatch, "import signal; signal.pause()")
    reload = SelfReload("x.sock", lambda: True, timeout_s=0.05)
    reload.join()
    reload.start()
    reload.join(0.01)
    is_running = reload.is_running
    reload._running.kill()
    assert is_running is True
