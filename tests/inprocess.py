"""Sources, chains and scripted servers in the process of the test, on real sockets.

All of it runs in the hub of the test: a test that waits (on a :class:`Client` made by
:func:`connect`, or in :func:`until`) lets the proxy and the servers run.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from gevent import socket as gsocket
from gevent.server import StreamServer

from shotover_gevent.chain import (
    Batch,
    BuildContext,
    Next,
    SessionContext,
    Sink,
    Transform,
    TransformConfig,
)
from shotover_gevent.chain.handoff import REBUILT
from shotover_gevent.deadline import Deadline
from shotover_gevent.net.address import Address
from shotover_gevent.sources.source import Runtime, Source
from shotover_gevent.testing.session import session_context
from tests.client import CLIENT_S, Client

__all__ = [
    "Answerer", "ScriptedServer", "Step", "connect", "descriptors", "keeps_descriptors", "reset", "serving",
    "session_context", "summary", "until",
]

Push = Callable[[Batch, Callable[[Batch], None]], None]


class Step(TransformConfig):
    """A transform made of functions; each may be left out."""

    run: Callable[[Batch, Next], Batch] = lambda requests, next: next(requests)
    pushed: Push = lambda pushes, forward: forward(pushes)
    closed: Callable[[], None] = lambda: None
    made: Callable[[SessionContext], None] = lambda context: None
    built: Callable[[BuildContext], None] = lambda context: None

    def build(self, context: BuildContext) -> None:
        """Call ``built``."""
        self.built(context)

    def session(self, context: SessionContext) -> Transform:
        """A transform of these functions, after ``made``."""
        self.made(context)
        return _Step(self)


class _Step(Transform):
    def __init__(self, config: Step) -> None:
        self.transform = config.run  # type: ignore[method-assign]
        self.close = config.closed  # type: ignore[method-assign]
        self._pushed = config.pushed

    def push(self, pushes: Batch, forward: Callable[[Batch], None]) -> None:
        self._pushed(pushes, forward)


class Answerer(TransformConfig):
    """A sink that is a function of the requests."""

    terminating = True
    answer: Callable[[Batch], Batch]

    def session(self, context: SessionContext) -> Sink:
        """A sink of that function."""
        return _Answerer(self)


class _Answerer(Sink):
    fates = {"_config": REBUILT}

    def __init__(self, config: Answerer) -> None:
        self._config = config

    def transform(self, requests: Batch, next: Next) -> Batch:
        return self._config.answer(requests)


@contextmanager
def serving(*chain: TransformConfig, type_name: str = "Valkey", **options: Any) -> Iterator[Source]:
    """A source with that chain; at the end it is stopped at once, and nothing of it may be left."""
    source = Source(
        Runtime(), type_name=type_name, name="s", listen_addr=Address("127.0.0.1", 0), chain=chain,
        **options)
    source.open()
    source.start()
    try:
        yield source
    finally:
        source.stop(Deadline.after(0))
        source.close()
    assert not source.sessions


def connect(target: Source | ScriptedServer) -> Client:
    """A client of the source or server that lets the hub run while it waits."""
    return Client(gsocket.create_connection(("127.0.0.1", target.address.port), timeout=CLIENT_S))


class ScriptedServer:
    """A server that gives each connection to a function, and closes it when that returns."""

    def __init__(self, handle: Callable[[Client], None], port: int = 0) -> None:
        self._handle = handle
        self._server = StreamServer(("127.0.0.1", port), self._serve)
        #: How many connections there were, and what went wrong in the function.
        self.connections = 0
        self.errors: list[BaseException] = []

    @property
    def address(self) -> Address:
        """Where it listens."""
        return Address("127.0.0.1", self._server.server_port)

    def _serve(self, sock: socket.socket, peer: object) -> None:
        self.connections += 1
        try:
            self._handle(Client(sock))
        except Exception as error:
            self.errors.append(error)
        finally:
            sock.close()

    def __enter__(self) -> ScriptedServer:
        self._server.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.stop(timeout=CLIENT_S)
        assert not self.errors, self.errors


def until(check: Callable[[], Any], timeout_s: float = CLIENT_S) -> Any:
    """Let the hub run until ``check`` returns something true; returns that."""
    with gevent.Timeout(timeout_s, AssertionError(f"not within {timeout_s:g} s: {check!r}")):
        while not (found := check()):
            gevent.sleep(0.001)
    return found


def reset(client: Client) -> None:
    """Close so that the peer sees a reset instead of the end."""
    client.reset()


def descriptors() -> int:
    """How many descriptors the process of the test holds."""
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def keeps_descriptors() -> Iterator[None]:
    """Fail unless as many descriptors are open after the block as before."""
    gevent.sleep(0)  # the hub has its own
    before = descriptors()
    yield
    until(lambda: descriptors() == before)


def summary(batch: Batch) -> list[tuple[bytes, bytes]]:
    """The lead and the bytes of each message."""
    return [(message.lead, message.raw) for message in batch]
