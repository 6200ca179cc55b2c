"""A refused request does to its client what a server does that cannot make sense of one."""

from __future__ import annotations

import re
from collections.abc import Iterator

import gevent
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shotover_gevent.chain import Batch, Next, SessionContext, Transform, TransformConfig
from shotover_gevent.sinks.valkey_single import ValkeySinkSingle
from shotover_gevent.sources.source import Source
from shotover_gevent.testing.server import RealServer
from shotover_gevent.transforms.refusing import RefusingTransform
from tests.client import Client, command
from tests.inprocess import connect, serving

# "bad" is refused, and so is "multi" in small letters; a server knows only the second.
OPERATIONS = [
    "bad", "MULTI", "multi", "EXEC", "DISCARD", "SET k", "CLIENT REPLY OFF", "CLIENT REPLY ON",
    "CLIENT REPLY SKIP", "RESET",
]

# Ours, what servers say to a command that they do not know, and what Redis and Valkey say to a MULTI
# within a transaction.
REFUSALS = re.compile(
    rb"-ERR (no|unknown command [^\r\n]*|MULTI calls can not be nested|Command [^\r\n]*not allowed inside a transaction)\r\n")


class RefuseBad(TransformConfig):
    """Refuses what is named in small letters."""

    def session(self, context: SessionContext) -> Transform:
        """The transform of one session."""
        return _RefuseBad()


class _RefuseBad(RefusingTransform):
    def transform(self, requests: Batch, next: Next) -> Batch:
        values = requests.values
        return self.refuse(
            requests, next, lambda index, may_refuse: b"-ERR no\r\n" if values[index][0].islower() else None)


@pytest.fixture(scope="module")
def source(server: RealServer) -> Iterator[Source]:
    """A proxy with the refuser in front of the server."""
    sink = ValkeySinkSingle(name="sink", remote_address=server.address, connect_timeout_ms=3000)
    with serving(RefuseBad(name="r"), sink) as source:
        yield source


def is_clear(operations: list[str]) -> bool:
    """Whether a refused MULTI has something to refuse, and is not one that must pass (its answer is
    skipped by the server). CLIENT REPLY within MULTI is left out: servers answer EXEC in half then."""
    is_open = False
    for before, at, after in zip(["", *operations], operations, [*operations[1:], ""]):
        if at == "multi" and (before == "CLIENT REPLY SKIP" or after != "bad"):
            return False
        if is_open and at.startswith("CLIENT"):
            return False
        is_open = at.upper() == "MULTI" or (is_open and at not in ("EXEC", "DISCARD", "RESET"))
    return True


def as_a_server_sees_it(operations: list[str]) -> list[str]:
    """What a server is to be asked for the same: within a refused transaction nothing makes sense."""
    seen, is_refused, is_open = [], False, False
    for operation in operations:
        if operation in ("EXEC", "DISCARD", "RESET"):
            is_refused = is_open = False
        if operation == "multi" and not is_open:
            is_refused, operation = True, "MULTI"
        elif operation == "multi" or (is_refused and operation != "MULTI" and operation not in (
                "EXEC", "DISCARD", "RESET")):
            operation = "bad" if operation != "multi" or not is_refused else "MULTI"
        is_open = is_open or operation == "MULTI"
        seen.append(operation)
    return seen


def conversation(client: Client, operations: list[str]) -> bytes:
    """All that a client is answered, with each error that no server makes alike."""
    requests = [command("DEL", "k")]
    for number, operation in enumerate(operations):
        words = operation.split()
        requests.append(command(*words, str(number)) if operation == "SET k" else command(*words))
    requests += [command("RESET"), command("GET", "k"), command("ECHO", "|end|")]
    client.send(b"".join(requests))
    answers = client.until(b"|end|\r\n")
    answers = answers.removeprefix(b":0\r\n").removeprefix(b":1\r\n")
    return REFUSALS.sub(b"-REFUSED\r\n", answers)


@settings(
    max_examples=150, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much])
@given(operations=st.lists(st.sampled_from(OPERATIONS), max_size=12).filter(is_clear))
def test_a_refused_request_is_like_one_that_a_server_cannot_queue(
    server: RealServer, source: Source, operations: list[str]
) -> None:
    """Answer by answer, and in what is done to the data."""
    with gevent.Timeout(30), connect(source) as through, Client(server.port) as direct:
        assert conversation(through, operations) == conversation(direct, as_a_server_sees_it(operations))
