"""Our dialect as the successor speaks it. The bytes are in ``dialect``.

Rules:
 1. Everything is built before the first message; what the predecessor lends is only bound to it.
 2. Losing the predecessor undoes the reload if it lives (it has given up waiting, and serves), and
    changes nothing if it has ended: then nobody else serves.
 3. A predecessor that closes the connection on ``Hello`` speaks Shotover's dialect only: the
    conversation begins anew in that.
 4. One successor at a time: it holds a lock on PATH.lock until it ends or has taken over.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from shotover_gevent._version import __version__
from shotover_gevent.deadline import Deadline
from shotover_gevent.errors import HotReloadError
from shotover_gevent.hotreload.client import (
    EXIT_GRACE_S,
    REQUEST_TIMEOUT_S,
    STREAMS,
    Handover,
    connect,
    listeners_of,
    process_of,
    request_listeners,
    resolve,
)
from shotover_gevent.hotreload.dialect import PROTOCOL, STEP_S, LeaseLost, Line, field
from shotover_gevent.hotreload.moving import BUSY_S, Adopter, adopt, without_collections
from shotover_gevent.hotreload.peer import Process
from shotover_gevent.hotreload.protocol import ListenerResponse
from shotover_gevent.net.address import Address
from shotover_gevent.net.fdpass import MAX_SOCKETS, close_all

logger = logging.getLogger(__name__)


def take_over(path: str, addresses: Sequence[Address], gradual_shutdown_s: float) -> Handover:
    """Ask the process that serves ``path`` for the sockets of ``addresses``, in either dialect.

    The caller closes the result. Raises :class:`HotReloadError`.
    """
    lock = _lock(path)
    try:
        handover: Handover | None = _ask(path, addresses, gradual_shutdown_s)
        if handover is None:
            logger.info("the predecessor speaks Shotover's dialect only; its sessions will not move")
            handover = request_listeners(path)
        handover.keep(lock)
        return handover
    except BaseException:
        lock.close()
        raise


def _lock(path: str) -> io.TextIOWrapper:
    """The lock of PATH, held; released by closing it. It says who holds it."""
    name = path + ".lock"
    try:
        lock = os.fdopen(os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "r+")
    except OSError as error:
        raise HotReloadError(f"cannot open the lock {name}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = lock.read(20).strip() or "unknown"
        lock.close()
        raise HotReloadError(f"another reload is in progress: process {holder} holds {name}") from None
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def _ask(path: str, addresses: Sequence[Address], seconds: float) -> Takeover | None:
    """The conversation up to the last socket; ``None`` if our dialect is not spoken there."""
    sock = connect(path, Deadline.after(REQUEST_TIMEOUT_S))
    line = Line(sock)
    received: list[ListenerResponse] = []
    predecessor: Process | None = None
    try:
        predecessor = process_of(sock, path)
        line.send("Hello", {
            "protocol": PROTOCOL, "version": __version__, "pid": os.getpid(),
            "gradual_shutdown_seconds": seconds,
        })
        try:
            _, hello, _ = line.expect("Hello", timeout_s=REQUEST_TIMEOUT_S)
        except LeaseLost as error:
            if isinstance(error.__cause__, TimeoutError):
                raise
            line.close()
            predecessor.close()
            return None
        if (protocol := field(hello, "protocol", int)) != PROTOCOL:
            raise HotReloadError(f"the predecessor speaks protocol {protocol}, not {PROTOCOL}")
        wanted = [resolve(address) for address in addresses]
        line.send("SendListeningSockets", {
            "addresses": [str(Address.of(each)) for each in wanted if each is not None]})
        is_last = False
        while not is_last:
            _, body, sockets = line.expect("ListeningSockets", max_sockets=MAX_SOCKETS)
            received += listeners_of(sockets, STREAMS)
            line.send("Ack", len(sockets))
            is_last = field(body, "last", bool)
        return Takeover(path, predecessor, received, line, hello)
    except BaseException:
        close_all([each.listener for each in received if each.listener is not None])
        line.close()
        if predecessor is not None:
            predecessor.close()
        raise


class Takeover(Handover):
    """A reload in our dialect: what was lent, and the line to the predecessor."""

    def __init__(
        self, path: str, predecessor: Process, listeners: Sequence[ListenerResponse], line: Line,
        hello: Any,
    ) -> None:
        """Take ownership of everything given."""
        super().__init__(path, predecessor, listeners)
        self._line: Line | None = line
        self._sessions = hello.get("sessions", 0)
        self.addresses_before = [
            field(each, "address", str) for each in field(hello, "listeners", list)]

    def confirm(self, gradual_shutdown_s: float) -> None:
        """Say that everything is bound, and wait until the predecessor accepts no more.

        The drain time was said in the beginning. Raises :class:`HotReloadError`: it serves on.
        """
        del gradual_shutdown_s
        with self._or_alone("before it gave way"):
            if self._line is not None:
                self._line.send("Ready", {})
                _, body, _ = self._line.expect("Go")
                self.chains = body.get("chains", []) if isinstance(body, dict) else []

    def complete(self, host: Adopter, place_control_socket: Callable[[], None]) -> None:
        """Adopt the sessions of the predecessor, then tell it that it is done.

        Called when clients are accepted already. Raises :class:`HotReloadError` when the
        predecessor has given up waiting: it serves, and this process must end.
        """
        with self._or_alone("while its sessions moved"), without_collections():
            if self._line is not None:
                self._line.send("Accepting", {})
                adopted = 0
                while True:
                    name, body, sockets = self._line.expect(
                        "Sessions", "End", timeout_s=BUSY_S + STEP_S, max_sockets=MAX_SOCKETS)
                    if name == "End":
                        self.end = body
                        break
                    adopted += adopt(self._line, host, body, sockets)
                    self.tell(f"has {adopted} of {self._sessions} sessions")
                # This process may have been stopped for long: a predecessor that has gone on
                # without it keeps its place.
                self._line.check()
        place_control_socket()
        with self._or_alone("at the last step"):
            if self._line is not None:
                self._line.send("Done", {})
                self._wait_for_the_end()

    def _wait_for_the_end(self) -> None:
        """Until the predecessor has closed its listeners, so that only one process answers there."""
        assert self._line is not None
        try:
            self._line.receive()
        except LeaseLost:
            return
        logger.warning("process %d goes on talking after the reload", self.predecessor_pid)

    @contextlib.contextmanager
    def _or_alone(self, when: str) -> Iterator[None]:
        """Let a lost lease pass if the predecessor has ended: rule 2."""
        try:
            yield
        except LeaseLost:
            if not self._predecessor_has_ended(when):
                raise

    def _predecessor_has_ended(self, when: str) -> bool:
        """Whether the predecessor is gone, so that nobody else serves; then the line is closed."""
        if not self._predecessor.wait(Deadline.after(EXIT_GRACE_S)):
            return False
        logger.warning("process %d has ended %s; this process serves", self.predecessor_pid, when)
        if self._line is not None:
            self._line.close()
            self._line = None
        return True

    def close(self) -> None:
        """End the conversation, close what nobody took, release the lock."""
        super().close()
        if self._line is not None:
            self._line.close()
