"""The packets of Shotover's hot reload: one JSON document each, one request per connection.

Rules:
 1. What is written is, byte for byte, what Shotover writes: compact JSON, enums as serde tags them
    (a variant without content is a string, one with content an object with one key).
 2. What is understood is what serde understands: white space between tokens; ``{"Name":null}`` for
    a variant without content; arrays for structs; keys nobody knows in the body of
    ``GradualShutdown``, but not in a duration. Nothing else: no floats, no second key, no key twice,
    no bytes after the end.
 3. A packet that cannot be understood is a :class:`HotReloadError`, whose cause says why.
 4. Messages carry sockets, never numbers. The JSON does not say which socket is which: a receiver
    learns that from the socket itself.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from shotover_gevent.errors import HotReloadError
from shotover_gevent.net.address import Address

_U64_MAX = 2**64 - 1
_U32_MAX = 2**32 - 1
_NANOS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class SendListeningSockets:
    """Request: lend me your listening sockets."""


@dataclass(frozen=True, slots=True)
class GradualShutdown:
    """Request: I serve; drain your sessions within ``duration_s`` seconds, then end."""

    duration_s: float


@dataclass(frozen=True, slots=True)
class ListenerResponse:
    """What one source answers: its address, and its socket if it has one. Who holds it closes it."""

    address: Address
    listener: socket.socket | None


@dataclass(frozen=True, slots=True)
class SocketsResponse:
    """Response ``SendListeningSockets``: the sockets travel beside the bytes, in this order."""

    listeners: list[ListenerResponse] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ShutdownResponse:
    """Response ``GradualShutdown``: the drain is about to start."""


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """Response ``Error``: refused, and nothing has changed. Shotover understands it, never sends it."""

    text: str


Request = SendListeningSockets | GradualShutdown
Response = SocketsResponse | ShutdownResponse | ErrorResponse

_REQUESTS = ("SendListeningSockets", "GradualShutdown")
_RESPONSES = ("SendListeningSockets", "GradualShutdown", "Error")


def encode_request(request: Request) -> bytes:
    """The packet that asks for ``request``."""
    if isinstance(request, SendListeningSockets):
        return b'"SendListeningSockets"'
    nanos = round(request.duration_s * _NANOS)
    duration = {"secs": nanos // _NANOS, "nanos": nanos % _NANOS}
    return _dump({"GradualShutdown": {"duration": duration}})


def encode_response(response: Response) -> bytes:
    """The packet that answers with ``response``; its sockets go beside it."""
    if isinstance(response, SocketsResponse):
        return b'"SendListeningSockets"'
    if isinstance(response, ShutdownResponse):
        return b'"GradualShutdown"'
    return _dump({"Error": response.text})


def decode_request(data: bytes) -> Request:
    """The request in a packet. Raises :class:`HotReloadError`."""
    try:
        variant, content = _variant(_parse(data), _REQUESTS)
        if variant == "SendListeningSockets":
            _no_content(variant, content)
            return SendListeningSockets()
        if content is None:
            raise ValueError("invalid type: unit variant, expected struct variant")
        body = _struct(content, ("duration",), ignore_unknown=True)
        return GradualShutdown(_duration(body["duration"]))
    except (ValueError, RecursionError) as error:
        raise HotReloadError("Failed to parse JSON from packet") from error


def decode_response(data: bytes, listeners: Sequence[ListenerResponse] = ()) -> Response:
    """The response in a packet that came with ``listeners``, which stay the caller's to close."""
    try:
        variant, content = _variant(_parse(data), _RESPONSES)
        if variant == "Error":
            if not isinstance(content, str):
                raise ValueError("invalid type: expected a string as the text of Error")
            return ErrorResponse(_text(content))
        _no_content(variant, content)
    except (ValueError, RecursionError) as error:
        raise HotReloadError("Failed to parse JSON from packet") from error
    if variant == "SendListeningSockets":
        return SocketsResponse(list(listeners))
    return ShutdownResponse()


class _Object(list[tuple[str, Any]]):
    """The members of a JSON object in order, so that a key given twice can be seen."""


# The content of a variant given as ``{"Name":null}``; ``None`` is that of a bare ``"Name"``.
_NULL = object()


def _dump(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")


def _parse(data: bytes) -> Any:
    if not data:
        raise ValueError("EOF while parsing a value at line 1 column 0")
    return json.loads(
        data.decode("utf-8"),
        object_pairs_hook=_Object, parse_constant=_refuse_constant, parse_int=_integer,
    )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"expected value, found {name}")


def _integer(text: str) -> int | float:
    """An integer as serde sees it: ``-0`` is a float."""
    return -0.0 if text == "-0" else int(text)


def _text(text: str) -> str:
    """``text``, unless an escape in it is half a character, which no UTF-8 can hold."""
    text.encode()
    return text


def _variant(document: Any, known: Sequence[str]) -> tuple[str, Any]:
    if isinstance(document, str):
        name, content = document, None
    elif isinstance(document, _Object) and len(document) == 1:
        name, content = document[0]
        content = _NULL if content is None else content
    else:
        raise ValueError("expected the name of a variant, or an object with one as its only key")
    if _text(name) not in known:
        expected = " or ".join(f"`{each}`" for each in known)
        raise ValueError(f"unknown variant `{name[:80]}`, expected {expected}")
    return name, content


def _no_content(variant: str, content: Any) -> None:
    if content is not None and content is not _NULL:
        raise ValueError(f"invalid type: {variant} has no content")


def _struct(value: Any, names: Sequence[str], *, ignore_unknown: bool) -> dict[str, Any]:
    """The fields of a struct, written as an object or as an array in their order."""
    if isinstance(value, _Object):
        fields: dict[str, Any] = {}
        for name, content in value:
            if _text(name) in fields:
                raise ValueError(f"duplicate field `{name}`")
            if name in names:
                fields[name] = content
            elif not ignore_unknown:
                raise ValueError(f"unknown field `{name[:80]}`")
        missing = [name for name in names if name not in fields]
        if missing:
            raise ValueError(f"missing field `{missing[0]}`")
        return fields
    if isinstance(value, list) and len(value) == len(names):
        return dict(zip(names, value))
    raise ValueError(f"expected an object or array of {len(names)} with " + ", ".join(names))


def _duration(value: Any) -> float:
    fields = _struct(value, ("secs", "nanos"), ignore_unknown=False)
    seconds = _unsigned(fields["secs"], _U64_MAX)
    nanos = _unsigned(fields["nanos"], _U32_MAX)
    if seconds + nanos // _NANOS > _U64_MAX:
        raise ValueError("overflow deserializing Duration")
    return (seconds * _NANOS + nanos) / _NANOS


def _unsigned(value: Any, limit: int) -> int:
    if type(value) is not int or not 0 <= value <= limit:
        raise ValueError(f"expected a whole number from 0 to {limit}")
    return value
