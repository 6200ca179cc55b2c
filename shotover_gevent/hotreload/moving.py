"""Moving sessions: the predecessor chooses, holds and sends them, the successor adopts them.

Rules:
 1. A session is held while it is on its way: parked, reading and sending nothing. It is held for
    as long as one packet of sessions takes, some milliseconds.
 2. The successor builds a session completely, and answers before it serves it. It serves only if the
    answer went out; a session that could not be built is refused, and stays where it was.
    The predecessor lets go of a session only when it has read that answer. When it has waited in
    vain, it shuts its receiving side down before it looks for the last time; after that no answer
    can arrive, and both agree on who has the session.
 3. A session that is busy is asked again; when the time for that is over it stays where it is. Those
    that are idle never wait for it: they go first.
 4. Between two chunks the hub of either process has its turn, while nobody is held: the predecessor
    closes its copies, the successor starts what it has adopted.
"""

from __future__ import annotations

import contextlib
import gc
import json
import socket
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Protocol

import gevent

from shotover_gevent.chain.handoff import Luggage, Pinned
from shotover_gevent.deadline import Deadline
from shotover_gevent.errors import HotReloadError
from shotover_gevent.hotreload.dialect import (
    HELD_STEP_S,
    LARGEST_PACKET_BYTES,
    SESSIONS_PACKET_BYTES,
    SOCKETS_PER_PACKET,
    LeaseLost,
    Line,
)
from shotover_gevent.hotreload.dialect import field as field_of
from shotover_gevent.hotreload.reason import BUSY, LARGE, PASSING
from shotover_gevent.net.fdpass import close_all
from shotover_gevent.sources.base import BaseSession
from shotover_gevent.sources.source import Source

# How many sessions are held at a time. Each waits for all the others of its chunk, and a chunk costs a
# round trip: with 50 neither is felt. They fit into one packet.
CHUNK = 50

# A session that was found in the middle of a request is given this long to finish when it is asked again.
HOLD_S = 0.02
HOLD_POLL_S = 0.002
# Sessions that are busy at first are asked again for this long while the successor waits;
# those that are busy for longer move later, if they fall idle before the drain ends.
BUSY_S = 1.0


@dataclass
class Moved:
    """What became of the sessions.

    ``kept`` counts those that stayed by reason; ``staying`` are those of them that it makes no
    sense to offer again. ``longest_pause_s`` is the longest time that one was held.
    """

    moved: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    staying: set[BaseSession] = field(default_factory=set)
    longest_pause_s: float = 0.0

    def keep(self, session: BaseSession, reason: str) -> None:
        """Count a session that stays."""
        self.kept[reason] += 1
        if reason not in PASSING:
            self.staying.add(session)

    def as_json(self) -> dict[str, Any]:
        """The message ``End``."""
        return {
            "moved": self.moved, "kept": dict(self.kept),
            "longest_pause_ms": round(self.longest_pause_s * 1000, 1),
        }


@dataclass
class _Offer:
    """A held session and what is sent of it."""

    id: int
    source: Source
    session: BaseSession
    document: dict[str, Any]
    luggage: Luggage


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """Let no cyclic garbage be collected meanwhile.

    Thousands of sessions come and go within a second; a full collection among them was measured to
    take 50 to 200 ms, in which nobody is served.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@without_collections()
def move(line: Line, sources: Iterable[Source], busy_s: float, result: Moved) -> None:
    """Send every session that can move; returns when all have, or the busy ones have had their time.

    Raises :class:`LeaseLost`; ``result`` is right in any case, and no session stays held.
    """
    waiting = deque(_movable(sources, result))
    deadline = Deadline.after(busy_s)
    numbers = iter(range(1, 1 << 62))
    unasked = len(waiting)
    while waiting:
        chunk = [waiting.popleft() for _ in range(min(CHUNK, unasked or len(waiting)))]
        is_patient = not unasked
        unasked = max(0, unasked - len(chunk))
        started = monotonic()
        held, busy = _hold(chunk, HOLD_S if is_patient else 0.0)
        try:
            for offers in _packets(_export(held, numbers, result)):
                _send(line, offers, result)
        finally:
            for _, session in held:
                session.release()
            if held:
                result.longest_pause_s = max(result.longest_pause_s, monotonic() - started)
        gevent.sleep(0)
        if busy and is_patient and deadline.is_over:
            for _, session in busy:
                result.keep(session, BUSY)
        else:
            waiting.extend(busy)


Pair = tuple[Source, BaseSession]


def _movable(sources: Iterable[Source], result: Moved) -> Iterator[Pair]:
    """The sessions that it makes sense to hold; the pinned ones are counted, and never notice."""
    for source in sources:
        for session in list(source.sessions):
            if session in result.staying:
                continue
            if (reason := session.pinned_by) is not None:
                result.keep(session, reason)
            else:
                yield source, session


def _hold(chunk: list[Pair], patience_s: float) -> tuple[list[Pair], list[Pair]]:
    """Hold the sessions of a chunk: those that are parked in time, and those that are busy."""
    until = Deadline.after(patience_s)
    alive = [(source, session) for source, session in chunk if session in source.sessions]
    lagging = [pair for pair in alive if not pair[1].hold()]
    while lagging and not until.is_over:
        gevent.sleep(HOLD_POLL_S)
        lagging = [pair for pair in lagging if not pair[1].is_held]
    for _, session in lagging:
        session.release()
    left = {id(session) for _, session in lagging}
    held = [pair for pair in alive if id(pair[1]) not in left]
    return held, [(source, session) for source, session in lagging if session in source.sessions]


def _export(held: list[Pair], numbers: Any, result: Moved) -> list[_Offer]:
    """What is sent of the sessions; those that cannot move are counted by reason."""
    offers = []
    for source, session in held:
        try:
            state, luggage = session.export()
        except Pinned as pinned:
            result.keep(session, pinned.reason)
            continue
        number = next(numbers)
        document = {
            "id": number, "source": source.name, "address": str(source.address),
            "identity": source.state_identity, "sockets": len(luggage.sockets), "state": state,
        }
        offers.append(_Offer(number, source, session, document, luggage))
    return offers


def _packets(offers: list[_Offer]) -> Iterable[list[_Offer]]:
    """The offers in groups that fit into a packet each."""
    group: list[_Offer] = []
    size = sockets = 0
    for offer in offers:
        length = len(json.dumps(offer.document, separators=(",", ":"))) + 1
        if group and (size + length > SESSIONS_PACKET_BYTES
                      or sockets + len(offer.luggage.sockets) > SOCKETS_PER_PACKET):
            yield group
            group, size, sockets = [], 0, 0
        group.append(offer)
        size += length
        sockets += len(offer.luggage.sockets)
    if group:
        yield group


def _send(line: Line, offers: list[_Offer], result: Moved) -> None:
    """Offer sessions, and let go of those that were adopted."""
    if len(offers) == 1 and len(json.dumps(offers[0].document)) > LARGEST_PACKET_BYTES:
        result.keep(offers[0].session, LARGE)
        return
    sockets = [sock for offer in offers for sock in offer.luggage.sockets]
    line.send("Sessions", [offer.document for offer in offers], sockets)
    try:
        _, answer, _ = line.expect("Adopted", timeout_s=HELD_STEP_S)
    except LeaseLost:
        last = line.last_answer()
        if last is not None and last[0] == "Adopted":
            _settle(offers, last[1], result)
        raise
    _settle(offers, answer, result)


def _settle(offers: list[_Offer], answer: Any, result: Moved) -> None:
    adopted = set(field_of(answer, "Adopted", list))
    refused = answer.get("Refused") or {}
    for offer in offers:
        if offer.id in adopted:
            offer.session.moved()
            result.moved += 1
        else:
            result.keep(offer.session, str(refused.get(str(offer.id), "not answered")))


# -- the successor's side -----------------------------------------------------------------------


class Adopter(Protocol):
    """Who adopts sessions: the proxy of the successor."""

    def source_at(self, address: str) -> Source | None:
        """The source that listens at an address."""


def adopt(line: Line, host: Adopter, offers: Any, sockets: list[socket.socket]) -> int:
    """Adopt what can be adopted of a packet, answer, and start to serve it; returns how many.

    Takes ownership of ``sockets``. Raises :class:`LeaseLost` when the answer cannot be sent: then
    the other process has kept its sessions, and ours are dropped without a word.
    """
    adopted: list[tuple[int, BaseSession]] = []
    refused: dict[str, str] = {}
    rest = deque(sockets)
    try:
        if not isinstance(offers, list):
            raise HotReloadError("Sessions is not a list")
        for offer in offers:
            number, count = field_of(offer, "id", int), field_of(offer, "sockets", int)
            if not 0 < count <= len(rest):
                raise HotReloadError(f"session {number} came without its sockets")
            luggage = Luggage([rest.popleft() for _ in range(count)])
            found = _adopt_one(host, offer, luggage)
            if isinstance(found, str):
                luggage.close()
                refused[str(number)] = found
            else:
                adopted.append((number, found))
        line.send("Adopted", [number for number, _ in adopted], Refused=refused)
    except BaseException:
        for _, session in adopted:
            session.source.drop(session)
        raise
    finally:
        close_all(list(rest))
    for _, session in adopted:
        session.begin()
    return len(adopted)


def _adopt_one(
    host: Adopter, offer: Mapping[str, Any], luggage: Luggage
) -> BaseSession | str:
    """The session, built and not begun, or why not."""
    address = field_of(offer, "address", str)
    source = host.source_at(address)
    if source is None:
        return f"nothing listens at {address}"
    refusal = source.refusal(field_of(offer, "identity", str))
    if refusal is not None:
        return refusal
    return source.adopt(field_of(offer, "state", dict), luggage) or "it could not be built again"
