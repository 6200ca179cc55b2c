"""One client of a source whose chain wants its requests gathered (``Coalesce``).

Rules:
 1. What was read waits here, before the chain, for as long as the chain says.
 2. It does not wait any longer when nothing more can come: the client has ended, its next request is
    malformed, the session is to stop.
 3. A session that has gathered something is busy. Asked to move, it runs that first.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any

from shotover_gevent.chain.gathering import Gathering
from shotover_gevent.chain.handoff import REBUILT
from shotover_gevent.codecs.batch import Batch
from shotover_gevent.codecs.resp_requests import MalformedRequest
from shotover_gevent.net.stream import Stream
from shotover_gevent.sources.base import EndReason, Hold
from shotover_gevent.sources.session import LONGEST_RUN, Session

if TYPE_CHECKING:
    from shotover_gevent.sources.source import Source


class GatheringSession(Session):
    """A session that keeps requests back until its chain is to run."""

    __slots__ = ("_gathering",)

    fates = Session.fates | {"_gathering": REBUILT}  # a held session has gathered nothing

    def __init__(self, source: Source, session_id: int, sock: socket.socket, peer: Any) -> None:
        """Take ownership of the accepted socket."""
        super().__init__(source, session_id, sock, peer)
        self._gathering = Gathering()
        # What was gathered on purpose is not to be cut into short runs.
        self._run_limit = LONGEST_RUN

    @property
    def is_idle(self) -> bool:
        """Whether the session is parked, and has nothing to run."""
        return super().is_idle and not self._gathering

    def hold(self) -> bool:
        """As the base class; what was gathered is run first."""
        is_held = super().hold()
        if self._hold is Hold.ASKED and self._gathering and self.park is not None:
            self.park.wake()
        return is_held

    def _incoming(self) -> Iterator[Batch]:
        """Park, and yield what was gathered when its time has come."""
        park, client, gathering = self.park, self._client, self._gathering
        assert park is not None and client is not None
        while True:
            patience_s = self._patience_s()
            if gathering and patience_s <= 0:
                yield gathering.take()
                continue
            if self._stop_reason is not None:
                if self._stop_reason not in (EndReason.MOVED, EndReason.QUIT):
                    yield from self._last_requests()
                return
            if self._hold is Hold.ASKED:
                self._hold_settled()
            self.idle_since = monotonic()
            stream = park.wait_any(None if patience_s == math.inf else patience_s)
            if stream is client:
                is_open, error = self._read(client)
                if gathering and not is_open:
                    yield gathering.take()
                if error is not None:
                    raise error
                if not is_open:
                    return
            else:
                self._attend(stream)

    def _patience_s(self) -> float:
        assert self._chain is not None
        if not self._gathering:
            return math.inf
        if self._stop_reason is not None or self._hold is Hold.ASKED:
            return 0.0
        return self._gathering.patience_s(self._chain)

    def _read(self, client: Stream) -> tuple[bool, Exception | None]:
        """Gather what has come; whether more may come, and what went wrong."""
        try:
            count = client.receive()
            if count > 0:
                self.source.bytes_received.value += count
                requests = self._decoder.feed(client.buffer.view[:count])
                if requests:
                    requests.received_at = perf_counter()
                    self._gathering.add(requests)
            return count != 0, None
        except (OSError, MalformedRequest) as error:
            return False, error
