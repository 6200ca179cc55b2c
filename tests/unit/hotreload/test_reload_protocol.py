"""The packets are Shotover's, byte for byte, and nothing else is understood."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shotover_gevent.errors import HotReloadError, causes
from shotover_gevent.hotreload.protocol import (
    ErrorResponse, GradualShutdown, ListenerResponse, SendListeningSockets, ShutdownResponse,
    SocketsResponse, decode_request, decode_response, encode_request, encode_response,
)
from shotover_gevent.net.address import Address

GRADUAL_60 = b'{"GradualShutdown":{"duration":{"secs":60,"nanos":0}}}'


@pytest.mark.parametrize(
    "request_,data",
    [
        (SendListeningSockets(), b'"SendListeningSockets"'),
        (GradualShutdown(60), GRADUAL_60),
        (GradualShutdown(0), b'{"GradualShutdown":{"duration":{"secs":0,"nanos":0}}}'),
        (GradualShutdown(1.5), b'{"GradualShutdown":{"duration":{"secs":1,"nanos":500000000}}}'),
    ],
)
def test_a_request_is_written_as_shotover_writes_it(request_, data):
    """Bytes out, the same request back in."""
    assert (encode_request(request_), decode_request(data)) == (data, request_)


@pytest.mark.parametrize(
    "response,data",
    [
        (SocketsResponse(), b'"SendListeningSockets"'),
        (ShutdownResponse(), b'"GradualShutdown"'),
        (ErrorResponse("no"), b'{"Error":"no"}'),
        (ErrorResponse('"\\\n\x01é'), '{"Error":"\\"\\\\\\n\\u0001é"}'.encode()),
    ],
)
def test_a_response_is_written_as_shotover_writes_it(response, data):
    """Bytes out, the same response back in."""
    assert (encode_response(response), decode_response(data)) == (data, response)


def test_a_response_carries_its_listeners():
    """They come beside the bytes, and go into the response."""
    listeners = [ListenerResponse(Address("127.0.0.1", 1), None)]
    assert decode_response(b'"SendListeningSockets"', listeners) == SocketsResponse(listeners)


@pytest.mark.parametrize(
    "data",
    [
        b' { "GradualShutdown" :\n{ "duration"\t: { "nanos": 0, "secs": 60 } } }\r\n',
        b'{"GradualShutdown":[{"secs":60,"nanos":0}]}',
        b'{"GradualShutdown":{"duration":[60,0]}}',
        b'{"GradualShutdown":[[60,0]]}',
        b'{"GradualShutdown":{"later":[1.5,{"a":null}],"duration":{"secs":60,"nanos":0}}}',
        b'{"GradualShutdown":{"duration":{"secs":59,"nanos":1000000000}}}',
        b'{"Gradual\\u0053hutdown":{"duration":{"secs":60,"nanos":0}}}',
    ],
)
def test_what_serde_understands_is_understood(data):
    """White space, arrays for structs, unknown keys beside the duration, nanoseconds that carry."""
    assert decode_request(data) == GradualShutdown(60)


@pytest.mark.parametrize("data", [b'{"SendListeningSockets":null}', b' "SendListeningSockets" '])
def test_a_variant_without_content_may_be_an_object(data):
    """Both notations mean the same, in both directions."""
    assert decode_request(data) == SendListeningSockets()
    assert decode_response(data) == SocketsResponse()


def duration(body):
    """A request with that duration."""
    return b'{"GradualShutdown":{"duration":' + body + b"}}"


BAD_DOCUMENTS = [
    b"", b" ", b"{", b"null", b"1", b"[]", b"{}", b"NaN", b"[" * 60_000, b'"\xff"', b'"a\nb"',
    b"\xef\xbb\xbf" + b'"SendListeningSockets"', '"SendListeningSockets"'.encode("utf-16"),
    b'"SendListeningSockets"x', b'"SendListeningSockets""SendListeningSockets"',
    b'"sendlisteningsockets"', b'"Hello"', b'"\\ud800"', b"'SendListeningSockets'",
    b'{"SendListeningSockets":{}}', b'{"SendListeningSockets":null,"a":1}',
    b'{"SendListeningSockets":null,"SendListeningSockets":null}',
]


@pytest.mark.parametrize("data", [*BAD_DOCUMENTS, b'{"Error":"x"}'])
def test_a_request_that_serde_refuses_is_refused(data):
    """With one error, whose cause says why."""
    with pytest.raises(HotReloadError, match="^Failed to parse JSON from packet$") as caught:
        decode_request(data)
    assert len(list(causes(caught.value))) >= 2


@pytest.mark.parametrize(
    "data",
    [
        b'"GradualShutdown"', b'{"GradualShutdown":null}', b'{"GradualShutdown":{}}',
        b'{"GradualShutdown":[]}', b'{"GradualShutdown":[[60,0],1]}',
        b'{"GradualShutdown":{"duration":[1,0],"duration":[1,0]}}',
        b'{"GradualShutdown":{"a":1,"a":2}}',
        *map(duration, [
            b"60", b"[60]", b"[60,0,0]", b'{"secs":60}', b'{"nanos":0}',
            b'{"secs":60,"nanos":0,"x":1}', b'{"secs":60,"secs":60,"nanos":0}',
            b'{"secs":60.0,"nanos":0}', b'{"secs":6e1,"nanos":0}', b'{"secs":-1,"nanos":0}',
            b'{"secs":-0,"nanos":0}', b'{"secs":"60","nanos":0}', b'{"secs":true,"nanos":0}',
            b'{"secs":18446744073709551616,"nanos":0}', b'{"secs":1,"nanos":4294967296}',
            b'{"secs":18446744073709551615,"nanos":1000000000}', b'{"secs":1,"nanos":null}',
        ]),
        duration(b'{"secs":' + b"9" * 5000 + b',"nanos":0}'),
    ],
)
def test_a_shutdown_that_serde_refuses_is_refused(data):
    """Floats, missing, unknown and doubled keys, and numbers that do not fit."""
    with pytest.raises(HotReloadError, match="^Failed to parse JSON from packet$"):
        decode_request(data)


@pytest.mark.parametrize(
    "data",
    [*BAD_DOCUMENTS, b'"Error"', b'{"Error":null}', b'{"Error":1}', b'{"Error":"\\udc00"}',
     b'{"GradualShutdown":{"duration":{"secs":1,"nanos":0}}}'],
)
def test_a_response_that_serde_refuses_is_refused(data):
    """With the text that Shotover's users know."""
    with pytest.raises(HotReloadError, match="^Failed to parse JSON from packet$"):
        decode_response(data)


def test_the_end_of_a_connection_reads_as_shotover_says_it():
    """A silent close is the end of a document."""
    with pytest.raises(HotReloadError) as caught:
        decode_response(b"")
    assert list(causes(caught.value)) == [
        "Failed to parse JSON from packet", "EOF while parsing a value at line 1 column 0"]


def test_an_unknown_variant_is_named_in_the_error():
    """So that a log shows what another version wanted."""
    with pytest.raises(HotReloadError) as caught:
        decode_request(b'{"Hello":{"protocol":1}}')
    assert str(caught.value.__cause__) == (
        "unknown variant `Hello`, expected `SendListeningSockets` or `GradualShutdown`")


@given(st.integers(min_value=0, max_value=10**9))
def test_a_duration_survives_the_wire(milliseconds):
    """Any number of milliseconds comes back."""
    request = GradualShutdown(milliseconds / 1000)
    assert decode_request(encode_request(request)) == request


@given(st.text())
def test_any_text_survives_the_wire(text):
    """Any error text comes back."""
    assert decode_response(encode_response(ErrorResponse(text))) == ErrorResponse(text)


@given(st.one_of(st.binary(), st.binary().map(lambda tail: GRADUAL_60[:20] + tail)))
def test_random_bytes_raise_nothing_but_the_one_error(data):
    """Whatever a peer sends, it is understood or refused."""
    for decode in (decode_request, decode_response):
        try:
            decode(data)
        except HotReloadError as error:
            assert str(error) == "Failed to parse JSON from packet"
