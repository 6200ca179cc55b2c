"""A session written down as a transcript, run through a proxy with real sockets.

    run_transcript([Upper(name="upper")], '''
        >  GET k
        >> GET k
        << value
        <  VALUE
    ''')

The lines are explained in :mod:`shotover_gevent.testing.transcript_line`.

Rules:
 1. The lines are played one after the other, in the hub of the test: what is sent is sent, what is
    received has to be these bytes, and no other, within the time.
 2. A client connects at its first line. An upstream connection is what the sink makes; they are counted
    in the order in which they come.
 3. After the last line, nothing may have come that no line tells of.
 4. A line that fails raises ``AssertionError`` with the line, and the difference.
"""

from __future__ import annotations

import difflib
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import gevent
from gevent import socket as gsocket

from shotover_gevent.chain.transform import TransformConfig
from shotover_gevent.config.topology import parse_topology
from shotover_gevent.net.address import Address
from shotover_gevent.proxy import Proxy
from shotover_gevent.sinks.tcp_single import TcpSinkSingle
from shotover_gevent.sinks.valkey_single import ValkeySinkSingle
from shotover_gevent.testing.client import CLIENT_S, Client
from shotover_gevent.testing.transcript_line import Line, parse
from shotover_gevent.testing.upstream import FakeUpstream, UpstreamConnection

# What comes later than this after the last line, or after "(nothing)", is not noticed.
QUIET_S = 0.02

# A sink of ours reaches an upstream in the same process at once.
CONNECT_MS = 2000

Chain = Sequence[TransformConfig]
ChainLike = Chain | Callable[[FakeUpstream], Chain]


def run_transcript(
    target: ChainLike | Mapping[str, Any] | str, text: str, *, protocol: str = "Valkey",
    timeout_s: float = CLIENT_S,
) -> None:
    """Play a transcript against a proxy; raises ``AssertionError`` where it goes another way.

    ``target`` is a chain, or a function that makes one and is given the upstream; a chain without a sink
    gets one that asks the upstream. Or it is a topology, as YAML text or as data, in which
    ``{upstream}`` stands for the address of the upstream; clients connect to its first source, which
    listens on port 0. ``timeout_s`` bounds every line.
    """
    lines = parse(text, protocol)
    with FakeUpstream(_stay_open) as upstream, _serving(target, upstream, protocol) as address:
        player = _Player(upstream, address, timeout_s)
        try:
            for line in lines:
                player.play(line)
            player.finish()
        finally:
            player.close()


def _stay_open(connection: UpstreamConnection) -> None:
    connection.closed.wait()


@contextmanager
def _serving(
    target: ChainLike | Mapping[str, Any] | str, upstream: FakeUpstream, protocol: str
) -> Iterator[Address]:
    """A proxy in front of the upstream; at the end it is stopped at once."""
    if isinstance(target, str):
        topology = parse_topology(target.replace("{upstream}", upstream.address), environ={})
        proxy = Proxy(topology)
    elif isinstance(target, Mapping):
        proxy = Proxy(_filled(target, upstream.address))
    else:
        chain = list(target(upstream) if callable(target) else target)
        if not chain or not chain[-1].terminating:
            sink = TcpSinkSingle if protocol == "Tcp" else ValkeySinkSingle
            chain.append(sink(
                name="transcript-upstream", remote_address=upstream.address, connect_timeout_ms=CONNECT_MS))
        source = {"name": "transcript", "listen_addr": "127.0.0.1:0", "chain": chain}
        proxy = Proxy({"sources": [{protocol: source}]})
    proxy.start()
    try:
        yield proxy.sources[0].address
    finally:
        proxy.stop(timeout_s=0)


def _filled(value: Any, address: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _filled(item, address) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_filled(item, address) for item in value]
    return value.replace("{upstream}", address) if isinstance(value, str) else value


class _Player:
    """The clients of a transcript, and the place in it."""

    def __init__(self, upstream: FakeUpstream, address: Address, timeout_s: float) -> None:
        self._upstream = upstream
        self._address = address
        self._timeout_s = timeout_s
        self._clients: dict[int, Client] = {}
        self._ended: set[Client] = set()
        self._played: list[str] = []

    def play(self, line: Line) -> None:
        """Do what the line says. Raises ``AssertionError``."""
        peer = self._client(line.peer) if line.is_client else self._connection(line)
        if peer in self._ended:
            self._fail(line, "this connection has ended before")
        peer.socket.settimeout(self._timeout_s)
        if line.is_sent:
            self._send(peer, line)
        else:
            self._receive(peer, line)
        self._played.append(line.text)

    def finish(self) -> None:
        """Nothing has come that no line tells of."""
        gevent.sleep(QUIET_S)
        sides = [("client", number, client) for number, client in self._clients.items()]
        sides += [("upstream", n, each) for n, each in enumerate(self._upstream.connections, 1)]
        for side, number, peer in sides:
            if peer not in self._ended and (rest := _at_once(peer)):
                raise AssertionError(
                    f"after the last line of the transcript, {side} {number} received\n    {rest!r}")

    def close(self) -> None:
        """Close the clients; the upstream closes its side itself."""
        for client in self._clients.values():
            client.close()

    def _client(self, number: int) -> Client:
        if number not in self._clients:
            sock = (gsocket.socket(socket.AF_UNIX) if self._address.is_unix else gsocket.socket())
            sock.settimeout(self._timeout_s)
            sock.connect(self._address.path if self._address.is_unix else (
                self._address.host, self._address.port))
            self._clients[number] = Client(sock, self._timeout_s)
        return self._clients[number]

    def _connection(self, line: Line) -> Client:
        try:
            return self._upstream.wait_connection(line.peer - 1, self._timeout_s)
        except AssertionError:
            made = len(self._upstream.connections)
            self._fail(line, f"the proxy has made {made} connections to the upstream")

    def _send(self, peer: Client, line: Line) -> None:
        if line.event == "close":
            peer.close()
        elif line.event == "reset":
            peer.reset()
        else:
            peer.send(line.data)
            return
        self._ended.add(peer)

    def _receive(self, peer: Client, line: Line) -> None:
        if line.event == "nothing":
            gevent.sleep(QUIET_S)
            if rest := _at_once(peer):
                self._fail(line, f"expected nothing\nreceived {rest!r}")
        elif line.event is not None:
            self._see_end(peer, line)
        else:
            received, end = self._take(peer, len(line.data))
            if received != line.data:
                received += _at_once(peer) if end == "" else b""
                self._fail(line, _difference(line.data, received) + end)
            while line.is_open and not end and not received.endswith(b"\n"):
                received, end = self._take(peer, 1)
            if end:
                self._fail(line, f"the line goes on{end}")

    def _take(self, peer: Client, count: int) -> tuple[bytes, str]:
        """That many bytes; or fewer, and why."""
        received = b""
        try:
            while len(received) < count:
                data = peer.read(count - len(received))
                if not data:
                    return received, "\nand then the end"
                received += data
        except TimeoutError:
            return received, f"\nand nothing more within {self._timeout_s:g} s"
        except ConnectionError:
            return received, "\nand then a reset"
        return received, ""

    def _see_end(self, peer: Client, line: Line) -> None:
        received, end = self._take(peer, 1)
        self._ended.add(peer)
        seen = {"\nand then the end": "closed", "\nand then a reset": "reset"}.get(end)
        if seen != line.event:
            came = f"({seen})" if seen else repr(received + _at_once(peer)) if received else "nothing"
            self._fail(line, f"expected ({line.event})\nreceived {came}")

    def _fail(self, line: Line, text: str) -> NoReturn:
        before = "".join(f"    {each}\n" for each in self._played[-3:])
        indented = text.replace("\n", "\n    ")
        raise AssertionError(f"line {line.number} of the transcript\n{before}--> {line.text}\n    {indented}")


def _at_once(peer: Client) -> bytes:
    """What has come and was not read yet."""
    try:
        timeout_s = peer.socket.gettimeout()
        peer.socket.settimeout(0)
    except OSError:
        return b""
    received = b""
    try:
        while data := peer.read(65536):
            received += data
    except OSError:  # nothing more, or the end
        pass
    finally:
        peer.socket.settimeout(timeout_s)
    return received


def _difference(expected: bytes, received: bytes) -> str:
    """Both, line of the protocol by line: ``-`` what was expected, ``+`` what came."""
    one, other = (
        [repr(each)[1:] for each in data.splitlines(keepends=True)] for data in (expected, received))
    return "\n".join(each for each in difflib.ndiff(one, other) if not each.startswith("?"))
