"""Completion files: they have every command and option, and their shells can use them."""

import argparse
import shutil
import subprocess

import pytest

from shotover_gevent.cli import _parser
from shotover_gevent.completion import FILES, completion, make

# How each shell checks the syntax of a file.
SYNTAX = {"bash": ["bash", "-n"], "zsh": ["zsh", "-n"], "fish": ["fish", "--no-execute"]}


def words(parser):
    """The names of all commands, at any depth, and all options."""
    for action in parser._actions:
        yield from (option for option in action.option_strings if option.startswith("--"))
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield name
                yield from words(inner)


@pytest.mark.parametrize("shell", FILES)
def test_every_command_and_option_is_completed(shell):
    """What the parser knows is in the file."""
    text = completion(shell)
    # fish has long options without their dashes.
    missing = {word for word in words(_parser()) if (
        f"-l {word[2:]}" if shell == "fish" and word.startswith("--") else word) not in text}
    assert missing == set()


@pytest.mark.parametrize("shell", FILES)
def test_the_files_are_up_to_date(shell):
    """They are what the parser makes of them now; ``python -m shotover_gevent.completion`` writes them."""
    assert completion(shell) == make(shell, _parser())


@pytest.mark.parametrize("shell", FILES)
def test_the_shell_can_read_its_file(shell, tmp_path):
    """The syntax is that of the shell."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    path = tmp_path / f"completion.{shell}"
    path.write_text(completion(shell))
    result = subprocess.run([*SYNTAX[shell], path], capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


# Sources the file, and lets its function complete a line.
BASH = """
source "$1"
COMP_WORDS=(shotover-gevent "${@:2}")
COMP_CWORD=$(($# - 1))
COMP_LINE="${COMP_WORDS[*]}"
$(complete -p shotover-gevent | sed 's/.*-F \\([^ ]*\\).*/\\1/') shotover-gevent "${@: -1}" "${@: -2:1}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(("line", "found"), [
    (["rel"], {"reload"}),
    (["reload", "--hot"], {"--hotreload-socket"}),
    (["serve", "--log-format", "j"], {"json"}),
    (["completion", "f"], {"fish"}),
])
def test_bash_completes(line, found, tmp_path):
    """Commands, options and choices."""
    path = tmp_path / "completion.bash"
    path.write_text(completion("bash"))
    result = subprocess.run(
        ["bash", "-c", BASH, "bash", path, *line], capture_output=True, text=True, check=False, timeout=60)
    assert set(result.stdout.split()) == found, result.stderr
