"""What is known of one address of a database: how connecting to it goes, for metrics and status.

One :class:`Upstream` belongs to the configuration object of a sink, and so to all of its sessions.
It owns no socket: it counts what the sessions of the sink open and close.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from shotover_gevent.chain.transform import BuildContext
from shotover_gevent.errors import UpstreamError, causes
from shotover_gevent.metrics import Counter
from shotover_gevent.net.address import Address
from shotover_gevent.net.dial import open_stream
from shotover_gevent.net.park import Park
from shotover_gevent.net.stream import ReceiveBuffer, Stream
from shotover_gevent.net.tls_settings import TlsConnector

if TYPE_CHECKING:
    from shotover_gevent.net.tls_context import ClientTls


class Upstream:
    """The connections of one sink to one address. Counts for itself until :meth:`register`."""

    def __init__(self) -> None:
        self.chain = self.transform = self.name = self.address = ""
        self.connects = Counter()
        self.failures = Counter()
        #: Connections that are open now; those who open and close them count.
        self.connections = 0
        #: Why the last attempt failed; empty when it worked, or when there was none.
        self.failure = ""
        self._failed_at = 0.0
        self._tls: ClientTls | None = None

    def register(
        self, context: BuildContext, transform: str, name: str, address: str,
        tls: TlsConnector | None = None,
    ) -> None:
        """Be the ``address`` of the step ``name``, of type ``transform``, in the chain of ``context``.

        With ``tls`` its files are loaded. Raises ``ConfigError`` when they cannot be used.
        """
        self.chain, self.transform, self.name, self.address = context.chain, transform, name, address
        labels = {"chain": context.chain, "transform": transform, "upstream": address}
        self.connects = context.metrics.counter(
            "shotover_gevent_upstream_connects_count", "Connections made to a database", **labels)
        self.failures = context.metrics.counter(
            "shotover_gevent_upstream_connect_failures_count",
            "Connections to a database that could not be made", **labels)
        context.metrics.gauge(
            "shotover_gevent_upstream_connections", "Connections to a database that are open",
            lambda: self.connections, **labels)
        if tls is not None:
            # Imported here: ssl takes 20 ms, and not everybody needs it.
            from shotover_gevent.net.tls_context import ClientTls

            self._tls = ClientTls(tls, name, context.metrics, labels)

    def open(
        self, address: Address, timeout_s: float, park: Park, buffer: ReceiveBuffer, owner: Any = None
    ) -> Stream:
        """As :func:`~shotover_gevent.net.dial.open_stream`, with the TLS of the sink, and counted."""
        try:
            stream = open_stream(address, timeout_s, park, buffer, owner, self._tls)
        except UpstreamError as error:
            self.failures.value += 1
            self.failure = ": ".join(causes(error))
            self._failed_at = monotonic()
            raise
        self.connects.value += 1
        self.failure = ""
        return stream

    @property
    def failed_s_ago(self) -> float | None:
        """Seconds since the last attempt failed; ``None`` when it worked, or when there was none."""
        return monotonic() - self._failed_at if self.failure else None
