"""DebugReturner: every request is answered by the same configured value, or fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from shotover_gevent.chain import Batch, Message, Next, SessionContext, Sink, TransformConfig
from shotover_gevent.chain.handoff import REBUILT
from shotover_gevent.errors import TransformError


class DebugReturner(TransformConfig):
    """Answers with the bulk string ``Valkey``, or fails when ``Fail`` is given.

    ``Fail`` has no value in the YAML (``Fail: null``): that it is there is what counts.
    """

    terminating: ClassVar[bool] = True
    protocols: ClassVar[tuple[str, ...] | None] = ("Valkey",)
    example: ClassVar[Mapping[str, Any]] = {"Valkey": "42"}

    Valkey: str | None = Field(None, description="The bulk string that answers every request")
    Fail: None = Field(None, description="Given, every request fails")

    def problems(self) -> list[str]:
        """Exactly one of the two ways to answer must be given."""
        given = [key for key in ("Valkey", "Fail") if key in self.model_fields_set]
        if len(given) == 1 and (given == ["Fail"] or self.Valkey is not None):
            return []
        return ["DebugReturner:", "  Provide exactly one of:", '  * Valkey: "text"', "  * Fail: null"]

    def session(self, context: SessionContext) -> Sink:
        """The sink of one session; it keeps nothing."""
        return _Returner(None if self.Valkey is None else self.Valkey.encode())


class _Returner(Sink):
    fates = {"_value": REBUILT}

    def __init__(self, value: bytes | None) -> None:
        self._value = value

    def transform(self, requests: Batch, next: Next) -> Batch:
        if self._value is None and requests:
            raise TransformError("Intentional Fail!")
        codec = requests.codec
        return Batch.of(codec, [Message(codec, frame=self._value) for _ in range(len(requests))])
