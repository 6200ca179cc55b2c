"""A source: one entry of the topology, with its listener and its sessions.

Resource handling: the source owns its listener from :meth:`Source.open` or :meth:`Source.adopt` on,
and its sessions own their sockets. :meth:`Source.stop` or :meth:`Source.drain` ends the sessions,
:meth:`Source.close` closes the rest.
"""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event

from shotover_gevent.chain.chain import ChainConfig
from shotover_gevent.chain.handoff import Luggage
from shotover_gevent.chain.transform import Endpoint, TransformConfig
from shotover_gevent.deadline import Deadline
from shotover_gevent.metrics import MetricStore
from shotover_gevent.net.address import Address
from shotover_gevent.net.dial import rust_duration
from shotover_gevent.net.listener import Listener, bind
from shotover_gevent.net.stream import ReceiveBuffer
from shotover_gevent.net.tls_settings import TlsAcceptor
from shotover_gevent.sources.gathering import GatheringSession
from shotover_gevent.sources.protocol import PROTOCOLS
from shotover_gevent.sources.relay import RelaySession
from shotover_gevent.sources.base import BaseSession, EndReason
from shotover_gevent.sources.session import Session

if TYPE_CHECKING:
    from shotover_gevent.net.tls_context import ServerTls

# Shotover's pace: a chunk of the connections every 200 ms.
DRAIN_CHUNK_S = 0.2

# A drained session may need this long after its turn: the grace of its last requests, and the
# linger of its close. Longer than both.
CHUNK_WAIT_S = 4.0

# How often idle sessions are looked for when the source has a timeout, which is in seconds.
IDLE_CHECK_S = 0.5


@dataclass(slots=True)
class Runtime:
    """What all sources of one proxy share."""

    metrics: MetricStore = field(default_factory=MetricStore)
    buffer: ReceiveBuffer = field(default_factory=ReceiveBuffer)
    endpoints: list[Endpoint] = field(default_factory=list)


class Source:
    """A listener, the codec of its clients, and one session per client."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        type_name: str,
        name: str,
        listen_addr: Address,
        chain: tuple[TransformConfig, ...],
        connection_limit: int = 512,
        hard_connection_limit: bool = False,
        timeout_s: float | None = None,
        tls: TlsAcceptor | None = None,
        tls_handshake_s: float | None = None,
    ) -> None:
        """Build the chain and load the certificates; nothing is bound yet.

        ``tls_handshake_s`` is how long a client may take for the handshake, by default
        ``HANDSHAKE_S`` of ``net.tls_context``. Raises ``ConfigError`` when files cannot be used.
        """
        self.runtime = runtime
        self.type_name = type_name
        self.name = name
        self.listen_addr = listen_addr
        self.protocol = PROTOCOLS[type_name]
        self.tls = _server_tls(tls, name, runtime.metrics, tls_handshake_s)
        self.chain = ChainConfig(
            name, type_name, chain, runtime.metrics, runtime.endpoints)
        self.connection_limit = connection_limit
        self.hard_connection_limit = hard_connection_limit
        self.timeout_s = timeout_s
        self.sessions: dict[BaseSession, None] = {}
        self.listener: Listener | None = None
        self._next_id = 1
        self._serving: gevent.Greenlet | None = None
        self._reaper: gevent.Greenlet | None = None
        self._is_closed = False
        self._all_ended = Event()
        self._all_ended.set()
        self._log = logging.getLogger(f"{__package__}.{type_name.lower()}")
        self._session_type: type[BaseSession] = RelaySession if type_name == "Tcp" else (
            GatheringSession if self.chain.gathers else Session)
        self._register(runtime.metrics)

    def _register(self, metrics: MetricStore) -> None:
        label = {"source": self.name}
        self.opened = metrics.counter("connections_opened", "Connections accepted", **label)
        self._accept_failures = metrics.counter(
            "shotover_connections_accept_failures_count", "Errors of accept", **label)
        self._create_failures = metrics.counter(
            "shotover_listener_create_failures_count", "Errors of binding again", **label)
        self.sink_to_source = metrics.histogram(
            "shotover_sink_to_source_latency_seconds",
            "From a response read to the response written", **label)
        self.bytes_received = metrics.counter(
            "shotover_gevent_bytes_received_count", "Bytes read from clients", **label)
        self.bytes_sent = metrics.counter(
            "shotover_gevent_bytes_sent_count", "Bytes sent to clients", **label)
        self.protocol_errors = metrics.counter(
            "shotover_gevent_protocol_errors_count", "Clients that broke their protocol", **label)
        self.ended = {
            reason: metrics.counter(
                "shotover_gevent_sessions_ended_count", "Connections that have ended",
                **label, reason=reason.value)
            for reason in EndReason
        }
        metrics.gauge(
            "shotover_gevent_sessions", "Connections that are open", lambda: len(self.sessions), **label)
        metrics.gauge(
            "shotover_available_connections_count", "Connections below the limit",
            lambda: max(0, self.connection_limit - len(self.sessions)), **label)

    # -- listening ------------------------------------------------------------------------------

    def open(self, sock: socket.socket | None = None, is_held: bool = False) -> None:
        """Get ready to accept: adopt ``sock``, or bind the address. Raises ``OSError``.

        ``is_held`` says that the service manager holds the socket, too, and owns its file.
        """
        self._log.info("Starting %s source on [%s]", self.type_name, self.listen_addr)
        if self.tls is not None:
            self.tls.warn()
        if sock is None:
            sock = bind(self.listen_addr)
            said = f"Created new listener for {self.listen_addr}"
        else:
            said = f"Using hot reloaded listener for {self.name} source on [{self.listen_addr}]"
        self.listener = Listener(
            self.name, sock, self._accepted,
            is_full=lambda: len(self.sessions) >= self.connection_limit,
            is_limit_hard=self.hard_connection_limit,
            keeps_file=is_held,
            accept_failures=self._accept_failures,
            create_failures=self._create_failures,
        )
        self._log.info(said, extra={"target": "shotover::source_task"})

    def start(self) -> None:
        """Accept clients, in the serve greenlet."""
        assert self.listener is not None, "open() comes first"
        self._serving = gevent.spawn(self.listener.serve)
        if self.timeout_s is not None:
            self._reaper = gevent.spawn(self._reap)

    @property
    def address(self) -> Address:
        """Where the source listens; the port that was chosen if the topology says 0."""
        return self.listener.address if self.listener is not None else self.listen_addr

    def retire(self, has_successor: bool) -> None:
        """Give up the listening socket; the serve greenlet stays parked.

        The file of a Unix socket stays if ``has_successor``: it is the successor's then.
        """
        if self.listener is not None and (sock := self.listener.take()) is not None:
            if not has_successor:
                self.listener.remove_file()
            sock.close()

    # -- sessions -------------------------------------------------------------------------------

    def _accepted(self, sock: socket.socket, peer: Any) -> None:
        """Called in the hub for each accepted connection: count it and start its greenlet."""
        session = self._session_type(self, self._next_id, sock, peer)
        self._next_id += 1
        self.opened.value += 1
        self.sessions[session] = None
        self._all_ended.clear()
        if self._log.isEnabledFor(logging.INFO):
            self._log.info(
                "New connection from %s", session.client_address,
                extra={"fields": {"source": self.name, "id": session.id}},
            )
        gevent.spawn_raw(session.run)

    def adopt(self, state: Mapping[str, Any], luggage: Luggage) -> BaseSession | None:
        """A session of another process, built and not begun; ``None`` if it cannot be built.

        The caller has asked :meth:`refusal` before. The sockets are ours from now on.
        """
        peer = state["peer"]
        session = self._session_type(
            self, self._next_id, luggage.unpack(), tuple(peer) if isinstance(peer, list) else peer)
        self._next_id += 1
        self.sessions[session] = None
        self._all_ended.clear()
        try:
            session.adopt(state, luggage)
        except Exception:
            self._log.exception("a session of another process could not be built again")
            self.drop(session)
            return None
        return session

    def drop(self, session: BaseSession) -> None:
        """Forget an adopted session that was not begun; the other process has kept it."""
        session.drop()
        del self.sessions[session]
        if not self.sessions:
            self._all_ended.set()

    def refusal(self, identity: str) -> str | None:
        """Why sessions of another process with that chain cannot be adopted; ``None`` if they can."""
        if self.state_identity != identity:
            return "the chain has changed"
        if len(self.sessions) >= self.connection_limit:
            return "the connection limit is reached"
        return None

    @property
    def state_identity(self) -> str:
        """What must be equal in both processes for a session to move: protocol, TLS and chain."""
        tls = "" if self.tls is None else f"{self.tls.settings.model_dump_json()} "
        return f"{self.type_name} {tls}{self.chain.identity}"

    def session_ended(self, session: BaseSession, reason: EndReason, seconds: float) -> None:
        """Forget a session that has closed everything it owned."""
        self.ended[reason].value += 1
        del self.sessions[session]
        if not self.sessions:
            self._all_ended.set()
        if self.listener is not None:
            self.listener.slot_freed()
        # A session that moved lives on: a line for each of thousands would hold up those yet to move.
        level = logging.DEBUG if reason is EndReason.MOVED else logging.INFO
        if self._log.isEnabledFor(level):
            self._log.log(level, "session closed", extra={"fields": {
                "source": self.name, "id": session.id, "peer": session.client_address,
                "requests": session.requests, "reason": reason.value, "seconds": round(seconds, 3),
            }})

    def _reap(self) -> None:
        """End the sessions that have been idle for longer than the timeout."""
        assert self.timeout_s is not None
        while True:
            gevent.sleep(IDLE_CHECK_S)
            before = monotonic() - self.timeout_s
            for session in list(self.sessions):
                if session.is_idle and session.idle_since < before:
                    session.stop(EndReason.IDLE)

    # -- endings --------------------------------------------------------------------------------

    def drain(self, seconds: float, waiting: Set[BaseSession] = frozenset()) -> None:
        """End all sessions between requests, spread over ``seconds``, oldest first.

        Those ``waiting`` may still move to another process, and are left alone until the time is
        over. Returns when the last has ended. Those that never come to a boundary are ended when the
        time and :data:`CHUNK_WAIT_S` are over.
        """
        started = monotonic()
        deadline = Deadline.after(seconds + CHUNK_WAIT_S)
        tracked = [session for session in self.sessions if session not in waiting]
        chunks = max(1, math.floor(seconds / DRAIN_CHUNK_S))
        per_chunk = max(1, math.ceil(len(tracked) / chunks))
        say = lambda text, *args: self._log.info("[%s] " + text, self.name, *args)
        say("Gradual shutdown initiated - draining connections over %s", rust_duration(seconds))
        say("Will drain %d connections per chunk over %d chunks (200ms per chunk)", per_chunk, chunks)
        while tracked and not deadline.is_over:
            chunk, tracked = tracked[:per_chunk], tracked[per_chunk:]
            say("Draining %d out of %d connections", len(chunk), len(chunk) + len(tracked))
            for session in chunk:
                session.stop(EndReason.DRAIN)
            say("%d connections remaining after drain", len(tracked))
            if tracked:
                gevent.sleep(DRAIN_CHUNK_S)
        until = Deadline.after(seconds - (monotonic() - started))
        while not until.is_over and any(session in waiting for session in self.sessions):
            gevent.sleep(DRAIN_CHUNK_S)
        self._end(deadline, EndReason.DRAIN)
        say("All connections drained, shutting down")

    def stop(self, deadline: Deadline) -> None:
        """End all sessions between requests; at the deadline, wherever they are."""
        self._end(deadline, EndReason.SHUTDOWN)

    def close(self) -> None:
        """Close the listener and the chain, and end the greenlets of the source; sessions are ended
        by then."""
        if self.listener is not None:
            self.listener.close()
        for greenlet in (self._serving, self._reaper):
            if greenlet is not None:
                greenlet.kill(block=False)
        if not self._is_closed:
            self._is_closed = True
            self.chain.close()

    def _end(self, deadline: Deadline, reason: EndReason) -> None:
        for session in list(self.sessions):
            session.stop(reason)
        if not self._all_ended.wait(deadline.left()):
            self._log.warning(
                "%d sessions did not end in time and are closed", len(self.sessions),
                extra={"fields": {"source": self.name}},
            )
            for session in list(self.sessions):
                session.abort()
            self._all_ended.wait(CHUNK_WAIT_S)

    def __repr__(self) -> str:
        return f"<Source {self.name} ({self.type_name}) on {self.address}, {len(self.sessions)} sessions>"


def _server_tls(
    settings: TlsAcceptor | None, name: str, metrics: MetricStore, handshake_s: float | None
) -> ServerTls | None:
    if settings is None:
        return None
    # Imported here: ssl takes 20 ms, and not everybody needs it.
    from shotover_gevent.net.tls_context import ServerTls

    return ServerTls(settings, name, metrics, handshake_s)
