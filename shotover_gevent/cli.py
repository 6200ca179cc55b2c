"""The command ``shotover-gevent``.

Exit codes: 0 done; 1 failure while running; 2 wrong usage; 75 a reload was refused or failed;
78 the configuration is wrong (75 and 78 are ``EX_TEMPFAIL`` and ``EX_CONFIG`` of sysexits(3)).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from shotover_gevent._version import __version__
from shotover_gevent.exits import EXIT_CONFIG, EXIT_OK, EXIT_RELOAD


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as shells report it


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="shotover-gevent", description="A database proxy that can be replaced while it runs.")
    parser.add_argument("-V", "--version", action="version", version=f"shotover-gevent {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_serve(commands)
    _add_check(commands)
    _add_reload(commands)
    _add_demo(commands)
    return parser


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-t", "--topology-file", default="config/topology.yaml", metavar="PATH",
        help="the topology (default: %(default)s)")
    parser.add_argument(
        "-c", "--config-file", default="config/config.yaml", metavar="PATH",
        help="logging and metrics (default: %(default)s)")


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("serve", help="run the proxy")
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
    parser = commands.add_parser("check", help="say everything that is wrong with the configuration")
    _add_files(parser)
    parser.add_argument("--format", choices=("human", "json"), default="human",
                        help="how the problems are written (default: %(default)s)")
    parser.set_defaults(run=_check)


def _add_reload(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("reload", help="replace the running process by a new one")
    parser.add_argument("--hotreload-socket", metavar="PATH", required=True,
                        help="the control socket of the process that serves")
    parser.add_argument("--timeout", type=_seconds, default=60.0, metavar="S",
                        help="how long the successor may take (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("command", nargs="*", metavar="COMMAND",
                        help="the successor's command line, after --; by default that of the "
                             "process that serves")
    parser.set_defaults(run=_reload)


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("demo", help="run the proxy in front of a real server, to try it")
    parser.add_argument("--check", action="store_true",
                        help="run traffic and a reload by itself, and report")
    parser.add_argument("--port", type=_natural, metavar="PORT",
                        help="where to listen (default: 6379, or the next free port)")
    parser.set_defaults(run=_demo)


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
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
    from shotover_gevent.serve import serve

    return serve(options)


def _check(options: argparse.Namespace) -> int:
    from shotover_gevent.config.check import check_files, render_human, render_json

    problems = check_files(options.config_file, options.topology_file)
    print(render_json(problems) if options.format == "json" else render_human(problems))
    return EXIT_CONFIG if problems else EXIT_OK


def _reload(options: argparse.Namespace) -> int:
    from shotover_gevent.hotreload.command import reload

    report = reload(options.hotreload_socket, options.command, options.timeout)
    stream = sys.stdout if report.is_ok or options.json else sys.stderr
    print(report.as_json() if options.json else report.as_text(), file=stream)
    return EXIT_OK if report.is_ok else EXIT_RELOAD


def _demo(options: argparse.Namespace) -> int:
    from shotover_gevent import demo

    return demo.run(check=options.check, port=options.port)
