"""The sessions, one by one: who is connected, what it does, and who is slow.

Nothing of it is counted for this purpose: it is the state of the sessions, and what the kernel knows
of their sockets.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any

import gevent

from shotover_gevent.observability.status import state_of
from shotover_gevent.sources.base import BaseSession
from shotover_gevent.sources.source import Source

# Sessions told in one go. Each is about 250 bytes of JSON and costs some system calls, so that a chunk
# is well below a packet and takes some milliseconds.
CHUNK = 200

_INT = struct.Struct("i")


def sessions(sources: Sequence[Source]) -> Iterator[list[dict[str, Any]]]:
    """All sessions, oldest first, in chunks; other greenlets may run in between."""
    for source in sources:
        all_of_it = list(source.sessions)
        for start in range(0, len(all_of_it), CHUNK):
            yield [describe(each) for each in all_of_it[start : start + CHUNK] if each in source.sessions]
            gevent.sleep(0)


def describe(session: BaseSession) -> dict[str, Any]:
    """One session, as JSON. Times are seconds until now."""
    now = monotonic()
    state, blocked = state_of(session), session.blocked
    return {
        "source": session.source.name,
        "id": session.id,
        "peer": peer_text(session.peer),
        "state": state,
        "age_s": round(now - session.opened_at, 3),
        "idle_s": round(now - session.idle_since, 3) if state in ("idle", "held") else 0.0,
        "requests": session.requests,
        "unsent_bytes": queued(session.client, termios.TIOCOUTQ),
        "unread_bytes": queued(session.client, termios.FIONREAD),
        "blocked_by": blocked[0] if blocked is not None else None,
        "blocked_s": round(now - blocked[1], 3) if blocked is not None else 0.0,
    }


def peer_text(peer: Any) -> str:
    """``address:port`` of a client; ``unix`` for one of a Unix socket."""
    if not isinstance(peer, tuple) or len(peer) < 2:
        return "unix"
    host, port = peer[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def queued(sock: socket.socket, request: int) -> int:
    """Bytes in a queue of the kernel: of those sent and not acknowledged (``TIOCOUTQ``, that is
    ``SIOCOUTQ``; see tcp(7)), or of those not read (``FIONREAD``). 0 for a closed socket."""
    try:
        return int(_INT.unpack(fcntl.ioctl(sock.fileno(), request, bytes(_INT.size)))[0])
    except (OSError, ValueError):
        return 0
