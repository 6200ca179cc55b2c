"""Every field of an object with state of a session says what happens to it when the session moves."""

import ast
import importlib
import inspect
import pkgutil
import socket
import textwrap

import pytest

import shotover_gevent
from shotover_gevent.chain.handoff import EXPORTED, PINS, REBUILT, Luggage, Movable, Pinned
from shotover_gevent.codecs.resp import ReplyScanner, RequestDecoder
from shotover_gevent.codecs.resp_conversation import Conversation


def all_classes():
    """Every class that the package defines."""
    found = set()
    for module in pkgutil.walk_packages(shotover_gevent.__path__, "shotover_gevent."):
        if module.name.endswith("__main__"):
            continue
        for value in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(value) and value.__module__.startswith("shotover_gevent"):
                found.add(value)
    return found


def assigned_fields(kind):
    """The names that the methods of a class, and of its bases, assign to ``self``."""
    names = set()
    for base in kind.__mro__:
        if not base.__module__.startswith("shotover_gevent"):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
                and isinstance(node.value, ast.Name) and node.value.id == "self"
            ):
                names.add(node.attr)
    return names


STATEFUL = sorted(
    (kind for kind in all_classes() if hasattr(kind, "fates") or issubclass(kind, Movable)),
    key=lambda kind: f"{kind.__module__}.{kind.__qualname__}",
)


@pytest.mark.parametrize("kind", STATEFUL, ids=lambda kind: kind.__name__)
def test_every_field_declares_its_fate(kind):
    """A class that gains a field fails here until somebody says what happens to it."""
    assert assigned_fields(kind) == set(kind.fates)


# Objects of the codecs travel inside the state of their owners: by export() and adopt(), or as the
# bytes that they keep, from which another is made.
CODEC_STATE = {
    Conversation: {
        "is_resp3", "is_monitoring", "subscriptions", "reply_mode", "is_ending", "_expected",
        "_queue", "_queue_length",
    },
    ReplyScanner: {"_read", "_rest", "_missing", "_lacking"},
    RequestDecoder: {"_scanner", "_is_idle", "_read", "_rest", "_failure"},
}


@pytest.mark.parametrize("kind", CODEC_STATE, ids=lambda kind: kind.__name__)
def test_codecs_have_no_state_that_was_forgotten(kind):
    """A codec that gains a field fails here until its export, or its pending bytes, cover it."""
    assert assigned_fields(kind) == CODEC_STATE[kind]


def test_the_walk_finds_the_classes_that_matter():
    """Sessions, directions and sinks are among those that are looked at."""
    names = {kind.__name__ for kind in STATEFUL}
    assert names >= {"Session", "RelaySession", "Direction", "ValkeySink", "TcpSink", "Transform"}


class Counting(Movable):
    """Has a field of each fate."""

    fates = {"count": EXPORTED, "helper": REBUILT, "handle": PINS}

    def __init__(self):
        self.count = 0
        self.helper = object()
        self.handle = None


def test_exported_fields_travel_and_the_others_do_not():
    """What is exported arrives; what is rebuilt is the successor's own."""
    there, here = Counting(), Counting()
    there.count = 7
    state = there.export(Luggage())
    here.adopt(state, Luggage())
    assert (state, here.count, here.helper is there.helper) == ({"count": 7}, 7, False)


def test_a_field_that_pins_keeps_its_session_while_it_is_set():
    """The reason names the class and the field."""
    counting = Counting()
    counting.handle = object()
    with pytest.raises(Pinned) as caught:
        counting.export(Luggage())
    assert caught.value.reason == "Counting keeps handle"


def test_an_undeclared_field_pins():
    """Nobody knows what it means."""
    counting = Counting()
    counting.surprise = 1
    with pytest.raises(Pinned) as caught:
        counting.export(Luggage())
    assert caught.value.reason == "Counting does not say what happens to surprise"


def test_luggage_closes_what_nobody_unpacked():
    """Sockets are unpacked in the order of packing; the rest is closed."""
    left, right = socket.socketpair()
    luggage = Luggage([left, right])
    with luggage.unpack() as first:
        luggage.close()
        assert (first is left, left.fileno() >= 0, right.fileno()) == (True, True, -1)


def test_a_conversation_survives_export_and_adoption():
    """Subscriptions, protocol, a queue of MULTI and silenced replies arrive as they were."""
    there = Conversation()
    there.is_resp3 = True
    there.subscriptions[0].update({b"a", b"\xff\x00"})
    there.sent([b"MULTI", b"CLIENT", b"GET"], [[b"MULTI"], [b"CLIENT", b"REPLY", b"OFF"], [b"GET", b"k"]])
    for _ in range(3):
        assert there.received(b"+QUEUED\r\n")
    state = there.export()
    assert Conversation.adopt(state).export() == state


def test_a_conversation_with_a_reply_pending_does_not_move():
    """Its session is busy."""
    conversation = Conversation()
    conversation.sent([b"GET"], [[b"GET", b"k"]])
    assert conversation.export() is None
