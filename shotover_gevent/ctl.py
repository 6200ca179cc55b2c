"""``shotover-gevent ctl``: look at a running process, and give it commands, over its control socket.

Exit codes: 0 done; 1 the process refused, or it is not done in time; 2 wrong usage; 75 nobody answers at
the control socket.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from shotover_gevent.exits import EXIT_FAILURE, EXIT_OK, EXIT_RELOAD
from shotover_gevent.terminal import Progress, size, span, table

Commands = argparse._SubParsersAction  # argparse has no public name for it
AddCommand = Callable[[Any, str, str], argparse.ArgumentParser]
Say = Callable[[str, TextIO], None]

# A drain may need this much longer than its time: the last requests, closing, and the end of Python.
DRAIN_EXTRA_S = 15.0

_LOOK_S = 0.5
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def add_commands(commands: Commands, add_command: AddCommand, say: Say) -> None:
    """Add ``ctl`` to the commands; ``add_command`` makes a parser, ``say`` prints a result."""
    parser = add_command(commands, "ctl", "look at a running process, and give it commands")
    inner = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, help: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        command = add_command(inner, name, help)
        command.add_argument("--hotreload-socket", metavar="PATH", required=True,
                             help="the control socket of the process")
        command.add_argument("--json", action="store_true", help="print JSON")
        command.set_defaults(run=_answered(run), say=say)
        return command

    add("status", "what the process is and does", _status)
    drain = add("drain", "let the process close its sessions one after the other, and end", _drain)
    drain.add_argument("--seconds", type=_duration, default=60.0, metavar="S",
                       help="spread over this long (default: %(default)g)")
    log_level = add("log-level", "tell the log filter, or replace it", _log_level)
    log_level.add_argument("filter", nargs="?", metavar="FILTER",
                           help="as main_log_level, such as info,shotover::sources=debug")
    log_level.add_argument("--for", type=_duration, dest="seconds", metavar="S",
                           help="then return to the filter of before; as 90, 60s, 5m or 1h")
    sessions = add("sessions", "list the clients, or close one", _sessions)
    sessions.add_argument("--source", metavar="NAME", help="only those of one source")
    sessions.add_argument("--close", type=_identifier, metavar="ID",
                          help="close this one when it is between two requests")
    sessions.add_argument("--now", action="store_true", help="close it at once, wherever it is")
    top = add("top", "watch the sources, refreshed each second; q ends it", _top)
    top.add_argument("--count", type=_identifier, metavar="N", help="end after that many refreshes")


def _answered(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """The command, with an error of the conversation as a text and an exit code."""

    def answered(options: argparse.Namespace) -> int:
        from shotover_gevent.errors import HotReloadError, causes
        from shotover_gevent.hotreload.dialect import Refused

        try:
            return run(options)
        except HotReloadError as error:
            text = ": ".join(causes(error))
            if options.json:
                options.say(json.dumps({"error": text}), sys.stdout)
            else:
                options.say(f"ctl: {text}", sys.stderr)
            return EXIT_FAILURE if isinstance(error, Refused) else EXIT_RELOAD

    return answered


def _ask(options: argparse.Namespace, command: str, **arguments: Any) -> Iterator[dict[str, Any]]:
    from shotover_gevent.hotreload.control import ask

    return ask(options.hotreload_socket, command, arguments)


def _ask_one(options: argparse.Namespace, command: str, **arguments: Any) -> dict[str, Any]:
    """An answer that has one part."""
    return list(_ask(options, command, **arguments))[0]


def _ask_status(options: argparse.Namespace) -> dict[str, Any]:
    """How things are; the lists of a large topology come in several parts."""
    found: dict[str, Any] = {}
    for part in _ask(options, "status"):
        for name, value in part.items():
            found[name] = found[name] + value if name in found else value
    return found


def _tell(options: argparse.Namespace, document: Any, text: str) -> None:
    options.say(json.dumps(document) if options.json else text, sys.stdout)


def _duration(text: str) -> float:
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smh]?)", text, re.ASCII)
    seconds = float(match[1]) * _UNITS[match[2]] if match is not None else 0.0
    if not 0 < seconds <= 7 * 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time up to a week, such as 90, 60s, 5m or 1h")
    return seconds


def _identifier(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text[:18])):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text[:18])


# -- status -------------------------------------------------------------------------------------


def _status(options: argparse.Namespace) -> int:
    found = _ask_status(options)
    _tell(options, found, status_text(found))
    return EXIT_OK


def status_text(found: dict[str, Any]) -> str:
    """The document of ``/status`` for a person."""
    ready = "ready" if found["ready"] else "not ready: " + "; ".join(found["obstacles"])
    lines = [
        f"shotover-gevent {found['version']}, process {found['pid']}, {found['state']}, {ready}, "
        f"up {span(found['uptime_s'])}",
        f"{size(found['memory_bytes'])} of memory, {found['descriptors']} descriptors", ""]
    lines += table(
        ("source", "type", "address", "listener", "sessions", "requests", "in", "out"),
        [(each["name"], each["type"], each["address"], each["listener"],
          f"{each['sessions']}/{each['connection_limit']}", str(each["requests"]),
          size(each["bytes_received"]), size(each["bytes_sent"])) for each in found["sources"]],
        right=(4, 5, 6, 7))
    if found["upstreams"]:
        lines += ["", *table(
            ("database", "used by", "state", "open", "made", "failed"),
            [(each["address"], f"{each['transform']} of {each['chain']}", each["state"],
              str(each["connections"]), str(each["connects"]), str(each["failures"]))
             for each in found["upstreams"]], right=(3, 4, 5))]
    return "\n".join([*lines, "", _reload_text(found["last_reload"])])


def _reload_text(last: dict[str, Any] | None) -> str:
    if last is None:
        return "last reload: none that this process has seen"
    text = f"last reload: {last['result']}, {span(max(0.0, time.time() - last['ended_at']))} ago"
    if last["reason"]:
        return f"{text}: {last['reason']}"
    return f"{text}: {last['moved']} moved, longest pause {last['longest_pause_ms']:g} ms"


# -- drain --------------------------------------------------------------------------------------


def _drain(options: argparse.Namespace) -> int:
    started = time.monotonic()
    begun = _ask_one(options, "drain", seconds=options.seconds)
    try:
        pidfd = os.pidfd_open(begun["pid"])
    except ProcessLookupError:  # it had nothing to wait for
        pidfd = -1
    try:
        with Progress(is_on=not options.json) as progress:
            left = _wait_for_end(options, pidfd, begun, progress)
    finally:
        if pidfd >= 0:
            os.close(pidfd)
    seconds = time.monotonic() - started
    result = {**begun, "ended": left is None, "left": left or 0, "duration_s": round(seconds, 3)}
    if left is None:
        text = f"process {begun['pid']} has ended after {seconds:.1f} s; sessions closed: {begun['sessions']}"
    else:
        text = f"process {begun['pid']} has not ended after {seconds:.1f} s; sessions left: {left}"
    _tell(options, result, text)
    return EXIT_OK if left is None else EXIT_FAILURE


def _wait_for_end(
    options: argparse.Namespace, pidfd: int, begun: dict[str, Any], progress: Progress
) -> int | None:
    """Wait until the process has ended: ``None``, or the sessions that are left when time is over."""
    until = time.monotonic() + begun["seconds"] + DRAIN_EXTRA_S
    left = begun["sessions"]
    poll = select.poll()
    if pidfd >= 0:
        poll.register(pidfd, select.POLLIN)
    while pidfd >= 0 and not poll.poll(_LOOK_S * 1000):
        left = _sessions_left(options, left)
        progress(f"process {begun['pid']} drains: {left} of {begun['sessions']} sessions are left")
        if time.monotonic() > until:
            return left
    return None


def _sessions_left(options: argparse.Namespace, before: int) -> int:
    from shotover_gevent.errors import HotReloadError

    try:
        return sum(source["sessions"] for source in _ask_status(options)["sources"])
    except HotReloadError:
        return before  # it is about to end


# -- log-level ----------------------------------------------------------------------------------


def _log_level(options: argparse.Namespace) -> int:
    if options.seconds is not None and options.filter is None:
        options.parser.error("--for needs a FILTER")
    found = _ask_one(options, "log-level", filter=options.filter, seconds=options.seconds)
    text = f"filter: {found['filter']}"
    if found["expires_s"] is not None:
        text += f"\nin {span(found['expires_s'])} it returns to: {found['returns_to']}"
    _tell(options, found, text)
    return EXIT_OK


# -- sessions -----------------------------------------------------------------------------------


def _sessions(options: argparse.Namespace) -> int:
    if options.close is not None:
        return _close(options)
    if options.now:
        options.parser.error("--now needs --close ID")
    found = [each for part in _ask(options, "sessions", source=options.source) for each in part["sessions"]]
    _tell(options, found, sessions_text(found))
    return EXIT_OK


def sessions_text(found: Sequence[dict[str, Any]]) -> str:
    """The list of sessions for a person: those that are blocked first, then the oldest."""
    order = sorted(found, key=lambda each: (-each["blocked_s"], -each["age_s"]))
    lines = table(
        ("source", "id", "peer", "state", "age", "idle", "requests", "unsent", "unread", "blocked"),
        [(each["source"], str(each["id"]), each["peer"], each["state"], span(each["age_s"]),
          span(each["idle_s"]), str(each["requests"]), size(each["unsent_bytes"]),
          size(each["unread_bytes"]),
          f"{span(each['blocked_s'])} by the {each['blocked_by']}" if each["blocked_by"] else "no")
         for each in order],
        right=(1, 4, 5, 6, 7, 8))
    noun = "session" if len(found) == 1 else "sessions"
    return "\n".join([*(lines if found else []), f"{len(found)} {noun}"])


def _close(options: argparse.Namespace) -> int:
    found = _ask_one(options, "close", source=options.source, id=options.close, now=options.now)
    which = f"session {found['id']} of {found['source']}"
    text = f"{which} is closed" if found["closed"] else (
        f"{which} is {found['state']}: it is closed when it comes to the end of its requests; "
        "--now does not wait for that")
    _tell(options, found, text)
    return EXIT_OK


def _top(options: argparse.Namespace) -> int:
    from shotover_gevent.ctl_top import run

    return run(lambda: _ask_status(options), options.count, options.json, options.say)
