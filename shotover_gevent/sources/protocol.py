"""What a source needs to know of the protocol of its clients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shotover_gevent.codecs.batch import Batch, Codec
from shotover_gevent.codecs.raw import RAW, RawDecoder
from shotover_gevent.codecs.resp import RESP, RequestDecoder
from shotover_gevent.codecs.resp_conversation import BLOCKING


class Decoder(Protocol):
    """Bytes of one client in, batches of requests out."""

    @property
    def pending(self) -> bytes:
        """The bytes of an incomplete request."""

    def feed(self, data: Any) -> Batch:
        """The requests that ``data`` completes."""


@dataclass(frozen=True)
class SourceProtocol:
    """The codec of a type of source, and how its batches are cut into runs of the chain."""

    codec: Codec
    decoder: Callable[..., Decoder]

    def runs(self, requests: Batch, limit: int) -> Sequence[Batch]:
        """The batch in parts that may each wait for its last answer."""
        return (requests,)


class ValkeyProtocol(SourceProtocol):
    """RESP2 and RESP3."""

    def runs(self, requests: Batch, limit: int) -> Sequence[Batch]:
        """Cut around blocking commands, and into parts of at most ``limit`` requests."""
        count = len(requests)
        if count == 1 or (count <= limit and BLOCKING.isdisjoint(requests.names)):
            return (requests,)
        cuts = []
        start = 0
        for index, name in enumerate(requests.names):
            if name in BLOCKING:
                if index > start:
                    cuts.append((start, index))
                cuts.append((index, index + 1))
                start = index + 1
            elif index + 1 - start == limit:
                cuts.append((start, index + 1))
                start = index + 1
        if start < count:
            cuts.append((start, count))
        return [requests[low:high] for low, high in cuts]


PROTOCOLS: dict[str, SourceProtocol] = {
    "Valkey": ValkeyProtocol(RESP, RequestDecoder),
    "Tcp": SourceProtocol(RAW, RawDecoder),
}
