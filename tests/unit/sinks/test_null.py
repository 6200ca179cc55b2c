"""NullSink answers every request with the same error."""

from __future__ import annotations

from shotover_gevent.codecs.resp import RequestDecoder
from shotover_gevent.sinks.null import NullSink
from tests.client import command
from tests.inprocess import session_context

ERROR = b"-ERR Handled by shotover null transform\r\n"


def test_each_request_gets_an_error_of_its_own() -> None:
    """A transform above may change one answer without changing the others."""
    sink = NullSink(name="n").session(session_context())
    responses = sink.transform(RequestDecoder().feed(command("GET", "k") * 3), lambda requests: requests)
    responses[1].frame = b"x"
    nothing = sink.transform(RequestDecoder().feed(b""), lambda requests: requests)
    assert (responses.raw, nothing.raw) == (ERROR + b"$1\r\nx\r\n" + ERROR, b"")
