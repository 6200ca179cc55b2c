"""FaultInjection: delays, fails and drops requests on purpose, to see what their clients make of it.

Rules:
 1. Each fault of the entry is drawn for each request that it is for, by its percentage, from one
    generator; with a ``seed`` the draws of a program with one client are the same in every run.
 2. The requests that arrived together are delayed together, by the longest delay among them.
 3. A connection is closed instead of sending anything of a run, or instead of answering it.
 4. No transaction runs in part; see :mod:`.refusing`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, ClassVar, Literal

import gevent
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from shotover_gevent.chain import (
    Batch,
    BuildContext,
    Next,
    SessionContext,
    Transform,
    TransformConfig,
)
from shotover_gevent.chain.handoff import REBUILT
from shotover_gevent.chain.transform import Endpoint
from shotover_gevent.errors import ClientGone, SessionEnd
from shotover_gevent.metrics import Counter
from shotover_gevent.net.address import Address
from shotover_gevent.transforms.http_switch import HttpSwitch
from shotover_gevent.transforms.refusing import RefusingTransform

logger = logging.getLogger(__name__)

Kind = Literal["delay", "error", "close"]
KINDS: tuple[Kind, ...] = ("delay", "error", "close")

PATH = "/transform/fault-injection/state"

# As long as the patience of a client can be; a session that waits cannot be drained.
MAX_DELAY_MS = 10 * 60 * 1000

# What a server sends in an error is one line, which begins with a word in capitals.
_ERROR = re.compile(r"[A-Z][A-Z0-9]*( [^\r\n]*)?")


class InjectedEnd(SessionEnd):
    """A connection is closed on purpose."""


class InjectedFault(BaseModel):
    """One way in which requests suffer."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    kind: Kind = Field(description="What happens to a request")
    percentage: float = Field(gt=0, le=100, description="To how many of a hundred it happens")
    commands: list[str] = Field([], description="To which commands; to all if there is none")
    delay_ms: int = Field(0, ge=0, le=MAX_DELAY_MS, description="How long a delay is at least")
    jitter_ms: int = Field(0, ge=0, le=MAX_DELAY_MS, description="By how much it may be longer, by chance")
    error: str = Field(
        "ERR fault injected", description="The text of an error, beginning with its code")
    when: Literal["before", "after"] = Field(
        "before", description="Whether a connection is closed before the database is asked, or after")

    def problems(self) -> list[str]:
        """What is wrong with it beyond the types."""
        wrong = []
        if self.kind == "delay" and not (self.delay_ms or self.jitter_ms):
            wrong.append("a delay needs delay_ms or jitter_ms")
        if not _ERROR.fullmatch(self.error):
            wrong.append(f'error: "{self.error}" must be one line that begins with a code, such as LOADING')
        own = {"delay": {"delay_ms", "jitter_ms"}, "error": {"error"}, "close": {"when"}}
        common = {"kind", "percentage", "commands"}
        for field in sorted(self.model_fields_set - common - own[self.kind]):
            owner = next(kind for kind in KINDS if field in own[kind])
            wrong.append(f"{field} is for the kind {owner}, not {self.kind}")
        return wrong


class FaultInjection(TransformConfig):
    """Delays requests, answers them by errors or closes their connections, on purpose."""

    protocols: ClassVar[tuple[str, ...] | None] = ("Valkey",)
    example: ClassVar[Mapping[str, Any]] = {
        "faults": [{"kind": "delay", "percentage": 10, "delay_ms": 100}]}

    faults: list[InjectedFault] = Field(min_length=1, description="What happens to requests")
    enabled: bool = Field(True, description="Whether it is on at the start")
    switch_port: int | None = Field(
        None, ge=1, le=65535, description="Where on 127.0.0.1 the HTTP interface listens that switches it")
    seed: int | None = Field(None, description="Makes the draws the same in every run of the program")
    _is_on: bool = PrivateAttr(False)
    _random: Random = PrivateAttr()
    _injected: dict[str, Counter] = PrivateAttr(default_factory=dict)

    def problems(self) -> list[str]:
        """Each fault has what its kind needs, and nothing else."""
        lines = [
            f"  faults[{index}]: {wrong}"
            for index, fault in enumerate(self.faults) for wrong in fault.problems()]
        return [f"{self.type_name}:", *lines] if lines else []

    def build(self, context: BuildContext) -> None:
        """Register the metrics and the switch."""
        self._is_on = self.enabled
        self._random = Random(self.seed)
        metrics, labels = context.metrics, {"chain": context.chain, "name": self.name}
        metrics.gauge(
            "shotover_gevent_fault_injection_enabled", "1 while faults are injected, else 0",
            lambda: int(self._is_on), **labels)
        self._injected = {
            kind: metrics.counter(
                "shotover_gevent_faults_injected_count", "Faults injected on purpose", **labels, kind=kind)
            for kind in KINDS}
        if self.switch_port is not None:
            switch = HttpSwitch(PATH, "a state", lambda: "on" if self._is_on else "off", self._switch)
            context.endpoints.append(Endpoint(Address("127.0.0.1", self.switch_port), switch))

    def session(self, context: SessionContext) -> Transform:
        """The faults of one session."""
        return _Injector(self, context)

    def _switch(self, text: str) -> None:
        if text not in ("on", "off"):
            raise ValueError(f"Invalid state: \"{text}\", should be 'on' or 'off'")
        self._is_on = text == "on"
        logger.info("fault injection %s is switched %s", self.name, text)


class _Plan:
    """What was drawn for the requests of one batch."""

    __slots__ = ("delay_s", "delayed", "errors", "end")

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.delayed = 0
        self.errors: dict[int, bytes] = {}
        self.end = ""  # when the connection is closed


class _Injector(RefusingTransform):
    fates = RefusingTransform.fates | {
        "_config": REBUILT,  # with the switch, which is as the file says again
        "_context": REBUILT, "_faults": REBUILT, "_injected": REBUILT,
    }

    def __init__(self, config: FaultInjection, context: SessionContext) -> None:
        super().__init__()
        self._config = config
        self._context = context
        self._faults = [
            (fault, frozenset(name.upper().encode() for name in fault.commands)) for fault in config.faults]
        self._injected = config._injected

    def transform(self, requests: Batch, next: Next) -> Batch:
        if not self._config._is_on:
            return self.follow(requests, next)
        plan = self._draw(requests.names)
        if plan.delayed:
            self._injected["delay"].value += plan.delayed
            self._delay(plan.delay_s)
        if plan.end == "before":
            self._close()
        responses = self.refuse(requests, next, lambda index, may_refuse: self._judge(plan, index, may_refuse))
        if plan.end == "after":
            self._close()
        return responses

    def _draw(self, names: Sequence[bytes]) -> _Plan:
        plan, random = _Plan(), self._config._random
        for index, name in enumerate(names):
            for fault, commands in self._faults:
                if commands and name not in commands:
                    continue
                if random.random() * 100 < fault.percentage:
                    self._add(plan, index, fault, random)
        return plan

    def _add(self, plan: _Plan, index: int, fault: InjectedFault, random: Random) -> None:
        if fault.kind == "delay":
            delay_s = (fault.delay_ms + random.uniform(0, fault.jitter_ms)) / 1000
            plan.delay_s = max(plan.delay_s, delay_s)
            plan.delayed += 1
        elif fault.kind == "error":
            plan.errors.setdefault(index, b"-%b\r\n" % fault.error.encode())
        else:
            plan.end = plan.end or fault.when

    def _judge(self, plan: _Plan, index: int, may_refuse: bool) -> bytes | None:
        error = plan.errors.get(index)
        self._injected["error"].value += error is not None and may_refuse
        return error

    def _delay(self, seconds: float) -> None:
        gevent.sleep(seconds)
        if self._context.client_is_gone():
            raise ClientGone("the client closed while its request was delayed")

    def _close(self) -> None:
        self._injected["close"].value += 1
        raise InjectedEnd(f"the transform {self._config.name} closes the connection on purpose")
