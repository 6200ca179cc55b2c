"""A database of a test: a TCP server in the process of the test that does what a script says.

    with FakeUpstream([Expect(b"PING\\r\\n"), Send(b"+PO"), RESET]) as upstream:
        ...                                  # have something connect to upstream.address

Each script is for one connection, in the order in which they come; the last one is for all further ones
too. A script is a list of steps, or a function of the connection. When it is over the connection is
closed; :data:`HANG` at its end keeps it open, and answers nothing.

Rules:
 1. It listens on a free port of 127.0.0.1, in the hub of the test, from ``with`` to the end of the
    block; then every connection is closed.
 2. Whatever arrives is recorded as it is read, whether the script asked for it or not.
 3. A script that fails (something else came than it expects, or it still waits for that) fails the test
    at the end of the block.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gevent
from gevent.event import Event
from gevent.server import StreamServer

from shotover_gevent.codecs.batch import Message
from shotover_gevent.net.address import Address
from shotover_gevent.sources.protocol import PROTOCOLS
from shotover_gevent.testing.client import CLIENT_S, RecordingClient

# One read of a script that takes whatever comes.
_READ_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Expect:
    """Exactly these bytes come next."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Send:
    """Send these bytes; a part of an answer cuts it in the middle."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Delay:
    """Let ``seconds`` pass before the next step."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Ending:
    """How a script ends."""

    name: str

    def __repr__(self) -> str:
        return self.name


#: Close in order, reset, or stay open and answer nothing until the other side closes.
CLOSE, RESET, HANG = Ending("CLOSE"), Ending("RESET"), Ending("HANG")

Step = Expect | Send | Delay | Ending
Script = Callable[["UpstreamConnection"], None] | Sequence[Step]


class UpstreamConnection(RecordingClient):
    """One connection of a fake upstream. ``received`` holds all bytes that were read so far."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        #: What a script of steps is doing.
        self.step: Step | None = None
        #: Set when the connection is over on our side.
        self.closed = Event()

    def hang(self) -> None:
        """Take what comes and answer nothing, until the other side closes."""
        self.socket.settimeout(None)
        try:
            while self.read(_READ_BYTES):
                pass
        except ConnectionError:
            pass  # that is an end, too

    def close(self) -> None:
        """Close the connection."""
        super().close()
        self.closed.set()

    def play(self, steps: Sequence[Step]) -> None:
        """Do the steps of a script one after the other."""
        for step in steps:
            self.step = step
            if isinstance(step, Expect):
                self.expect(step.data)
            elif isinstance(step, Send):
                self.send(step.data)
            elif isinstance(step, Delay):
                gevent.sleep(step.seconds)
            elif step is RESET:
                self.reset()
            elif step is HANG:
                self.hang()
            else:
                self.close()
        self.step = None


class FakeUpstream:
    """A scripted TCP server. ``errors`` holds what went wrong in its scripts."""

    def __init__(self, *scripts: Script) -> None:
        if not scripts:
            raise TypeError("a fake upstream needs a script; to answer nothing: [HANG]")
        self._scripts = scripts
        self._server = StreamServer(("127.0.0.1", 0), self._serve)
        #: Every connection there has been, in the order in which they came.
        self.connections: list[UpstreamConnection] = []
        self.errors: list[BaseException] = []

    @property
    def address(self) -> str:
        """``127.0.0.1:port``, as a topology has it."""
        return str(Address("127.0.0.1", self.port))

    @property
    def port(self) -> int:
        """Where it listens, once it has been started."""
        return int(self._server.server_port)

    @property
    def received(self) -> list[bytes]:
        """What each connection has read so far."""
        return [connection.received for connection in self.connections]

    @property
    def open_connections(self) -> list[UpstreamConnection]:
        """Those whose script is not over."""
        return [connection for connection in self.connections if not connection.closed.is_set()]

    def start(self) -> None:
        """Listen."""
        self._server.start()

    def stop(self) -> None:
        """Refuse new connections and close all there are; calling it again does nothing."""
        self._server.stop(timeout=0)
        for connection in self.open_connections:
            connection.close()

    def wait_connection(self, number: int = 0, timeout_s: float = CLIENT_S) -> UpstreamConnection:
        """The connection of that number, from 0; waits until it is there."""
        with gevent.Timeout(timeout_s, AssertionError(f"connection {number} did not come")):
            while len(self.connections) <= number:
                gevent.sleep(0.001)
        return self.connections[number]

    def _serve(self, sock: socket.socket, peer: Any) -> None:
        connection = UpstreamConnection(sock)
        script = self._scripts[min(len(self.connections), len(self._scripts) - 1)]
        self.connections.append(connection)
        try:
            if callable(script):
                script(connection)
            else:
                connection.play(script)
        except Exception as error:
            if not connection.closed.is_set():  # whoever closed it meanwhile has ended the script
                self.errors.append(error)
        finally:
            connection.close()

    def __enter__(self) -> FakeUpstream:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        waiting = [each.step.data for each in self.open_connections if isinstance(each.step, Expect)]
        self.stop()
        if kind is None and self.errors:
            raise AssertionError(f"the script of {self!r} failed: {self.errors[0]}") from self.errors[0]
        if kind is None and waiting:
            raise AssertionError(f"the script of {self!r} is not over: {waiting[0]!r} did not come")

    def __repr__(self) -> str:
        state = f"on {self.address}" if self._server.started else "stopped"
        number, total = len(self.open_connections), len(self.connections)
        return f"<FakeUpstream {state}, {number} of {total} connections open>"


Answer = Callable[[Message], bytes]


def echo(request: Message) -> bytes:
    """The answer of a database that shows what it was asked: a bulk string of the request's words.

    A request that cannot be taken apart, and one of a protocol of bytes, comes back as it is.
    """
    words = request.frame
    if not isinstance(words, list):
        return request.raw
    text = b" ".join(word for word in words if isinstance(word, bytes))
    return b"$%d\r\n%b\r\n" % (len(text), text)


class AnsweringUpstream(FakeUpstream):
    """A fake upstream that answers every request by ``answer``, for as long as it is not told otherwise.

    ``answered_bytes`` counts what it has sent.
    """

    def __init__(self, answer: Answer = echo, protocol: str = "Valkey") -> None:
        super().__init__(self._answer_all)
        self._answer = answer
        self._protocol = PROTOCOLS[protocol]
        self._cut: tuple[int, Ending] | None = None
        self.answered_bytes = 0

    def cut_next(self, after_bytes: int = 0, ending: Ending = CLOSE) -> None:
        """End the connection in the middle of its next answer."""
        self._cut = after_bytes, ending

    def _answer_all(self, connection: UpstreamConnection) -> None:
        decoder = self._protocol.decoder()
        connection.socket.settimeout(None)
        while data := _read_or_end(connection):
            requests = decoder.feed(data)
            messages = requests.messages or [Message(requests.codec, requests.raw)] * bool(requests.raw)
            raw = b"".join(map(self._answer, messages))
            if raw and self._cut is not None:
                (count, ending), self._cut = self._cut, None
                connection.play([Send(raw[:count]), ending])
                return
            connection.send(raw)
            self.answered_bytes += len(raw)


def _read_or_end(connection: UpstreamConnection) -> bytes:
    try:
        return connection.read(_READ_BYTES)
    except OSError:
        return b""  # the other side, or the end of the test, has ended it
