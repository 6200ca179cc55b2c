"""``shotover-gevent completion``: a file by which a shell completes commands and options.

The files are in the package, made of the parser of the command line by ``python -m
shotover_gevent.completion``, which needs ``shtab``. A test fails when they are out of date.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, TextIO

from shotover_gevent.exits import EXIT_OK

#: Each shell, and how it wants its file to be called.
FILES = {"bash": "shotover-gevent.bash", "zsh": "_shotover-gevent", "fish": "shotover-gevent.fish"}

FOLDER = "completions"

# Options with this placeholder take a file; the shell completes its name.
FILE_PLACEHOLDER = "PATH"


def add_commands(
    commands: Any, add_command: Callable[..., argparse.ArgumentParser], say: Callable[[str, TextIO], None]
) -> None:
    """Add the command; ``say(text, stream)`` prints."""
    parser = add_command(commands, "completion", "print a completion file for a shell")
    parser.add_argument("shell", choices=tuple(FILES), help="the shell")
    parser.set_defaults(run=lambda options: _run(options.shell, say))


def _run(shell: str, say: Callable[[str, TextIO], None]) -> int:
    say(completion(shell).rstrip("\n"), sys.stdout)
    return EXIT_OK


def completion(shell: str) -> str:
    """The text of the completion file for one of :data:`FILES`."""
    return files("shotover_gevent").joinpath(FOLDER, FILES[shell]).read_text(encoding="utf-8")


def make(shell: str, parser: argparse.ArgumentParser) -> str:
    """What that text must be for the commands and options of ``parser``."""
    import shtab

    for action in _actions(parser):
        if action.metavar == FILE_PLACEHOLDER:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell=shell)).rstrip("\n") + "\n"


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every option and argument, those of commands too."""
    for action in parser._actions:  # argparse has no public way to them
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _actions(inner)


def main() -> None:
    """Write the files anew."""
    from shotover_gevent.cli import _parser

    folder = Path(__file__).parent / FOLDER
    folder.mkdir(exist_ok=True)
    for shell, name in FILES.items():
        (folder / name).write_text(make(shell, _parser()), encoding="utf-8")


if __name__ == "__main__":
    main()
