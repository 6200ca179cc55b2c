"""The proxy: sources, admin interface and hot reload under one roof.

A :class:`Proxy` runs in the hub of whoever makes it. It patches nothing, installs no signal handlers,
keeps no globals and logs to ``logging.getLogger("shotover_gevent")``, so that several of them live
in one process beside anything else.

The life of a proxy (:class:`State`), each step at most once::

    BUILT --start()--> SERVING --drain(), or a successor took over--> DRAINING --> STOPPED
      \\------------------------------------stop()---------------------------------/

Building does everything that may fail without touching the outside: parsing, importing, making
chains. :meth:`Proxy.start` then binds all or nothing.
"""

from __future__ import annotations

import enum
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import gevent
from gevent.event import Event

from shotover_gevent._version import __version__
from shotover_gevent.chain.build import BuildError
from shotover_gevent.chain.transform import TransformConfig
from shotover_gevent.config.load import load_config, parse_config
from shotover_gevent.config.model import GeneralConfig
from shotover_gevent.config.registry import Registry
from shotover_gevent.config.topology import Topology, load_topology, parse_topology
from shotover_gevent.control import Control
from shotover_gevent.deadline import Deadline
from shotover_gevent.errors import (
    HotReloadError,
    ShotoverError,
    UsageError,
    causes,
    os_error_text,
    render,
)
from shotover_gevent.facts import ProxyFacts
from shotover_gevent.hotreload.client import Handover
from shotover_gevent.hotreload.count import ReloadCounts
from shotover_gevent.hotreload.dialect import fingerprint
from shotover_gevent.hotreload.moving import Moved
from shotover_gevent.hotreload.later import move_later
from shotover_gevent.hotreload.protocol import ListenerResponse
from shotover_gevent.hotreload.server import HotReloadServer
from shotover_gevent.net.activation import Activation
from shotover_gevent.net.address import Address
from shotover_gevent.net.fdpass import close_all
from shotover_gevent.observability.history import History
from shotover_gevent.observability.http import AdminServer, HttpServer, SwitchServer
from shotover_gevent.observability.log_filter import LogFilter
from shotover_gevent.observability.status import status
from shotover_gevent.sources.base import BaseSession
from shotover_gevent.sources.source import Runtime, Source

logger = logging.getLogger(__name__)

# As long as a container or a service manager lets a process take, with room to spare (30 and 90 s).
SHUTDOWN_GRACE_S = 10.0

#: What a passed socket is called that is for the admin interface: its key in ``config.yaml``.
OBSERVABILITY = "observability_interface"

# What a request of the admin interface may still take when all else has ended: it is a matter of
# milliseconds, unless its client has stopped to send.
ADMIN_GRACE_S = 2.0

# Shotover's interval for trying to create the control socket.
CONTROL_RETRY_S = 3

TopologyLike = Topology | Mapping[str, Any] | str | os.PathLike[str]
ConfigLike = GeneralConfig | Mapping[str, Any] | str | os.PathLike[str]


class State(enum.Enum):
    """Where a proxy is in its life."""

    BUILT = "built"
    SERVING = "serving"
    DRAINING = "draining"
    STOPPED = "stopped"


class StartError(ShotoverError):
    """Listening addresses could not be bound; nothing was started.

    ``failures`` holds each source with its error; ``text`` is the report in Shotover's layout.
    """

    def __init__(self, failures: Sequence[tuple[Source, OSError]]) -> None:
        self.failures = tuple(failures)
        self.text = "Topology errors\n" + "".join(
            f"{source.name} source:\n  {os_error_text(error)} address={source.listen_addr}\n"
            for source, error in failures)
        super().__init__(self.text)


class Proxy:
    """A proxy for the sources of one topology.

    ``topology`` and ``config`` are file paths, parsed YAML (a ``dict``), or models; ``transforms``
    are further configuration classes, by their ``type_name``. Raises ``ConfigError`` with all
    problems at once.
    """

    def __init__(
        self,
        topology: TopologyLike,
        config: ConfigLike | None = None,
        *,
        transforms: Sequence[type[TransformConfig]] = (),
        hotreload_socket: str | os.PathLike[str] | None = None,
        set_filter: Callable[[str], None] | None = None,
        get_filter: Callable[[], str] | None = None,
    ) -> None:
        """Build everything, bind nothing.

        ``set_filter`` replaces the log filter, by text; with ``get_filter`` it can be for a while.
        """
        self.config = _config(config)
        self.topology = _topology(topology, Registry(transforms=transforms))
        self.runtime = Runtime()
        self.sources = self._build_sources()
        self.state = State.BUILT
        #: Set once clients are accepted.
        self.ready = Event()
        #: Set once a successor serves.
        self.replaced = Event()
        #: Set when everything has ended, however that came about.
        self.ended = Event()
        self._reloads = ReloadCounts(self.runtime.metrics)
        self._hotreload_socket = os.fspath(hotreload_socket) if hotreload_socket else None
        self._hotreload_server: HotReloadServer | None = None
        self._admin: AdminServer | None = None
        self._switches: list[SwitchServer] = []
        self._set_filter = set_filter
        self._log_filter: LogFilter | None = None
        if set_filter is not None and get_filter is not None:
            self._log_filter = LogFilter(get_filter, set_filter)
            self._set_filter = self._log_filter.set
        self._facts = ProxyFacts(self, self._reloads, self._log_filter)
        self._facts.register(self.runtime.metrics)
        #: How this process took over from another, once it has.
        self.last_reload: dict[str, Any] | None = None

    def _build_sources(self) -> list[Source]:
        """The source of every entry. Raises ``ConfigError`` for all transforms that cannot be built."""
        sources: list[Source] = []
        failures: list[tuple[TransformConfig, Exception]] = []
        for entry in self.topology.sources:
            try:
                sources.append(Source(
                    self.runtime,
                    type_name=entry.type_name,
                    name=entry.name,
                    listen_addr=entry.listen_addr,
                    chain=entry.chain,
                    connection_limit=entry.connection_limit,
                    hard_connection_limit=entry.hard_connection_limit,
                    timeout_s=entry.timeout,
                    tls=entry.tls,
                ))
            except BuildError as error:
                failures += error.failures
        if failures:
            for source in sources:
                source.close()
            raise self.topology.not_built(failures)
        return sources

    @property
    def metrics(self) -> Any:
        """The metrics of this proxy, as ``MetricStore``."""
        return self.runtime.metrics

    # -- starting -------------------------------------------------------------------------------

    def start(
        self, handover: Handover | None = None, gradual_shutdown_s: float = 60.0,
        activation: Activation | None = None,
    ) -> None:
        """Bind or adopt every listener, then accept clients; returns at once.

        With ``handover`` the listeners of a predecessor are adopted where their address matches,
        and it is asked to drain within ``gradual_shutdown_s`` seconds before anything is accepted.
        What ``activation`` has for the name of a source is taken rather than bound.
        Raises :class:`StartError` or ``HotReloadError``; nothing stays open then.
        """
        if self.state is not State.BUILT:
            raise UsageError(f"start() works once; this proxy is {self.state.value}")
        try:
            self._open(handover, activation or Activation())
            if handover is not None:
                handover.confirm(gradual_shutdown_s)
                self.adopt_chains(handover.chains)
                if self.state is not State.BUILT:
                    raise HotReloadError("this proxy was stopped while it was starting")
            else:
                self._start_hotreload_server()
        except BaseException:
            self._end(Deadline.after(0))
            raise
        self.state = State.SERVING
        for source in self.sources:
            source.start()
        logger.info("Shotover is now accepting inbound connections",
                    extra={"target": "shotover::config::topology"})
        self._facts.serving()
        self.ready.set()
        if handover is not None:
            try:
                handover.complete(self, self._follow_predecessor)
                self.last_reload = self._report(handover)
                self._reloads.taken(handover.end)
            except BaseException:
                self._reloads.not_taken()
                self.stop()
                raise
        for server in self._http_servers:
            server.start()

    def _report(self, handover: Handover) -> dict[str, Any]:
        """How this process took over, for whoever asked for it."""
        before, after = set(handover.addresses_before), {str(s.address) for s in self.sources}
        return {
            "predecessor_pid": handover.predecessor_pid,
            "listeners": {
                "kept": len(before & after), "added": len(after - before),
                "removed": len(before - after),
            },
            "sessions": {"moved": handover.end.get("moved", 0), "kept": handover.end.get("kept", {})},
            "longest_pause_ms": handover.end.get("longest_pause_ms", 0.0),
        }

    def _open(self, handover: Handover | None, activation: Activation) -> None:
        """Bind or adopt every address; all that cannot be bound is reported together."""
        failures = []
        for source in self.sources:
            sock = handover.take(source.listen_addr) if handover is not None else None
            sock = activation.take(source.name) if sock is None else sock
            try:
                source.open(sock, source.name in activation.held)
            except OSError as error:
                failures.append((source, error))
        if failures:
            raise StartError(failures)
        address = self.config.observability_address
        if address is not None:
            sock = handover.take(address) if handover is not None else None
            sock = activation.take(OBSERVABILITY) if sock is None else sock
            self._admin = AdminServer(
                address if sock is None else sock, self.runtime.metrics,
                ready=self._facts.readiness, live=lambda: (True, "ok"), set_filter=self._set_filter,
                status=lambda: json.dumps(status(self._facts)).encode(), history=History(self.sources))

        for endpoint in self.runtime.endpoints:
            sock = handover.take(endpoint.address) if handover is not None else None
            self._switches.append(
                SwitchServer(endpoint.address if sock is None else sock, endpoint.application))

    @property
    def _http_servers(self) -> list[HttpServer]:
        return [*([self._admin] if self._admin is not None else []), *self._switches]

    def _start_hotreload_server(self) -> None:
        if self._hotreload_socket is not None:
            server = HotReloadServer(
                self._hotreload_socket, self, counts=self._reloads, control=Control(self._facts))
            server.start()
            self._hotreload_server = server

    def _follow_predecessor(self) -> None:
        """Put our control socket into the place of the predecessor's; clients are served already."""
        try:
            self._start_hotreload_server()
        except HotReloadError as error:
            logger.error(
                "%s; this process serves, but cannot be reloaded until that is mended, "
                "trying again every %ds", render(str(error), list(causes(error.__cause__))),
                CONTROL_RETRY_S)
            gevent.spawn_later(CONTROL_RETRY_S, self._try_following_again)

    def _try_following_again(self) -> None:
        if self.state is State.SERVING:
            self._follow_predecessor()

    # -- the reload, as seen by its server ------------------------------------------------------

    @property
    def addresses(self) -> list[Address]:
        """Every address that the configuration says to listen at, the admin interface's too."""
        admin = self.config.observability_address
        others = [endpoint.address for endpoint in self.runtime.endpoints]
        return [source.listen_addr for source in self.sources] + ([admin] if admin else []) + others

    @property
    def is_retired(self) -> bool:
        """Whether a successor has taken over."""
        return self.state in (State.DRAINING, State.STOPPED)

    @property
    def successor_pid(self) -> int | None:
        """The process that serves instead of this one, once there is one."""
        server = self._hotreload_server
        return server.successor_pid if server is not None and self.replaced.is_set() else None

    def lend_listeners(self) -> list[ListenerResponse]:
        """A further descriptor of every listening socket; whoever gets them closes them."""
        lent: list[ListenerResponse] = []
        try:
            for source in self.sources:
                if source.listener is not None:
                    lent.append(ListenerResponse(source.address, source.listener.lend()))
            for server in self._http_servers:
                if (sock := server.lend()) is not None:
                    lent.append(ListenerResponse(Address.of(sock.getsockname()), sock))
        except BaseException:
            close_all([each.listener for each in lent if each.listener is not None])
            raise
        return lent

    def export_chains(self) -> list[dict[str, Any]]:
        """What chains have for a successor that belongs to no session: for all sources that have any."""
        return [
            {"address": str(source.address), "identity": fingerprint(source.state_identity),
             "states": states}
            for source in self.sources if (states := source.chain.export())
        ]

    def adopt_chains(self, exported: Sequence[Mapping[str, Any]]) -> None:
        """Take that over where sessions could move as well: at the same address, with an equal chain."""
        for each in exported:
            source = self.source_at(each["address"])
            if source is not None and fingerprint(source.state_identity) == each["identity"]:
                source.chain.adopt(each["states"])

    def source_at(self, address: str) -> Source | None:
        """The source that listens at an address, as ``host:port``."""
        return next((source for source in self.sources if str(source.address) == address), None)

    def stop_accepting(self) -> None:
        """Accept nothing for now, keep the listening sockets."""
        for source in self.sources:
            if source.listener is not None:
                source.listener.stop_accepting()

    def resume_accepting(self) -> None:
        """Undo :meth:`stop_accepting`."""
        if self.state is State.SERVING:
            for source in self.sources:
                if source.listener is not None:
                    source.listener.resume_accepting()

    def retire(
        self, seconds: float, moved: Moved | None = None, lent: Set[str] = frozenset()
    ) -> None:
        """A successor serves: close our listeners, drain the sessions; returns at once.

        ``moved`` says which sessions may still move, when they fall idle; ``lent`` at which
        addresses the successor listens, as far as it has that from us.
        """
        if self.state is not State.SERVING:
            raise UsageError(f"only a serving proxy retires; this one is {self.state.value}")
        waiting: set[BaseSession] = set()
        if moved is not None and self._hotreload_socket is not None:
            waiting = {s for source in self.sources for s in source.sessions} - moved.staying
            if waiting:
                gevent.spawn(
                    move_later, self._hotreload_socket, self.sources, moved, seconds, self._reloads)
        gevent.spawn(self.drain, seconds, waiting)
        self._stop_listening(lent)
        if self._admin is not None:
            self._admin.close()  # the successor answers there
        self.replaced.set()

    # -- ending ---------------------------------------------------------------------------------

    def drain(self, seconds: float, waiting: Set[BaseSession] = frozenset()) -> None:
        """Stop accepting, let sessions end between requests, spread over ``seconds``; then end.

        Those ``waiting`` to move to a successor are left alone until the time is over. Returns
        when all has ended.
        """
        self._stop_listening()
        gevent.joinall([gevent.spawn(source.drain, seconds, waiting) for source in self.sources])
        self._end(Deadline.after(ADMIN_GRACE_S))

    def stop(self, timeout_s: float = SHUTDOWN_GRACE_S) -> None:
        """Stop accepting, finish what is in flight, close at the timeout; returns when all has ended."""
        if self.state is State.STOPPED:
            return
        self._stop_listening()
        deadline = Deadline.after(timeout_s)
        gevent.joinall([gevent.spawn(source.stop, deadline) for source in self.sources])
        self._end(Deadline.after(min(timeout_s, ADMIN_GRACE_S)))

    def _stop_listening(self, lent: Set[str] = frozenset()) -> None:
        """Give up every listener of clients; the admin's tells that we drain until :meth:`_end`."""
        if self.state is State.DRAINING:
            return
        self.state = State.DRAINING
        for source in self.sources:
            source.retire(str(source.address) in lent)
        for switch in self._switches:
            switch.close()

    def _end(self, requests: Deadline) -> None:
        """Close everything; ``requests`` of the admin interface that were accepted are still answered."""
        for source in self.sources:
            source.close()
        for server in self._http_servers:
            server.close()
        if self._hotreload_server is not None:
            self._hotreload_server.close()
        if self._log_filter is not None:
            self._log_filter.close()
        for server in self._http_servers:
            server.join(requests.left())
        self.state = State.STOPPED
        self.ended.set()

    def __enter__(self) -> Proxy:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        sessions = sum(len(source.sessions) for source in self.sources)
        return f"<Proxy {__version__} {self.state.value}, {len(self.sources)} sources, {sessions} sessions>"


def _config(config: ConfigLike | None) -> GeneralConfig:
    if config is None:
        return GeneralConfig(main_log_level="info")
    if isinstance(config, GeneralConfig):
        return config
    if isinstance(config, Mapping):
        return parse_config(config)
    return load_config(config)


def _topology(topology: TopologyLike, registry: Registry) -> Topology:
    if isinstance(topology, Topology):
        return topology
    if isinstance(topology, Mapping):
        return parse_topology(dict(topology), registry)
    return load_topology(topology, registry)
