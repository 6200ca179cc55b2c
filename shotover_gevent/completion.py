"""``shotover-gevent completion``: a file by which a shell completes commands and options.

The file is made of the parser of the command line itself, so that it is never out of date.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from shotover_gevent.exits import EXIT_OK

SHELLS = ("bash", "zsh", "fish")

# Options with this placeholder take a file; the shell completes its name.
FILE_PLACEHOLDER = "PATH"


def add_commands(
    commands: Any, add_command: Callable[..., argparse.ArgumentParser],
    say: Callable[[str, TextIO], None], make_parser: Callable[[], argparse.ArgumentParser],
) -> None:
    """Add the command; ``make_parser()`` makes what is completed, ``say(text, stream)`` prints."""
    parser = add_command(commands, "completion", "print a completion file for a shell")
    parser.add_argument("shell", choices=SHELLS, help="the shell")
    parser.set_defaults(run=lambda options: _run(options.shell, say, make_parser()))


def _run(shell: str, say: Callable[[str, TextIO], None], parser: argparse.ArgumentParser) -> int:
    say(completion(shell, parser).rstrip("\n"), sys.stdout)
    return EXIT_OK


def completion(shell: str, parser: argparse.ArgumentParser) -> str:
    """The text of the completion file for one of :data:`SHELLS`."""
    import shtab

    for action in _actions(parser):
        if action.metavar == FILE_PLACEHOLDER:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell=shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every option and argument, those of commands too."""
    for action in parser._actions:  # argparse has no public way to them
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _actions(inner)
