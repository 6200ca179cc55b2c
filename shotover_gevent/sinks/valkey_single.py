"""ValkeySinkSingle: to one Valkey or Redis server.

By default each client has a connection of its own (:mod:`shotover_gevent.sinks.valkey_dedicated`); with
``connection_mode: shared`` they share some (:mod:`shotover_gevent.sinks.valkey_shared`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, PrivateAttr

from shotover_gevent.chain import BuildContext, SessionContext, Sink, TransformConfig
from shotover_gevent.chain.upstream import Upstream
from shotover_gevent.errors import NothingSent, UpstreamError
from shotover_gevent.metrics import Counter, Histogram
from shotover_gevent.net.address import Address
from shotover_gevent.net.stream import Stream
from shotover_gevent.net.tls_settings import TlsConnector
from shotover_gevent.sinks.tcp_single import address_problems
from shotover_gevent.sinks.valkey_dedicated import ValkeySink

# With one connection a server spends the least per request; more of them let a large reply of one client
# hold up fewer of the others. Beyond this number nothing is shared in a sense.
MAX_SHARED_CONNECTIONS = 1024


class ValkeySinkSingle(TransformConfig):
    """Sends requests to the Valkey or Redis server at ``remote_address``."""

    terminating: ClassVar[bool] = True
    protocols: ClassVar[tuple[str, ...] | None] = ("Valkey",)

    remote_address: str = Field(
        description="Where the server listens: host:port, or unix:/path", examples=["127.0.0.1:6379"])
    connect_timeout_ms: int = Field(
        ge=0, description="How long connecting may take, in milliseconds", examples=[3000])
    connection_mode: Literal["dedicated", "shared"] = Field(
        default="dedicated",
        description="Whether each client has an upstream connection of its own, or all share some")
    connection_count: int = Field(
        default=1, ge=1, le=MAX_SHARED_CONNECTIONS,
        description="How many connections the clients share, with connection_mode: shared")
    tls: TlsConnector | None = Field(None, description="TLS toward the server; plain without it")
    _upstream: Upstream = PrivateAttr(default_factory=Upstream)
    _failed_requests: Counter = PrivateAttr(default_factory=Counter)
    _source_to_sink: Histogram = PrivateAttr(default_factory=Histogram)
    _pool: Any = PrivateAttr(default=None)
    _shared_sink: Any = PrivateAttr(default=None)

    @property
    def answers_together(self) -> bool:
        """With shared connections: one read has the replies to many sessions."""
        return self.connection_mode == "shared"

    def problems(self) -> list[str]:
        """The address must name a host and a port; one's own connection is one."""
        found = address_problems(self.type_name, self.remote_address, self.tls)
        if self.connection_mode == "dedicated" and self.connection_count != 1:
            found += [
                f"{self.type_name}:",
                "  connection_count: it is for connection_mode: shared; a client has one connection otherwise"]
        return found

    def upstreams(self) -> Sequence[Upstream]:
        """The one at ``remote_address``."""
        return (self._upstream,)

    def build(self, context: BuildContext) -> None:
        """Register the counters of this sink, and load its certificates."""
        self._upstream.register(context, self.type_name, self.name, self.remote_address, self.tls)
        self._failed_requests = context.metrics.counter(
            "shotover_failed_requests_count", "Error replies of the database",
            chain=context.chain, transform=self.type_name)
        self._source_to_sink = context.metrics.histogram(
            "shotover_source_to_sink_latency_seconds",
            "From a request read to the request written", sink=self.type_name)
        if self.connection_mode == "shared":
            # Imported here: they are of no use to the others, and build on this module. And not later: a
            # successor has all that it needs before it asks for anything.
            from shotover_gevent.sinks.valkey_pool import UpstreamPool
            from shotover_gevent.sinks.valkey_shared import SharedSink

            self._pool = UpstreamPool(self, context)
            self._shared_sink = SharedSink

    def session(self, context: SessionContext) -> Sink:
        """The sink of one session; it connects at the first request."""
        if self._pool is not None:
            return self._shared_sink(self, context, self._pool)
        return ValkeySink(self, context)

    def dial(self, context: Any) -> Stream:
        """Connect to the server, for the greenlet of ``context.park``; the caller owns the stream.

        Raises :class:`NothingSent`.
        """
        try:
            return self._upstream.open(
                Address.parse(self.remote_address), self.connect_timeout_ms / 1000, context.park,
                context.buffer)
        except UpstreamError as error:
            raise NothingSent(str(error)) from error.__cause__

    def close(self) -> None:
        """Close the shared connections."""
        if self._pool is not None:
            self._pool.close()
