"""QueryTypeFilter: answers requests of unwanted types by an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from shotover_gevent.chain import (
    Batch,
    Message,
    Next,
    SessionContext,
    Transform,
    TransformConfig,
)
from shotover_gevent.chain.handoff import REBUILT

QueryType = Literal["Read", "Write", "ReadWrite", "SchemaChange", "PubSubMessage"]

TEXT = "Message was filtered out by shotover"


class QueryTypeFilter(TransformConfig):
    """Lets only the types of ``AllowList`` pass, or all but those of ``DenyList``."""

    protocols: ClassVar[tuple[str, ...] | None] = ("Valkey",)

    example: ClassVar[Mapping[str, Any]] = {"DenyList": ["Write"]}

    AllowList: list[QueryType] | None = Field(None, description="The types that pass")
    DenyList: list[QueryType] | None = Field(None, description="The types that do not pass")

    def problems(self) -> list[str]:
        """Exactly one of the two lists must be given."""
        if (self.AllowList is None) != (self.DenyList is None):
            return []
        return ["QueryTypeFilter:", "  Provide exactly one of:", "  * AllowList", "  * DenyList"]

    def session(self, context: SessionContext) -> Transform:
        """The filter of one session; it keeps nothing."""
        return _Filter(self)

    def is_allowed(self, query_type: str) -> bool:
        """Whether requests of that type pass."""
        if self.AllowList is not None:
            return query_type in self.AllowList
        return query_type not in (self.DenyList or ())


class _Filter(Transform):
    fates = {"_is_allowed": REBUILT}

    def __init__(self, config: QueryTypeFilter) -> None:
        self._is_allowed = config.is_allowed

    def transform(self, requests: Batch, next: Next) -> Batch:
        codec = requests.codec
        passing = [
            index for index, value in enumerate(requests.values)
            if self._is_allowed(codec.query_type(value))
        ]
        if len(passing) == len(requests):
            return next(requests)
        error = codec.error(TEXT)
        answers = Batch.of(codec, [Message(codec, error) for _ in range(len(requests))])
        if passing:
            allowed = Batch.of(codec, [requests[index] for index in passing])
            allowed.received_at = requests.received_at
            responses = next(allowed)
            for index, response in zip(passing, responses, strict=True):
                answers[index] = response
            answers.received_at = responses.received_at
        return answers
