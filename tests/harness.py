"""What tests of the running proxy share: the process, a client that compares bytes, and polling.

Everything here uses plain sockets, threads and processes, so that nothing of the code under test
takes part in judging it.

A test reads like this::

    with ProxyProcess(topology) as proxy, Client(port) as client:
        client.send(b"PING\\r\\n")
        client.expect(b"+PONG\\r\\n")

At the end of the block the proxy is stopped by SIGTERM, must end with 0, and must not have logged a
warning or an error that the test did not list.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from shotover_gevent.testing.family import Family
from shotover_gevent.testing.port import free_port
from tests.client import Client, command

__all__ = [
    "Client", "Event", "ProxyProcess", "command", "eventually", "free_port", "unlisted_events",
]

T = TypeVar("T")

READY = "Shotover is now accepting inbound connections"

CONFIG = 'main_log_level: "info,shotover=info"\n'

# Nothing in a test takes a second on an idle machine; this is for a loaded one.
WAIT_S = 20.0

POLL_S = 0.01


def eventually(check: Callable[[], T], timeout_s: float = WAIT_S) -> T:
    """Call ``check`` until it returns something true, and return that.

    An ``AssertionError`` or an ``OSError`` (a refused connection) of ``check`` counts as "not yet";
    the last one is raised at the deadline.
    """
    until = time.monotonic() + timeout_s
    while True:
        is_over = time.monotonic() > until
        try:
            found = check()
        except (AssertionError, OSError):
            if is_over:
                raise
        else:
            if found:
                return found
            if is_over:
                raise AssertionError(f"not within {timeout_s:g} s: {check!r} returned {found!r}")
        time.sleep(POLL_S)


@dataclass(frozen=True, slots=True)
class Event:
    """One log line. ``fields`` are those of the event, without its message."""

    level: str
    target: str
    message: str
    fields: Mapping[str, Any]

    @classmethod
    def parse(cls, line: str) -> Event:
        """Read a line of ``--log-format json``. Raises ``ValueError`` for anything else."""
        document = json.loads(line)
        if not isinstance(document, dict) or "level" not in document:
            raise ValueError(f"not a log line: {line!r}")
        fields = dict(document.get("fields", {}))
        message = str(fields.pop("message", ""))
        return cls(document["level"], document.get("target", ""), message, fields)

    def __str__(self) -> str:
        return f"{self.level} {self.target}: {self.message}"


def unlisted_events(
    events: Sequence[Event], expect: Sequence[str] = (), tolerate: Sequence[str] = ()
) -> list[str]:
    """What is wrong with the warnings and errors among ``events``, in lines.

    Each must match one of the patterns (``re.search`` on the message); each pattern of ``expect``
    must be matched at least once.
    """
    loud = [event for event in events if event.level in ("WARN", "ERROR")]
    wrong = [
        f"unexpected {event}" for event in loud
        if not any(re.search(pattern, event.message) for pattern in (*expect, *tolerate))
    ]
    wrong += [
        f"no warning or error matches {pattern!r}" for pattern in expect
        if not any(re.search(pattern, event.message) for event in loud)
    ]
    return wrong


class ProxyProcess:
    """``shotover-gevent serve`` as a process of its own, in a temporary folder.

    ``topology`` and ``config`` are the texts of the files. ``expect`` and ``tolerate`` list the
    warnings and errors that must or may be logged. Successors that a reload starts write to the same
    ``events``, and are ended with it.

    A ``with`` block begins when the proxy is ready; given a ``config``, which may say to log less, it
    begins at once, and the test waits for what it needs.
    """

    program: Sequence[str] = (sys.executable, "-m", "shotover_gevent", "serve")
    #: Descriptors that the process inherits.
    pass_fds: Sequence[int] = ()

    def __init__(
        self,
        topology: str,
        config: str | None = None,
        hotreload_socket: str | os.PathLike[str] | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        *,
        expect: Sequence[str] = (),
        tolerate: Sequence[str] = (),
    ) -> None:
        self.topology = topology
        self.config = CONFIG if config is None else config
        self.hotreload_socket = hotreload_socket
        self.args = tuple(args)
        self.env = dict(env or {})
        self.expect = list(expect)
        self.tolerate = list(tolerate)
        self.family = Family()
        self.folder = Path()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[str] | None = None
        self._readers: list[threading.Thread] = []
        self._events: list[Event] = []
        self._noise: list[str] = []
        self._changed = threading.Condition()

    # -- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Write the files and start the process; does not wait until it is ready."""
        self._folder = tempfile.TemporaryDirectory(prefix="shotover-test-")
        self.folder = Path(self._folder.name)
        self.write_topology(self.topology)
        self.write_config(self.config)
        self._process = subprocess.Popen(
            self._command(), cwd=self.folder, env=self.family.environ({**os.environ, **self.env}),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            errors="replace", start_new_session=True, pass_fds=self.pass_fds)
        for stream, take in ((self._process.stdout, self._take), (self._process.stderr, self._complain)):
            reader = threading.Thread(target=self._read, args=(stream, take), daemon=True)
            reader.start()
            self._readers.append(reader)

    def _command(self) -> list[str]:
        command = [
            *self.program, "--log-format", "json",
            "-t", str(self.folder / "topology.yaml"), "-c", str(self.folder / "config.yaml"),
        ]
        if self.hotreload_socket is not None:
            command += ["--hotreload-socket", os.fspath(self.hotreload_socket)]
        return [*command, *self.args]

    def write_topology(self, text: str) -> None:
        """Replace the topology; the running process does not notice, a successor reads it."""
        (self.folder / "topology.yaml").write_text(text)

    def write_config(self, text: str) -> None:
        """Replace the configuration, as :meth:`write_topology` does."""
        (self.folder / "config.yaml").write_text(text)

    def stop(self, timeout_s: float = WAIT_S) -> int:
        """End the process by SIGTERM, and every successor; returns the exit code of the process.

        At the deadline it is killed, and the test fails. Calling it again returns the same code.
        """
        try:
            self.terminate()
            code = self.wait(timeout_s)
        finally:
            self.kill()
        return code

    def terminate(self) -> None:
        """Send SIGTERM to the process; does not wait."""
        assert self._process is not None, "the proxy was not started"
        self._process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = WAIT_S) -> int:
        """Wait until the process has ended by itself; returns its exit code."""
        assert self._process is not None, "the proxy was not started"
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the proxy still runs after {timeout_s:g} s\n{self.log}") from None

    def kill(self) -> None:
        """Leave nothing running: SIGKILL for the process itself, SIGTERM for its successors."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self.family.stop()
        for reader in self._readers:
            reader.join(WAIT_S)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def __enter__(self) -> ProxyProcess:
        self.start()
        try:
            if self.config is CONFIG:
                self.wait_ready()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            code = self.stop()
            if kind is None:
                assert code == 0, f"the proxy ended with code {code}\n{self.log}"
                self.check_log()
        finally:
            self._remove()

    def _remove(self) -> None:
        self.kill()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    # -- what it is and says --------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The process that was started; successors are in ``family.pids()``."""
        assert self._process is not None, "the proxy was not started"
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code; ``None`` while the process runs."""
        return None if self._process is None else self._process.poll()

    def descriptors(self) -> int:
        """How many descriptors the process has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def rss_bytes(self) -> int:
        """How much memory the process holds."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def events(self) -> list[Event]:
        """The log so far."""
        with self._changed:
            return list(self._events)

    @property
    def noise(self) -> list[str]:
        """Lines of stderr, and lines of stdout that are no log lines."""
        with self._changed:
            return list(self._noise)

    @property
    def log(self) -> str:
        """Everything that was written, for a person."""
        return "\n".join([*map(str, self.events), *self.noise])

    def wait_ready(self, timeout_s: float = WAIT_S) -> Event:
        """Wait until it accepts connections."""
        return self.wait_log(re.escape(READY), timeout_s)

    def wait_port(self, port: int, timeout_s: float = WAIT_S) -> None:
        """Wait until somebody listens on the port, for a proxy that does not log that it is ready."""
        def is_open() -> bool:
            if self.returncode is not None:
                raise RuntimeError(f"the proxy has ended with {self.returncode}\n{self.log}")
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        eventually(is_open, timeout_s)

    def wait_log(self, pattern: str, timeout_s: float = WAIT_S, count: int = 1) -> Event:
        """Wait for the ``count``-th event whose message matches, from the start of the log; returns it."""
        until = time.monotonic() + timeout_s
        with self._changed:
            while True:
                found = [event for event in self._events if re.search(pattern, event.message)]
                if len(found) >= count:
                    return found[count - 1]
                left = until - time.monotonic()
                if left <= 0 or not self._may_write():
                    break
                self._changed.wait(min(left, 0.1))
        when = f"within {timeout_s:g} s" if self._may_write() else f"before the end, code {self.wait()}"
        raise AssertionError(f"{pattern!r} was not logged {when}\n{self.log}")

    def check_log(self) -> None:
        """Fail if anything was logged at WARN or ERROR, or written to stderr, that the test did not list."""
        wrong = unlisted_events(self.events, self.expect, self.tolerate)
        wrong += [
            f"written besides the log: {line}" for line in self.noise
            if not any(re.search(pattern, line) for pattern in (*self.expect, *self.tolerate))
        ]
        assert not wrong, "\n".join(wrong)

    def reload(self, *args: str, timeout_s: float = WAIT_S) -> subprocess.CompletedProcess[str]:
        """Run ``shotover-gevent reload`` on the control socket; returns how it ended."""
        assert self.hotreload_socket is not None, "the proxy has no control socket"
        reload_command = [
            sys.executable, "-m", "shotover_gevent", "reload",
            "--hotreload-socket", os.fspath(self.hotreload_socket), *args,
        ]
        return subprocess.run(
            reload_command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            timeout=timeout_s)

    # -- reading --------------------------------------------------------------------------------

    def _may_write(self) -> bool:
        return any(reader.is_alive() for reader in self._readers)

    def _read(self, stream: IO[str], take: Callable[[str], None]) -> None:
        for line in stream:
            with self._changed:
                take(line.rstrip("\n"))
                self._changed.notify_all()

    def _take(self, line: str) -> None:
        try:
            self._events.append(Event.parse(line))
        except ValueError:
            self._complain(line)

    def _complain(self, line: str) -> None:
        self._noise.append(line)
