"""The pages of the admin server: a WSGI application, without a server.

GET /           what there is
GET /metrics    all numbers, in the text format of Prometheus
GET /livez      200 ``ok``, or 503 and why the process should be restarted
GET /readyz     200 ``ok``, or 503 and why no client should be sent here
PUT /filter     replace the log filter by the body

HEAD is answered like GET, without the body. Each connection serves one request, so that none
outlives its deadline and none is left when the listener moves to another process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from shotover_gevent.observability.metrics import CONTENT_TYPE

logger = logging.getLogger(__name__)

#: Shotover's module; its users' log rules name it.
TARGET = "shotover::observability"

# A filter has some hundred characters; this is where a client must be sending something else.
MAX_BODY_BYTES = 64 * 1024

_HTML = "text/html; charset=utf-8"
_TEXT = "text/plain; charset=utf-8"
_INDEX = (
    "try /filter or /metrics\n"
    '<ul><li>GET <a href="/metrics">/metrics</a></li><li>GET <a href="/livez">/livez</a></li>'
    '<li>GET <a href="/readyz">/readyz</a></li><li>PUT /filter</li></ul>\n'
)

Health = Callable[[], tuple[bool, str]]
Environ = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Response:
    """What goes back to the client."""

    status: HTTPStatus
    body: bytes
    content_type: str = _TEXT
    headers: tuple[tuple[str, str], ...] = ()


def _text(status: HTTPStatus, text: str, content_type: str = _TEXT) -> Response:
    return Response(status, text.encode("utf-8", "backslashreplace"), content_type)


class Application:
    """The pages, over what they show. ``metrics`` returns the text of ``/metrics``.

    Without ``set_filter`` (an embedding program has its own logging), ``/filter`` answers 501.
    """

    def __init__(
        self,
        metrics: Callable[[], bytes],
        ready: Health,
        live: Health,
        set_filter: Callable[[str], None] | None = None,
    ) -> None:
        self._metrics = metrics
        self._set_filter = set_filter
        self._pages: dict[str, Callable[[], Response]] = {
            "/": lambda: _text(HTTPStatus.OK, _INDEX, _HTML),
            "/metrics": lambda: Response(HTTPStatus.OK, self._metrics(), CONTENT_TYPE),
            "/livez": lambda: _health(*live()),
            "/readyz": lambda: _health(*ready()),
        }

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request; an error of a page is logged and answered with 500."""
        try:
            response = self._respond(environ)
        except Exception:
            logger.exception("admin request failed", extra={"fields": _facts(environ)})
            response = _text(HTTPStatus.INTERNAL_SERVER_ERROR, "HTTP 500 error: see the log\n")
        start_response(
            f"{response.status.value} {response.status.phrase}",
            [
                ("Content-Type", response.content_type),
                ("Content-Length", str(len(response.body))),
                ("Connection", "close"),
                *response.headers,
            ],
        )
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [response.body]

    def _respond(self, environ: Environ) -> Response:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path == "/filter":
            return self._put_filter(environ) if method == "PUT" else _not_allowed("PUT")
        page = self._pages.get(path)
        if page is None:
            return _text(HTTPStatus.NOT_FOUND, "not found; try /filter or /metrics\n")
        return page() if method in ("GET", "HEAD") else _not_allowed("GET, HEAD")

    def _put_filter(self, environ: Environ) -> Response:
        if self._set_filter is None:
            return _text(HTTPStatus.NOT_IMPLEMENTED, "the log filter belongs to another program\n")
        try:
            body = environ["wsgi.input"].read(MAX_BODY_BYTES + 1)
        except OSError:
            return _text(HTTPStatus.BAD_REQUEST, "the request broke off\n")
        if len(body) > MAX_BODY_BYTES:
            return _text(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a filter has at most {MAX_BODY_BYTES} bytes\n")
        try:
            text = body.decode()
            self._set_filter(text)
        except ValueError as error:
            return _text(HTTPStatus.INTERNAL_SERVER_ERROR, f"HTTP 500 error: {error}")
        logger.info("filter set to: %s", text, extra={"target": TARGET})
        return _text(HTTPStatus.OK, "Filter set", _HTML)


def _health(is_well: bool, reason: str) -> Response:
    return _text(HTTPStatus.OK, "ok") if is_well else _text(HTTPStatus.SERVICE_UNAVAILABLE, reason)


def _not_allowed(allowed: str) -> Response:
    return Response(
        HTTPStatus.METHOD_NOT_ALLOWED, f"only {allowed}\n".encode(), headers=(("Allow", allowed),))


def _facts(environ: Environ) -> dict[str, str]:
    return {
        "peer": environ.get("REMOTE_ADDR", ""),
        "request": f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}",
    }
