"""``shotover-gevent serve``: one proxy as a process, with signals and logs.

The order of starting is Shotover's where it can be seen (the log lines), except that everything that
may fail without touching the outside comes before the predecessor is asked for anything.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import MutableMapping, Sequence

import gevent

from shotover_gevent import logs
from shotover_gevent._version import __version__
from shotover_gevent.activate import activation
from shotover_gevent.config.check import check_files
from shotover_gevent.config.document import Document
from shotover_gevent.config.load import open_document
from shotover_gevent.errors import (
    ConfigError, HotReloadError, Problem, ShotoverError, causes, os_error_text, render,
)
from shotover_gevent.exits import EXIT_CONFIG, EXIT_FAILURE, EXIT_OK, EXIT_RELOAD
from shotover_gevent.hotreload import notify
from shotover_gevent.hotreload.client import Handover
from shotover_gevent.hotreload.command import STDERR_VARIABLE
from shotover_gevent.hotreload.hangup import SelfReload
from shotover_gevent.hotreload.socketfile import Live, inspect
from shotover_gevent.hotreload.taking import take_over
from shotover_gevent.net.activation import Activation
from shotover_gevent.proxy import SHUTDOWN_GRACE_S, Proxy, StartError, State

logger = logging.getLogger(__name__)

RUNNER = {"target": "shotover::runner"}

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT)

# What to do about an address that cannot be bound.
_WAYS_OUT = {
    errno.EADDRINUSE: "another program listens there; to see which one: ss -ltnp",
    errno.EADDRNOTAVAIL: "no interface of this machine has the address; to see them: ip address",
    errno.EACCES: "ports below 1024 need root or the capability CAP_NET_BIND_SERVICE",
}


class _Failure(Exception):
    """Starting failed: the exit code, Shotover's texts, and the located report for a person."""

    def __init__(self, code: int, texts: list[str], report: str) -> None:
        super().__init__(report)
        self.code = code
        self.texts = texts
        self.report = report


def serve(options: argparse.Namespace, received: Sequence[int] = ()) -> int:
    """Run until a signal, or a successor, ends it; returns the exit code.

    ``received`` are the signals that came so far; it may grow until the signals are ours.
    """
    environ = os.environ
    stderr = _successor_stderr(environ)
    notifier = notify.Notifier(environ)
    handle = logs.configure(logs.parse_directives("error"), options.log_format)
    try:
        try:
            proxy = _build(options, handle)
            hangup = SelfReload(
                options.hotreload_socket, lambda: proxy.state is State.SERVING, notifier=notifier)
            gevent.signal_handler(signal.SIGHUP, hangup.start)
            _start(proxy, options, received, notifier)
        except _Failure as failure:
            logger.error(render("Failed to start shotover", failure.texts), extra=RUNNER)
            notifier.failed(failure.report)
            _print_error(failure.report)
            return failure.code
        if not proxy.ended.is_set():
            notifier.ready(_status(proxy), proxy.last_reload)
        else:
            notifier.failed("ended by a signal before it served")
        following = gevent.spawn(_follow, proxy, notifier)
        if stderr is not None:
            os.dup2(stderr, 2)
            os.close(stderr)
        proxy.ended.wait()
        following.join() if proxy.replaced.is_set() else following.kill()
        notifier.close()
        hangup.join()
        # All is closed. A signal that comes now must not turn the exit code into a failure.
        for number in ENDING_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        logger.info("Shotover was shutdown cleanly.", extra=RUNNER)
        return EXIT_OK
    finally:
        handle.close()


def _status(proxy: Proxy) -> str:
    """What a service manager shows of a process that serves."""
    number = len(proxy.sources)
    text = f"serving {number} {'source' if number == 1 else 'sources'}"
    if proxy.last_reload is None:
        return text
    moved, pid = proxy.last_reload["sessions"]["moved"], proxy.last_reload["predecessor_pid"]
    return f"{text}; took over from process {pid}, {moved} {'session' if moved == 1 else 'sessions'} moved"


def _follow(proxy: Proxy, notifier: notify.Notifier) -> None:
    """Name the successor to the service manager, which must know it before this process ends."""
    proxy.replaced.wait()
    if (pid := proxy.successor_pid) is not None:
        notifier.replaced(pid)


def _build(options: argparse.Namespace, handle: logs.LogHandle) -> Proxy:
    """Read both files, set up logging, build every chain."""
    try:
        proxy = Proxy(
            options.topology_file, options.config_file,
            hotreload_socket=options.hotreload_socket, set_filter=handle.set_filter,
            get_filter=lambda: handle.filter,
        )
    except ConfigError as error:
        # One file may hide what is wrong with the other.
        problems = check_files(options.config_file, options.topology_file).problems
        report = ConfigError(problems or error.problems).report()
        raise _Failure(EXIT_CONFIG, list(error.chain) or [str(error)], report) from error
    try:
        handle.set_directives(logs.directives_from(proxy.config.main_log_level, os.environ))
    except ValueError as error:
        problem = Problem("RUST_LOG", 0, 0, "", str(error))
        raise _Failure(EXIT_CONFIG, [str(error)], ConfigError([problem]).report()) from error
    logs.install_excepthooks(handle)
    logger.info("Starting Shotover %s", __version__, extra=RUNNER)
    logger.info("configuration=%s", proxy.config, extra=RUNNER)
    logger.info("topology=%s", proxy.topology.describe(), extra=RUNNER)
    for name in ("core_threads", "stack_size"):
        if getattr(options, name) is not None:
            logger.info("--%s has no effect: one process uses one core", name.replace("_", "-"),
                        extra=RUNNER)
    _raise_descriptor_limit()
    # What has been imported and built stays: no collection needs to look at it again.
    gc.freeze()
    return proxy


def _start(
    proxy: Proxy, options: argparse.Namespace, received: Sequence[int], notifier: notify.Notifier
) -> None:
    """Start in a greenlet, which the first signal ends wherever it waits; the proxy has ended then."""
    starting = gevent.Greenlet(_attempt, proxy, options, notifier)
    signals = _Signals(proxy, starting, notifier)
    for number in received:
        signals.handle(number)
    starting.start()
    outcome = starting.get()
    if isinstance(outcome, Exception):
        raise outcome
    if isinstance(outcome, gevent.GreenletExit):
        proxy.stop(signals.grace_s)


def _attempt(
    proxy: Proxy, options: argparse.Namespace, notifier: notify.Notifier
) -> Exception | None:
    """What went wrong is returned: raised, it would be printed by the hub as well."""
    try:
        with contextlib.closing(_activation(proxy, options, notifier.is_successor)) as passed:
            _take_over_or_bind(proxy, options, passed, notifier)
    except Exception as error:
        return error
    return None


def _activation(proxy: Proxy, options: argparse.Namespace, is_successor: bool) -> Activation:
    """The sockets that a service manager has passed."""
    try:
        return activation(proxy, options, os.environ, is_successor)
    except ConfigError as error:
        raise _Failure(EXIT_CONFIG, [str(problem) for problem in error.problems], error.report()) from error
    except OSError as error:
        text = f"a descriptor of LISTEN_FDS cannot be used: {os_error_text(error)}"
        raise _Failure(EXIT_FAILURE, [text], text) from error


def _take_over_or_bind(
    proxy: Proxy, options: argparse.Namespace, passed: Activation, notifier: notify.Notifier
) -> None:
    """Take over from a predecessor if there is one, bind the rest, accept."""
    handover: Handover | None = None
    context: list[str] = []
    try:
        path = options.hotreload_socket
        if path is not None and isinstance(inspect(path), Live):
            context = ["Hot reload client failed"]
            logger.info("Hot reload CLIENT mode - requesting socket handoff from existing shotover",
                        extra=RUNNER)
            notifier.progress("has built everything, and takes over the listening sockets")
            handover = take_over(
                path, proxy.addresses, options.hotreload_gradual_shutdown_seconds)
            handover.tell = notifier.progress
        proxy.start(handover, options.hotreload_gradual_shutdown_seconds, passed)
    except HotReloadError as error:
        texts = [*context, *causes(error)]
        raise _Failure(EXIT_RELOAD, texts, ": ".join(texts)) from error
    except StartError as error:
        code = EXIT_FAILURE if handover is None else EXIT_RELOAD
        raise _Failure(code, [error.text], _located(error, proxy, options.topology_file)) from error
    except ShotoverError as error:
        raise _Failure(EXIT_FAILURE, list(causes(error)), str(error)) from error
    finally:
        if handover is not None:
            handover.close()


def _located(error: StartError, proxy: Proxy, file: str) -> str:
    """Each address that cannot be bound, with its place in the file, and a way out."""
    try:
        document = open_document(file, "topology")
    except ConfigError:  # it was changed meanwhile
        document = Document(file)
    for source, failure in error.failures:
        path = ("sources", proxy.sources.index(source), source.type_name, "listen_addr")
        text = f"cannot listen on {source.listen_addr}: {os_error_text(failure)}"
        document.refuse(path, text, _WAYS_OUT.get(failure.errno or 0))
    return ConfigError(document.sorted_problems()).report()


class _Signals:
    """The first SIGTERM or SIGINT ends the start, or all in order; the second ends it at once."""

    def __init__(
        self, proxy: Proxy, starting: gevent.Greenlet, notifier: notify.Notifier
    ) -> None:
        self._proxy = proxy
        self._notifier = notifier
        self._starting = starting
        #: How long what is in flight may take.
        self.grace_s = SHUTDOWN_GRACE_S
        self._is_first = True
        for number in ENDING_SIGNALS:
            gevent.signal_handler(number, self.handle, number)

    def handle(self, number: int) -> None:
        """Called in a greenlet of its own for each signal."""
        logger.info("received %s", signal.Signals(number).name, extra=RUNNER)
        if not self._is_first:
            self.grace_s = 0.0
        self._is_first = False
        if self._starting.ready():
            if self._proxy.state is State.SERVING:
                self._notifier.stopping()
            gevent.spawn(self._proxy.stop, self.grace_s)
        else:
            self._starting.kill(block=False)


def _print_error(text: str) -> None:
    """Write to standard error, if there is one and anybody reads it."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(text, file=sys.stderr, flush=True)


def _raise_descriptor_limit() -> None:
    """Use all descriptors that we may have: each client needs two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _successor_stderr(environ: MutableMapping[str, str]) -> int | None:
    """The descriptor that becomes standard error once we serve, if we were started by a reload."""
    number = environ.pop(STDERR_VARIABLE, None)
    return int(number) if number is not None else None

