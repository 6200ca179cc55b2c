"""The page on shared connections says of each command what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from shotover_gevent.codecs.resp_state import UNUSUAL, Need, needs

PAGE = Path(__file__).parents[3] / "docs" / "shared_connections.rst"

# How each answer of the table begins.
BEGINNINGS = {
    "on a shared connection": Need.ANY,
    "on its own": Need.OWN,
    "with ``BLOCK`` on its own": Need.ANY,
    "on the connection that its writes went over": Need.TURN,
    "answered by the proxy, after it has asked the server": Need.NAME,
    "answered by the proxy, which then closes": Need.END,
    "the client is closed": Need.END,
}

# What makes a request of a command whole.
ARGUMENTS = {
    "CLIENT SETNAME": ["x"], "CLIENT SETINFO": ["LIB-NAME", "x"], "WAIT": ["1", "1"], "WAITAOF": ["1", "1", "1"]}


def rows() -> list[tuple[str, str]]:
    """Each command of the table with the answer that it stands beside."""
    text = PAGE.read_text()
    _, _, body = text.partition("what happens\n")
    lines = body.split("\n")[1:]
    found: list[tuple[list[str], str]] = []
    for line in lines:
        if line.startswith("==="):
            break
        commands, answer = line[:47].strip(), line[47:].strip()
        if commands and not (found and found[-1][0][-1].endswith(",")):
            found.append(([commands], answer))
        else:
            found[-1][0].append(commands)
            found[-1] = (found[-1][0], f"{found[-1][1]} {answer}".strip())
    return [
        (command, answer) for commands, answer in found
        for command in " ".join(commands).replace("``", "").replace("all others", "").strip().split(", ") if command]


@pytest.mark.parametrize(("command", "answer"), rows())
def test_the_table_says_what_a_command_needs(command: str, answer: str) -> None:
    """Each row begins as the answer for its command."""
    words = [*command.split(), *ARGUMENTS.get(command, [])]
    said = [need for beginning, need in BEGINNINGS.items() if answer.startswith(beginning)]
    value = [word.encode() for word in words]
    assert [needs(value[0], value)] == said


def test_every_unusual_command_is_in_the_table() -> None:
    """None is forgotten, nor one that there is not."""
    told = {command.split()[0].encode() for command, _ in rows()}
    assert UNUSUAL - told == {b"UNSUBSCRIBE", b"PUNSUBSCRIBE", b"SUNSUBSCRIBE", b"READWRITE"}
