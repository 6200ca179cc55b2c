"""QueryTypeFilter: answers requests of unwanted types by an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from shotover_gevent.chain import Batch, Next, SessionContext, Transform, TransformConfig
from shotover_gevent.chain.handoff import REBUILT
from shotover_gevent.transforms.refusing import answer_some

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
        refused = [
            index for index, value in enumerate(requests.values)
            if not self._is_allowed(codec.query_type(value))
        ]
        return answer_some(requests, next, dict.fromkeys(refused, codec.error(TEXT)))
