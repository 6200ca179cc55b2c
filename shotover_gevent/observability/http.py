"""The admin server: metrics, health and the log filter, over HTTP.

Rules:
 1. It must not disturb the proxy. It has a bound on connections, on their time and on what they
    send; a long page lets other greenlets run while it is made; nothing is written to standard
    error.
 2. Its address must not stop the proxy: where it cannot be bound, that is logged once and tried
    again every second.
 3. The listening socket has one owner in this process. :meth:`AdminServer.lend` makes another
    descriptor for a successor; ``close()`` then leaves the successor alone on the address.

Resource handling: ``close()`` closes the listening socket, also one that was passed in. A request
in progress goes on until it is answered or its deadline is over.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import socket
from collections.abc import Callable

import gevent
from gevent.event import Event
from gevent.pool import Pool

from shotover_gevent.errors import UsageError, os_error_text
from shotover_gevent.metrics import MetricStore
from shotover_gevent.net.address import Address
from shotover_gevent.net.listener import bind
from shotover_gevent.observability.history import History
from shotover_gevent.observability.metrics import (
    HUB_LAG,
    HUB_LAG_HELP,
    HubLag,
    ProcessMetrics,
    exposition,
)
from shotover_gevent.observability.route import TARGET, Application, Health
from shotover_gevent.observability.wsgi import WSGI, WsgiApplication

logger = logging.getLogger(__name__)

# A few scrapers and probes, ten times over. Those beyond wait in the kernel's queue.
MAX_CONNECTIONS = 64

# Short enough that a successor answers at once when its predecessor has gone.
BIND_RETRY_S = 1.0

# Metrics rendered in one go: about half a millisecond.
PIECES_PER_TURN = 64


class State(enum.Enum):
    """What an admin server does."""

    NEW = "new"
    BINDING = "binding"
    SERVING = "serving"
    PAUSED = "paused"
    CLOSED = "closed"


class HttpServer:
    """A WSGI application, on an address to bind or on a listening socket, which it then owns.

    ``failed`` and ``recovered`` are what it logs, under ``target``, with its address in place of ``%s``.
    """

    failed = "Metrics HTTP server failed: Failed to bind to %s"
    recovered = "Metrics HTTP server recovered and is listening on %s"
    target = TARGET

    def __init__(self, where: Address | socket.socket, application: WsgiApplication) -> None:
        self._socket = None if isinstance(where, Address) else _adopt(where)
        self.address = where if isinstance(where, Address) else Address.of(where.getsockname())
        self.state = State.NEW
        #: Set while requests are accepted.
        self.serving = Event()
        self._application = application
        self._pool = Pool(MAX_CONNECTIONS)
        self._server: WSGI | None = None
        self._binder: gevent.Greenlet | None = None

    @property
    def listener(self) -> socket.socket | None:
        """The listening socket, which stays this server's; ``None`` while it has none."""
        return self._socket

    def open(self) -> None:
        """Bind the address, accept nothing yet; raises ``OSError``. For an early answer only."""
        if self.state is State.CLOSED:
            raise UsageError("a closed admin server cannot be opened")
        if self._socket is None:
            self._socket = bind(self.address)
            self.address = Address.of(self._socket.getsockname())

    def start(self) -> None:
        """Serve; where the address cannot be bound, serve as soon as it can. Returns at once."""
        self._stop_binding()
        try:
            self.open()
        except OSError as error:
            logger.error(
                self.failed, self.address,
                extra={"target": self.target, "fields": {"error": os_error_text(error)}},
            )
            self.state = State.BINDING
            self._binder = gevent.spawn(self._bind_until_it_works)
        else:
            self._accept()

    def lend(self) -> socket.socket | None:
        """Another descriptor of the listening socket, owned by the caller; ``None`` without one."""
        return self._socket.dup() if self._socket is not None else None

    def stop_accepting(self) -> None:
        """Accept nothing until :meth:`start`; the socket stays, and clients wait in its queue."""
        self._stop_binding()
        self.serving.clear()
        if self.state in (State.SERVING, State.BINDING):
            self.state = State.PAUSED
        if self._server is not None:
            self._server.pause()

    def close(self) -> None:
        """Close the listening socket; returns at once. :meth:`join` waits for requests."""
        self.stop_accepting()
        self.state = State.CLOSED
        server, self._server = self._server, None
        if server is not None:
            server.close()
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until no request is in progress; whether that is so."""
        return bool(self._pool.join(timeout_s))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self.address} {self.state.value}, {len(self._pool)} connections>"

    def _accept(self) -> None:
        assert self._socket is not None
        if self._server is None:
            self._server = WSGI(self._socket, self._application, self._pool, self.address)
        self._server.resume()
        self.state = State.SERVING
        self.serving.set()

    def _bind_until_it_works(self) -> None:
        while self._socket is None:
            gevent.sleep(BIND_RETRY_S)
            # A kill may arrive after the wake-up.
            if self.state is not State.BINDING:
                return
            with contextlib.suppress(OSError):
                self.open()
        self._binder = None
        self._accept()
        logger.info(self.recovered, self.address, extra={"target": self.target})

    def _stop_binding(self) -> None:
        binder, self._binder = self._binder, None
        if binder is not None:
            binder.kill(block=False)


class AdminServer(HttpServer):
    """HTTP for operators: metrics, health and the log filter."""

    def __init__(
        self,
        where: Address | socket.socket,
        metrics: MetricStore,
        *,
        ready: Health,
        live: Health,
        set_filter: Callable[[str], None] | None = None,
        status: Callable[[], bytes] | None = None,
        history: History | None = None,
    ) -> None:
        """``status`` returns JSON; ``history`` gets a sample a second while the server lives."""
        super().__init__(where, Application(
            self._exposition, ready, live, set_filter, status, history and history.since))
        self._metrics = metrics
        self._process = ProcessMetrics()
        self._history = history
        self._lag_metric = metrics.histogram(HUB_LAG, HUB_LAG_HELP)
        self._lag = HubLag(self._note_lag)

    def start(self) -> None:
        """As the base class, and watch the hub."""
        self._lag.start()
        super().start()

    def close(self) -> None:
        """As the base class, and stop watching."""
        super().close()
        self._lag.close()

    def _note_lag(self, lag_s: float) -> None:
        self._lag_metric.observe(lag_s)
        if self._history is not None:
            self._history.sample(lag_s)

    def _exposition(self) -> bytes:
        pieces = []
        for number, piece in enumerate(exposition(self._metrics), 1):
            pieces.append(piece)
            if number % PIECES_PER_TURN == 0:
                gevent.sleep(0)
        pieces.append(self._process.exposition())
        return "".join(pieces).encode()


class SwitchServer(HttpServer):
    """The interface of a transform, where one has any: the switch of a Tee or of a FaultInjection."""

    failed = "Error in ChainSwitchListener: Failed to bind to %s"
    recovered = "ChainSwitchListener recovered and is listening on %s"
    target = "shotover::transforms::tee"


def _adopt(sock: socket.socket) -> socket.socket:
    sock.setblocking(False)
    return sock
