"""``SIGHUP``: a process has itself replaced, and logs how that went.

Rules:
 1. The command ``reload`` does the work, as a process of its own. It is started by ``subprocess``, which
    forks and execs in C: nothing of ours runs in a copy of this process.
 2. One reload at a time: a further signal is refused with a line in the log.
 3. A reload that works ends this process, sometimes before the command has reported. The end waits
    for the report, but not for long.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import gevent
from gevent import socket as gsocket

from shotover_gevent.deadline import Deadline
from shotover_gevent.hotreload.notify import Notifier

logger = logging.getLogger(__name__)

# The command keeps its own deadline; this much later it counts as stuck, and is ended.
TIMEOUT_S = 60.0
EXTRA_S = 10.0

# The command reports within milliseconds after its successor serves.
LAST_WORD_S = 2.0

# A report is one line; a reason may have some hundred.
MAX_REPORT_BYTES = 1024 * 1024


class SelfReload:
    """Reloads this process through the control socket at ``path``, if it has one.

    ``is_serving`` says whether there is anything to be replaced: a process that starts, or that has
    been replaced, is not the one at the control socket.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, is_serving: Callable[[], bool],
        timeout_s: float = TIMEOUT_S, notifier: Notifier | None = None,
    ) -> None:
        self._path = path
        self._is_serving = is_serving
        self._timeout_s = timeout_s
        self._notifier = Notifier({}) if notifier is None else notifier
        self._running: gevent.Greenlet | None = None

    @property
    def is_running(self) -> bool:
        """Whether a reload is in progress."""
        return self._running is not None and not self._running.ready()

    def start(self) -> None:
        """Start a reload, or log why not. Does not wait."""
        if self._path is None:
            logger.warning(
                "SIGHUP: this process cannot be reloaded, since it has no control socket; "
                "start it with --hotreload-socket PATH")
        elif self.is_running:
            logger.warning("SIGHUP refused: a reload is in progress")
        elif not self._is_serving():
            logger.warning("SIGHUP refused: this process does not serve yet, or no longer")
        else:
            self._running = gevent.spawn(self._run, os.fspath(self._path))

    def join(self, timeout_s: float = LAST_WORD_S) -> None:
        """Wait for the verdict of a reload in progress, so that it is logged."""
        if self._running is not None:
            self._running.join(timeout_s)

    def _run(self, path: str) -> None:
        logger.info("SIGHUP: starting a successor")
        self._notifier.reloading()
        command = [
            sys.executable, "-m", "shotover_gevent", "reload", "--hotreload-socket", path,
            "--timeout", str(self._timeout_s), "--json",
        ]
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        except OSError as error:
            logger.error("hot reload: failed: cannot run %s: %s", command[0], error)
            self._notifier.not_reloaded(str(error))
            return
        try:
            output = _read_all(process, Deadline.after(self._timeout_s + EXTRA_S))
        finally:
            # At its end already, unless it is stuck, or this greenlet has been killed.
            if process.poll() is None:
                process.kill()
            process.wait()
        reason = log_verdict(output, process.returncode)
        if reason is not None:
            self._notifier.not_reloaded(reason)


def _read_all(process: subprocess.Popen[bytes], deadline: Deadline) -> bytes:
    """What the process writes until it has ended, or until the deadline."""
    assert process.stdout is not None
    number = process.stdout.fileno()
    pidfd = os.pidfd_open(process.pid)
    output = b""
    try:
        with process.stdout:
            while len(output) < MAX_REPORT_BYTES:
                gsocket.wait_read(number, deadline.left(), TimeoutError())
                if not (data := os.read(number, 65536)):
                    break
                output += data
        gsocket.wait_read(pidfd, deadline.left(), TimeoutError())
    except TimeoutError:
        pass
    finally:
        os.close(pidfd)
    return output


def log_verdict(output: bytes, code: int) -> str | None:
    """Log the report of the command: one line, with its numbers as fields. Returns why the reload
    failed; ``None`` if it has not."""
    text = output.decode(errors="replace").strip()
    try:
        report: dict[str, Any] = json.loads(text)
        verdict, reason = report["verdict"], report["reason"]
    except (ValueError, TypeError, KeyError):
        logger.error(
            "hot reload: failed: the command ended with %d and said: %s", code, text or "nothing")
        return text or "the command said nothing"
    if verdict != "ok":
        logger.error("hot reload: failed: %s", reason)
        return str(reason)
    sessions, listeners = report["sessions"], report["listeners"]
    logger.info(
        "hot reload: ok: process %d has taken over", report["successor_pid"],
        extra={"fields": {
            **sessions, **{f"listeners_{what}": count for what, count in listeners.items()},
            "duration_s": report["duration_s"], "longest_pause_ms": report["longest_pause_ms"],
        }})
    return None
