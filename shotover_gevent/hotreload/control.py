"""Commands of operators over the control socket: ``Control``, from both sides.

Rules:
 1. One command a connection, answered in as many packets as it needs; nobody holds a place.
 2. Whoever may reload may do this, and nobody else: the server has checked the user before.
 3. A command that is refused changes nothing, and is told why.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from shotover_gevent.deadline import Deadline
from shotover_gevent.errors import HotReloadError
from shotover_gevent.hotreload.client import connect
from shotover_gevent.hotreload.dialect import STEP_S, LeaseLost, Line, field
from shotover_gevent.hotreload.peer import credentials

Handler = Callable[[str, Mapping[str, Any]], Iterator[Mapping[str, Any]]]


class CommandRefused(HotReloadError):
    """A command cannot be done; the text says why, to whoever gave it."""


def answer(line: Line, body: Any, handler: Handler | None) -> None:
    """Do what ``Control`` asks for, and send what the handler yields; a refusal is sent as ``Error``."""
    try:
        command = field(body, "command", str)
        if handler is None:
            raise CommandRefused("this process takes no commands")
        for part in handler(command, body.get("arguments") or {}):
            line.send("Answer", {"part": part, "last": False})
        line.send("Answer", {"last": True})
    except LeaseLost:
        raise
    except HotReloadError as error:
        line.refuse(str(error))


def ask(
    path: str, command: str, arguments: Mapping[str, Any] | None = None, timeout_s: float = STEP_S
) -> Iterator[dict[str, Any]]:
    """Give a command to the process that serves ``path``, and yield the parts of its answer.

    Each part must come within ``timeout_s``. Raises ``dialect.Refused`` with the reason when the
    process refuses, and another ``HotReloadError`` when none answers.
    """
    with Line(connect(path, Deadline.after(timeout_s))) as line:
        user = credentials(line.socket).uid
        if user not in (0, os.geteuid()) and os.geteuid() != 0:
            raise HotReloadError(f"{path} is the socket of user {user}: it is not trusted")
        line.send("Control", {"command": command, "arguments": dict(arguments or {})})
        is_last = False
        is_first = True
        while not is_last:
            try:
                _, body, _ = line.expect("Answer", timeout_s=timeout_s)
            except LeaseLost as error:
                if isinstance(error.__cause__, TimeoutError) or not is_first:
                    raise
                raise HotReloadError(
                    f"the process that serves {path} takes no commands: "
                    "it is older, or a Shotover Proxy") from error
            is_first = False
            is_last = field(body, "last", bool)
            if not is_last:
                yield field(body, "part", dict)
