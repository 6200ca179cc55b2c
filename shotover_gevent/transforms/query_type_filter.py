"""QueryTypeFilter: answers requests of unwanted types by an error."""

from __future__ import annotations

from typing import ClassVar, Literal

from shotover_gevent.chain import (
    Batch,
    Message,
    Next,
    SessionContext,
    Transform,
    TransformConfig,
)

QueryType = Literal["Read", "Write", "ReadWrite", "SchemaChange", "PubSubMessage"]

TEXT = "Message was filtered out by shotover"


class QueryTypeFilter(TransformConfig):
    """Lets only the types of ``AllowList`` pass, or all but those of ``DenyList``."""

    protocols: ClassVar[tuple[str, ...] | None] = ("Valkey",)

    AllowList: list[QueryType] | None = None
    DenyList: list[QueryType] | None = None

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
    def __init__(self, config: QueryTypeFilter) -> None:
        self._is_allowed = config.is_allowed

    def transform(self, requests: Batch, next: Next) -> Batch:
        codec = requests.codec
        allowed = [self._is_allowed(codec.query_type(value)) for value in requests.values]
        if all(allowed):
            return next(requests)
        passing = [request for request, may_pass in zip(requests, allowed) if may_pass]
        answers = iter(next(Batch.of(codec, passing)) if passing else ())
        return Batch.of(
            codec,
            [
                # Each answer is taken in turn; the filtered ones get the error in their place.
                _next(answers) if may_pass else Message(codec, codec.error(TEXT))
                for may_pass in allowed
            ],
        )


def _next(answers: object) -> Message:
    return answers.__next__()  # type: ignore[attr-defined]
