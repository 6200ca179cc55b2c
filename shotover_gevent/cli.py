"""The command ``shotover-gevent``.

Exit codes: 0 done; 1 failure while running; 2 wrong usage; 75 a reload was refused or failed;
78 the configuration is wrong (75 and 78 are ``EX_TEMPFAIL`` and ``EX_CONFIG`` of sysexits(3)).
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import TextIO

from shotover_gevent import completion, ctl, describe
from shotover_gevent._version import __version__
from shotover_gevent.exits import EXIT_CONFIG, EXIT_OK, EXIT_RELOAD


# Shotover's numbers have 64 bits.
MAX_NATURAL = 2**64 - 1

# What may stand before a command.
GENERAL_FLAGS = ("-h", "--help", "-V", "--version")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as shells report it


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options; wrong usage ends the process with 2 and the usage of the command concerned."""
    parser = _parser()
    if arguments and arguments[0].startswith("-") and arguments[0] not in GENERAL_FLAGS:
        parser.error(f"{arguments[0]} stands before a command; did you mean: "
                     f"{parser.prog} serve {shlex.join(arguments)}")
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        options.parser.error(f"unrecognized arguments: {shlex.join(unknown)}")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="shotover-gevent", description="A database proxy that can be replaced while it runs.")
    _add_version(parser)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_serve(commands)
    _add_check(commands)
    _add_reload(commands)
    _add_demo(commands)
    ctl.add_commands(commands, _add_command, _say)
    describe.add_commands(commands, _add_command, _say)
    completion.add_commands(commands, _add_command, _say)
    return parser


def _add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, help: str
) -> argparse.ArgumentParser:
    # As with Shotover, a flag is written out: an abbreviation of today is another flag of tomorrow.
    parser = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
    parser.set_defaults(parser=parser)
    return parser


def _add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-V", "--version", action="version", version=f"shotover-gevent {__version__}")


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-t", "--topology-file", default="config/topology.yaml", metavar="PATH",
        help="the topology (default: %(default)s)")
    parser.add_argument(
        "-c", "--config-file", default="config/config.yaml", metavar="PATH",
        help="logging and metrics (default: %(default)s)")


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(commands, "serve", "run the proxy")
    _add_version(parser)
    _add_files(parser)
    parser.add_argument("--core-threads", type=_natural, metavar="N",
                        help="accepted for Shotover's users; has no effect")
    parser.add_argument("--stack-size", type=_natural, metavar="BYTES",
                        help="accepted for Shotover's users; has no effect")
    parser.add_argument("--log-format", choices=("human", "json"), default="human",
                        help="how log lines look (default: %(default)s)")
    parser.add_argument("--hotreload-socket", metavar="PATH",
                        help="take over from, and hand over to, another process at this Unix socket")
    parser.add_argument(
        "--hotreload-gradual-shutdown-seconds", type=_natural, default=60, metavar="S",
        help="how long the process that is replaced drains (default: %(default)s)")
    parser.set_defaults(run=_serve)


def _add_check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(commands, "check", "say everything that is wrong with the configuration")
    _add_files(parser)
    parser.add_argument("--format", choices=("human", "json"), default="human",
                        help="how the problems are written (default: %(default)s)")
    parser.set_defaults(run=_check)


def _add_reload(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(commands, "reload", "replace the running process by a new one")
    parser.add_argument("--hotreload-socket", metavar="PATH", required=True,
                        help="the control socket of the process that serves")
    parser.add_argument("--timeout", type=_seconds, default=60.0, metavar="S",
                        help="how long the successor may take (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--plan", action="store_true",
                        help="say what a reload would do, and do nothing")
    parser.add_argument("command", nargs="*", metavar="COMMAND",
                        help="the successor's command line, after --; by default that of the "
                             "process that serves")
    parser.set_defaults(run=_reload)


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(commands, "demo", "run the proxy in front of a real server, to try it")
    parser.add_argument("--check", action="store_true",
                        help="run traffic and a reload by itself, and report")
    parser.add_argument("--port", type=_port, metavar="PORT",
                        help="where to listen (default: 6379, or the next free port)")
    parser.add_argument("--shared", action="store_const", const="shared", default="dedicated", dest="mode",
                        help="let all clients share one connection to the server")
    parser.set_defaults(run=_demo)


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) <= MAX_NATURAL):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {MAX_NATURAL}")
    return int(text)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text[:6]) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to a day")
    return seconds


def _serve(options: argparse.Namespace) -> int:
    received = _hold_signals()
    from shotover_gevent.serve import serve

    return serve(options, received)


def _hold_signals() -> list[int]:
    """From now on SIGTERM and SIGINT are noted in the returned list, for ``serve``, which takes over.

    Importing and building take a moment, in which nothing has been started that would have to end in
    order: a second signal of the same kind ends the process there and then.
    """
    received: list[int] = []

    def hold(number: int, _frame: object) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, hold)
    return received


def _check(options: argparse.Namespace) -> int:
    from shotover_gevent.config.check import check_files

    found = check_files(options.config_file, options.topology_file)
    _say(found.as_json() if options.format == "json" else found.as_text(), sys.stdout)
    return EXIT_CONFIG if found.problems else EXIT_OK


def _reload(options: argparse.Namespace) -> int:
    if options.plan:
        return _plan(options)
    from shotover_gevent.hotreload.command import reload
    from shotover_gevent.terminal import Progress

    with Progress(is_on=not options.json) as progress:
        report = reload(options.hotreload_socket, options.command, options.timeout, progress)
    stream = sys.stdout if report.is_ok or options.json else sys.stderr
    _say(report.as_json() if options.json else report.as_text(), stream)
    return EXIT_OK if report.is_ok else EXIT_RELOAD


def _plan(options: argparse.Namespace) -> int:
    from shotover_gevent.hotreload.plan import plan
    from shotover_gevent.proxy import Proxy

    found = plan(options.hotreload_socket, options.command, _parse, Proxy)
    stream = sys.stdout if found.is_ok or options.json else sys.stderr
    _say(found.as_json() if options.json else found.as_text(), stream)
    return EXIT_OK if found.is_ok else EXIT_RELOAD


def _say(text: str, stream: TextIO) -> None:
    """Print; a reader that has seen enough (``| head``) changes neither exit code nor standard error."""
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        # The interpreter flushes once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _demo(options: argparse.Namespace) -> int:
    from shotover_gevent import demo

    return demo.run(check=options.check, port=options.port, mode=options.mode)
