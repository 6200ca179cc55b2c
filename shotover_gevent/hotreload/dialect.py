"""Our dialect, version 1: one connection for a whole reload; the connection is the lease.

``S`` is the successor, ``P`` the predecessor. One JSON object with one key per packet::

    S  {"Hello":{"protocol":1,"version":"0.1.0","pid":42,"gradual_shutdown_seconds":60}}
    P  {"Hello":{"protocol":1,"version":"0.1.0","pid":41,"listeners":[{"name":"v","address":"..."}],
                 "sessions":812}}                            or {"Error":"text"}
    S  {"SendListeningSockets":{"addresses":["127.0.0.1:6379"]}}
    P  {"ListeningSockets":{"addresses":[...],"last":false}} + sockets      S  {"Ack":n}
       ... until "last" is true
    S  {"Ready":{}}                   it can serve and accepts nothing yet
    P  {"Go":{"chains":[{"address":"...","identity":"...","states":{"name":...}}]}}
                                      it accepts nothing any more and keeps its sockets; ``chains`` is
                                      what transforms have for all sessions, where they have any
    S  {"Accepting":{}}
    P  {"Sessions":[{...},...]} + sockets                    S  {"Adopted":[ids],"Refused":{id:reason}}
       ... until all that can move have moved
    P  {"End":{"moved":n,"kept":{"reason":n}}}
    S  {"Done":{}}                    its control socket is in place

Anybody of the same user, at any time, also while a reload runs::

    S  {"Status":{}}
    P  {"Status":{"protocol":1,"version":"0.1.0","pid":41,
                  "listeners":[{"name":"v","address":"...","type":"Valkey","identity":"..."}],
                  "sessions":{"127.0.0.1:6379":812}}}        and it closes the connection

Operators of the same user, at any time, also while a reload runs or the process drains::

    C  {"Control":{"command":"sessions","arguments":{"source":"v"}}}
    P  {"Answer":{"part":{...},"last":false}}                  as often as needed
    P  {"Answer":{"last":true}}                             or {"Error":"text"}, which may end it anywhere

The commands, with their arguments and the parts of their answers:

============= ============================ =======================================================
``status``                                 the document of ``observability.status``; its lists go on
                                           in later parts
``sessions``  source, or null              ``sessions``, a list; ``observability.sessions`` has them
``close``     source or null, id, now      ``source``, ``id``, ``state``, and whether it is ``closed``
``drain``     seconds                      ``pid``, ``sessions``, ``seconds``
``log-level`` filter and seconds, or null  ``filter``, ``expires_s`` and ``returns_to``, or null
============= ============================ =======================================================

``identity`` is the :func:`fingerprint` of the chain: equal where sessions can move.

Later, each on a connection of its own, sessions that were busy until then::

    P  {"Offer":{"pid":41}} to whoever serves the path then  S  {"Go":{}}
    P  {"Sessions":[{...},...]} + sockets                    S  {"Adopted":[ids],"Refused":{id:reason}}
    P  {"End":{"moved":n,"kept":{"reason":n}}}

Rules:
 1. Unknown keys inside a message are ignored, an unexpected message is refused with ``Error``.
 2. Whoever cannot go on closes the connection. Before ``Done`` that undoes everything: ``P`` accepts
    again and keeps every session that was not adopted.
 3. Every wait has a deadline of its own.
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Sequence
from typing import Any

from shotover_gevent.deadline import Deadline
from shotover_gevent.errors import HotReloadError
from shotover_gevent.net.fdpass import close_all, recv_packet, send_packet

PROTOCOL = 1

# A packet has at most 253 descriptors; an even number leaves no session in two packets.
SOCKETS_PER_PACKET = 250

# The JSON of one packet with several sessions: few enough that none is held for long.
SESSIONS_PACKET_BYTES = 60_000

# What one session may need: less than a packet can have with the usual limits of the kernel
# (net.core.wmem_default is 212,992).
LARGEST_PACKET_BYTES = 200_000

# From Hello to Ready a successor only binds, all else is built before; slow disks and big machines
# with thousands of listeners still need less.
START_S = 60.0

# The answer to any other message needs no more than a look into memory.
STEP_S = 10.0

# While these answers are awaited, somebody waits: new clients for a process that accepts, or the
# sessions of a packet for one that serves them. A successor that is stopped just then must not keep
# them for longer than a person calls a hitch.
HELD_STEP_S = 3.0

BROKEN = "the connection to the other process broke"


class Refused(HotReloadError):
    """The other side sent ``Error``."""


class LeaseLost(HotReloadError):
    """The connection ended, or an answer did not come in time, before the reload was done."""


class Line:
    """One side of the conversation: sends and expects messages. ``close()`` ends it."""

    def __init__(self, sock: socket.socket) -> None:
        """Take ownership of the connected socket."""
        sock.setblocking(False)
        self.socket = sock

    def send(
        self, name: str, body: Any, sockets: Sequence[socket.socket] = (), **more: Any
    ) -> None:
        """Send one message; the ``sockets`` stay the caller's. Raises :class:`LeaseLost`."""
        data = json.dumps({name: body, **more}, separators=(",", ":")).encode()
        try:
            send_packet(self.socket, data, sockets, Deadline.after(STEP_S))
        except OSError as error:
            raise LeaseLost(f"cannot send {name}") from error

    def receive(self, timeout_s: float = STEP_S, max_sockets: int = 0) -> tuple[str, Any, list[socket.socket]]:
        """The next message: its name, its body and its sockets, which are the caller's."""
        try:
            data, sockets = recv_packet(
                self.socket, LARGEST_PACKET_BYTES, max_sockets, Deadline.after(timeout_s))
        except TimeoutError as error:
            raise LeaseLost(f"no message within {timeout_s:g}s") from error
        except OSError as error:
            raise LeaseLost(BROKEN) from error
        if not data:
            close_all(sockets)
            raise LeaseLost("the other process closed the connection")
        try:
            name, body = decode(data)
        except HotReloadError:
            close_all(sockets)
            raise
        return name, body, sockets

    def expect(
        self, *names: str, timeout_s: float = STEP_S, max_sockets: int = 0
    ) -> tuple[str, Any, list[socket.socket]]:
        """The next message, which must be one of ``names``; raises :class:`Refused` for ``Error``."""
        name, body, sockets = self.receive(timeout_s, max_sockets)
        if name in names:
            return name, body, sockets
        close_all(sockets)
        if name == "Error":
            raise Refused(str(body))
        reason = f"unexpected message {name}; expected {' or '.join(names)}"
        self.refuse(reason)
        raise HotReloadError(reason)

    def check(self) -> None:
        """Raise :class:`LeaseLost` if the other side has closed the connection; reads nothing."""
        try:
            data = self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            raise LeaseLost(BROKEN) from error
        if not data:
            raise LeaseLost("the other process closed the connection")

    def last_answer(self) -> tuple[str, Any] | None:
        """An answer that was sent before we gave up waiting, once no further one can be."""
        try:
            self.socket.shutdown(socket.SHUT_RD)
        except OSError:
            pass  # the other side has closed: nothing further can come either way
        try:
            name, body, _ = self.receive(0)
        except HotReloadError:
            return None
        return name, body

    def refuse(self, reason: str) -> None:
        """Say why, if the other side still listens; it is closed in any case."""
        try:
            self.send("Error", reason)
        except LeaseLost:
            pass

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def decode(data: bytes) -> tuple[str, Any]:
    """The name and the body of a message. Raises ``HotReloadError``."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise HotReloadError("Failed to parse JSON from packet") from error
    if not isinstance(document, dict) or not document:
        raise HotReloadError("a message is an object with the name of the message as its first key")
    name = next(iter(document))
    return name, document if name == "Adopted" else document[name]


def is_ours(data: bytes) -> bool:
    """Whether a first packet begins a conversation of this dialect."""
    try:
        return decode(data)[0] in ("Hello", "Offer", "Status", "Control")
    except HotReloadError:
        return False


def is_status(data: bytes) -> bool:
    """Whether a first packet, of this dialect, only asks how things are."""
    return decode(data)[0] == "Status"


def is_control(data: bytes) -> bool:
    """Whether a first packet, of this dialect, is a command of an operator."""
    return decode(data)[0] == "Control"


def fingerprint(identity: str) -> str:
    """The identity of a chain, for comparing only: it tells nothing of what is in the chain."""
    return hashlib.sha256(identity.encode()).hexdigest()[:32]


def field(body: Any, name: str, kind: type[Any] | tuple[type[Any], ...]) -> Any:
    """A field of a message. Raises ``HotReloadError`` if it is missing or of another type."""
    value = body.get(name) if isinstance(body, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool) and kind is int:
        raise HotReloadError(f"field {name} of a message is missing or of the wrong type")
    return value
