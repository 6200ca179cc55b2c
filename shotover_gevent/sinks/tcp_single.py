"""TcpSinkSingle: one upstream connection per client, for any protocol of bytes.

A byte stream has no requests and no responses: what the client sends comes down the chain as a
batch without messages (its ``raw`` is the bytes), what the server sends goes up as pushes. The
relay of the source moves the bytes, so that both directions flow independently.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field, PrivateAttr

from shotover_gevent.chain import Batch, BuildContext, Next, SessionContext, Sink, TransformConfig
from shotover_gevent.chain.handoff import EXPORTED, REBUILT, Luggage, Pinned
from shotover_gevent.chain.upstream import Upstream
from shotover_gevent.codecs.raw import RAW
from shotover_gevent.net.address import Address
from shotover_gevent.net.stream import Stream
from shotover_gevent.net.tls_settings import TlsConnector


class TcpSinkSingle(TransformConfig):
    """Forwards bytes to ``remote_address``, each client over a connection of its own."""

    terminating: ClassVar[bool] = True
    protocols: ClassVar[tuple[str, ...] | None] = ("Tcp",)

    remote_address: str = Field(
        description="Where the server listens: host:port, or unix:/path", examples=["127.0.0.1:6379"])
    connect_timeout_ms: int = Field(
        ge=0, description="How long connecting may take, in milliseconds", examples=[3000])
    tls: TlsConnector | None = Field(None, description="TLS toward the server; plain without it")
    _upstream: Upstream = PrivateAttr(default_factory=Upstream)

    def problems(self) -> list[str]:
        """The address must name a host and a port."""
        return address_problems(self.type_name, self.remote_address, self.tls)

    def upstreams(self) -> Sequence[Upstream]:
        """The one at ``remote_address``."""
        return (self._upstream,)

    def build(self, context: BuildContext) -> None:
        """Register the counters of this sink, and load its certificates."""
        self._upstream.register(context, self.type_name, self.name, self.remote_address, self.tls)

    def session(self, context: SessionContext) -> TcpSink:
        """The sink of one session; it connects when the relay asks it to."""
        return TcpSink(self, context)


def address_problems(type_name: str, text: str, tls: TlsConnector | None = None) -> list[str]:
    """What is wrong with the ``remote_address`` of a sink, in lines."""
    try:
        address = Address.parse(text)
    except ValueError as error:
        return [f"{type_name}:", f"  remote_address: {error}"]
    if address.is_unix and tls is not None and tls.verify_hostname:
        return [f"{type_name}:", "  verify_hostname: a Unix socket has no host name; write false"]
    return []


class TcpSink(Sink):
    """The upstream side of one relayed session."""

    fates = {
        "_config": REBUILT, "_context": REBUILT, "_push": REBUILT,
        "_outgoing": REBUILT,  # taken by the relay before it waits
        "stream": EXPORTED,
    }

    def __init__(self, config: TcpSinkSingle, context: SessionContext) -> None:
        self._config = config
        self._context = context
        self._push = context.pusher()
        self._outgoing: list[bytes] = []
        self.stream: Stream | None = None

    def connect(self) -> Stream:
        """Connect to the server; the sink closes the stream. Raises ``UpstreamError``."""
        config, context = self._config, self._context
        return self._use(config._upstream.open(
            Address.parse(config.remote_address), config.connect_timeout_ms / 1000, context.park,
            context.buffer))

    def _use(self, stream: Stream) -> Stream:
        self._config._upstream.connections += 1
        self.stream = stream
        return stream

    def transform(self, requests: Batch, next: Next) -> Batch:
        """Keep the bytes for the relay to send; a byte stream has no responses."""
        self._outgoing.append(requests.raw)
        return Batch(RAW, b"", ())

    def take_outgoing(self) -> bytes:
        """The bytes that came down the chain and are not sent yet."""
        raw = b"".join(self._outgoing)
        self._outgoing.clear()
        return raw

    def push_bytes(self, raw: bytes) -> None:
        """Send bytes of the server up the chain."""
        self._push(Batch(RAW, raw, ()))

    def export(self, luggage: Luggage) -> Any:
        """The connection travels; it has no other state."""
        if self.stream is None:
            raise Pinned("connecting")
        luggage.pack_stream(self.stream)
        return {}

    def adopt(self, state: Any, luggage: Luggage) -> None:
        """Go on with the connection of another process."""
        self._use(Stream(luggage.unpack(), self._context.park, self._context.buffer))

    def close(self) -> None:
        """Close the upstream connection."""
        if self.stream is not None and not self.stream.is_closed:
            self.stream.close()
            self._config._upstream.connections -= 1
