"""What the rules of :mod:`shotover_gevent.testing.contract` are checked on, and how a broken one is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

import gevent

from shotover_gevent.chain.transform import TransformConfig
from shotover_gevent.codecs.batch import Batch, Message
from shotover_gevent.codecs.raw import RAW
from shotover_gevent.sources.protocol import PROTOCOLS
from shotover_gevent.testing.client import command
from shotover_gevent.testing.session import TransformSession, batch_of, build, protocol_of
from shotover_gevent.testing.upstream import AnsweringUpstream, Answer

# In the forms that clients use: as arrays and inline, without arguments and with many, with names in
# either case, an empty argument, bytes that are no text, a line end, and the same request twice.
VALKEY_REQUESTS = (
    command("PING"), command("SET", "k", "v"), command("GET", "k"), b"get k\r\n", b"PING\r\n",
    command("MGET", "a", "b", "c"), command("SET", "empty", ""), command("ECHO", b"\xff\x00\r\n"),
    command("GET", "k"), command("NOSUCH", "x"), command("HSET", "h", "f", "1", "g", "2"),
)
TCP_REQUESTS = (b"one", b"two\r\n", b"\x00\xff" * 300, b"four")
REQUESTS = {"Valkey": VALKEY_REQUESTS, "Tcp": TCP_REQUESTS}

# A push of RESP3, as CLIENT TRACKING sends it.
PUSHES = {"Valkey": (b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n",), "Tcp": (b"unasked",)}


# As much of an answer as a sentence can hold.
MAX_SHOWN = 100


class BrokenRule(AssertionError):
    """A transform does not keep the contract; the sentence says how."""


@dataclass(frozen=True, slots=True)
class Case:
    """One transform under test: how it is made, what it is asked, what it declares."""

    make: Callable[[], TransformConfig]
    name: str
    is_sink: bool
    protocol: str
    requests: tuple[bytes, ...]
    answer: Answer
    upstream: AnsweringUpstream | None
    timeout_s: float
    swallows_pushes: bool
    answers_errors: bool
    varies: bool
    pins: bool
    keeps_connections: bool
    sessions: list[TransformSession] = field(default_factory=list)
    configs: list[TransformConfig] = field(default_factory=list)

    @property
    def is_stream(self) -> bool:
        """Whether its chains carry bytes without messages."""
        return PROTOCOLS[self.protocol].codec is RAW

    def built(self) -> TransformConfig:
        """A configuration object that shares nothing with any other, as in a process of its own."""
        config = self.make()
        with self.within("build() raises nothing on a valid configuration"):
            build(config, self.protocol)
        self.configs.append(config)
        return config

    def session(self, config: TransformConfig | None = None) -> TransformSession:
        """A session of ``config``, by default of one of its own."""
        with self.within("session() makes the transform of one session"):
            session = TransformSession(
                config or self.built(), answer=self.answer, protocol=self.protocol, is_built=True)
        self.sessions.append(session)
        return session

    def close_sessions(self) -> None:
        """Leave nothing open, whatever became of the sessions."""
        things: list[TransformSession | TransformConfig] = [*self.sessions, *self.configs]
        for thing in things:
            with suppress(Exception):  # a rule says how closing must work; here it is over
                thing.close()
        self.sessions.clear()
        self.configs.clear()

    def batch(self, requests: Sequence[bytes]) -> Batch:
        """These requests as a source delivers them."""
        return batch_of(self.protocol, requests)

    def ask(self, session: TransformSession, requests: Batch) -> Batch:
        """What the transform returns, held to be one response per request."""
        count = len(requests)
        with self.within("every request is answered"):
            responses = session.run(requests)
        rule = "one response per request"
        if not isinstance(responses, Batch):
            self.broken(
                rule, f"a Batch of {count} responses", describe(responses), "return what next() returned")
        if len(responses) != count:
            self.broken(rule, f"{count} responses to {count} requests", f"{len(responses)}")
        return responses

    def answers(self, session: TransformSession, *batches: Batch) -> list[bytes]:
        """The bytes of each response, run after run; of a byte stream, all that came, at once."""
        if not self.is_stream:
            return [each for batch in batches for each in shown(self.ask(session, batch))]
        before = len(session.pushed)
        for batch in batches:
            self.ask(session, batch)
        return [b"".join(session.pushed[before:] or session.below.asked)]

    def joined(self, *parts: list[bytes]) -> list[bytes]:
        """The answers of several parts of a conversation, as :meth:`answers` gives those of all of it."""
        every = [each for part in parts for each in part]
        return [b"".join(every)] if self.is_stream else every

    @contextmanager
    def within(self, rule: str) -> Iterator[None]:
        """A block that ends in time and raises nothing, but what the check itself raises."""
        try:
            with gevent.Timeout(self.timeout_s):
                yield
        except gevent.Timeout:
            self.broken(rule, f"an end within {self.timeout_s:g} s", "none", "every wait has a deadline")
        except BrokenRule:
            raise
        except Exception as error:
            self.broken(rule, "no exception", describe(error), cause=error)

    def broken(
        self, rule: str, expected: str, seen: str, way_out: str = "", cause: Exception | None = None
    ) -> NoReturn:
        """Fail, with a sentence that names the rule."""
        more = f"; {way_out}" if way_out else ""
        raise BrokenRule(
            f"{self.name} breaks the rule '{rule}': expected {expected}, saw {seen}{more}") from cause

    def same(self, rule: str, expected: Any, seen: Any, what: str, way_out: str = "") -> None:
        """Fail unless both are equal; where they differ is shown."""
        if expected == seen:
            return
        pairs = enumerate(zip(expected, seen))
        at = next((i for i, (one, other) in pairs if one != other), min(len(expected), len(seen)))
        one, other = (_short(each[at]) if at < len(each) else "nothing" for each in (expected, seen))
        self.broken(rule, f"{what} {at} to be {one}", other, way_out)


def make_case(
    config: TransformConfig | Callable[[], TransformConfig], protocol: str | None,
    requests: Sequence[bytes] | None, **options: Any,
) -> Case:
    """The case of a check; see :func:`~shotover_gevent.testing.contract.check_transform`."""
    if isinstance(config, TransformConfig):
        given = config
        make: Callable[[], TransformConfig] = lambda: given.model_copy(deep=True)
    else:
        make = config
    example = make()
    protocol = protocol or protocol_of(example)
    if requests is None:
        requests = REQUESTS[protocol]
    return Case(
        make=make, name=example.type_name, is_sink=example.terminating, protocol=protocol,
        requests=tuple(requests), **options)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."


def shown(responses: Batch) -> list[bytes]:
    """The bytes of each response, with the pushes that lead it."""
    return [message.lead + message.raw for message in responses]


def as_messages(batch: Batch) -> Batch:
    """The same batch as a transform above leaves it that has looked at each message."""
    copy = Batch.of(batch.codec, [Message(batch.codec, message.raw) for message in batch])
    copy.received_at = batch.received_at
    return copy


def describe(thing: object) -> str:
    """A value or an error in a sentence."""
    if isinstance(thing, BaseException):
        return f"{type(thing).__name__}: {thing}"
    return repr(thing)
