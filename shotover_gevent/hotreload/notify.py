"""Telling whoever started us how things are, by the protocol of sd_notify(3).

Messages are datagrams of ``NAME=value`` lines to a path, or to a name in the abstract namespace after
``@``. There are two who want to know:

- The service manager (systemd: ``Type=notify``), at ``NOTIFY_SOCKET``. It is told ``READY=1`` with
  ``MAINPID``, ``STATUS``, and ``STOPPING=1``. A successor that a reload starts inherits the variable,
  so that the manager knows the process that serves through any number of reloads.
- The command that started us for a reload, at :data:`COMMAND_VARIABLE`. It is told ``READY=1`` with an
  account of the reload, or ``STATUS`` with the reason of a failure.

Rules:
 1. A process that has been replaced names its successor to the manager before it may end, and says
    nothing else to it from then on: ``STOPPING=1`` would stop the service.
 2. A successor that fails tells the command, not the manager: the service has not failed.
 3. That nobody listens is worth a line in the log, not more.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Mapping, MutableMapping
from typing import Any

import gevent
from gevent import socket as gsocket

logger = logging.getLogger(__name__)

VARIABLE = "NOTIFY_SOCKET"

#: Names the socket of the command that started a successor.
COMMAND_VARIABLE = "SHOTOVER_GEVENT_NOTIFY_SOCKET"

#: A field of our own, as the protocol allows after ``X_``: how a reload went, as JSON.
RELOAD = "X_SHOTOVER_GEVENT_RELOAD"

#: Another one: what a successor is doing, for a person who waits.
PROGRESS = "X_SHOTOVER_GEVENT_PROGRESS"

# What the manager sets when it wants to hear from us regularly: sd_watchdog_enabled(3).
WATCHDOG_VARIABLE = "WATCHDOG_USEC"
WATCHDOG_PID_VARIABLE = "WATCHDOG_PID"


# A receiver's queue is full only if nobody reads it. Clients are served meanwhile.
SEND_S = 5.0


def send(path: str, timeout_s: float = SEND_S, /, **fields: object) -> None:
    """Send the fields, upper-cased, to a socket. Raises ``OSError`` when nobody takes them in time; with
    0 seconds that is ``BlockingIOError``."""
    text = "\n".join(f"{name.upper()}={_one_line(value)}" for name, value in fields.items())
    address = "\0" + path[1:] if path.startswith("@") else path
    with gsocket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout_s)
        sock.connect(address)  # else a full queue would count as writable
        sock.send(text.encode())


def parse(message: bytes) -> dict[str, str]:
    """The fields of a message; lines of multi-line values are joined as they were."""
    fields = (line.partition("=") for line in message.decode(errors="replace").split("\n"))
    return {name: value.replace("\r", "\n") for name, equals, value in fields if equals}


def _one_line(value: object) -> str:
    """A newline ends a field, so those of the value travel as carriage returns."""
    return str(value).replace("\n", "\r")


class Notifier:
    """Tells both who want to know; does nothing where nobody does."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Read the variables; the one of the command is taken out, so that no child has it."""
        self._manager = environ.get(VARIABLE)
        self._command = environ.pop(COMMAND_VARIABLE, None)
        #: Whether the command that reloads has started us.
        self.is_successor = self._command is not None
        self._interval_s = _watchdog_interval_s(environ, self.is_successor)
        self._watchdog: gevent.Greenlet | None = None
        self._is_replaced = False

    def ready(self, status: str, last_reload: Mapping[str, Any] | None) -> None:
        """This process serves from now on; ``last_reload`` is how it took over."""
        fields: dict[str, object] = {"ready": 1, "mainpid": os.getpid(), "status": status}
        if last_reload is not None:
            fields[RELOAD] = json.dumps(last_reload)
        self._tell(self._manager, **fields)
        self._tell(self._command, **fields)
        if self._interval_s is not None and self._manager:
            self._watchdog = gevent.spawn(self._ping, self._interval_s)

    def progress(self, text: str) -> None:
        """Tell the command what this process is doing. It never waits: a text may be lost."""
        if self._command is not None:
            with contextlib.suppress(OSError):
                send(self._command, 0.0, **{PROGRESS: text})

    def failed(self, reason: str) -> None:
        """This process will not serve."""
        self._tell(self._manager if self._command is None else self._command, status=reason)

    def reloading(self) -> None:
        """A successor is being started by this process itself."""
        self._tell_manager(
            reloading=1, monotonic_usec=time.monotonic_ns() // 1000, status="starting a successor")

    def not_reloaded(self, reason: str) -> None:
        """There is no successor; this process goes on."""
        self._tell_manager(ready=1, status=f"serving; the last reload failed: {reason}")

    def stopping(self) -> None:
        """A signal ends this process."""
        self._tell_manager(stopping=1, status="answering what has been asked, then ending")

    def replaced(self, pid: int) -> None:
        """Another process serves from now on."""
        self._tell_manager(mainpid=pid)
        self._is_replaced = True
        self.close()

    def close(self) -> None:
        """Stop the watchdog's greenlet."""
        if self._watchdog is not None:
            self._watchdog.kill(block=False)

    def _ping(self, interval_s: float) -> None:
        while True:
            # A manager that has not read the ones before is not waiting for another.
            with contextlib.suppress(OSError):
                send(self._manager or "", 0.0, watchdog=1)
            gevent.sleep(interval_s)

    def _tell_manager(self, **fields: object) -> None:
        if not self._is_replaced:
            self._tell(self._manager, **fields)

    def _tell(self, path: str | None, **fields: object) -> None:
        if not path:
            return
        try:
            send(path, **fields)
        except OSError as error:
            logger.warning("cannot report to %s: %s", path, error)


def _watchdog_interval_s(environ: Mapping[str, str], is_successor: bool) -> float | None:
    """How often to say that the hub turns: twice as often as the manager wants to hear it.

    The variables name the first process of the service; a successor is heard in its place.
    """
    pid = environ.get(WATCHDOG_PID_VARIABLE)
    if pid is not None and pid != str(os.getpid()) and not is_successor:
        return None
    wanted = environ.get(WATCHDOG_VARIABLE, "")
    return int(wanted) / 2_000_000 if wanted.isdigit() and int(wanted) else None
