"""DebugPrinter logs every message, and changes none."""

from __future__ import annotations

import logging

import pytest

from shotover_gevent.chain import Batch, Message, Transform
from shotover_gevent.codecs.raw import RAW
from shotover_gevent.codecs.resp import RESP, RequestDecoder
from shotover_gevent.transforms.debug_printer import DebugPrinter
from tests.client import command
from tests.inprocess import session_context

LOGGER = "shotover_gevent.transforms.debug_printer"


@pytest.fixture
def printer(caplog: pytest.LogCaptureFixture) -> Transform:
    """The printer of one session, with its log."""
    caplog.set_level(logging.INFO, LOGGER)
    return DebugPrinter(name="p").session(session_context())


def test_requests_and_responses_are_logged_in_shotovers_words(
    printer: Transform, caplog: pytest.LogCaptureFixture
) -> None:
    """One line for each message, the bytes unchanged, what cannot be parsed as it is."""
    raw = command("GET", "k") + b"ping\r\n"
    responses = Batch.of(RESP, [Message(RESP, b"$1\r\nv\r\n", lead=b">x"), Message(RESP, b"?\r\n")])
    asked: list[bytes] = []
    answered = printer.transform(
        RequestDecoder().feed(raw), lambda requests: asked.append(requests.raw) or responses)  # type: ignore
    assert (caplog.messages, asked, answered is responses, answered.raw) == (
        ['Request: Valkey Array([BulkString(b"GET"), BulkString(b"k")])',
         'Request: Valkey Array([BulkString(b"ping")])',
         'Response: Valkey BulkString(b"v")', "Response: Unparseable Valkey message b'?\\r\\n'"],
        [raw], True, b">x$1\r\nv\r\n?\r\n")


def test_pushes_are_logged_and_forwarded(printer: Transform, caplog: pytest.LogCaptureFixture) -> None:
    """They look like responses."""
    forwarded: list[Batch] = []
    pushes = Batch(RESP, b">1\r\n+x\r\n", (None,))
    printer.push(pushes, forwarded.append)
    assert (caplog.messages, forwarded == [pushes], forwarded[0].raw) == (
        ['Response: Valkey Push([SimpleString(b"x")])'], True, b">1\r\n+x\r\n")


def test_bytes_without_messages_are_logged(printer: Transform, caplog: pytest.LogCaptureFixture) -> None:
    """What one read of a Tcp source brought is one line; nothing is none."""
    nothing = Batch(RAW, b"", ())
    printer.transform(Batch(RAW, b"hi\n", ()), lambda requests: nothing)
    printer.push(Batch(RAW, b"\0", ()), lambda pushes: None)
    assert caplog.messages == ["Request: Tcp 3 bytes b'hi\\n'", "Response: Tcp 1 bytes b'\\x00'"]


def test_nothing_is_split_when_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    """Above INFO the printer costs nothing."""
    caplog.set_level(logging.WARNING, LOGGER)
    raw = command("GET", "k")
    requests = RequestDecoder().feed(raw)
    whole = requests.raw
    DebugPrinter(name="p").session(session_context()).transform(requests, lambda below: below)
    assert (caplog.messages, requests.raw is whole) == ([], True)
