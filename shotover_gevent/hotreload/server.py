"""The predecessor's control socket: accepts connections, has each answered, looks after the file.

Rules:
 1. Each connection has a greenlet and a deadline. A peer that says nothing harms nobody: when all
    places are taken, the one that has been silent for longest has to go.
 2. Its first packet decides which conversation it is. What cannot be understood is closed without
    an answer, as Shotover does: that is how a successor that speaks more than Shotover's dialect
    learns that its predecessor does not.
 3. Only our own user and root are served, whatever the mode of the file has become.
 4. Once a second the file is looked after: gone, it is made again; replaced by something of
    another process, it is left alone. A retired process leaves the path to its successor.

Resource handling: ``close()`` ends everything, except a conversation that has been answered and is
about to end by itself, and removes the file if it is still ours.

Error handling: ``accept`` failing, as with ``EMFILE``, is logged and tried again after a second.
"""

from __future__ import annotations

import enum
import logging
import os
import socket

import gevent
from gevent import socket as gsocket

from shotover_gevent.deadline import Deadline
from shotover_gevent.errors import HotReloadError, ShotoverError, UsageError, causes, os_error_text
from shotover_gevent.hotreload.control import Handler, answer
from shotover_gevent.hotreload.count import ReloadCounts
from shotover_gevent.hotreload.dialect import Line, decode, is_control, is_ours, is_status
from shotover_gevent.hotreload.giving import Giver, GivingHost
from shotover_gevent.hotreload.lending import Lender, refuse
from shotover_gevent.hotreload.peer import Peer, PeerState
from shotover_gevent.hotreload.socketfile import ControlSocket, Live, inspect
from shotover_gevent.metrics import MetricStore

logger = logging.getLogger(__name__)

# From being lent the sockets until serving, a successor binds what is new: seconds, not minutes.
LEASE_S = 60.0

# A request is written right after connecting, and its answer fits into the socket's buffer.
PEER_TIMEOUT_S = 5.0

# A reload needs one connection at a time; this many leave room for those who are refused.
MAX_CONVERSATIONS = 16

# How long a vanished file stays away: no reload can start meanwhile, but nothing else suffers.
WATCH_INTERVAL_S = 1.0

ACCEPT_RETRY_S = 1.0


class State(enum.Enum):
    """Where a server is in its life."""

    NEW = "new"
    SERVING = "serving"
    CLOSED = "closed"


class HotReloadServer:
    """Serves the control socket at ``path`` for ``host``. See the rules above."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        host: GivingHost,
        *,
        counts: ReloadCounts | None = None,
        control: Handler | None = None,
        lease_s: float = LEASE_S,
        peer_timeout_s: float = PEER_TIMEOUT_S,
    ) -> None:
        self.path = os.fspath(path)
        self.host = host
        self.state = State.NEW
        self._peer_timeout_s = peer_timeout_s
        counts = ReloadCounts(MetricStore()) if counts is None else counts
        self._handler = control
        self._lender = Lender(host, lease_s, counts)
        self._giver = Giver(host, counts)
        self._control: ControlSocket | None = None
        self._acceptor: gevent.Greenlet | None = None
        self._conversations: dict[gevent.Greenlet, Peer] = {}
        self._complaint: str | None = None
        self._refused: tuple[int, int] | None = None

    def start(self) -> None:
        """Listen. Raises :class:`HotReloadError` if the path cannot be used."""
        if self.state is not State.NEW:
            raise UsageError(f"start() works once; this server is {self.state.value}")
        self._control = ControlSocket.bind(self.path)
        self.state = State.SERVING
        logger.info("Unix socket server listening on: %s", self.path)
        logger.info("Hot reload server created at %s", self.path)
        self._acceptor = gevent.spawn(self._serve)

    @property
    def successor_pid(self) -> int | None:
        """The process that has taken over last, or that is about to."""
        return self._lender.successor_pid or self._giver.successor_pid

    def close(self) -> None:
        """End all conversations and any lease; remove the file if it is ours."""
        self.state = State.CLOSED
        if self._acceptor is None:
            return
        # First: it would miss the file that is about to be removed, and make it again.
        self._acceptor.kill()
        control, self._control = self._control, None
        if control is not None:
            control.unlink_if_ours()
            control.close()
        for greenlet, peer in list(self._conversations.items()):
            if peer.state is not PeerState.ANSWERED:
                self._end_conversation(greenlet, peer)
        self._lender.close()

    # -- conversations --------------------------------------------------------------------------

    def _serve(self) -> None:
        """Accept, and look after the file in between."""
        look = Deadline.after(WATCH_INTERVAL_S)
        while (control := self._control) is not None:
            try:
                gsocket.wait_read(control.socket.fileno(), look.left(), TimeoutError())
            except TimeoutError:
                pass
            else:
                self._accept_all(control.socket)
            if look.is_over:
                look = Deadline.after(WATCH_INTERVAL_S)
                # At the end of a reload the successor's file is there before we are retired.
                if not self.host.is_retired and not self._giver.is_busy:
                    self._look_after_file(control)

    def _accept_all(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                logger.warning(
                    "control socket %s: accept failed: %s; trying again in %gs",
                    self.path, os_error_text(error), ACCEPT_RETRY_S)
                gevent.sleep(ACCEPT_RETRY_S)
                return
            peer = Peer(sock, Deadline.after(self._peer_timeout_s))
            greenlet = gevent.Greenlet(self._converse, peer)
            self._conversations[greenlet] = peer
            greenlet.start()
            if len(self._conversations) > MAX_CONVERSATIONS:
                self._make_room()

    def _make_room(self) -> None:
        """End the conversation whose peer has been silent for longest: at worst, the newest."""
        greenlet, peer = next(
            (greenlet, peer) for greenlet, peer in self._conversations.items()
            if peer.state is PeerState.SILENT)
        self._warn(peer, f"closed: it was silent, and {MAX_CONVERSATIONS} others are connected")
        self._end_conversation(greenlet, peer)

    def _end_conversation(self, greenlet: gevent.Greenlet, peer: Peer) -> None:
        """Kill ``greenlet``. Its connection is closed here too: it may never have started."""
        self._conversations.pop(greenlet, None)
        greenlet.kill()
        peer.close()

    def _converse(self, peer: Peer) -> None:
        """One conversation, from its first packet to its end. Closes the connection."""
        try:
            data = peer.receive()
            if not data:
                logger.debug("control socket %s: process %d left", self.path, peer.who.pid)
            elif peer.who.uid not in (0, os.geteuid()):
                refuse(peer, f"user {peer.who.uid} may not reload or control a process of another user")
            else:
                self._answer(peer, data)
        except TimeoutError:
            self._warn(peer, f"took longer than {self._peer_timeout_s:g}s; closed")
        except (ShotoverError, OSError) as error:
            logger.error("Error handling connection: %s", ": ".join(causes(error)))
        finally:
            self._conversations.pop(gevent.getcurrent(), None)
            peer.close()

    def _answer(self, peer: Peer, data: bytes) -> None:
        """Let whoever speaks the dialect of the first packet go on; one reload at a time."""
        if not is_ours(data):
            if self._giver.is_busy:
                refuse(peer, f"another reload is in progress: pid {self._giver.successor_pid}")
            else:
                self._lender.converse(peer, data)
        elif is_control(data):
            peer.state = PeerState.ANSWERED
            answer(Line(peer.socket), decode(data)[1], self._handler)
        elif self._lender.holder is not None and not is_status(data):
            refuse(peer, f"another reload is in progress: pid {self._lender.holder}")
        else:
            peer.state = PeerState.ANSWERED
            self._giver.converse(Line(peer.socket), peer.who.pid, *decode(data))

    def _warn(self, peer: Peer, what: str) -> None:
        logger.warning("control socket %s: process %d %s", self.path, peer.who.pid, what)

    # -- the file -------------------------------------------------------------------------------

    def _look_after_file(self, control: ControlSocket) -> None:
        """Make the file again if it is gone; leave alone what another process put there."""
        found = control.found()
        if found == control.identity:
            self._complaint = self._refused = None
            return
        if found is not None and found == self._refused:
            return
        try:
            if isinstance(inspect(self.path), Live):
                self._complain(f"{self.path} is now the socket of another process")
                return
            self._control = ControlSocket.bind(self.path)
        except HotReloadError as error:
            # Looking again may connect to another program's socket: wait until the file is another.
            self._refused = found
            self._complain(": ".join(causes(error)))
            return
        self._complaint = self._refused = None
        logger.info("the hot reload socket %s was gone and has been made again", self.path)
        try:
            self._accept_all(control.socket)
        finally:
            control.close()

    def _complain(self, reason: str) -> None:
        """Log why this process cannot be reloaded, once for each reason."""
        if reason != self._complaint:
            self._complaint = reason
            logger.warning("this process cannot be reloaded for now: %s", reason)

    def __repr__(self) -> str:
        return f"<HotReloadServer {self.path} {self.state.value}, {self._lender!r}>"
