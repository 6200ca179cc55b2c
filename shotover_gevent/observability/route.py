"""The pages of the admin server: a WSGI application, without a server.

GET /           for a browser the status page, for others what there is
GET /status     how things are, as JSON
GET /history    the last minutes, as JSON; ``?since=N`` leaves out what the caller has
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
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from shotover_gevent.observability.asset import ASSETS, HEADERS, INDEX, read
from shotover_gevent.observability.metrics import CONTENT_TYPE

logger = logging.getLogger(__name__)

#: Shotover's module; its users' log rules name it.
TARGET = "shotover::observability"

# A filter has some hundred characters; this is where a client must be sending something else.
MAX_BODY_BYTES = 64 * 1024

_HTML = "text/html; charset=utf-8"
_TEXT = "text/plain; charset=utf-8"
_JSON = "application/json"
_INDEX = "try /filter or /metrics\n<ul>{}<li>PUT /filter</li></ul>\n"

# The numbers are those of the moment.
_FRESH = (("Cache-Control", "no-store"),)

Health = Callable[[], tuple[bool, str]]
Environ = dict[str, Any]
Page = Callable[[Environ], "Response"]


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
    Without ``status`` and ``history``, which return JSON, there is no status page.
    """

    def __init__(
        self,
        metrics: Callable[[], bytes],
        ready: Health,
        live: Health,
        set_filter: Callable[[str], None] | None = None,
        status: Callable[[], bytes] | None = None,
        history: Callable[[int], bytes] | None = None,
    ) -> None:
        self._metrics = metrics
        self._set_filter = set_filter
        self._pages: dict[str, Page] = {
            "/metrics": lambda _: Response(HTTPStatus.OK, self._metrics(), CONTENT_TYPE),
            "/livez": lambda _: _health(*live()),
            "/readyz": lambda _: _health(*ready()),
        }
        if status is not None and history is not None:
            self._pages["/status"] = lambda _: _json(status())
            self._pages["/history"] = lambda environ: _json(history(_since(environ)))
        links = "".join(f'<li>GET <a href="{path}">{path}</a></li>' for path in self._pages)
        index = _text(HTTPStatus.OK, _INDEX.format(links), _HTML)
        self._pages["/"] = lambda _: index
        if status is not None and history is not None:
            # Programs ask for anything, browsers for HTML: who uses curl wants to read the answer.
            self._pages["/"] = lambda environ: _asset(INDEX) if _is_browser(environ) else index
            self._pages |= {path: partial(_asset, asset) for path, asset in ASSETS.items()}

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
        return page(environ) if method in ("GET", "HEAD") else _not_allowed("GET, HEAD")

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


def _json(body: bytes) -> Response:
    return Response(HTTPStatus.OK, body, _JSON, _FRESH)


def _asset(asset: tuple[str, str], _environ: Environ | None = None) -> Response:
    return Response(HTTPStatus.OK, read(asset[0]), asset[1], HEADERS)


def _is_browser(environ: Environ) -> bool:
    return "text/html" in environ.get("HTTP_ACCEPT", "")


def _since(environ: Environ) -> int:
    """The number after ``since=``; 0 without one."""
    text = parse_qs(environ.get("QUERY_STRING", "")).get("since", [""])[-1]
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


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
