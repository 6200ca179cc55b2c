"""What ``shotover-gevent ctl`` asks of a running proxy; the bytes are in ``hotreload.dialect``."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import gevent

from shotover_gevent.deadline import Deadline
from shotover_gevent.hotreload.control import CommandRefused
from shotover_gevent.hotreload.dialect import field
from shotover_gevent.observability.log_filter import LogFilter
from shotover_gevent.observability.sessions import sessions
from shotover_gevent.observability.status import Facts, state_of, status
from shotover_gevent.sources.base import BaseSession, EndReason
from shotover_gevent.sources.source import Source

logger = logging.getLogger(__name__)

# A session that is told to close is idle most of the time, and ends at once; whoever asks is told after
# this long that it has not, and that it will.
CLOSE_S = 2.0
_POLL_S = 0.01

# Sources, chains and databases in one part: each has some hundred bytes, and a packet has room for 200,000.
ENTRIES = 100

# As in a reload: a week is for ever.
MAX_SECONDS = 7 * 86_400.0

Number = (int, float)


class Controlled(Facts, Protocol):
    """The proxy, as the commands see it."""

    log_filter: LogFilter | None

    @property
    def is_retired(self) -> bool:
        """Whether it drains, or has ended."""

    def drain(self, seconds: float) -> None:
        """End in order; waits."""


class Control:
    """The commands of one proxy. Call it with a command and its arguments."""

    def __init__(self, proxy: Controlled) -> None:
        self._proxy = proxy
        self._commands: dict[str, Callable[[Mapping[str, Any]], Iterator[dict[str, Any]]]] = {
            "status": self._status, "sessions": self._sessions, "close": self._close,
            "drain": self._drain, "log-level": self._log_level,
        }

    def __call__(self, command: str, arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Do what is asked, and yield the parts of the answer. Raises ``CommandRefused``."""
        known = self._commands.get(command)
        if known is None:
            raise CommandRefused(
                f"unknown command {command}; this process knows {', '.join(self._commands)}")
        return known(arguments)

    def _status(self, _arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        found = status(self._proxy)
        long = {name: found[name] for name in ("sources", "chains", "upstreams")}
        yield {**found, **dict.fromkeys(long, ())}
        for name, entries in long.items():
            for start in range(0, len(entries), ENTRIES):
                yield {name: entries[start : start + ENTRIES]}

    def _sessions(self, arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        for chunk in sessions(self._sources(arguments)):
            yield {"sessions": chunk}

    def _sources(self, arguments: Mapping[str, Any]) -> Sequence[Source]:
        """The source that is named, or all."""
        name, sources = arguments.get("source"), self._proxy.sources
        if name is None:
            return sources
        if found := [source for source in sources if source.name == name]:
            return found
        names = ", ".join(source.name for source in sources)
        raise CommandRefused(f"there is no source {name}; there are: {names}")

    def _close(self, arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        session = self._session(arguments)
        state, source = state_of(session), session.source
        logger.info("an operator closes a session", extra={"fields": {
            "source": source.name, "id": session.id, "state": state, "now": bool(arguments.get("now"))}})
        if arguments.get("now"):
            session.abort()
        else:
            session.stop(EndReason.OPERATOR)
        deadline = Deadline.after(CLOSE_S)
        while session in source.sessions and not deadline.is_over:
            gevent.sleep(_POLL_S)
        yield {
            "source": source.name, "id": session.id, "state": state,
            "closed": session not in source.sessions}

    def _session(self, arguments: Mapping[str, Any]) -> BaseSession:
        """The one with that number; each source counts for itself."""
        number = field(arguments, "id", int)
        found = [
            session for source in self._sources(arguments) for session in source.sessions
            if session.id == number]
        if not found:
            raise CommandRefused(f"there is no session {number}")
        if len(found) > 1:
            names = ", ".join(session.source.name for session in found)
            raise CommandRefused(f"there is a session {number} of each of these sources: {names}; name one")
        return found[0]

    def _drain(self, arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        seconds = field(arguments, "seconds", Number)
        if not 0 <= seconds <= MAX_SECONDS:
            raise CommandRefused(f"{seconds:g} is not a number of seconds from 0 to {MAX_SECONDS:g}")
        if self._proxy.is_retired:
            raise CommandRefused(f"this process is {self._proxy.phase} already")
        left = sum(len(source.sessions) for source in self._proxy.sources)
        logger.info("an operator lets this process drain and end", extra={
            "fields": {"seconds": seconds, "sessions": left}})
        gevent.spawn(self._proxy.drain, seconds)
        yield {"pid": os.getpid(), "sessions": left, "seconds": seconds}

    def _log_level(self, arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        log = self._proxy.log_filter
        if log is None:
            raise CommandRefused("the log filter of this process belongs to another program")
        if arguments.get("filter") is not None:
            self._set_filter(log, field(arguments, "filter", str), arguments.get("seconds"))
        expires_s = log.expires_s
        yield {
            "filter": log.text, "expires_s": None if expires_s is None else round(expires_s, 1),
            "returns_to": log.returns_to}

    def _set_filter(self, log: LogFilter, text: str, seconds: Any) -> None:
        if seconds is not None and not (isinstance(seconds, Number) and 0 < seconds <= MAX_SECONDS):
            raise CommandRefused(f"{seconds} is not a number of seconds up to {MAX_SECONDS:g}")
        try:
            log.set(text, seconds)
        except ValueError as error:
            raise CommandRefused(str(error)) from error
        logger.info("filter set to: %s", text, extra={"fields": {"seconds": seconds}})
