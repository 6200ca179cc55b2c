"""``shotover-gevent serve``: one proxy as a process, with signals and logs.

The order of starting is Shotover's where it can be seen (the log lines), except that everything that
may fail without touching the outside comes before the predecessor is asked for anything.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import signal
from collections.abc import MutableMapping
from typing import Any

import gevent

from shotover_gevent import logs
from shotover_gevent._version import __version__
from shotover_gevent.errors import ConfigError, HotReloadError, ShotoverError, causes, render
from shotover_gevent.exits import EXIT_CONFIG, EXIT_FAILURE, EXIT_OK, EXIT_RELOAD
from shotover_gevent.hotreload import notify
from shotover_gevent.hotreload.client import Handover, request_listeners
from shotover_gevent.hotreload.command import STDERR_VARIABLE
from shotover_gevent.hotreload.socketfile import Live, inspect
from shotover_gevent.proxy import Proxy, StartError

logger = logging.getLogger(__name__)

RUNNER = {"target": "shotover::runner"}


class _Failure(Exception):
    """Starting failed: the exit code, Shotover's texts, and the located report for a person."""

    def __init__(self, code: int, texts: list[str], report: str) -> None:
        super().__init__(report)
        self.code = code
        self.texts = texts
        self.report = report


def serve(options: argparse.Namespace) -> int:
    """Run until a signal, or a successor, ends it; returns the exit code."""
    environ = os.environ
    stderr = _successor_stderr(environ)
    handle = logs.configure(logs.parse_directives("error"), options.log_format)
    try:
        try:
            proxy = _build(options, handle)
            _start(proxy, options)
        except _Failure as failure:
            logger.error(render("Failed to start shotover", failure.texts), extra=RUNNER)
            _tell(environ, status=failure.report)
            os.write(2, (failure.report.rstrip("\n") + "\n").encode())
            return failure.code
        _tell(environ, **notify.pid_line())
        if stderr is not None:
            os.dup2(stderr, 2)
            os.close(stderr)
        proxy.ended.wait()
        logger.info("Shotover was shutdown cleanly.", extra=RUNNER)
        return EXIT_OK
    finally:
        handle.close()


def _build(options: argparse.Namespace, handle: Any) -> Proxy:
    """Read both files, set up logging, build every chain."""
    try:
        proxy = Proxy(
            options.topology_file, options.config_file,
            hotreload_socket=options.hotreload_socket, set_filter=handle.set_filter,
        )
    except ConfigError as error:
        raise _Failure(EXIT_CONFIG, list(error.chain) or [str(error)], error.report()) from error
    handle.set_directives(logs.directives_from(proxy.config.main_log_level, os.environ))
    logs.install_excepthooks(handle)
    logger.info("Starting Shotover %s", __version__, extra=RUNNER)
    logger.info("configuration=%s", proxy.config, extra=RUNNER)
    logger.info("topology=%s", proxy.topology.describe(), extra=RUNNER)
    for name in ("core_threads", "stack_size"):
        if getattr(options, name) is not None:
            logger.info("--%s has no effect: one process uses one core", name.replace("_", "-"),
                        extra=RUNNER)
    _raise_descriptor_limit()
    return proxy


def _start(proxy: Proxy, options: argparse.Namespace) -> None:
    """Take over from a predecessor if there is one, bind the rest, accept."""
    _install_signals(proxy)
    handover: Handover | None = None
    try:
        path = options.hotreload_socket
        if path is not None and isinstance(inspect(path), Live):
            logger.info("Hot reload CLIENT mode - requesting socket handoff from existing shotover",
                        extra=RUNNER)
            handover = request_listeners(path)
        proxy.start(handover, options.hotreload_gradual_shutdown_seconds)
    except HotReloadError as error:
        texts = ["Hot reload client failed", *causes(error)]
        raise _Failure(EXIT_RELOAD, texts, ": ".join(texts)) from error
    except StartError as error:
        code = EXIT_FAILURE if handover is None else EXIT_RELOAD
        raise _Failure(code, [error.text], error.text) from error
    except ShotoverError as error:
        raise _Failure(EXIT_FAILURE, list(causes(error)), str(error)) from error
    finally:
        if handover is not None:
            handover.close()


def _install_signals(proxy: Proxy) -> None:
    """The first SIGTERM or SIGINT ends in order, the second at once."""
    received: list[int] = []

    def on_signal(number: int) -> None:
        received.append(number)
        name = signal.Signals(number).name
        logger.info("received %s", name, extra=RUNNER)
        if len(received) == 1:
            gevent.spawn(proxy.stop)
        else:
            gevent.spawn(proxy.stop, 0)

    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, on_signal, number)


def _raise_descriptor_limit() -> None:
    """Use all descriptors that we may have: each client needs two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _successor_stderr(environ: MutableMapping[str, str]) -> int | None:
    """The descriptor that becomes standard error once we serve, if we were started by a reload."""
    number = environ.pop(STDERR_VARIABLE, None)
    return int(number) if number is not None else None


def _tell(environ: MutableMapping[str, str], **fields: object) -> None:
    """Report to whoever started us; that nobody listens is worth a line, not more."""
    try:
        notify.notify(environ, **fields)
    except OSError as error:
        logger.warning("cannot report to %s: %s", environ.get(notify.VARIABLE), error, extra=RUNNER)
