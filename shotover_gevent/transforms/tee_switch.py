"""The HTTP interface of a Tee: which of its chains answers the clients.

GET /                               what there is
GET /transform/tee/result-source    ``regular-chain`` or ``tee-chain``
PUT /transform/tee/result-source    the same words as the body; for all sessions, from now on
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shotover_gevent.transforms.tee import Tee

# Shotover's module; its users' log rules name it.
_TARGET = {"target": "shotover::transforms::tee"}

PATH = "/transform/tee/result-source"

# The longer of the two words has 13 letters; this is where a client must be sending something else.
MAX_BODY_BYTES = 1024

logger = logging.getLogger(__name__)


class Switch:
    """A WSGI application that shows and sets the result source of one Tee."""

    def __init__(self, tee: Tee) -> None:
        self._tee = tee

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        headers = [("Content-Type", "text/html"), ("Connection", "close")]
        if path == "/" and method in ("GET", "HEAD"):
            status, text = "200 OK", f"try {PATH}"
        elif path == PATH and method in ("GET", "HEAD"):
            status, text = "200 OK", self._tee.result_source.value
        elif path == PATH and method == "PUT":
            status, text = self._put(environ)
        elif path in ("/", PATH):
            status, text = "405 Method Not Allowed", ""
            headers.append(("Allow", "GET, HEAD, PUT" if path == PATH else "GET, HEAD"))
        else:
            status, text = "404 Not Found", f"try {PATH}"
        body = text.encode("utf-8", "backslashreplace")
        start_response(status, [*headers, ("Content-Length", str(len(body)))])
        return [] if method == "HEAD" else [body]

    def _put(self, environ: dict[str, Any]) -> tuple[str, str]:
        try:
            body = environ["wsgi.input"].read(MAX_BODY_BYTES + 1)
        except OSError:
            return "400 Bad Request", "the request broke off"
        if len(body) > MAX_BODY_BYTES:
            return "413 Request Entity Too Large", f"a result source has at most {MAX_BODY_BYTES} bytes"
        text = body.decode("utf-8", "backslashreplace")
        try:
            self._tee.switch_to(type(self._tee.result_source)(text))
        except ValueError:
            return "500 Internal Server Error", (
                f'HTTP 500 error: Invalid value for result source: "{text}", '
                "should be 'tee-chain' or 'regular-chain'")
        logger.info("result source set to %s", text, extra=_TARGET)
        return "200 OK", ""
