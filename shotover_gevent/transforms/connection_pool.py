"""ConnectionBalanceAndPool: a few sub-chains for all clients.

Rules:
 1. The first ``max_connections`` sessions make a sub-chain each; later ones share those, in turn.
 2. A sub-chain has one connection, whoever uses it. What one client sets up on it (AUTH, SELECT, MULTI,
    SUBSCRIBE) holds for the others too, and messages that nobody asked for are dropped: this is for
    clients that send nothing but plain requests.
 3. The sub-chains belong to the configuration object, and end with it. So sessions cannot move to
    another process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

from pydantic import Field, PrivateAttr

from shotover_gevent.chain import (
    Batch,
    BuildContext,
    Next,
    SessionContext,
    Sink,
    Steps,
    TransformConfig,
)
from shotover_gevent.chain.handoff import PINS, Luggage, Pinned
from shotover_gevent.chain.subchain import FINISH_S, SubChain, SubChainConfig, join
from shotover_gevent.net.park import Park

# Shotover's. Each session waits for its own batch, so that more than this is many clients at once.
QUEUE = 5


class ConnectionBalanceAndPool(TransformConfig):
    """Sends the batches of all clients down at most ``max_connections`` copies of ``chain``."""

    terminating: ClassVar[bool] = True
    protocols: ClassVar[tuple[str, ...] | None] = ("Valkey",)

    max_connections: int = Field(ge=0, le=2**64 - 1, description="How many copies there are, at least 1")
    chain: Steps = Field(description="What is shared")
    _shared: SubChainConfig = PrivateAttr()
    _pool: deque[SubChain] = PrivateAttr(default_factory=deque)

    def problems(self) -> list[str]:
        """Without a connection nothing would ever be answered."""
        if self.max_connections:
            return []
        return ["ConnectionBalanceAndPool:", "  max_connections must be greater than 0"]

    def subchains(self) -> Sequence[tuple[str, Sequence[TransformConfig]]]:
        """One, with the name of the transform."""
        return [(self.name, self.chain)]

    def build(self, context: BuildContext) -> None:
        """Build the chain that is shared."""
        self._shared = SubChainConfig(context, self.name, self.chain, QUEUE, is_shared=True)

    def session(self, context: SessionContext) -> Sink:
        """A session's way to one of the sub-chains."""
        if len(self._pool) < self.max_connections:
            self._pool.appendleft(self._shared.session(_nobody(context), hears=lambda: False))
        else:
            self._pool.rotate(-1)
        return _Share(self._pool[0])

    def close(self) -> None:
        """End the sub-chains."""
        for chain in self._pool:
            chain.close()
        join(self._pool, FINISH_S)
        self._pool.clear()
        self._shared.chain.close()


def _nobody(context: SessionContext) -> SessionContext:
    """The parent of a sub-chain that belongs to no session."""
    return SessionContext(
        source=context.source, chain=context.chain, session_id=0, client_address="", park=Park(),
        buffer=context.buffer, emit=lambda pushes: None)


class _Share(Sink):
    fates = {"_chain": PINS}

    def __init__(self, chain: SubChain) -> None:
        self._chain = chain

    def transform(self, requests: Batch, next: Next) -> Batch:
        return self._chain.submit(requests).wait()

    def export(self, luggage: Luggage) -> NoReturn:
        """Raises ``Pinned``: other sessions use the connection."""
        raise Pinned("it shares its connection")

    def adopt(self, state: Any, luggage: Luggage) -> NoReturn:
        """Nothing was exported."""
        raise Pinned("it shares its connection")
