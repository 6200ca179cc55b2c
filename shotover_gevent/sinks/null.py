"""NullSink: every request is answered by an error, nothing is asked."""

from __future__ import annotations

from typing import ClassVar

from shotover_gevent.chain import Batch, Message, Next, SessionContext, Sink, TransformConfig

TEXT = "Handled by shotover null transform"


class NullSink(TransformConfig):
    """Answers every request with an error, as a placeholder for a database."""

    terminating: ClassVar[bool] = True
    protocols: ClassVar[tuple[str, ...] | None] = ("Valkey",)

    def session(self, context: SessionContext) -> Sink:
        """The sink of one session; it keeps nothing."""
        return _Null()


class _Null(Sink):
    def transform(self, requests: Batch, next: Next) -> Batch:
        codec = requests.codec
        raw = codec.error(TEXT)
        return Batch.of(codec, [Message(codec, raw) for _ in range(len(requests))])
