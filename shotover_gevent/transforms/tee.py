"""Tee: what goes down the chain also goes, as a copy, down another one.

Words: the *regular chain* is what stands below the Tee, the *tee chain* is its own. The *result source*
is the one of them whose responses the client gets; an HTTP interface switches it for all sessions.

Rules:
 1. Both are asked at the same time, and neither sees what the other makes of its requests.
 2. With ``Ignore`` nobody waits for the chain that is not the result source: what it does not take
    in time is dropped and counted. All else waits for both, and fails if either fails.
 3. Pushes come from the result source only: a client of both would hear everything twice.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, PrivateAttr, Tag

from shotover_gevent.chain import (
    Batch,
    BuildContext,
    Message,
    Next,
    SessionContext,
    Steps,
    Transform,
    TransformConfig,
)
from shotover_gevent.chain.handoff import EXPORTED, PINS, REBUILT, Luggage
from shotover_gevent.chain.subchain import NotSent, SubChain, SubChainConfig, Ticket, build_all
from shotover_gevent.chain.transform import Endpoint
from shotover_gevent.errors import SessionEnd, TransformError
from shotover_gevent.metrics import Counter
from shotover_gevent.net.address import Address
from shotover_gevent.transforms.tee_switch import Switch

logger = logging.getLogger(__name__)

MISMATCH = (
    "The responses from the Tee subchain and down-chain did not match and behavior is set to fail "
    "on mismatch"
)


# Longer timeouts mean the same: never.
DAY_S = 86400.0


class ResultSource(enum.Enum):
    """Whose responses the clients get, as the HTTP interface says it."""

    REGULAR = "regular-chain"
    TEE = "tee-chain"


class _Choice:
    """The result source of a Tee, and of its copies (ParallelMap makes some)."""

    __slots__ = ("source",)

    def __init__(self) -> None:
        self.source = ResultSource.REGULAR

    def __deepcopy__(self, memo: object) -> _Choice:
        return self


class _Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, arbitrary_types_allowed=True)

    chain: Steps = Field(description="What requests go down whose responses did not match")


class MismatchChain(BaseModel):
    """``SubchainOnMismatch: {chain: [...]}``"""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    SubchainOnMismatch: _Inner = Field(description="Send such requests down a chain of their own")


Behavior = Annotated[
    Annotated[Literal["Ignore", "LogWarningOnMismatch", "FailOnMismatch"], Tag("word")]
    | Annotated[MismatchChain, Tag("map")],
    Discriminator(lambda value: "map" if isinstance(value, (dict, BaseModel)) else "word"),
]


class Tee(TransformConfig):
    """Sends a copy of every batch down ``chain``; ``behavior`` says what becomes of its responses."""

    protocols: ClassVar[tuple[str, ...] | None] = ("Valkey",)

    behavior: Behavior | None = Field(
        default=None, description="What becomes of responses that do not match; by default, Ignore")
    timeout_micros: int | None = Field(
        default=None, ge=0, le=2**64 - 1,
        description="How long to wait for a place in the queue; by default, for ever")
    chain: Steps = Field(description="Where the copies go")
    buffer_size: int = Field(
        default=5, ge=0, le=2**64 - 1, description="How many batches of a client may be queued, at least 1")
    switch_port: int | None = Field(
        default=None, ge=0, le=65535,
        description="Where on 127.0.0.1 the HTTP interface listens that switches the result source")
    _choice: _Choice = PrivateAttr(default_factory=_Choice)
    _dropped: Counter = PrivateAttr(default_factory=Counter)
    _tee: SubChainConfig = PrivateAttr()
    _mismatch: SubChainConfig | None = PrivateAttr(default=None)

    def problems(self) -> list[str]:
        """A queue without a place lets nothing through."""
        return [] if self.buffer_size else ["Tee:", "  buffer_size must be greater than 0"]

    def subchains(self) -> Sequence[tuple[str, Sequence[TransformConfig]]]:
        """The tee chain has the name of the Tee, the other one ``.mismatch`` after it."""
        chains = [(self.name, self.chain)]
        if isinstance(self.behavior, MismatchChain):
            chains.append((f"{self.name}.mismatch", self.behavior.SubchainOnMismatch.chain))
        return chains

    def build(self, context: BuildContext) -> None:
        """Build the chains, and ask for the HTTP interface."""
        # Shotover counts all of them together, under the name of the type.
        self._dropped = context.metrics.counter(
            "shotover_tee_dropped_messages_count", "Batches that a Tee did not send", chain="Tee")
        is_awaited = self.behavior not in (None, "Ignore") or self.switch_port is not None
        self._tee, *others = build_all(
            context, self.subchains(), size=self.buffer_size, dropped=self._dropped, is_awaited=is_awaited)
        self._mismatch = others[0] if others else None
        if self.switch_port is not None:
            context.endpoints.append(Endpoint(Address("127.0.0.1", self.switch_port), Switch(self)))

    def session(self, context: SessionContext) -> Transform:
        """The Tee of one session, with chains of its own."""
        return _Tee(self, context)

    def export(self) -> Any:
        """Whose responses the clients get, unless that is as at the start."""
        return None if self._choice.source is ResultSource.REGULAR else self._choice.source.value

    def adopt(self, state: Any) -> None:
        """Go on with the same one."""
        self._choice.source = ResultSource(state)
        logger.info("result source is %s, as it was in the process before", state)

    def close(self) -> None:
        """Close what the chains share."""
        for chain in (self._tee, self._mismatch):
            if chain is not None:
                chain.chain.close()

    @property
    def result_source(self) -> ResultSource:
        """Whose responses the clients get, in all sessions."""
        return self._choice.source

    def switch_to(self, source: ResultSource) -> None:
        """Answer all clients from that chain from now on."""
        self._choice.source = source


class _Tee(Transform):
    fates = {"_config": REBUILT, "_tee": EXPORTED, "_mismatch": EXPORTED, "_failure": PINS}

    def __init__(self, config: Tee, context: SessionContext) -> None:
        self._config = config
        self._tee: SubChain = config._tee.session(
            context, lambda: config._choice.source is ResultSource.TEE)
        self._mismatch = config._mismatch and config._mismatch.session(context, lambda: False)
        #: What the regular chain has failed with, while nobody needed it; it is not asked again.
        self._failure: Exception | None = None

    def transform(self, requests: Batch, next: Next) -> Batch:
        is_tee = self._config._choice.source is ResultSource.TEE
        if self._config.behavior not in (None, "Ignore"):
            return self._compare(requests, next, is_tee)
        return self._ask_tee(requests, next) if is_tee else self._ask_regular(requests, next)

    def push(self, pushes: Batch, forward: Callable[[Batch], None]) -> None:
        if self._config._choice.source is ResultSource.REGULAR:
            forward(pushes)

    # -- Ignore ---------------------------------------------------------------------------------

    def _ask_regular(self, requests: Batch, next: Next) -> Batch:
        copy, started = requests.copy(), monotonic()
        try:
            ticket = self._tee.offer(copy, is_awaited=False)
            responses = self._ask_below(requests, next)
            if ticket is None:
                self._queue(copy, started, is_awaited=False)
        except NotSent:
            self._config._dropped.value += 1
        return responses

    def _ask_tee(self, requests: Batch, next: Next) -> Batch:
        copy, started = requests.copy(), monotonic()
        ticket = self._tee.offer(copy)
        try:
            self._ask_below(requests, next)
        except SessionEnd:
            raise
        except Exception as error:
            self._failure = self._failure or error
            self._config._dropped.value += 1
        return (ticket or self._queue(copy, started)).wait()

    def _ask_below(self, requests: Batch, next: Next) -> Batch:
        if self._failure is not None:
            raise TransformError("the regular chain has failed before") from self._failure
        return next(requests)

    def _queue(self, copy: Batch, started: float, is_awaited: bool = True) -> Ticket:
        """Wait until the tee chain takes the copy, for what is left of the time."""
        timeout_s = None
        if self._config.timeout_micros is not None:
            timeout_s = max(0.0, min(self._config.timeout_micros / 1e6, DAY_S) + started - monotonic())
        return self._tee.submit(copy, timeout_s, is_awaited)

    # -- the others -----------------------------------------------------------------------------

    def _compare(self, requests: Batch, next: Next, is_tee: bool) -> Batch:
        copy, original, started = requests.copy(), requests.copy(), monotonic()
        ticket = self._tee.offer(copy)
        regular = next(requests)
        other = (ticket or self._queue(copy, started)).wait()
        kept, other = (other, regular) if is_tee else (regular, other)
        places = differences(kept, other)
        if places:
            self._mismatched(kept, other, original, places)
        return kept

    def _mismatched(self, kept: Batch, other: Batch, original: Batch, places: list[int]) -> None:
        codec = kept.codec
        if self._mismatch is not None:
            wrong = Batch.of(codec, [original[place] for place in places])
            self._mismatch.submit(wrong).wait()
            return
        fails = self._config.behavior == "FailOnMismatch"
        for place in places:
            logger.log(
                logging.DEBUG if fails else logging.WARNING,
                "Tee mismatch:\nresult-source response: %s\nother response: %s",
                codec.render(kept[place]), codec.render(other[place]))
            if fails:
                kept[place] = Message(codec, codec.error(MISMATCH))

    # -- life -----------------------------------------------------------------------------------

    def export(self, luggage: Luggage) -> Any:
        """The state of both chains; raises ``Pinned`` while either is busy."""
        super().export(luggage)
        return [chain.export(luggage) for chain in self._chains()]

    def adopt(self, state: Any, luggage: Luggage) -> None:
        """Go on with the chains of another process."""
        for chain, its_state in zip(self._chains(), state, strict=True):
            chain.adopt(its_state, luggage)

    def close(self) -> None:
        """Let the chains finish what is queued."""
        for chain in self._chains():
            chain.close()

    def _chains(self) -> list[SubChain]:
        return [self._tee] if self._mismatch is None else [self._tee, self._mismatch]


def differences(some: Batch, others: Batch) -> list[int]:
    """The places at which two batches have different bytes; pushes do not count."""
    if some.raw == others.raw:
        return []
    return [
        place for place, (one, other) in enumerate(zip(some, others, strict=True))
        if one.raw != other.raw
    ]
