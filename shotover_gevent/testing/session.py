"""One session of one transform, without a proxy: what a unit test of a transform needs.

    with TransformSession(Upper(name="u")) as session:
        assert session.ask(b"GET a\\r\\n", b"PING\\r\\n") == [b"$5\\r\\nGET A\\r\\n", b"$4\\r\\nPING\\r\\n"]

What stands below is a scripted database, unless the transform is a sink; what stands above is the test.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from time import perf_counter

import gevent
import hiredis

from shotover_gevent.chain.handoff import Luggage
from shotover_gevent.chain.transform import BuildContext, SessionContext, TransformConfig
from shotover_gevent.codecs.batch import Batch, Message
from shotover_gevent.codecs.raw import RAW
from shotover_gevent.codecs.resp import RESP
from shotover_gevent.errors import UpstreamError, UsageError
from shotover_gevent.metrics import MetricStore
from shotover_gevent.net.park import Park
from shotover_gevent.net.stream import ReceiveBuffer
from shotover_gevent.sinks.tcp_single import TcpSink
from shotover_gevent.sources.protocol import PROTOCOLS
from shotover_gevent.testing.upstream import Answer, echo

SOURCE = "s"
CHAIN = "c"

# How long an export waits for sub-chains to finish what they were given.
HOLD_S = 1.0


def session_context(
    emit: Callable[[Batch], None] = lambda pushes: None, chain: str = CHAIN, source: str = SOURCE
) -> SessionContext:
    """What a session gives its transforms; the greenlet that calls this is the one that waits."""
    return SessionContext(
        source=source, chain=chain, session_id=1, client_address="127.0.0.1", park=Park(),
        buffer=ReceiveBuffer(), emit=emit)


def protocol_of(config: TransformConfig) -> str:
    """The protocol of the chains that a transform may stand in; of several, the first."""
    return config.protocols[0] if config.protocols else "Valkey"


def batch_of(protocol: str, requests: Sequence[bytes]) -> Batch:
    """The batch that a source makes of these requests when they arrive together.

    Raises ``UsageError`` unless each of them is exactly one complete request.
    """
    raw = b"".join(requests)
    batch = PROTOCOLS[protocol].decoder().feed(raw)
    if batch.raw != raw or (protocol != "Tcp" and len(batch) != len(requests)):
        raise UsageError(f"each request of a test is one complete request; {requests!r} are not")
    batch.received_at = perf_counter()
    return batch


def build(config: TransformConfig, protocol: str | None = None, metrics: MetricStore | None = None) -> None:
    """Do what a proxy does with a configuration object before the first session."""
    store = MetricStore() if metrics is None else metrics
    config.build(BuildContext(metrics=store, chain=CHAIN, protocol=protocol or protocol_of(config)))


class Below:
    """The scripted ``next``: answers each request by ``answer``, and writes down what it was asked.

    ``failure`` is raised by the next run instead of answering.
    """

    def __init__(self, answer: Answer = echo) -> None:
        self._answer = answer
        self.failure: Exception | None = None
        #: The batches that arrived, and the bytes of each at that moment.
        self.batches: list[Batch] = []
        self.asked: list[bytes] = []

    def __call__(self, requests: Batch) -> Batch:
        """Answer a batch, one response per request. Raises ``failure``."""
        self.batches.append(requests)
        self.asked.append(requests.raw)
        if self.failure is not None:
            raise self.failure
        return answers(requests, self._answer)


def answers(requests: Batch, answer: Answer) -> Batch:
    """The responses that a sink makes of what a database answers: bytes, with decoded values."""
    parts = [answer(message) for message in requests]
    responses = Batch.of(requests.codec, [Message(requests.codec, part) for part in parts])
    if requests.codec is RESP and parts:
        reader = hiredis.Reader()
        reader.feed(b"".join(parts))
        responses = Batch(RESP, b"".join(parts), [reader.gets() for _ in parts])
    elif requests.codec is RAW:
        responses = Batch(RAW, b"", ())
    responses.received_at = perf_counter()
    return responses


class TransformSession:
    """A transform of ``config`` and everything that a session gives it; the caller closes it.

    The configuration object is built, unless ``is_built`` says that it is.
    """

    def __init__(
        self, config: TransformConfig, *, answer: Answer = echo, protocol: str | None = None,
        is_built: bool = False,
    ) -> None:
        self.protocol = protocol or protocol_of(config)
        #: What the transform has registered and counted, if it was built here.
        self.metrics = MetricStore()
        if not is_built:
            build(config, self.protocol, self.metrics)
        self.below = Below(answer)
        #: The bytes of each push that has arrived at the client.
        self.pushed: list[bytes] = []
        self.is_closed = False
        self._is_running = False
        self.context = session_context(self._emit)
        self.context.send_pushed = self._send_pushed
        self.transform = config.session(self.context)
        self._is_sink = config.terminating
        if not self._is_sink:
            self.context.above.append(self.transform)

    def ask(self, *requests: bytes) -> list[bytes]:
        """The bytes of each response to these requests, which arrive together."""
        responses = self.run(batch_of(self.protocol, requests))
        return [message.lead + message.raw for message in responses]

    def run(self, requests: Batch) -> Batch:
        """What the transform returns for a batch."""
        self._is_running = True
        try:
            responses = self.transform.transform(requests, self._no_next if self._is_sink else self.below)
            if isinstance(self.transform, TcpSink):
                self._relay(self.transform, len(requests.raw))
        finally:
            self._is_running = False
        self._send_pushed()
        return responses

    def push(self, *pushes: bytes) -> None:
        """Messages that nobody asked for come from below."""
        codec = PROTOCOLS[self.protocol].codec
        batch = Batch.of(codec, [Message(codec, push) for push in pushes])
        self.context.pusher()(Batch(RAW, b"".join(pushes), ()) if codec is RAW else batch)

    def wait_push(self, timeout_s: float) -> None:
        """Wait, as an idle session does, until the upstream of a sink says something."""
        stream = self.context.park.wait_any(timeout_s)
        if stream is not None:
            stream.owner.on_readable()
        else:
            self.context.deliver()

    def export(self) -> tuple[str, Luggage]:
        """The state as it travels, and the sockets of it, which stay the transform's. Raises ``Pinned``."""
        luggage = Luggage()
        inner = self.context.inner
        for each in inner:
            each.hold()
        try:
            with gevent.Timeout(HOLD_S, False):
                while not all(each.is_idle for each in inner):
                    gevent.sleep(0.001)
            return json.dumps(self.transform.export(luggage)), luggage
        finally:
            for each in inner:
                each.release()

    def adopt(self, state: str, luggage: Luggage) -> None:
        """Take over what :meth:`export` of another session gave; copies of its sockets, as a reload does."""
        copies = Luggage([sock.dup() for sock in luggage.sockets])
        try:
            self.transform.adopt(json.loads(state), copies)
        finally:
            copies.close()

    def close(self) -> None:
        """The session has ended; calling it again does nothing."""
        if not self.is_closed:
            self.is_closed = True
            self.transform.close()

    def _no_next(self, requests: Batch) -> Batch:
        raise AssertionError(
            f"{type(self.transform).__name__} called next, but it is the sink: nothing stands below it")

    def _relay(self, sink: TcpSink, expected: int) -> None:
        """What the session of a byte stream does: send, and push what comes back."""
        stream = sink.stream or sink.connect()
        stream.send(sink.take_outgoing())
        while expected > 0:
            count = stream.read()
            if count == 0:
                raise UpstreamError("the upstream closed the connection")
            sink.push_bytes(bytes(stream.buffer.view[:count]))
            expected -= count

    def _emit(self, pushes: Batch) -> None:
        self.context.pushed.append(pushes.raw)
        if not self._is_running:
            self._send_pushed()

    def _send_pushed(self) -> None:
        if raw := self.context.take_pushed():
            self.pushed.append(raw)

    def __enter__(self) -> TransformSession:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
