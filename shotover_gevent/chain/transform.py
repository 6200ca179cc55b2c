"""The contract of a transform.

Words: a *transform* is one step of a chain; a *sink* is the last step, the one that answers.
There is one configuration object per entry of the YAML and one transform per client session;
what sessions share lives on the configuration object.

Rules:
 1. ``next(requests)`` returns exactly one response per request, in the order of the requests:
    ``responses[i]`` answers ``requests[i]``. A transform returns the same for what it was given.
 2. Between those two lines everything is ordinary code: count, change, drop and answer
    yourself, ask again, ask somebody else.
 3. ``push`` sees the messages that nobody asked for; not forwarding them swallows them.
 4. An exception ends the session: the client gets the protocol's error for each pending
    request, then the connection is closed. The transform is not called again, only closed.
 5. Everything runs in the session's greenlet. What may wait, waits with gevent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from shotover_gevent.chain.handoff import Movable
from shotover_gevent.codecs.batch import Batch

if TYPE_CHECKING:
    from shotover_gevent.chain.subchain import SubChain
    from shotover_gevent.chain.upstream import Upstream
    from shotover_gevent.metrics import MetricStore
    from shotover_gevent.net.address import Address
    from shotover_gevent.net.park import Park
    from shotover_gevent.net.stream import ReceiveBuffer

Next = Callable[[Batch], Batch]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An HTTP interface of a transform: where, and a WSGI application."""

    address: Address
    application: Callable[..., Iterable[bytes]]


@dataclass(slots=True)
class BuildContext:
    """What a configuration object is given when its chain is built, once per process.

    What is appended to ``endpoints`` is served while the proxy accepts clients. ``is_awaited`` says
    whether somebody waits for the responses of the chain.
    """

    metrics: MetricStore
    chain: str
    protocol: str
    endpoints: list[Endpoint] = field(default_factory=list)
    is_awaited: bool = True


@dataclass(slots=True)
class SessionContext:
    """What the transforms of a session share, and are given when it starts.

    ``client_address`` is the peer's IP; ``park`` is where the session's greenlet waits, and
    ``buffer`` where its streams read into. ``end()`` ends the session when the answers to its present
    run are sent. ``above`` grows while the chain is made: when a transform is made, it holds those
    above it. ``inner`` are the sub-chains that transforms have
    made (:mod:`shotover_gevent.chain.subchain`); each has a context of its own.
    """

    source: str
    chain: str
    session_id: int
    client_address: str
    park: Park
    buffer: ReceiveBuffer
    emit: Callable[[Batch], None]
    client_is_gone: Callable[[], bool] = lambda: False
    send_pushed: Callable[[], None] = lambda: None
    end: Callable[[], None] = lambda: None
    above: list[Transform] = field(default_factory=list)
    pushed: list[bytes] = field(default_factory=list)
    inner: list[SubChain] = field(default_factory=list)

    def pusher(self, top: Callable[[Batch], None] | None = None) -> Callable[[Batch], None]:
        """How the transform being made sends a push: through those above it, to the client, or to
        ``top`` instead.

        While the session runs a batch, what arrives at the top is collected in ``pushed`` and
        leaves with the responses; :meth:`take_pushed` gives it to a sink that knows a better place,
        and ``send_pushed()`` sends it at once, when nothing that came before is still unanswered.
        """
        push = top or self.emit
        for transform in self.above:
            if type(transform).push is not Transform.push:
                push = _through(transform, push)
        return push

    def take_pushed(self) -> bytes:
        """The bytes of the pushes collected so far in this run."""
        raw = b"".join(self.pushed)
        self.pushed.clear()
        return raw

    def deliver(self) -> None:
        """Send what sub-chains have pushed since; called by the greenlet of this context, idle."""
        for each in self.inner:
            each.deliver()


def _through(transform: Transform, forward: Callable[[Batch], None]) -> Callable[[Batch], None]:
    return lambda pushes: transform.push(pushes, forward)


class Transform(Movable):
    """One step of a chain, for one session. Override what you need.

    ``fates`` says what happens to each field when the session moves to another process
    (:mod:`shotover_gevent.chain.handoff`); a transform with undeclared fields pins its sessions.
    """

    def transform(self, requests: Batch, next: Next) -> Batch:
        """Answer ``requests``, by way of ``next`` or otherwise."""
        return next(requests)

    def push(self, pushes: Batch, forward: Callable[[Batch], None]) -> None:
        """See messages that nobody asked for; the default forwards them."""
        forward(pushes)

    def patience_s(self, count: int, since: float) -> float:
        """How much longer requests may be kept back before they come down, in seconds.

        There are ``count`` of them, the first of which was read at ``since`` (monotonic). Asked only
        where the configuration says ``gathers``; 0 is now, ``math.inf`` until there are more.
        """
        return 0.0

    def close(self) -> None:
        """The session has ended; give back what the transform holds. Called once."""


class Sink(Transform):
    """The last step of a chain: it answers and never calls ``next``."""

    def on_readable(self) -> None:
        """A stream of this sink became readable while the session was idle.

        Reads what came and pushes it; raises :class:`~shotover_gevent.errors.UpstreamError`
        when the database is gone.
        """


class TransformConfig(BaseModel):
    """One entry of a chain in the YAML; its fields are the entry's fields.

    The entry's type name is ``type_name``, by default the name of the class.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, arbitrary_types_allowed=True,
                              hide_input_in_errors=True)

    type_name: ClassVar[str] = ""
    terminating: ClassVar[bool] = False
    #: Protocols of the chains it may stand in; ``None`` is any.
    protocols: ClassVar[tuple[str, ...] | None] = None
    #: Values for the example that ``shotover-gevent transforms`` prints, where the types of the
    #: fields do not say enough.
    example: ClassVar[Mapping[str, Any]] = {}
    #: Whether requests are to be gathered before the chain runs (:meth:`Transform.patience_s`).
    gathers: ClassVar[bool] = False

    name: str = Field(description="Names the transform; unique among all transforms")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "type_name" not in cls.__dict__:
            cls.type_name = cls.__name__

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        # Any other value may be a secret, and where a repr ends up, nobody knows.
        yield "name", self.name

    @property
    def answers_together(self) -> bool:
        """Whether this sink has the responses of many sessions at the same moment."""
        return False

    def problems(self) -> list[str]:
        """What is wrong with the values beyond their types: ``Type:``, then lines indented by two."""
        return []

    def subchains(self) -> Sequence[tuple[str, Sequence[TransformConfig]]]:
        """The chains inside this transform, each with its name."""
        return ()

    def upstreams(self) -> Sequence[Upstream]:
        """The databases that the sessions of this transform connect to, as far as they are known."""
        return ()

    def build(self, context: BuildContext) -> None:
        """Get ready, once per process, before anything is bound: register metrics, load files.

        ``shotover-gevent check`` calls it, too: do not write, connect or start anything here. What it
        raises is reported with the place of the entry in the topology, and nothing is started.
        """

    def close(self) -> None:
        """The proxy has ended, and every session before it; give back what :meth:`build` or the
        sessions opened for all of them. Called once."""

    def export(self) -> Any:
        """What a hot reload has to keep that belongs to no session, as JSON; ``None`` is nothing."""
        return None

    def adopt(self, state: Any) -> None:
        """Take over what :meth:`export` gave in another process, for an equal chain; the first session
        comes afterwards."""

    def session(self, context: SessionContext) -> Transform:
        """The transform of one session."""
        raise NotImplementedError(f"{type(self).__name__} does not define session()")
