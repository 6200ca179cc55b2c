"""Where a greenlet waits for its streams: the only wait of the data path.

Rules:
 1. A :class:`Park` belongs to one greenlet. A wait consumes nothing, so a parked greenlet may be woken,
    stopped or moved without losing a byte.
 2. Only the hub switches to a greenlet; from elsewhere, :meth:`Park.wake` asks the hub to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gevent import get_hub, getcurrent

if TYPE_CHECKING:
    from shotover_gevent.net.stream import Stream

#: The target of a greenlet that waits for any of its streams.
ANY: Any = object()


class Park:
    """Where the greenlet that made it waits: for one stream, or for any of its streams."""

    __slots__ = (
        "loop", "streams", "greenlet", "target", "has_stopped", "switch", "_hub_switch", "_woken")

    def __init__(self, greenlet: Any = None) -> None:
        """The place of ``greenlet``, which may not have started yet; by default the current one."""
        hub = get_hub()
        self.loop = hub.loop
        self.streams: list[Stream] = []
        self.greenlet = getcurrent() if greenlet is None else greenlet
        self.target: Any = None
        #: Whether a stream has stopped itself since its greenlet waited the last time.
        self.has_stopped = False
        #: Hands a stream to the waiting greenlet; called by watchers, in the hub.
        self.switch = self.greenlet.switch
        self._hub_switch = hub.switch
        self._woken = False

    def wait(self, stream: Stream) -> None:
        """Wait until ``stream`` is readable (or its peer has closed)."""
        if stream.is_stopped:
            stream.resume()
        self.target = stream
        try:
            self._hub_switch()
        finally:
            self.target = None

    def wait_any(self, timeout_s: float | None = None) -> Stream | None:
        """Wait until one of ``streams`` is readable; ``None`` when woken or out of time."""
        if self._woken:
            self._woken = False
            return None
        if self.has_stopped:
            self.has_stopped = False
            for stream in self.streams:
                if stream.is_stopped and not stream.is_paused:
                    stream.resume()
        if timeout_s is not None:
            return self._wait_until(timeout_s)
        self.target = ANY
        try:
            return self._hub_switch()
        finally:
            self.target = None

    def _wait_until(self, timeout_s: float) -> Stream | None:
        timer = self.loop.timer(timeout_s)
        timer.start(self._expire)
        self.target = ANY
        try:
            return self._hub_switch()
        finally:
            self.target = None
            timer.stop()
            timer.close()

    def wake(self) -> None:
        """End :meth:`wait_any` now, or the next one at once; callable from any greenlet of the hub."""
        if not self._woken:
            self._woken = True
            self.loop.run_callback(self._wake)

    def _wake(self) -> None:
        if self._woken and self.target is ANY:
            self._woken = False
            self.target = None
            self.switch(None)

    def _expire(self) -> None:
        """The time of :meth:`wait_any` is over. Called by its timer, in the hub, while it waits."""
        if self.target is ANY:
            self.target = None
            self.switch(None)

    @property
    def is_idle(self) -> bool:
        """Whether the greenlet waits for anything at all, between requests."""
        return self.target is ANY


class HubPark:
    """The park of a stream that no greenlet waits for: ``on_readable`` is called in the hub instead.

    It must not wait. Bytes of the receive buffer are gone once it switches to a greenlet.
    """

    __slots__ = ("loop", "streams", "target", "has_stopped", "switch")

    def __init__(self, on_readable: Callable[[Stream], None]) -> None:
        self.loop = get_hub().loop
        self.streams: list[Stream] = []
        self.target = ANY
        self.has_stopped = False
        self.switch = on_readable
