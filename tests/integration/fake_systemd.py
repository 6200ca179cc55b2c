"""What systemd does with the unit of ``deploy/systemd``, for a machine where it cannot run.

It reads the unit file, runs its command lines in the order and with the environment that systemd gives
them, listens on a notify socket, and keeps the pid of the main process as systemd would. It knows as
much of ``systemctl`` as the documentation uses. It does not confine anything.
"""

from __future__ import annotations

import configparser
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from shotover_gevent.testing import Family
from tests.harness import eventually
from tests.integration.manager import Manager, is_alive

# No command of the unit takes longer on an idle machine than a few seconds.
WAIT_S = 60.0


class Failed(Exception):
    """A command of ``systemctl`` has failed; what it printed is the text."""


class Systemd:
    """One service. ``translate`` turns the paths of the unit into those of the test."""

    def __init__(
        self, folder: Path, translate: Callable[[str], str], environ: Mapping[str, str]
    ) -> None:
        self.unit_path = Path(translate("/etc/systemd/system/shotover-gevent.service"))
        self.family = Family()
        self.journal = folder / "journal"
        self.state = "inactive"
        #: The main processes so far; the last one is that of now.
        self.mains: list[int] = []
        self._translate = translate
        self._environ = self.family.environ(environ)
        self._manager = Manager(folder / "notify")
        self._service: Mapping[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def systemctl(self, verb: str, *arguments: str) -> str:
        """Do what the command would, and return what it prints. Raises :class:`Failed`."""
        verbs = {"daemon-reload": self._load, "enable": self._start, "status": self._status,
                 "reload": self._reload, "stop": self._stop}
        assert set(arguments) <= {"--now", "shotover-gevent"}, arguments
        return verbs[verb]()

    def close(self) -> None:
        """End whatever still runs."""
        self.family.stop()
        if self._process is not None:
            self._process.wait(WAIT_S)
        self._manager.__exit__()

    @property
    def status_text(self) -> str:
        """What the service has said of itself last."""
        self._manager.pending()
        return next((m["STATUS"] for m in reversed(self._manager.messages) if "STATUS" in m), "")

    def _load(self) -> str:
        parser = configparser.ConfigParser(interpolation=None, delimiters=["="])
        parser.optionxform = str  # type: ignore[assignment]
        parser.read_string(self.unit_path.read_text())
        self._service = parser["Service"]
        assert (self._service["Type"], self._service["NotifyAccess"]) == ("notify", "all")
        return ""

    def _command(self, key: str) -> list[str]:
        return shlex.split(self._translate(self._service[key].removeprefix("-")))

    def _run(self, key: str) -> int:
        """Run a command line of the unit to its end, into the journal."""
        with self.journal.open("ab") as journal:
            return subprocess.run(
                self._command(key), env={**self._environ, **self._manager.environ}, cwd="/",
                stdin=subprocess.DEVNULL, stdout=journal, stderr=journal, check=False,
                timeout=WAIT_S).returncode

    def _start(self) -> str:
        runtime = Path(self._translate(f"/run/{self._service['RuntimeDirectory']}"))
        runtime.mkdir(mode=int(self._service["RuntimeDirectoryMode"], 8), parents=True)
        if self._run("ExecStartPre"):
            raise Failed("the control process exited with error code")
        with self.journal.open("ab") as journal:
            self._process = subprocess.Popen(
                self._command("ExecStart"), env={**self._environ, **self._manager.environ}, cwd="/",
                stdin=subprocess.DEVNULL, stdout=journal, stderr=journal, start_new_session=True)
        self._manager.until(READY="1")
        self._note_main()
        self.state = "active"
        return ""

    def _note_main(self) -> None:
        self._manager.pending()
        assert self._manager.main_pid is not None
        if self.mains[-1:] != [self._manager.main_pid]:
            self.mains.append(self._manager.main_pid)

    def _status(self) -> str:
        self._look()
        return f"Active: {self.state}\nMain PID: {self.mains[-1]}\nStatus: {self.status_text!r}\n"

    def _look(self) -> None:
        """Notice that the main process has ended by itself."""
        self._note_main()
        assert self._process is not None, "it was not started"
        self._process.poll()
        if self.state == "active" and not is_alive(self.mains[-1]):
            self._finish()

    def _reload(self) -> str:
        code = self._run("ExecReload")
        self._look()
        if code:
            raise Failed(f"Job for shotover-gevent.service failed: ExecReload ended with {code}")
        assert self.state == "active"
        return ""

    def _stop(self) -> str:
        self._look()
        if self.state == "active":
            self._finish()
        return ""

    def _finish(self) -> None:
        """ExecStop, then SIGTERM to the whole control group, then SIGKILL."""
        stopped = self._run("ExecStop")
        assert stopped == 0 or self._service["ExecStop"].startswith("-")
        for pid in self.family.pids():
            os.kill(pid, signal.SIGTERM)
        eventually(lambda: not [pid for pid in self.family.pids() if is_alive(pid)], WAIT_S)
        assert self._process is not None, "it was not started"
        self._process.wait(WAIT_S)
        self.state = "inactive"
