"""What a client has made of its connection, as far as it must be its own.

On a connection that several clients share, a command must mean the same whoever sent it. So the state
of each client is followed here:

 * its :class:`Identity` (credentials, database, version of the protocol): clients of one identity can
   share a connection that has it;
 * whether there is state that cannot be shared, such as an open transaction or a subscription
   (:attr:`ConnectionState.is_shareable`).

:func:`needs` says for each request what it does to that. Its table is in the documentation, too.

Rules:
 1. State follows *successful replies*: a refused SELECT has selected nothing. What MULTI has queued
    counts when EXEC has run it.
 2. A command that is not known to leave the connection as it is, or how to undo it, never goes to a
    shared one: subcommands of CLIENT that nobody knows here are taken to change it for good.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

from shotover_gevent.codecs.resp_conversation import (
    BLOCKING,
    ENDING,
    SPECIAL,
    Conversation,
    as_bytes,
    as_text,
)
from shotover_gevent.codecs.resp_frames import ErrorReply

_MINUS, _BANG = b"-!"


class Identity(NamedTuple):
    """What connections must have in common to be shared.

    ``auth`` are the arguments of AUTH: nothing, a password, or a user and a password.
    """

    auth: tuple[bytes, ...] = ()
    database: int = 0
    is_resp3: bool = False

    def __repr__(self) -> str:
        user = self.auth[0].decode(errors="replace") if len(self.auth) == 2 else "default"
        who = user if self.auth else "nobody"
        return f"<identity {who}, database {self.database}, RESP{3 if self.is_resp3 else 2}>"


class Need(enum.Enum):
    """What a request needs of the connection that it is sent on."""

    ANY = "any connection of its identity"
    NAME = "a connection whose name and library are told by us"
    TURN = "a moment of the shared connection, since it is about what was written there"
    END = "no connection: it ends the session"
    OWN = "a connection of its own"


# What other than these does to its connection, nobody knows here.
_HARMLESS_CLIENT = frozenset({
    b"LIST", b"KILL", b"PAUSE", b"UNPAUSE", b"UNBLOCK", b"GETREDIR", b"TRACKINGINFO", b"HELP"})
_NAME_CLIENT = frozenset({b"SETNAME", b"GETNAME", b"SETINFO"})
_TURNS = frozenset({b"WAIT", b"WAITAOF"})
_ENDS = ENDING - {b"SHUTDOWN"}

#: Requests that may need other than any connection; all others never do.
UNUSUAL = SPECIAL | BLOCKING | frozenset({
    b"AUTH", b"SELECT", b"WATCH", b"READONLY", b"READWRITE", b"ASKING", b"SCRIPT", b"FUNCTION",
    b"REPLCONF", b"SYNC", b"PSYNC", b"DEBUG"})

#: Requests whose replies matter on a connection of one's own.
TELLING = UNUSUAL | {b"UNWATCH"}

_FOLLOWED = frozenset({
    b"AUTH", b"SELECT", b"WATCH", b"UNWATCH", b"CLIENT", b"READONLY", b"READWRITE", b"ASKING",
    b"SCRIPT", b"REPLCONF", b"SYNC", b"PSYNC"})

#: Switches that are on until they are put off: command and subcommand, as it is sent.
_SWITCHES = {
    (b"CLIENT", b"TRACKING"): b"tracking", (b"CLIENT", b"NO-EVICT"): b"no-evict",
    (b"CLIENT", b"NO-TOUCH"): b"no-touch", (b"CLIENT", b"IMPORT-SOURCE"): b"import-source",
    (b"SCRIPT", b"DEBUG"): b"script-debug"}
_OFF = frozenset({b"OFF", b"NO"})
_FOR_EVER = b"for ever"
#: On for a client that has used WAIT, until RESET.
WAITS = b"waits"


def needs(name: bytes, value: Sequence[bytes]) -> Need:
    """What the request ``value``, whose upper-cased name is ``name``, needs."""
    if name not in UNUSUAL:
        return Need.ANY
    sub = value[1].upper() if len(value) > 1 else b""
    if name == b"CLIENT":
        if sub in _NAME_CLIENT and len(value) == _NAME_ARGUMENTS[sub]:
            return Need.NAME
        return Need.ANY if sub in _HARMLESS_CLIENT else Need.OWN
    if name in (b"XREAD", b"XREADGROUP"):
        return Need.OWN if any(each.upper() == b"BLOCK" for each in value) else Need.ANY
    if name == b"SCRIPT":
        return Need.OWN if sub in (b"KILL", b"DEBUG") else Need.ANY
    if name == b"FUNCTION":
        # While a script runs, its connection is not read from: what is about it must come on another.
        return Need.OWN if sub in (b"KILL", b"STATS") else Need.ANY
    if name in _TURNS:
        is_wait = len(value) > 2 and all(each.isdigit() and len(each) < 20 for each in value[1:])
        return Need.TURN if is_wait else Need.ANY  # the server has the words for what is wrong
    return Need.END if name in _ENDS else Need.OWN


_NAME_ARGUMENTS = {b"SETNAME": 3, b"GETNAME": 2, b"SETINFO": 4}


class ConnectionState(Conversation):
    """A conversation that follows what its client has set, too."""

    special: ClassVar[frozenset[bytes]] = SPECIAL | _FOLLOWED

    __slots__ = ("auth", "database", "is_watching", "switches", "name")

    def __init__(self) -> None:
        super().__init__()
        self.auth: tuple[bytes, ...] = ()
        self.database = 0
        self.is_watching = False
        #: What is on, by its name in ``_SWITCHES``.
        self.switches: set[bytes] = set()
        #: What CLIENT SETNAME has set.
        self.name = b""

    @property
    def identity(self) -> Identity:
        """With whom this client can share a connection."""
        return Identity(self.auth, self.database, self.is_resp3)

    @property
    def is_plain(self) -> bool:
        """As that of a conversation; what follows ASKING is to be looked at, too."""
        return super().is_plain and b"asking" not in self.switches

    @property
    def is_shareable(self) -> bool:
        """Whether nothing is set but what the identity and the name say."""
        return (
            self.is_plain and not self.is_subscribed and not self.is_watching and not self.switches)

    def export(self) -> dict[str, Any] | None:
        """As that of a conversation."""
        state = super().export()
        if state is None:
            return None
        if self.auth:
            state["auth"] = [as_text(each) for each in self.auth]
        if self.database:
            state["database"] = self.database
        if self.is_watching:
            state["watching"] = True
        if self.switches:
            state["switches"] = sorted(map(as_text, self.switches))
        if self.name:
            state["name"] = as_text(self.name)
        return state

    @classmethod
    def adopt(cls, state: Mapping[str, Any]) -> Self:
        """The state that :meth:`export` of another process has described."""
        self = super().adopt(state)
        self.auth = tuple(map(as_bytes, state.get("auth", ())))
        self.database = state.get("database", 0)
        self.is_watching = state.get("watching", False)
        self.switches = set(map(as_bytes, state.get("switches", ())))
        self.name = as_bytes(state.get("name", ""))
        return self

    def _apply(self, expected: Any, raw: bytes) -> None:
        super()._apply(expected, raw)
        name = expected.name
        self.switches.discard(b"asking")  # it is for one command only
        if name in (b"EXEC", b"DISCARD"):
            if expected.queued is not None:
                self.is_watching = False
        elif name in _FOLLOWED and raw[0] not in (_MINUS, _BANG):
            self._follow(name, expected.arguments)

    def _apply_frame(self, expected: Any, frame: Any) -> None:
        super()._apply_frame(expected, frame)
        if not isinstance(frame, ErrorReply):
            self._follow(expected.name, expected.arguments)

    def _follow(self, name: bytes, arguments: Sequence[bytes]) -> None:
        """A command has succeeded."""
        if name == b"SELECT":
            self.database = int(arguments[0])
        elif name == b"AUTH":
            self.auth = tuple(arguments)
        elif name == b"HELLO":
            self._follow_hello(arguments[1:])
        elif name == b"WATCH":
            self.is_watching = True
        elif name == b"UNWATCH":
            self.is_watching = False
        elif name == b"RESET":
            self.auth, self.database, self.is_watching, self.name = (), 0, False, b""
            self.switches &= {_FOR_EVER}
        elif name in (b"CLIENT", b"SCRIPT"):
            self._follow_subcommand(name, arguments)
        elif name == b"READWRITE":
            self.switches.discard(b"readonly")
        elif name in (b"READONLY", b"ASKING"):
            self.switches.add(name.lower())
        elif name in (b"REPLCONF", b"SYNC", b"PSYNC"):
            self.switches.add(_FOR_EVER)

    def _follow_hello(self, options: Sequence[bytes]) -> None:
        at = 0
        while at < len(options):
            if options[at].upper() == b"AUTH":
                self.auth = tuple(options[at + 1 : at + 3])
                at += 3
            else:
                self.name = options[at + 1]
                at += 2

    def _follow_subcommand(self, name: bytes, arguments: Sequence[bytes]) -> None:
        sub = arguments[0].upper() if arguments else b""
        switch = _SWITCHES.get((name, sub))
        if switch is not None:
            is_off = arguments[1].upper() in _OFF
            self.switches.discard(switch) if is_off else self.switches.add(switch)
        elif name == b"CLIENT":
            if sub == b"SETNAME":
                self.name = arguments[1]
            elif sub not in _HARMLESS_CLIENT and sub not in _NAME_CLIENT | _PASSING_CLIENT:
                self.switches.add(_FOR_EVER)


# REPLY is followed by the conversation; INFO tells about the connection, and changes nothing; CACHING
# is for one command of a client that tracks.
_PASSING_CLIENT = frozenset({b"REPLY", b"INFO", b"CACHING"})
