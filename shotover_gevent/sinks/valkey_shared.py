"""The sink of one session that shares its upstream connections with others.

Rules:
 1. While a client only sends what means the same on any connection of its identity, its requests go
    to a shared one.
 2. A request that makes its connection stateful, or waits, moves the session to a connection of its own
    before it is sent. When that state has ended, the session goes back; what its client has set
    meanwhile (database, credentials, protocol) is its identity then.
 3. The name of a client and of its library are kept here. A connection of its own gets the name.
 4. WAIT is about what was written before, so it goes where that went, in turns of a millisecond: it would
    hold up all who share that connection. Whoever waits once may do so again, and what it writes from
    then on, in transactions or not, goes over a connection of its own.
 5. QUIT ends the session, not the connection.

What each command does is in :func:`shotover_gevent.codecs.resp_state.needs`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any

import gevent
from gevent import get_hub

from shotover_gevent.chain import Batch, Message, Next, SessionContext, Sink
from shotover_gevent.chain.handoff import EXPORTED, REBUILT, Luggage, Pinned
from shotover_gevent.codecs.resp import RESP
from shotover_gevent.codecs.resp_frames import encode, parse
from shotover_gevent.codecs.resp_state import TELLING, UNUSUAL, WAITS, ConnectionState, Need, needs
from shotover_gevent.errors import ClientGone, NothingSent, UpstreamClosed, UpstreamError
from shotover_gevent.net.stream import Stream
from shotover_gevent.sinks.valkey_connection import SharedConnection, Waiter, raise_failure
from shotover_gevent.sinks.valkey_dedicated import ValkeySink
from shotover_gevent.sinks.valkey_pool import Group, Place, UpstreamPool

if TYPE_CHECKING:
    from shotover_gevent.sinks.valkey_single import ValkeySinkSingle

OK = b"+OK\r\n"
_GETNAME = [b"CLIENT", b"GETNAME"]
_LIBRARY_OPTIONS = frozenset({b"LIB-NAME", b"LIB-VER"})

# WAIT on a shared connection: each turn lasts a millisecond at most, the shortest there is; the pauses
# in between grow, so that those who share it lose 2 % at most to a client that waits for long.
_TURN_MS = b"1"
_FIRST_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 0.05


class OwnSink(ValkeySink):
    """The connection of a session that cannot share one at the moment."""

    unusual = TELLING

    fates = ValkeySink.fates | {"_pool": REBUILT}

    def __init__(
        self, config: ValkeySinkSingle, context: SessionContext, state: ConnectionState,
        pool: UpstreamPool,
    ) -> None:
        super().__init__(config, context, state)
        self._pool = pool

    def take(self, state: ConnectionState) -> None:
        """Get a connection with that state. Raises ``UpstreamError``."""
        place = Place(self._context.park, self._context.buffer)
        self._stream = self._pool.take(state.identity, state.name, place)
        self._stream.owner = self

    @property
    def state(self) -> ConnectionState:
        """What the client has made of the connection."""
        assert isinstance(self._conversation, ConnectionState)
        return self._conversation

    @property
    def may_go_back(self) -> bool:
        """Whether nothing is left that could not be shared."""
        return self.state.is_shareable and self._scanner.is_between and not self._has_ended

    def _use(self, stream: Stream) -> Stream:
        self._pool.adopted()
        self._stream = stream
        return stream

    def give_back(self) -> None:
        """Let others have the connection; :attr:`may_go_back` was true."""
        stream, self._stream = self._stream, None
        assert stream is not None
        self._pool.give_back(stream, self.state.identity, self.state.name)

    def close(self) -> None:
        """Close the connection."""
        stream, self._stream = self._stream, None
        if stream is not None:
            self._pool.throw_away(stream)


class SharedSink(Sink):
    """The upstream side of one session."""

    fates = {
        "_config": REBUILT, "_context": REBUILT, "_pool": REBUILT,
        "_state": EXPORTED, "_own": EXPORTED, "_has_quit": EXPORTED,
        # The successor joins a group of its own; nothing is awaited between requests.
        "_group": REBUILT, "_connection": REBUILT, "_waiter": REBUILT, "_wait": REBUILT,
        "_failed_requests": REBUILT, "_source_to_sink": REBUILT,
    }

    def __init__(self, config: ValkeySinkSingle, context: SessionContext, pool: UpstreamPool) -> None:
        self._config = config
        self._context = context
        self._pool = pool
        self._state = ConnectionState()
        self._own: OwnSink | None = None
        self._has_quit = False
        self._group: Group | None = None
        self._connection: SharedConnection | None = None
        self._waiter = Waiter(context.park.greenlet.switch)
        self._wait = get_hub().switch
        self._failed_requests = config._failed_requests
        self._source_to_sink = config._source_to_sink

    def transform(self, requests: Batch, next: Next) -> Batch:
        """Answer the requests, over whatever connection each of them needs."""
        if self._own is None and UNUSUAL.isdisjoint(requests.names):
            return self._share(requests)
        return self._answer_parts(requests)

    # -- on a shared connection -----------------------------------------------------------------

    def _share(self, requests: Batch) -> Batch:
        """Send the requests with those of others, and wait for the answers."""
        count = requests.count
        if not count:  # a transform above has answered all of them
            return Batch(RESP, b"", ())
        connection = self._connection
        if connection is None or connection.failure is not None:
            connection = self._join()
        waiter = self._waiter
        connection.ask(waiter, requests.raw, count)
        try:
            self._wait()
        except BaseException:
            waiter.abandon()
            self._waiter = Waiter(self._context.park.greenlet.switch)
            raise
        if waiter.failure is not None:
            raise_failure(waiter)
        parts = waiter.parts
        if len(parts) == 1:
            raw = parts.pop()
        else:
            raw = b"".join(parts)
            parts.clear()
        if waiter.errors:
            self._failed_requests.value += waiter.errors
            waiter.errors = 0
        if since := requests.received_at:
            latency, seconds = self._source_to_sink, waiter.written_at - since
            latency.own[bisect_left(latency.bounds, seconds)] += 1
            latency.own_total += seconds
        responses = Batch.counted(RESP, raw, count)
        responses.received_at = connection.received_at
        return responses

    def _join(self) -> SharedConnection:
        """A connection of the group of this session's identity."""
        if self._has_quit:
            raise UpstreamClosed("the client has quit")
        context = self._context
        group = self._group
        if group is None or group.identity != self._state.identity:
            self._leave()
            group = self._group = self._pool.join(self._state.identity)
        self._connection = self._pool.connection(group, context.session_id, context.buffer)
        return self._connection

    def _leave(self) -> None:
        group, self._group = self._group, None
        self._connection = None
        if group is not None:
            self._pool.leave(group)

    # -- part by part ---------------------------------------------------------------------------

    def _answer_parts(self, requests: Batch) -> Batch:
        """Cut the requests where they need another connection."""
        names, values = requests.names, requests.values
        answers: list[Message] = []
        at, total = 0, len(requests)
        while at < total:
            if self._has_quit:
                raise UpstreamClosed("the client has quit")
            need = needs(names[at], values[at])
            end = at + 1
            if need in (Need.TURN, Need.END) and not self._state.is_plain:
                need = Need.OWN  # its answer depends on that: it may be queued there, or not be wanted
            if self._own is not None and need not in (Need.TURN, Need.END):
                need = Need.OWN
            if need is Need.ANY:
                while end < total and needs(names[end], values[end]) is Need.ANY:
                    end += 1
            elif need in (Need.OWN, Need.END):
                end = total
            part = requests if end - at == total else requests[at:end]
            try:
                answers += self._answers(need)(part)
            except NothingSent as error:
                if at:  # of this part, but something of what came before it
                    raise UpstreamError(str(error)) from error.__cause__
                raise
            at = end
        batch = Batch.of(RESP, answers)
        batch.received_at = perf_counter()
        return batch

    def _answers(self, need: Need) -> Callable[[Batch], Sequence[Message]]:
        return {
            Need.ANY: lambda part: self._share(part).messages, Need.OWN: self._ask_alone,
            Need.NAME: self._name, Need.TURN: self._take_turns, Need.END: self._quit,
        }[need]

    def _ask_alone(self, requests: Batch) -> Sequence[Message]:
        """Answer over a connection of one's own; give it back if it has no state afterwards."""
        own = self._own or self._take_own()
        responses = own.transform(requests, _no_next).messages
        if own.may_go_back:
            own.give_back()
            self._own = None
            if self._group is not None and self._group.identity != self._state.identity:
                self._leave()
        return responses

    def _take_own(self) -> OwnSink:
        own = OwnSink(self._config, self._context, self._state, self._pool)
        own.take(self._state)
        self._own = own
        return own

    def _name(self, requests: Batch) -> Sequence[Message]:
        """CLIENT SETNAME, GETNAME and SETINFO, on a connection that has another name.

        The server is asked whether such a command is allowed, by one that changes nothing.
        """
        _, sub, *arguments = requests.values[0]
        sub = sub.upper()
        is_known = sub != b"SETINFO" or arguments[0].upper() in _LIBRARY_OPTIONS
        if not is_known or any(33 > byte or byte > 126 for each in arguments for byte in each):
            return self._ask_alone(requests)  # it has the words for what is wrong
        allowed = self._share(Batch(RESP, encode(_GETNAME), [_GETNAME])).raw
        if allowed.startswith(b"-"):
            return [Message(RESP, allowed)]
        if sub == b"SETNAME":
            self._state.name = arguments[0]
        if sub != b"GETNAME":
            return [Message(RESP, OK)]
        name = self._state.name
        null = b"_\r\n" if self._state.is_resp3 else b"$-1\r\n"
        return [Message(RESP, encode(name) if name else null)]

    def _take_turns(self, requests: Batch) -> Sequence[Message]:
        """WAIT and WAITAOF, in short turns, until enough have answered or the time is over."""
        value = list(requests.values[0])
        until = monotonic() + int(value[-1]) / 1000 if int(value[-1]) else None
        pause_s = _FIRST_PAUSE_S
        while True:
            turn = [*value[:-1], _TURN_MS]
            raw = self._share(Batch(RESP, encode(turn), [turn])).raw
            if _is_enough(parse(raw), value) or (until is not None and monotonic() >= until):
                break
            if self._context.client_is_gone():
                raise ClientGone("the client closed while its request was waiting")
            left = pause_s if until is None else max(0.0, min(pause_s, until - monotonic()))
            gevent.sleep(left)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        if self._own is None:
            self._state.switches.add(WAITS)
            self._take_own()
        elif _is_enough(parse(raw), value):
            return self._ask_alone(requests)  # what was written there counts, too
        return [Message(RESP, raw)]

    def _quit(self, requests: Batch) -> Sequence[Message]:
        """QUIT is answered by us; what follows it is not, and nor is what servers take for HTTP."""
        self._has_quit = True
        self._leave()  # so that whatever comes behind it comes to _join
        self._context.end()
        is_polite = requests.names[0] == b"QUIT"
        return [Message(RESP, OK if is_polite and not index else b"") for index in range(len(requests))]

    # -- moving and ending ----------------------------------------------------------------------

    def export(self, luggage: Luggage) -> Any:
        """The state of the client, and its own connection if it has one."""
        if self._own is not None:
            return {"own": self._own.export(luggage), "has_quit": self._has_quit}
        state = self._state.export()
        if state is None:
            raise Pinned("busy")
        return {"state": state, "has_quit": self._has_quit}

    def adopt(self, state: Any, luggage: Luggage) -> None:
        """Go on where another process stopped."""
        self._has_quit = state["has_quit"]
        if "own" in state:
            self._own = OwnSink(self._config, self._context, self._state, self._pool)
            self._own.adopt(state["own"], luggage)
            self._state = self._own.state
        else:
            self._state = ConnectionState.adopt(state["state"])

    def close(self) -> None:
        """Leave the group, and close one's own connection."""
        self._leave()
        if self._own is not None:
            self._own.close()


def _is_enough(found: Any, value: Sequence[bytes]) -> bool:
    """Whether a reply to WAIT or WAITAOF ends the waiting: enough have answered, or it is an error."""
    counts = found if isinstance(found, list) else [found]
    if not all(isinstance(count, int) for count in counts):
        return True
    return all(count >= int(wanted) for count, wanted in zip(counts, value[1:]))


def _no_next(requests: Batch) -> Batch:
    raise AssertionError("a sink has nobody below")
