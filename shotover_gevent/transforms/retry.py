"""Retry: asks again what a database could not do, where that is known to be safe.

Rules:
 1. An error reply whose code is in ``on_errors`` says that the server has not done the request; the
    connection is well. The request is asked again, if it is idempotent (:mod:`.idempotent`) all the same,
    since a code may be listed that we do not know.
 2. When the sink right below says that nothing of a run was sent (``NothingSent``: it could not connect),
    the whole run is asked again, whatever it consists of.
 3. What fails in any other way is not asked again: a connection that was lost has taken along what its
    client had set on it (AUTH, SELECT, WATCH), and nobody knows how far the server came. The session ends.
 4. The order stays. A failed request is asked again only if nothing behind it in its run was done, or if
    both only read.
 5. Nothing is asked again inside MULTI, nor in a run with commands that change what replies mean.
 6. Every retry is paid from a budget that the sessions of the entry share, and waits before.
"""

from __future__ import annotations

from collections import deque
from random import Random
from typing import ClassVar

import gevent
from pydantic import Field, PrivateAttr

from shotover_gevent.chain import (
    Batch,
    BuildContext,
    Next,
    SessionContext,
    Transform,
    TransformConfig,
)
from shotover_gevent.chain.handoff import EXPORTED, REBUILT
from shotover_gevent.codecs.resp_conversation import BLOCKING, SPECIAL
from shotover_gevent.errors import ClientGone, NothingSent, TransformError
from shotover_gevent.metrics import Counter
from shotover_gevent.transforms.idempotent import is_idempotent, is_read
from shotover_gevent.transforms.replies import code_of, code_problems, errors
from shotover_gevent.transforms.retry_budget import RetryBudget, full_jitter

# They pass by themselves: while a server loads its data, while slots move, while a cluster elects, while
# a replica looks for its master. redis-py asks again on the same four. Not among them: BUSY (a script has
# run for five seconds already, and goes on until somebody ends it) and READONLY (a replica stays one).
ON_ERRORS = ["LOADING", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN"]

# A client waits meanwhile: more than this is a database that is down.
MAX_RETRIES = 10
MAX_DELAY_MS = 60_000

CONNECT = "connect"

_ENDS = frozenset({b"EXEC", b"DISCARD", b"RESET"})
_SINGULAR = SPECIAL | BLOCKING | _ENDS


class Retry(TransformConfig):
    """Asks again what a database could not do, where that is safe, within a budget."""

    protocols: ClassVar[tuple[str, ...] | None] = ("Valkey",)

    max_retries: int = Field(2, ge=1, le=MAX_RETRIES, description="How often a request is asked again at most")
    base_delay_ms: int = Field(
        25, ge=1, le=MAX_DELAY_MS, description="How long the first retry waits at most; it doubles with each")
    max_delay_ms: int = Field(250, ge=1, le=MAX_DELAY_MS, description="How long any retry waits at most")
    budget_ratio: float = Field(
        0.2, ge=0, le=1, description="Which share of the requests of the last ten seconds may be asked again")
    budget_per_second: int = Field(
        10, ge=0, le=1_000_000, description="How many may be asked again per second besides")
    on_errors: list[str] = Field(
        ON_ERRORS, description="The first words of the error replies on which a request is asked again")
    on_connect_failure: bool = Field(
        True, description="Whether a run is asked again when the database could not be connected to")
    seed: int | None = Field(None, description="Makes the waits the same in every run of the program")
    _budget: RetryBudget = PrivateAttr()
    _random: Random = PrivateAttr()
    _retries: dict[str, Counter] = PrivateAttr(default_factory=dict)
    _denied: Counter = PrivateAttr(default_factory=Counter)

    def problems(self) -> list[str]:
        """A code is one word, and the first wait is not longer than the longest."""
        lines = code_problems(self.type_name, "on_errors", self.on_errors)
        if self.base_delay_ms > self.max_delay_ms:
            lines = lines or [f"{self.type_name}:"]
            lines.append("  base_delay_ms must not be more than max_delay_ms")
        return lines

    def build(self, context: BuildContext) -> None:
        """Fill the budget and register the metrics."""
        self._budget = RetryBudget(self.budget_ratio, self.budget_per_second)
        self._random = Random(self.seed)
        labels = {"chain": context.chain, "name": self.name}
        self._retries = {
            reason: context.metrics.counter(
                "shotover_gevent_retries_count", "Requests that were asked again", **labels, reason=reason)
            for reason in (*self.on_errors, CONNECT)}
        self._denied = context.metrics.counter(
            "shotover_gevent_retries_denied_count",
            "Requests that were not asked again because the budget was used up", **labels)

    def session(self, context: SessionContext) -> Transform:
        """The retries of one session; the budget is that of all."""
        return _Retrier(self, context)


class _Retrier(Transform):
    fates = {
        "_config": REBUILT,  # with the budget, which begins anew
        "_context": REBUILT, "_in_transaction": EXPORTED,
    }

    def __init__(self, config: Retry, context: SessionContext) -> None:
        self._config = config
        self._context = context
        self._in_transaction = False

    def transform(self, requests: Batch, next: Next) -> Batch:
        self._config._budget.deposit(len(requests))
        was_in_transaction = self._in_transaction
        self._follow(requests)
        attempts = deque(range(1, self._config.max_retries + 1))
        responses = self._connect(requests, next, attempts)
        if was_in_transaction or not _SINGULAR.isdisjoint(requests.names):
            return responses
        while attempts and (again := self._candidates(requests, responses)) and self._withdraw(len(again)):
            for code in again.values():
                self._config._retries[code].value += 1
            self._back_off(attempts.popleft())
            part = Batch.of(requests.codec, [requests[index] for index in again])
            part.received_at = requests.received_at
            for index, response in zip(again, next(part.copy()), strict=True):
                responses[index] = response
        return responses

    def _connect(self, requests: Batch, next: Next, attempts: deque[int]) -> Batch:
        """Ask, and ask again while nothing could be sent. Those below may change what they are given."""
        config = self._config
        while True:
            try:
                return next(requests.copy())
            except TransformError as error:
                # The step right below, and none in between that may have done something already.
                is_safe = config.on_connect_failure and isinstance(error.__cause__, NothingSent)
                if not (is_safe and attempts and self._withdraw(len(requests))):
                    raise
            config._retries[CONNECT].value += len(requests)
            self._back_off(attempts.popleft())

    def _follow(self, requests: Batch) -> None:
        for name in requests.names:
            if name == b"MULTI":
                self._in_transaction = True
            elif name in _ENDS:
                self._in_transaction = False

    def _candidates(self, requests: Batch, responses: Batch) -> dict[int, str]:
        """Which requests are to be asked again, in their order, each with the code of its error."""
        codes = {index: code for index, text in errors(responses)
                 if (code := code_of(text)) in self._config.on_errors}
        if not codes:
            return {}
        names, values = requests.names, requests.values
        again = {index: code for index, code in codes.items() if is_idempotent(names[index], values[index])}
        first = min(again, default=len(names))
        done_behind = [index for index in range(first, len(names)) if index not in codes]
        if done_behind and not all(is_read(names[index]) for index in (*again, *done_behind)):
            return {}
        return again

    def _withdraw(self, count: int) -> bool:
        is_allowed = self._config._budget.withdraw(count)
        if not is_allowed:
            self._config._denied.value += count
        return is_allowed

    def _back_off(self, attempt: int) -> None:
        """Wait; nobody is asked for a client that goes meanwhile."""
        config = self._config
        gevent.sleep(full_jitter(
            config._random, config.base_delay_ms / 1000, config.max_delay_ms / 1000, attempt))
        if self._context.client_is_gone():
            raise ClientGone("the client closed while its request was waiting to be asked again")
