"""Public test kit: the contract of a transform, fake and real servers, free ports, families of processes.

It is for the tests of programs that use this package, for its own, and for the demo. It patches
nothing. What starts processes needs no hub and works in a plain program; what runs a transform or a
fake upstream runs in the hub of the test.
"""

from shotover_gevent.testing.client import Client, RecordingClient, command
from shotover_gevent.testing.contract import check_transform
from shotover_gevent.testing.family import Family
from shotover_gevent.testing.port import free_port
from shotover_gevent.testing.server import RealServer, ServerBinary, find_server, find_servers
from shotover_gevent.testing.session import TransformSession
from shotover_gevent.testing.transcript import run_transcript
from shotover_gevent.testing.upstream import (
    CLOSE, HANG, RESET, AnsweringUpstream, Delay, Expect, FakeUpstream, Send, UpstreamConnection, echo,
)

__all__ = [
    "CLOSE", "HANG", "RESET", "AnsweringUpstream", "Client", "Delay", "Expect", "FakeUpstream", "Family",
    "RealServer", "RecordingClient", "Send", "ServerBinary", "TransformSession", "UpstreamConnection", "check_transform",
    "command", "echo", "find_server", "find_servers", "free_port",
    "run_transcript",
]
