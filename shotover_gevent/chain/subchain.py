"""A chain beside that of a session: in a greenlet of its own, behind a bounded queue.

Rules:
 1. The transforms of a sub-chain run in its own greenlet only, and its streams belong to a park of
    its own: a sub-chain that is stuck holds up nobody who does not wait for it.
 2. ``submit`` gives it a batch, and returns a ticket; ``ticket.wait()`` returns the responses or
    raises what failed. Batches are run in the order in which they were given.
 3. A chain that has failed is closed and not asked again; the next batch gets a new one. What a
    client has set up on its connection (AUTH, SELECT, subscriptions) would be lost with it: after
    that the sub-chain fails for good, instead of writing somewhere else.
 4. What a sub-chain pushes travels with the responses that it waits before; what it pushes at other
    times wakes the greenlet of its parent, which alone writes to the client (:meth:`deliver`).
 5. A sub-chain lives as long as its session. When that ends, what is queued is still run.
 6. It moves with its session, when nothing is queued or running.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from gevent import GreenletExit, get_hub
from gevent.event import Event
from gevent.lock import Semaphore
from greenlet import greenlet

from shotover_gevent.chain.chain import ChainConfig
from shotover_gevent.chain.gathering import Gathering
from shotover_gevent.chain.handoff import EXPORTED, REBUILT, Luggage, Movable, Pinned
from shotover_gevent.chain.transform import BuildContext, SessionContext, TransformConfig
from shotover_gevent.codecs.batch import Batch
from shotover_gevent.codecs.resp_conversation import sets_up
from shotover_gevent.deadline import Deadline
from shotover_gevent.errors import SessionEnd, TransformError, UpstreamError, causes, render
from shotover_gevent.logs import span
from shotover_gevent.metrics import Counter
from shotover_gevent.net.park import Park
from shotover_gevent.net.stream import Stream

logger = logging.getLogger(__name__)

#: Shotover's module, which its users' log rules name.
_TARGET = {"target": "shotover::transforms::chain"}

# How long a sub-chain may go on with what is queued after its session has ended: a server that is
# about as far away as the database needs milliseconds for the few batches of a queue.
FINISH_S = 5.0

# The longest that can be counted; memory ends before.
LONGEST_QUEUE = 2**31 - 1

# Whoever waits for a sub-chain looks this often whether its client is still there.
GONE_CHECK_S = 0.5

# A database that is down fails every batch: further lines within this time would say the same.
LOG_INTERVAL_S = 1.0

# The texts of the channel that Shotover uses.
FULL = "timed out waiting on send operation"
CLOSED = "channel closed"


class NotSent(TransformError):
    """A batch did not get into the queue of a sub-chain."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Couldn't send message to wrapped chain {reason}")


class _Lost(UpstreamError):
    """The connection that a client has set up is gone."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f'the chain "{name}" has failed before, and with it what the client had set up on its connection')


class SubChainConfig:
    """What the sub-chains of all sessions share: the steps, the length of the queue, the log.

    ``size`` is how many batches wait at most; ``dropped`` counts those that were never run. With
    ``is_shared``, clients have no connection of their own, so that what they set up on it is not kept.
    """

    def __init__(
        self, context: BuildContext, name: str, steps: Sequence[TransformConfig], size: int = 1,
        dropped: Counter | None = None, is_shared: bool = False, is_awaited: bool = True,
    ) -> None:
        self.chain = ChainConfig(
            name, context.protocol, steps, context.metrics, context.endpoints,
            is_awaited and context.is_awaited)
        self.size = min(size, LONGEST_QUEUE)
        self.dropped = dropped or Counter()
        self.is_shared = is_shared
        #: Batches of all sessions that are queued or under way.
        self.batches = 0
        context.metrics.gauge(
            "shotover_gevent_subchain_batches", "Batches queued or under way in sub-chains",
            lambda: self.batches, chain=name)
        self._logged_at = -math.inf
        self._unlogged = 0

    def session(
        self, parent: SessionContext, hears: Callable[[], bool] = lambda: True, *, ends: bool = False
    ) -> SubChain:
        """The sub-chain of one session; what it pushes goes to the client while ``hears()``.

        With ``ends``, the end of its database's connection is that of the session, as it is for a sink.
        """
        return SubChain(self, parent, hears, ends)

    def log_failure(self, error: Exception) -> None:
        """One line in Shotover's words; those that follow at once are counted in the next one."""
        if monotonic() - self._logged_at < LOG_INTERVAL_S:
            self._unlogged += 1
            return
        head, *rest = causes(error)
        fields = {"not_logged_before": self._unlogged} if self._unlogged else {}
        self._logged_at, self._unlogged = monotonic(), 0
        logger.error(
            'Internal error in buffered chain "%s": %s', self.chain.name, render(head, rest),
            extra={**_TARGET, "fields": fields})


def build_all(
    context: BuildContext, chains: Sequence[tuple[str, Sequence[TransformConfig]]], **options: Any
) -> list[SubChainConfig]:
    """Build several sub-chains. If one raises, those that were built are closed again."""
    built: list[SubChainConfig] = []
    try:
        for name, steps in chains:
            built.append(SubChainConfig(context, name, steps, **options))
    except BaseException:
        for each in built:
            each.chain.close()
        raise
    return built


class Ticket:
    """A batch on its way through a sub-chain."""

    __slots__ = ("requests", "size", "is_awaited", "_owner", "_responses", "_error", "_changed")

    def __init__(self, owner: SubChain, requests: Batch, is_awaited: bool) -> None:
        self.requests = requests
        self.size = len(requests)
        self.is_awaited = is_awaited
        self._owner = owner
        self._responses: Batch | None = None
        self._error: Exception | None = None
        self._changed = Event()

    def wait(self) -> Batch:
        """The responses; raises what the sub-chain has failed with. In the greenlet of the parent."""
        while self._responses is None:
            if self._error is not None:
                raise self._error
            if self._changed.wait(GONE_CHECK_S):
                self._changed.clear()
                if self._responses is None:
                    self._owner.deliver()
            else:
                self._owner.look_for_client()
        return self._responses

    def answer(self, responses: Batch) -> None:
        """Give the responses to whoever waits."""
        self._responses = responses
        self._changed.set()

    def fail(self, error: Exception) -> None:
        """Raise ``error`` where somebody waits, unless something else has failed before."""
        self._error = self._error or error
        self._changed.set()

    def look(self) -> None:
        """Let whoever waits send what was pushed meanwhile."""
        self._changed.set()


class SubChain(Movable):
    """The sub-chain of one session. Its transform calls ``export``, ``adopt`` and ``close``."""

    fates = {
        "_config": REBUILT, "_parent": REBUILT, "_hears": REBUILT, "_context": REBUILT,
        "_chain": EXPORTED, "_is_set_up": EXPORTED, "_is_lost": EXPORTED,
        # It moves only when nothing is queued, gathered or running.
        "_queue": REBUILT, "_space": REBUILT, "_taken": REBUILT, "_gathering": REBUILT,
        "_worker": REBUILT, "_ended": REBUILT, "_is_started": REBUILT, "_is_closing": REBUILT,
        "_is_held": REBUILT, "_ends": REBUILT,
        "_end_of_session": REBUILT,  # not delivered yet: then it is not idle
    }

    def __init__(
        self, config: SubChainConfig, parent: SessionContext, hears: Callable[[], bool], ends: bool
    ) -> None:
        self._config = config
        self._parent = parent
        self._hears = hears
        self._ends = ends
        self._end_of_session: SessionEnd | None = None
        self._worker = greenlet(self._work, get_hub())
        self._context = SessionContext(
            source=parent.source, chain=config.chain.name, session_id=parent.session_id,
            client_address=parent.client_address, park=Park(self._worker), buffer=parent.buffer,
            emit=parent.pusher(self._collect), send_pushed=self._hand_over,
            client_is_gone=lambda: self._is_closing or parent.client_is_gone(),
            end=parent.end if ends else lambda: None)
        self._chain = config.chain.session(self._context)
        self._queue: deque[Ticket] = deque()
        self._space = Semaphore(config.size)
        #: Those taken from the queue: their requests are gathered, or run.
        self._taken: list[Ticket] = []
        self._gathering = Gathering()
        self._ended = Event()
        self._is_started = False
        self._is_closing = False
        self._is_held = False
        self._is_set_up = False
        self._is_lost = False
        parent.inner.append(self)

    # -- for the transform ----------------------------------------------------------------------

    def offer(self, requests: Batch, is_awaited: bool = True) -> Ticket | None:
        """Queue a batch if there is room now; ``None`` if there is not. Raises :class:`NotSent`."""
        if self._is_closing or self._ended.is_set():
            raise NotSent(CLOSED)
        if not self._space.acquire(blocking=False):
            return None
        return self._enqueue(requests, is_awaited)

    def submit(
        self, requests: Batch, timeout_s: float | None = None, is_awaited: bool = True
    ) -> Ticket:
        """Queue a batch, when there is room, within the time. Raises :class:`NotSent`.

        When the client has left, it is only waited for as long as for what is queued then.
        """
        deadline, has_left = Deadline.after(timeout_s), False
        while (ticket := self.offer(requests, is_awaited)) is None:
            left = deadline.left()
            if left == 0.0:
                raise NotSent(FULL)
            if self._space.acquire(timeout=GONE_CHECK_S if left is None else min(left, GONE_CHECK_S)):
                self._space.release()  # for the offer, which nobody comes before
            elif not has_left and self._parent.client_is_gone():
                has_left = True
                deadline = Deadline.after(FINISH_S if left is None else min(left, FINISH_S))
        return ticket

    def _enqueue(self, requests: Batch, is_awaited: bool) -> Ticket:
        ticket = Ticket(self, requests, is_awaited)
        self._queue.append(ticket)
        self._config.batches += 1
        self._start()
        return ticket

    def _start(self) -> None:
        """Let the greenlet look at what is new."""
        if self._is_started:
            self._context.park.wake()
        else:
            self._is_started = True
            self._context.park.loop.run_callback(self._worker.switch)

    def deliver(self) -> None:
        """Send what was pushed up, in the greenlet of the parent, when nothing else is being sent.

        Raises what ends the session, if that has come meanwhile.
        """
        if raw := self._context.take_pushed():
            self._parent.pushed.append(raw)
            self._parent.send_pushed()
        if self._end_of_session is not None:
            raise self._end_of_session
        if not self._is_held:
            self._resume()

    def look_for_client(self) -> None:
        """Let a request that waits for other clients notice that its own one has gone."""
        if self._parent.client_is_gone():
            self._context.park.wake()

    def close(self) -> None:
        """Finish what is queued, then end; returns at once (see :func:`join`)."""
        self._is_closing = True
        if self._is_started:
            self._context.park.wake()
        else:
            self._end()

    # -- for the session ------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued, running, or pushed and not delivered."""
        is_parked = not self._is_started or self._ended.is_set() or self._context.park.is_idle
        is_empty = not (self._queue or self._taken or self._context.pushed or self._end_of_session)
        return is_parked and is_empty and all(each.is_idle for each in self._context.inner)

    def hold(self) -> None:
        """Run what is queued, then read nothing until :meth:`release`. Its parent submits nothing."""
        self._is_held = True
        for each in self._context.inner:
            each.hold()
        if self.is_idle:
            self._pause()
        elif self._is_started:
            self._context.park.wake()

    def release(self) -> None:
        """Go on as if :meth:`hold` had never been called."""
        if self._is_held and not self._ended.is_set():
            self._is_held = False
            for each in self._context.inner:
                each.release()
            self._resume()
            if self._is_started or self._context.park.streams or self._context.inner:
                self._start()

    def kill(self) -> None:
        """End now, wherever it is; nothing if it has ended."""
        if not self._ended.is_set():
            self._context.park.loop.run_callback(self._throw)

    def _throw(self) -> None:
        if self._worker:
            self._worker.throw(GreenletExit)
        else:
            self._end()

    def wait(self, seconds: float | None) -> bool:
        """Wait until it has ended, after :meth:`close`; whether it has."""
        return bool(self._ended.wait(seconds))

    # -- its greenlet ---------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            with span("connection", id=self._context.session_id, source=self._context.source):
                self._serve()
        except GreenletExit:
            pass  # join() has waited long enough
        except Exception:
            logger.exception("a sub-chain ended by an unexpected error")
        finally:
            self._end()

    def _serve(self) -> None:
        park = self._context.park
        while True:
            patience_s = self._gather()
            if not patience_s:
                self._run()
                continue
            if self._is_closing:
                return
            if self._is_held:
                self._pause()
            stream = park.wait_any(None if patience_s == math.inf else patience_s)
            if stream is not None:
                self._hear(stream)
            else:
                self._context.deliver()

    def _gather(self) -> float:
        """Take from the queue what is to run next; returns how long to wait for more, 0 for a run."""
        while True:
            patience_s = self._patience_s() if self._taken else math.inf
            if not patience_s or not self._queue:
                return patience_s
            ticket = self._queue.popleft()
            self._space.release()
            self._taken.append(ticket)
            self._gathering.add(ticket.requests)

    def _patience_s(self) -> float:
        if not self._config.chain.gathers or self._is_closing or self._is_held or self._is_lost:
            return 0.0
        return self._gathering.patience_s(self._chain)

    def _run(self) -> None:
        requests = self._gathering.take()
        try:
            if self._is_lost:
                raise _Lost(self._config.chain.name)
            self._is_set_up = self._is_set_up or sets_up(requests)
            self._resume()
            self._answer(self._chain.run(requests))
        except _Lost as error:
            self._config.dropped.value += len(self._taken)
            self._fail(error)
        except Exception as error:
            self._fail(error)
            self._renew()
        self._config.batches -= len(self._taken)
        self._taken = []
        self._hand_over()

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, SessionEnd):
            self._config.log_failure(error)
        for ticket in self._taken:
            ticket.fail(error)

    def _answer(self, responses: Batch) -> None:
        """Give each ticket its part."""
        if len(self._taken) == 1:
            self._taken[0].answer(responses)
            return
        start = 0
        for ticket in self._taken:
            if ticket.is_awaited:
                ticket.answer(responses[start : start + ticket.size])
            start += ticket.size

    def _hear(self, stream: Stream) -> None:
        """Read what came while nothing was asked. While it is not delivered, nothing more is read."""
        try:
            stream.owner.on_readable()
        except Exception as error:
            if not isinstance(error, SessionEnd):
                self._config.log_failure(error)
            elif self._ends:
                self._end_of_session = error
            self._renew()
        self._hand_over()

    def _renew(self) -> None:
        """Replace a chain that must not be asked again."""
        self._is_lost = self._is_set_up and not self._config.is_shared
        self._close_chain()
        self._context.above, self._context.inner = [], []
        self._chain = self._config.chain.session(self._context)

    def _close_chain(self) -> None:
        try:
            self._chain.close()
        finally:
            join(self._context.inner, FINISH_S)

    def _end(self) -> None:
        """Close everything, and tell whoever waits."""
        if self._ended.is_set():
            return
        left = [*self._taken, *self._queue]
        self._queue.clear()
        self._config.batches -= len(left)
        try:
            self._close_chain()
        finally:
            self._ended.set()
            for ticket in left:
                ticket.fail(NotSent(CLOSED))
        name = self._config.chain.name
        if left:
            self._config.dropped.value += len(left)
            logger.warning("Buffered chain %s was ended with %d batches in it", name, len(left),
                           extra=_TARGET)
        elif self._is_started and not self._is_held:  # a session that is held has moved, and lives on
            logger.info("Buffered chain %s was shutdown", name, extra=_TARGET)

    # -- pushes ---------------------------------------------------------------------------------

    def _collect(self, pushes: Batch) -> None:
        """The top of the push path of this sub-chain."""
        if self._hears():
            self._context.pushed.append(pushes.raw)

    def _hand_over(self) -> None:
        """Let the parent send what was pushed; until it has, read nothing more."""
        if self._context.pushed or self._end_of_session is not None:
            if not self._taken:
                self._pause()
            for ticket in self._taken:
                ticket.look()
            self._parent.park.wake()

    def _pause(self) -> None:
        for stream in self._context.park.streams:
            stream.pause()

    def _resume(self) -> None:
        for stream in self._context.park.streams:
            stream.resume()

    # -- moving ---------------------------------------------------------------------------------

    def export(self, luggage: Luggage) -> Any:
        """The state of the transforms; raises ``Pinned`` while anything is under way."""
        if not self.is_idle:
            raise Pinned("busy")
        return {
            "chain": self._chain.export(luggage), "is_set_up": self._is_set_up, "is_lost": self._is_lost}

    def adopt(self, state: Any, luggage: Luggage) -> None:
        """Go on with the state of another process, once the session is released."""
        self._chain.adopt(state["chain"], luggage)
        self._is_set_up, self._is_lost = state["is_set_up"], state["is_lost"]


def join(subchains: Sequence[SubChain], seconds: float) -> None:
    """Wait for sub-chains that were closed, all of them together for so long; then end them."""
    deadline = Deadline.after(seconds)
    try:
        for each in subchains:
            each.wait(deadline.left())
    finally:
        for each in subchains:
            each.kill()
