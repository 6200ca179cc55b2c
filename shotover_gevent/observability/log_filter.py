"""The log filter of a process, which may be another one for a while.

Rules:
 1. There is one filter; whoever sets it last decides.
 2. A filter with an end gives way to the last one without an end, however many there were between.
 3. A filter that cannot be read changes nothing, and leaves an end that is set as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic

import gevent

logger = logging.getLogger(__name__)


class LogFilter:
    """``read`` returns the filter as text, ``write`` replaces it and raises ``ValueError``."""

    def __init__(self, read: Callable[[], str], write: Callable[[str], None]) -> None:
        self._read = read
        self._write = write
        self._lasting: str | None = None
        self._ends_at = 0.0
        self._timer: gevent.Greenlet | None = None

    @property
    def text(self) -> str:
        """The filter that decides now."""
        return self._read()

    @property
    def expires_s(self) -> float | None:
        """Seconds until the filter changes back; ``None``: it stays."""
        return None if self._timer is None else max(0.0, self._ends_at - monotonic())

    @property
    def returns_to(self) -> str | None:
        """The filter that follows this one by itself; ``None``: it stays."""
        return self._lasting if self._timer is not None else None

    def set(self, text: str, seconds: float | None = None) -> None:
        """Replace the filter, for ``seconds`` or for good. Raises ``ValueError``; nothing changes then."""
        lasting = self._read() if self._timer is None else self._lasting
        self._write(text)
        self.close()
        if seconds is not None:
            self._lasting = lasting
            self._ends_at = monotonic() + seconds
            self._timer = gevent.spawn_later(seconds, self._return)

    def close(self) -> None:
        """Let the filter stay as it is."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.kill(block=False)

    def _return(self) -> None:
        if self._timer is None:
            return  # another filter was set in the same turn of the hub
        self._timer = None
        assert self._lasting is not None
        self._write(self._lasting)
        logger.info("filter is back to: %s", self._lasting)
