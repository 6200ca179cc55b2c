"""Telling whoever started us how starting went, by the protocol of sd_notify(3).

The address is in ``NOTIFY_SOCKET``: a path, or a name in the abstract namespace after ``@``. Messages
are datagrams of ``NAME=value`` lines. We send ``READY=1`` and ``MAINPID``, or ``STATUS`` with the
reason of a failure.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from typing import Any

VARIABLE = "NOTIFY_SOCKET"

#: A field of our own, as the protocol allows after ``X_``: how a reload went, as JSON.
RELOAD = "X_SHOTOVER_GEVENT_RELOAD"


def notify(environ: Mapping[str, str], **fields: object) -> bool:
    """Send the fields, upper-cased, to the socket that ``environ`` names; ``False`` without one.

    Raises ``OSError`` when there is a socket but nobody takes the message.
    """
    path = environ.get(VARIABLE)
    if not path:
        return False
    text = "\n".join(f"{name.upper()}={_one_line(value)}" for name, value in fields.items())
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5.0)  # the receiver's queue is full only if nobody reads it
        sock.sendto(text.encode(), address)
    return True


def parse(message: bytes) -> dict[str, str]:
    """The fields of a message; lines of multi-line values are joined as they were."""
    fields = (line.partition("=") for line in message.decode(errors="replace").split("\n"))
    return {name: value.replace("\r", "\n") for name, equals, value in fields if equals}


def _one_line(value: object) -> str:
    """A newline ends a field, so those of the value travel as carriage returns."""
    return str(value).replace("\n", "\r")


def ready(last_reload: Mapping[str, Any] | None) -> dict[str, object]:
    """The fields that say which process serves from now on, and how it took over."""
    fields: dict[str, object] = {"ready": 1, "mainpid": os.getpid()}
    if last_reload is not None:
        fields[RELOAD] = json.dumps(last_reload)
    return fields
