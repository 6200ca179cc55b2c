"""Non-blocking sockets for one greenlet.

Rules:
 1. A :class:`Stream` owns a plain non-blocking socket; ``close()`` closes it, once.
 2. Each stream has one *persistent* read watcher. It wakes the greenlet only while the
    greenlet waits for that stream (:mod:`shotover_gevent.net.park`), and stops itself otherwise, so
    that nothing spins. Starting and stopping a watcher for every wait, as ``socket.recv`` of gevent
    does, costs more than the system calls around it.
 3. The receive buffer is shared by all streams of a proxy: what it holds is valid until the
    next wait. Copy what must stay.
"""

from __future__ import annotations

import socket
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable
from time import monotonic, perf_counter
from typing import Any, ClassVar

from gevent.socket import wait_write

from shotover_gevent.deadline import Deadline
from shotover_gevent.metrics import Histogram
from shotover_gevent.net.park import ANY, HubPark, Park

# One read takes at most this much: larger reads win nothing, since socket buffers are smaller.
RECEIVE_BUFFER_BYTES = 256 * 1024

# A peer that takes no byte for this long is gone or stuck; its session would hold a
# connection slot and its responses for ever.
SEND_STALL_S = 300.0

# TCP_INFO's first byte is the state of the connection; these say that the peer sent its FIN or is gone.
_TCP_CLOSE, _TCP_CLOSE_WAIT = 7, 8

# SO_LINGER on, for no time: close(2) throws away what is not sent, and sends a reset.
_NO_LINGER = struct.pack("ii", 1, 0)

_READ = 1
_WRITE = 2

class ReceiveBuffer:
    """The bytes of the last read, and what is put off to the end of this turn of the hub.

    One per proxy, since a proxy lives in one hub. ``outbox`` is for :meth:`Stream.send_soon`.
    """

    __slots__ = ("bytes", "view", "outbox")

    def __init__(self, size: int = RECEIVE_BUFFER_BYTES) -> None:
        self.bytes = bytearray(size)
        self.view = memoryview(self.bytes)
        self.outbox: list[tuple[Stream, Histogram | None, float]] = []

    def send_all(self) -> None:
        """Send what is in the outbox; called in the hub."""
        outbox, self.outbox = self.outbox, []
        _send_all(outbox)


def _send_all(outbox: Iterable[tuple[Stream, Histogram | None, float]]) -> None:
    """Send without waiting what each of the streams has put off."""
    for stream, latency, since in outbox:
        data = stream._late
        if data.__class__ is bytes:
            stream._late = None
            try:
                count = stream._send(data)
            except (BlockingIOError, InterruptedError):
                count = 0
            except OSError as error:
                stream._leave(error)
                continue
            if count != len(data):
                stream._leave(memoryview(data)[count:])
        elif stream.is_closed:
            continue
        if latency is not None:
            seconds = perf_counter() - since
            latency.own[bisect_left(latency.bounds, seconds)] += 1
            latency.own_total += seconds


class Stream:
    """A connected socket that one greenlet reads, with its persistent read watcher.

    ``owner`` is whoever reads the stream when it becomes readable while its greenlet is idle.
    """

    __slots__ = (
        "socket", "park", "buffer", "owner", "is_stopped", "is_paused", "blocked_since", "_late", "_watcher",
        "_write_watcher", "_receive_into", "_send",
    )

    #: Why a session with such a stream cannot move to another process; ``None`` if it can.
    pinned_by: ClassVar[str | None] = None

    def __init__(
        self, sock: socket.socket, park: Park | HubPark, buffer: ReceiveBuffer, owner: Any = None
    ) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.park = park
        self.buffer = buffer
        self.owner = owner
        self.is_stopped = False
        self.is_paused = False
        #: What :meth:`send_soon` was given, or what is left of it; an error if it could not be sent.
        self._late: bytes | memoryview | OSError | None = None
        #: Since when (monotonic) bytes wait for the peer to take more; 0 when none do.
        self.blocked_since = 0.0
        self._receive_into = sock.recv_into
        self._send = sock.send
        self._watcher = park.loop.io(sock.fileno(), _READ)
        self._write_watcher: Any = None
        self._watcher.start(self._fire)
        park.streams.append(self)

    def _fire(self) -> None:
        park = self.park
        target = park.target
        if target is self or target is ANY:
            park.switch(self)
        else:
            self._watcher.stop()
            self.is_stopped = park.has_stopped = True

    def pause(self) -> None:
        """Do not wake the greenlet for this stream until :meth:`resume`: its peer has to wait."""
        self.is_paused = self.is_stopped = True
        self._watcher.stop()

    def resume(self) -> None:
        """Watch for bytes again."""
        if self.is_stopped:
            self.is_paused = self.is_stopped = False
            self._watcher.start(self._fire)

    def receive(self, limit: int = 0) -> int:
        """Read what is there, at most ``limit`` bytes if that is not 0, into the buffer.

        Returns the count, 0 at the end of the stream, -1 if nothing is there.

        Raises ``OSError`` when the connection is broken.
        """
        try:
            return self._receive_into(self.buffer.bytes, limit)
        except (BlockingIOError, InterruptedError):
            return -1

    def read(self) -> int:
        """Wait for bytes and read them into the buffer: the count, 0 at the end of the stream."""
        while True:
            self.park.wait(self)
            if self._late is not None:
                self.settle()
            count = self.receive()
            if count >= 0:
                return count

    def try_send(self, data: Any) -> int:
        """Send what the kernel takes now; returns the count."""
        try:
            return self._send(data)
        except (BlockingIOError, InterruptedError):
            return 0

    def send(self, data: Any) -> None:
        """Send all of ``data``: at once if the kernel takes it, else as the peer reads.

        Raises ``OSError`` when the connection is broken, and ``TimeoutError`` when the peer
        takes nothing for :data:`SEND_STALL_S`.
        """
        if self._late is not None:
            self.settle()
        try:
            count = self._send(data)
        except (BlockingIOError, InterruptedError):
            count = 0
        if count != len(data):
            self._send_rest(memoryview(data)[count:])

    def send_soon(self, data: bytes, latency: Histogram | None = None, since: float = 0.0) -> None:
        """Send ``data`` at the end of this turn of the hub; ``latency`` gets the seconds from ``since`` to then.

        What all greenlets of one turn send leaves together then. A peer that has nothing left to do
        sleeps, and waking it costs more than all else in sending; this way it finds what the others have
        sent when it is awake. What the kernel does not take, or goes wrong, is the matter of
        :meth:`read`, of :meth:`settle`, for which an idle greenlet is woken, and of whatever sends next.
        """
        if self._late is not None:
            self.settle()
        self._late = data
        buffer = self.buffer
        if not buffer.outbox:
            self.park.loop.run_callback(buffer.send_all)
        buffer.outbox.append((self, latency, since))

    def send_now(self) -> bool:
        """Send what :meth:`send_soon` was given, without waiting; whether nothing is left of it.

        For others than the greenlet, while that is idle; it is told to :meth:`settle` the rest.
        """
        _send_all([(self, None, 0.0)])
        return self._late is None

    def _leave(self, left: memoryview | OSError) -> None:
        """Leave that to the greenlet, which is told. Nothing more is read of the peer until then."""
        self._late = left
        park = self.park
        assert isinstance(park, Park), "without a greenlet there is nobody to settle it"
        if park.target is self:
            park.switch(self)
        else:
            self.pause()
            park.wake()

    def settle(self) -> None:
        """Send what is left of :meth:`send_soon`, as :meth:`send` does. Raises as that does."""
        late, self._late = self._late, None
        if isinstance(late, bytes):
            self.send(late)
        elif isinstance(late, OSError):
            raise late
        elif late is not None:
            self._send_rest(late)
            self.resume()

    def _send_rest(self, rest: memoryview) -> None:
        stalled = TimeoutError("the peer reads nothing")
        self.blocked_since = monotonic()
        try:
            while rest:
                wait_write(self.socket.fileno(), timeout=SEND_STALL_S, timeout_exc=stalled)
                rest = rest[self.try_send(rest):]
        finally:
            self.blocked_since = 0.0

    def flush(self) -> None:
        """Wait until the kernel has all that was sent. Raises ``OSError``."""

    def call_when_writable(self, callback: Callable[[], None]) -> None:
        """Call back from the hub, again and again, while the kernel takes bytes."""
        if self._write_watcher is None:
            self._write_watcher = self.park.loop.io(self.socket.fileno(), _WRITE)
        self._write_watcher.start(callback)

    def stop_writable(self) -> None:
        """Stop what :meth:`call_when_writable` started."""
        if self._write_watcher is not None:
            self._write_watcher.stop()

    def has_ended(self) -> bool:
        """Whether the peer has closed its side, even while bytes wait to be read. Consumes nothing."""
        if self.socket.family == socket.AF_UNIX:
            try:
                return self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
            except BlockingIOError:
                return False
            except OSError:
                return True
        try:
            state = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        except OSError:
            return True
        return state in (_TCP_CLOSE, _TCP_CLOSE_WAIT)

    def shutdown_send(self) -> None:
        """Tell the peer that nothing more comes; it may go on sending. Raises ``OSError``."""
        self.settle()
        self.socket.shutdown(socket.SHUT_WR)

    def discard(self) -> int:
        """Read and forget what is there: the count, 0 at the end of the stream, -1 for nothing."""
        return self.receive()

    def reset_at_close(self) -> None:
        """Let :meth:`close` send a reset: the peer must not take what it got for everything."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)

    def move(self, park: Any) -> None:
        """Let another greenlet be woken from now on, the one of ``park``."""
        if self in self.park.streams:
            self.park.streams.remove(self)
        self.park = park
        park.streams.append(self)
        self.resume()

    def close(self) -> None:
        """Close the watchers, then the socket."""
        if self._watcher is None:
            return
        self.detach().close()

    def detach(self) -> socket.socket:
        """Give up the socket, still open, to the caller; the stream is of no use afterwards."""
        self._late = None
        self._watcher.stop()
        self._watcher.close()
        self._watcher = None
        if self._write_watcher is not None:
            self._write_watcher.stop()
            self._write_watcher.close()
            self._write_watcher = None
        if self in self.park.streams:
            self.park.streams.remove(self)
        return self.socket

    @property
    def is_closed(self) -> bool:
        """Whether :meth:`close` or :meth:`detach` was called."""
        return self._watcher is None

    def __repr__(self) -> str:
        if self.is_closed:
            return "<Stream closed>"
        state = "paused" if self.is_paused else "stopped" if self.is_stopped else "watching"
        return f"<Stream fd={self.socket.fileno()} {state}>"


def close_gently(stream: Stream, seconds: float) -> None:
    """Close so that the peer can still read everything it was sent.

    Bytes of the peer that nobody reads would turn the close into a reset, which throws away
    what it has not read yet. So: send FIN, then read and forget, until the peer closes too or
    the time is over. Close the other streams of the same park first.
    """
    deadline = Deadline.after(seconds)
    try:
        stream.shutdown_send()
        stream.resume()
        while not deadline.is_over:
            if stream.discard() == 0:
                break
            stream.park.wait_any(deadline.left())
    except OSError:
        pass  # the peer is gone already, and with it whatever it had not read
    finally:
        stream.close()
