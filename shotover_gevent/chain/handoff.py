"""What happens to the state of a session when it moves to another process.

A session moves between requests. Its sockets go to the successor, which builds its chain anew from
the same configuration and gives each object the state that its predecessor exported.

Rules:
 1. Every class with state of a session declares what happens to each of its fields, in ``fates``:
    it is *exported* (as JSON), *rebuilt* by the successor, or *pins* the session to its process.
    A test walks the classes and fails when a field is not declared.
 2. A transform that has fields and declares nothing pins its sessions: nobody knows what they mean.
 3. Exporting changes nothing. The predecessor goes on with the session if it is not adopted.
 4. Sockets travel beside the state; ``Luggage`` says which is whose. The predecessor closes its
    copies once the session was adopted, without a shutdown: that would end the connection itself.
"""

from __future__ import annotations

import base64
import enum
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from shotover_gevent.errors import ShotoverError

if TYPE_CHECKING:
    from shotover_gevent.net.stream import Stream


class Fate(enum.Enum):
    """What happens to a field when its session moves."""

    EXPORTED = "exported"
    REBUILT = "rebuilt"
    PINS = "pins"


EXPORTED, REBUILT, PINS = Fate.EXPORTED, Fate.REBUILT, Fate.PINS


class Pinned(ShotoverError):
    """A session cannot move, now or at all. ``reason`` is a short word or phrase to count by."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the session cannot move: {reason}")
        self.reason = reason


class Luggage:
    """The sockets that travel with one session, in the order in which they were packed.

    Packing borrows them; unpacking gives them to whoever unpacks.
    """

    def __init__(self, sockets: list[socket.socket] | None = None) -> None:
        self.sockets: list[socket.socket] = [] if sockets is None else sockets
        self._unpacked = 0

    def pack(self, sock: socket.socket) -> None:
        """Let a socket travel; it stays its owner's until the session is adopted."""
        self.sockets.append(sock)

    def pack_stream(self, stream: Stream) -> None:
        """Let the socket of a stream travel. Raises ``Pinned`` for one with state that cannot."""
        if stream.pinned_by is not None:
            raise Pinned(stream.pinned_by)
        self.pack(stream.socket)

    def unpack(self) -> socket.socket:
        """The next socket; the caller owns it."""
        sock = self.sockets[self._unpacked]
        self._unpacked += 1
        return sock

    def close(self) -> None:
        """Close the sockets that nobody unpacked."""
        for sock in self.sockets[self._unpacked :]:
            sock.close()
        self._unpacked = len(self.sockets)


class Movable:
    """An object with state of a session. Override :meth:`export` and :meth:`adopt` for more than JSON."""

    fates: ClassVar[Mapping[str, Fate]] = {}

    def export(self, luggage: Luggage) -> Any:
        """The exported fields, as JSON; raises :class:`Pinned`. Changes nothing."""
        del luggage
        for name in fields_of(self):
            fate = self.fates.get(name)
            if fate is None:
                raise Pinned(f"{type(self).__name__} does not say what happens to {name}")
            if fate is PINS and getattr(self, name):
                raise Pinned(f"{type(self).__name__} keeps {name}")
        return {name: getattr(self, name) for name, fate in self.fates.items() if fate is EXPORTED}

    def adopt(self, state: Any, luggage: Luggage) -> None:
        """Take over what another process exported; called once, on an object just made."""
        del luggage
        for name, value in (state or {}).items():
            setattr(self, name, value)


def fields_of(thing: object) -> list[str]:
    """The names of the fields that ``thing`` has, in slots or not."""
    names = list(getattr(thing, "__dict__", ()))
    for kind in type(thing).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names += [slots] if isinstance(slots, str) else list(slots)
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def pack_bytes(data: bytes) -> str:
    """Bytes as JSON has them."""
    return base64.b64encode(data).decode("ascii")


def unpack_bytes(text: str) -> bytes:
    """The inverse of :func:`pack_bytes`. Raises ``ValueError``."""
    return base64.b64decode(text, validate=True)
