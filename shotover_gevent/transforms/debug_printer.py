"""DebugPrinter: logs every message that passes."""

from __future__ import annotations

import logging
from collections.abc import Callable

from shotover_gevent.chain import Batch, Message, Next, SessionContext, Transform, TransformConfig

logger = logging.getLogger(__name__)


class DebugPrinter(TransformConfig):
    """Logs requests and responses at INFO."""

    def session(self, context: SessionContext) -> Transform:
        """The printer of one session; it keeps nothing."""
        return _Printer()


class _Printer(Transform):
    def transform(self, requests: Batch, next: Next) -> Batch:
        _log("Request", requests)
        responses = next(requests)
        _log("Response", responses)
        return responses

    def push(self, pushes: Batch, forward: Callable[[Batch], None]) -> None:
        _log("Response", pushes)
        forward(pushes)


def _log(what: str, batch: Batch) -> None:
    if logger.isEnabledFor(logging.INFO):
        # Bytes without structure are no messages: what one read brought is shown as one.
        for message in batch or [Message(batch.codec, batch.raw)] * bool(batch.raw):
            logger.info("%s: %s", what, batch.codec.render(message))
