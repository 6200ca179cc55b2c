"""DebugForceParse and DebugForceEncode: every message takes the long way through the codec.

A batch that nobody looks at is forwarded as the bytes that arrived. These make sure that its messages
are parsed, or parsed and encoded again, so that a test with real traffic exercises the codec.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from pydantic import Field

from shotover_gevent.chain import Batch, Next, SessionContext, Transform, TransformConfig
from shotover_gevent.chain.handoff import REBUILT
from shotover_gevent.errors import PeerError

logger = logging.getLogger(__name__)

Force = Callable[[Batch], None]


class DebugForceParse(TransformConfig):
    """Parses every message; its bytes stay what they are."""

    parse_requests: bool = Field(description="Whether requests are parsed")
    parse_responses: bool = Field(description="Whether responses and pushes are parsed")

    def session(self, context: SessionContext) -> Transform:
        """The transform of one session; it keeps nothing."""
        return _Forcer(parse if self.parse_requests else None, parse if self.parse_responses else None)


class DebugForceEncode(TransformConfig):
    """Parses every message and encodes it again."""

    encode_requests: bool = Field(description="Whether requests are encoded again")
    encode_responses: bool = Field(description="Whether responses and pushes are encoded again")

    def session(self, context: SessionContext) -> Transform:
        """The transform of one session; it keeps nothing."""
        return _Forcer(encode if self.encode_requests else None, encode if self.encode_responses else None)


class _Forcer(Transform):
    fates = {"_down": REBUILT, "_up": REBUILT}

    def __init__(self, down: Force | None, up: Force | None) -> None:
        self._down = down
        self._up = up

    def transform(self, requests: Batch, next: Next) -> Batch:
        if self._down is not None:
            self._down(requests)
        responses = next(requests)
        if self._up is not None:
            self._up(responses)
        return responses

    def push(self, pushes: Batch, forward: Callable[[Batch], None]) -> None:
        if self._up is not None:
            self._up(pushes)
        forward(pushes)


def parse(batch: Batch) -> None:
    """Parse every message; what cannot be parsed is logged, and stays as it is."""
    for message in batch:
        try:
            message.frame
        except PeerError as error:
            logger.error("Failed to parse frame: %s", error)


def encode(batch: Batch) -> None:
    """Parse every message, and have it encoded again."""
    for message in batch:
        try:
            message.frame = message.frame
        except PeerError as error:
            logger.error("Failed to parse frame: %s", error)
