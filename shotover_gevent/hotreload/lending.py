"""Shotover's dialect, as the predecessor speaks it: lend the sockets, retire when told to.

Rules:
 1. Lending costs nothing: the successor gets copies, which are closed here right after the send,
    whatever became of it. This process goes on accepting until a successor confirms.
 2. Only the process that was lent the sockets may confirm, while its lease is held (``lease``). One
    lease at a time; its holder may ask again, which starts its time anew.
 3. The answer to a confirmation goes out first, and this process retires in the next instruction.
    That order is the safe one: if the answer cannot be delivered, because its reader has died or
    given up, nothing has changed and this process serves on. Retiring first and then failing to say
    so would leave nobody to serve. Between the two both may accept, from one queue, and each
    serves what it accepts. Once the answer is out, the retirement stands.
 4. What is refused is answered with ``Error``, and nothing changes.
"""

from __future__ import annotations

import logging
import socket
from typing import Protocol

from shotover_gevent.errors import os_error_text
from shotover_gevent.hotreload.count import ReloadCounts
from shotover_gevent.hotreload.lease import Lease
from shotover_gevent.hotreload.moving import Moved
from shotover_gevent.hotreload.peer import Peer, Process
from shotover_gevent.hotreload.protocol import (
    ErrorResponse, GradualShutdown, ListenerResponse, Request, Response, SendListeningSockets,
    ShutdownResponse, SocketsResponse, decode_request, encode_response,
)
from shotover_gevent.net.fdpass import close_all

logger = logging.getLogger(__name__)

# Shotover makes room for this many, and loses what is beyond.
MAX_LENT = 250

# A duration on the wire may be 585 billion years, a timer may not.
MAX_DRAIN_S = 366 * 86_400.0


class Host(Protocol):
    """What is replaced by a reload: the proxy, as this server sees it."""

    @property
    def is_retired(self) -> bool:
        """Whether the listeners are given up, for a successor or to end."""

    def lend_listeners(self) -> list[ListenerResponse]:
        """Another descriptor of every listening socket; the caller closes them."""

    def retire(self, seconds: float) -> None:
        """Close the listeners and start to drain within ``seconds``. Does not wait."""


def process_request(request: Request, host: Host) -> tuple[Response, list[socket.socket]]:
    """The answer to ``request`` and the sockets that go with it, which the caller closes.

    A confirmation is only answered here: the host retires once the answer is out.
    """
    if isinstance(request, GradualShutdown):
        return ShutdownResponse(), []
    try:
        listeners = host.lend_listeners()
    except OSError as error:
        return ErrorResponse(f"the listening sockets cannot be lent: {os_error_text(error)}"), []
    sockets = [each.listener for each in listeners if each.listener is not None]
    if len(sockets) > MAX_LENT:
        close_all(sockets)
        return ErrorResponse(
            f"{len(sockets)} listening sockets do not fit into one packet: {MAX_LENT} do"), []
    return SocketsResponse(listeners), sockets


class Lender:
    """Lends the sockets of ``host`` to one successor at a time. See the rules above."""

    def __init__(self, host: Host, lease_s: float, counts: ReloadCounts) -> None:
        self.host = host
        self._counts = counts
        self._lease_s = lease_s
        self._lease: Lease | None = None
        self.successor_pid: int | None = None

    def converse(self, peer: Peer, data: bytes) -> None:
        """The conversation that begins with the packet ``data``: its only request."""
        request = decode_request(data)
        refusal = self._refusal(request, peer.who.pid)
        if refusal is not None:
            refuse(peer, refusal)
        elif isinstance(request, SendListeningSockets):
            self._lend(peer, request)
        else:
            self._retire(peer, request)

    @property
    def holder(self) -> int | None:
        """The process that was lent the sockets and may still confirm."""
        return self._lease.pid if self._lease is not None and self._lease.is_held else None

    def close(self) -> None:
        """End the lease, if there is one."""
        if self._lease is not None:
            self._lease.release()

    def _refusal(self, request: Request, pid: int) -> str | None:
        """Why the process ``pid`` may not have what it asks for; ``None`` if it may."""
        lease = self._lease
        if self.successor_pid is not None:
            return f"already handed over to pid {self.successor_pid}"
        if self.host.is_retired:
            return "this process is shutting down"
        if isinstance(request, SendListeningSockets):
            if lease is not None and lease.is_held and lease.pid != pid:
                return f"another reload is in progress: pid {lease.pid} has the listening sockets"
            return None
        if lease is None:
            return "nobody was lent the listening sockets: ask for them first"
        if lease.pid != pid:
            return f"the listening sockets were lent to pid {lease.pid}, not to pid {pid}"
        if not lease.is_held:
            return f"the lease of pid {pid} has ended: {lease.state.value}"
        return None

    def _lend(self, peer: Peer, request: SendListeningSockets) -> None:
        """Send copies of the listening sockets, and start the lease."""
        response, sockets = process_request(request, self.host)
        try:
            if isinstance(response, ErrorResponse):
                refuse(peer, response.text)
                return
            before, lease = self._lease, Lease(
                Process.of(peer.socket), self._lease_s, self._not_confirmed)
            self._lease = lease
            if before is not None:
                before.release()
            try:
                peer.send(encode_response(response), sockets)
            except BaseException:
                lease.release()
                raise
            logger.info("lent %d listening sockets to process %d", len(sockets), lease.pid)
        finally:
            close_all(sockets)

    def _retire(self, peer: Peer, request: GradualShutdown) -> None:
        """Answer, then give way. Nothing in between may wait: rule 3."""
        response, sockets = process_request(request, self.host)
        peer.send(encode_response(response), sockets)
        lease = self._lease
        if self.successor_pid is not None or lease is None:
            return  # it asked twice at once
        self.successor_pid = peer.who.pid
        lease.confirm()
        try:
            self.host.retire(min(request.duration_s, MAX_DRAIN_S))
            self._counts.given(Moved(), is_ok=True)
        finally:
            lease.release()
        logger.info("process %d has taken over", self.successor_pid)

    def _not_confirmed(self) -> None:
        self._counts.given(Moved(), is_ok=False, reason="the successor has not confirmed")

    def __repr__(self) -> str:
        return f"<Lender {self._lease or 'without a lease'}>"


def refuse(peer: Peer, reason: str) -> None:
    """Tell ``peer`` why not, and the log."""
    logger.warning("hot reload by process %d refused: %s", peer.who.pid, reason)
    peer.send(encode_response(ErrorResponse(reason)))
