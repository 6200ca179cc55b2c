"""Public test kit: the contract of a transform, fake and real servers, free ports, families of processes.

It is for the tests of programs that use this package, for its own, and for the demo. It patches
nothing. What starts processes needs no hub and works in a plain program; what runs a transform or a
fake upstream runs in the hub of the test.

The latter needs most of the package, and is imported when it is first used: the demo starts sooner.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shotover_gevent.testing.family import Family
from shotover_gevent.testing.port import free_port
from shotover_gevent.testing.server import RealServer, ServerBinary, find_server, find_servers

if TYPE_CHECKING:
    from shotover_gevent.testing.client import Client, RecordingClient, command
    from shotover_gevent.testing.contract import check_transform
    from shotover_gevent.testing.session import TransformSession
    from shotover_gevent.testing.transcript import run_transcript
    from shotover_gevent.testing.upstream import (
        CLOSE, HANG, RESET, AnsweringUpstream, Delay, Expect, FakeUpstream, Send, UpstreamConnection, echo,
    )

_LATER = {
    "client": ("Client", "RecordingClient", "command"),
    "contract": ("check_transform",),
    "session": ("TransformSession",),
    "transcript": ("run_transcript",),
    "upstream": (
        "CLOSE", "HANG", "RESET", "AnsweringUpstream", "Delay", "Expect", "FakeUpstream", "Send",
        "UpstreamConnection", "echo"),
}

__all__ = [
    "CLOSE", "HANG", "RESET", "AnsweringUpstream", "Client", "Delay", "Expect", "FakeUpstream", "Family",
    "RealServer", "RecordingClient", "Send", "ServerBinary", "TransformSession", "UpstreamConnection",
    "check_transform", "command", "echo", "find_server", "find_servers", "free_port", "run_transcript",
]


def __getattr__(name: str) -> Any:
    """Called for a name that is not there yet."""
    for module, names in _LATER.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
