"""The upstream connections of one ValkeySinkSingle whose sessions share them.

Rules:
 1. A connection is shared by sessions of one :class:`~shotover_gevent.codecs.resp_state.Identity` only. It
    gets that identity by a handshake before anybody uses it.
 2. A group has at most ``connection_count`` shared connections, made when they are needed. A broken one is
    replaced at the next request; while it is being made, all who need it wait for the same attempt.
 3. A session that needs a connection of its own gets a spare one, or a new one. What it gives back
    becomes spare, unless it is to be thrown away; a spare one is never used for less than its credentials.
 4. Spare connections and groups without sessions are kept for a moment, and closed then.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import AsyncResult

from shotover_gevent.chain import BuildContext
from shotover_gevent.codecs.resp_frames import ErrorReply, encode, parse
from shotover_gevent.codecs.resp_replies import ReplyScanner
from shotover_gevent.codecs.resp_state import Identity
from shotover_gevent.deadline import Deadline
from shotover_gevent.errors import NothingSent, PeerError, UpstreamError, os_error_text
from shotover_gevent.net.park import HubPark, Park
from shotover_gevent.net.stream import ReceiveBuffer, Stream
from shotover_gevent.sinks.valkey_connection import CLOSED_HERE, SharedConnection
from shotover_gevent.sinks.valkey_dedicated import CLOSED

if TYPE_CHECKING:
    from shotover_gevent.sinks.valkey_single import ValkeySinkSingle

# Long enough for the next transaction of a busy client, short enough that no server closes it meanwhile.
KEEP_S = 10.0

# As many transactions as are begun and ended at the same moment by most programs.
MAX_SPARE = 16


@dataclass(slots=True)
class Place:
    """Where a stream belongs: what :meth:`ValkeySinkSingle.dial` wants to know."""

    park: Any
    buffer: ReceiveBuffer


@dataclass(slots=True)
class _Spare:
    stream: Stream
    identity: Identity
    name: bytes
    since: float


class Group:
    """The shared connections of one identity. Use :meth:`UpstreamPool.join` and ``leave``."""

    __slots__ = ("identity", "sessions", "idle_since", "connections", "making")

    def __init__(self, identity: Identity, count: int) -> None:
        self.identity = identity
        self.sessions = 0
        self.idle_since = 0.0
        self.connections: list[SharedConnection | None] = [None] * count
        self.making: list[AsyncResult | None] = [None] * count


class UpstreamPool:
    """All connections of one sink in shared mode, of one proxy."""

    def __init__(self, config: ValkeySinkSingle, context: BuildContext) -> None:
        self._config = config
        self._open = config._upstream
        self._groups: dict[Identity, Group] = {}
        self._spare: list[_Spare] = []
        self._tidying: gevent.Greenlet | None = None
        self._is_closed = False
        self._own = 0
        labels = {"chain": context.chain}
        metrics = context.metrics
        self._lost = metrics.counter(
            "shotover_gevent_shared_connections_lost_count",
            "Shared upstream connections that broke", **labels)
        self._separations = metrics.counter(
            "shotover_gevent_own_connections_count",
            "Times that a session of a shared upstream needed a connection of its own", **labels)
        for use, read in (
            ("shared", self._shared), ("own", lambda: self._own), ("spare", lambda: len(self._spare)),
        ):
            metrics.gauge(
                "shotover_gevent_pool_connections", "Upstream connections of a shared upstream", read,
                use=use, **labels)

    def _shared(self) -> int:
        return sum(
            connection is not None for group in self._groups.values() for connection in group.connections)

    # -- shared connections ---------------------------------------------------------------------

    def join(self, identity: Identity) -> Group:
        """The group of an identity, for one more session; :meth:`leave` ends that."""
        group = self._groups.get(identity)
        if group is None:
            group = self._groups[identity] = Group(identity, self._config.connection_count)
        group.sessions += 1
        return group

    def leave(self, group: Group) -> None:
        """A session does not need its group any more."""
        group.sessions -= 1
        if not group.sessions:
            group.idle_since = monotonic()
            self._tidy_later()

    def connection(self, group: Group, number: int, buffer: ReceiveBuffer) -> SharedConnection:
        """A connection of the group, made if need be; ``number`` spreads the sessions over several.

        Raises :class:`NothingSent`.
        """
        number %= len(group.connections)
        connection = group.connections[number]
        if connection is not None:
            return connection
        making = group.making[number]
        if making is None:
            making = group.making[number] = AsyncResult()
            gevent.spawn(self._make, group, number, making, buffer)
        found = making.get()
        if isinstance(found, UpstreamError):
            raise NothingSent(str(found)) from found.__cause__
        if found.failure is not None:  # as soon as it was made
            raise NothingSent(found.failure)
        return found

    def _make(
        self, group: Group, number: int, making: AsyncResult, buffer: ReceiveBuffer
    ) -> None:
        """Connect; in a greenlet of its own, so that nobody's end ends it for the others."""
        made: SharedConnection | UpstreamError = UpstreamError("the connection could not be made")
        try:
            stream = self._connect(group.identity, b"", Place(Park(), buffer))
            made = SharedConnection(stream, self._failed)
            group.connections[number] = made
            if self._groups.get(group.identity) is not group:
                made.close()  # nobody has waited for it
        except UpstreamError as error:
            made = error
        finally:
            group.making[number] = None
            making.set(made)  # whatever has happened: they wait for it

    def _failed(self, connection: SharedConnection) -> None:
        self._open.connections -= 1
        for group in self._groups.values():
            if connection in group.connections:
                group.connections[group.connections.index(connection)] = None
        self._lost.value += connection.failure != CLOSED_HERE

    # -- connections of one's own ---------------------------------------------------------------

    def take(self, identity: Identity, name: bytes, place: Place) -> Stream:
        """A connection of that identity and name for one session, whose greenlet calls this.

        It is given back by :meth:`give_back` or :meth:`throw_away`. Raises :class:`NothingSent`.
        """
        self._separations.value += 1
        try:
            stream = self._take_spare(identity, name, place) or self._connect(identity, name, place)
        except UpstreamError as error:
            raise NothingSent(str(error)) from error.__cause__
        self._own += 1
        return stream

    def adopted(self) -> None:
        """A session that came from another process has brought its own connection."""
        self._own += 1
        self._open.connections += 1

    def give_back(self, stream: Stream, identity: Identity, name: bytes) -> None:
        """Keep a connection that has just that identity and name, and no other state."""
        self._own -= 1
        if self._is_closed or len(self._spare) >= MAX_SPARE:
            self._end(stream)
            return
        stream.owner = None
        stream.move(HubPark(self._spare_ended))
        self._spare.append(_Spare(stream, identity, name, monotonic()))
        self._tidy_later()

    def throw_away(self, stream: Stream) -> None:
        """Close a connection that was taken."""
        self._own -= 1
        self._end(stream)

    def _end(self, stream: Stream) -> None:
        self._open.connections -= 1
        stream.close()

    def _take_spare(self, identity: Identity, name: bytes, place: Place) -> Stream | None:
        usable = [each for each in self._spare if not each.identity.auth or each.identity.auth == identity.auth]
        if not usable:
            return None
        spare = max(usable, key=lambda each: (each.identity == identity, each.since))
        self._spare.remove(spare)
        spare.stream.move(place.park)
        try:
            self._greet(spare.stream, spare.identity, identity, spare.name, name, place.park)
        except UpstreamError:
            self._end(spare.stream)  # a fresh one tells whether there is anything wrong but its age
            return None
        except BaseException:
            self._end(spare.stream)
            raise
        return spare.stream

    def _spare_ended(self, stream: Stream) -> None:
        """The server has closed a spare connection, or says what nobody asked; called in the hub."""
        self._spare = [each for each in self._spare if each.stream is not stream]
        self._end(stream)

    # -- making ---------------------------------------------------------------------------------

    def _connect(self, identity: Identity, name: bytes, place: Place) -> Stream:
        stream = self._config.dial(place)
        self._open.connections += 1
        try:
            self._greet(stream, Identity(), identity, b"", name, place.park)
        except BaseException:
            self._end(stream)
            raise
        return stream

    def _greet(
        self, stream: Stream, before: Identity, after: Identity, old_name: bytes, name: bytes, park: Park
    ) -> None:
        """Give a connection another identity and name. Raises :class:`UpstreamError`."""
        commands: list[list[bytes]] = []
        if after.auth != before.auth:
            commands.append([b"AUTH", *after.auth])
        if after.is_resp3 != before.is_resp3:
            commands.append([b"HELLO", b"3" if after.is_resp3 else b"2"])
        if after.database != before.database:
            commands.append([b"SELECT", b"%d" % after.database])
        if name != old_name:
            commands.append([b"CLIENT", b"SETNAME", name])
        if not commands:
            return
        timeout_s = self._config.connect_timeout_ms / 1000
        try:
            with gevent.Timeout(Deadline.after(timeout_s).left(), TimeoutError()):
                stream.send(b"".join(map(encode, commands)))
                replies = _replies(stream, park, len(commands))
        except TimeoutError as error:
            raise UpstreamError(
                f"destination {self._config.remote_address} did not answer the handshake in time") from error
        except OSError as error:
            raise UpstreamError(f"IO error {os_error_text(error)}") from error
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(frame := parse(reply), ErrorReply):
                raise UpstreamError(
                    f"destination {self._config.remote_address} refused "
                    f"{command[0].decode()}: {frame.text}")

    # -- ending ---------------------------------------------------------------------------------

    def _tidy_later(self) -> None:
        if self._tidying is None and not self._is_closed:
            self._tidying = gevent.spawn_later(KEEP_S, self._tidy)

    def _tidy(self) -> None:
        """Close what nobody has needed for a while."""
        self._tidying = None
        before = monotonic() - KEEP_S / 2
        old = [each for each in self._spare if each.since < before]
        self._spare = [each for each in self._spare if each.since >= before]
        for spare in old:
            self._end(spare.stream)
        for group in list(self._groups.values()):
            if not group.sessions and group.idle_since < before:
                del self._groups[group.identity]
                _close(group)
        if self._spare or any(not group.sessions for group in self._groups.values()):
            self._tidy_later()

    def close(self) -> None:
        """Close all that is shared or spare; those that sessions own are theirs to close."""
        self._is_closed = True
        if self._tidying is not None:
            self._tidying.kill(block=False)
        groups, self._groups = list(self._groups.values()), {}
        for group in groups:
            _close(group)
        for spare in self._spare:
            self._end(spare.stream)
        self._spare = []


def _close(group: Group) -> None:
    for connection in group.connections:
        if connection is not None:
            connection.close()


def _replies(stream: Stream, park: Park, count: int) -> list[bytes]:
    """The next values of a server. Raises ``OSError`` or :class:`UpstreamError`."""
    scanner = ReplyScanner()
    values: list[bytes] = []
    while len(values) < count:
        park.wait(stream)
        size = stream.receive()
        if size == 0:
            raise UpstreamError(CLOSED)
        if size > 0:
            try:
                values += scanner.feed(stream.buffer.view[:size])
            except PeerError as error:
                raise UpstreamError(f"Message decode error {error}") from error
    if len(values) > count or not scanner.is_between:
        raise UpstreamError("the server says more than it was asked")
    return values
