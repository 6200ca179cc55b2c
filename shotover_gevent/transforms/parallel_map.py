"""ParallelMap: the requests of a batch go down several copies of a chain at the same time.

Rules:
 1. A batch is taken in rounds: the first request of a round goes to the first copy, the second to the
    second one; the next round begins when all of them have answered.
 2. Responses come in the order of the requests. Shotover's ``ordered_results: false`` returns those of
    a round as they come; protocols that pair by order could make nothing of that.
 3. If a copy fails, the run fails. (Shotover drops all responses of the round without a word.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

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
from shotover_gevent.chain.handoff import EXPORTED, REBUILT, Luggage
from shotover_gevent.chain.subchain import SubChain, SubChainConfig, Ticket, build_all

# Each client may have so many greenlets and connections; what is meant is some tens.
MAX_PARALLELISM = 1024


class ParallelMap(TransformConfig):
    """Sends each request of a batch down one of ``parallelism`` copies of ``chain``."""

    terminating: ClassVar[bool] = True
    protocols: ClassVar[tuple[str, ...] | None] = ("Valkey",)

    parallelism: int = Field(
        ge=0, le=2**32 - 1, description=f"How many copies a client has, 1 to {MAX_PARALLELISM}")
    ordered_results: bool = Field(description="Whether responses keep their order; they always do")
    chain: Steps = Field(description="What is copied")
    _copies: list[SubChainConfig] = PrivateAttr(default_factory=list)

    def problems(self) -> list[str]:
        """Without a copy nothing would ever be answered."""
        if self.parallelism == 0:
            return ["ParallelMap:", "  parallelism must be greater than 0"]
        if self.parallelism > MAX_PARALLELISM:
            return ["ParallelMap:", f"  parallelism must be at most {MAX_PARALLELISM}"]
        return []

    def subchains(self) -> Sequence[tuple[str, Sequence[TransformConfig]]]:
        """Each copy has the name of the transform, and its number behind it."""
        count = min(self.parallelism, MAX_PARALLELISM)
        return [(f"{self.name}[{number}]", self.chain) for number in range(count)]

    def build(self, context: BuildContext) -> None:
        """Build the copies. Each has configuration objects, and so metrics, of its own; what they serve
        over HTTP, the first one does for all."""
        first, *others = self.subchains()
        self._copies = build_all(context, [first])
        self._copies += build_all(
            replace(context, endpoints=[]),
            [(name, [step.model_copy(deep=True) for step in steps]) for name, steps in others])

    def session(self, context: SessionContext) -> Sink:
        """The copies of one session; each is made when a batch is long enough to need it."""
        return _Map(self, context)

    def close(self) -> None:
        """Close what the copies share."""
        for copy in self._copies:
            copy.chain.close()


class _Map(Sink):
    fates = {"_copies": REBUILT, "_context": REBUILT, "_chains": EXPORTED}

    def __init__(self, config: ParallelMap, context: SessionContext) -> None:
        self._copies = config._copies
        self._context = context
        self._chains: list[SubChain] = []

    def transform(self, requests: Batch, next: Next) -> Batch:
        if not requests:
            return Batch(requests.codec, b"", ())
        width = len(self._copies)
        self._make(min(width, len(requests)))
        answers: list[Batch] = []
        for start in range(0, len(requests), width):
            answers += _wait([
                chain.submit(requests[place : place + 1])
                for place, chain in zip(range(start, len(requests)), self._chains)])
        responses = Batch.join(answers)
        responses.received_at = max(answer.received_at for answer in answers)
        return responses

    def _make(self, count: int) -> None:
        while len(self._chains) < count:
            self._chains.append(self._copies[len(self._chains)].session(self._context, ends=True))

    def export(self, luggage: Luggage) -> Any:
        """The state of the copies that there are; raises ``Pinned`` while one is busy."""
        return [chain.export(luggage) for chain in self._chains]

    def adopt(self, state: Any, luggage: Luggage) -> None:
        """Go on with the copies of another process."""
        self._make(len(state))
        for chain, its_state in zip(self._chains, state, strict=True):
            chain.adopt(its_state, luggage)

    def close(self) -> None:
        """End the copies."""
        for chain in self._chains:
            chain.close()


def _wait(tickets: list[Ticket]) -> list[Batch]:
    """The responses of a round. When all are there, raises the first thing that has failed."""
    responses = []
    failure: Exception | None = None
    for ticket in tickets:
        try:
            responses.append(ticket.wait())
        except Exception as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return responses
