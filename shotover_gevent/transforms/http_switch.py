"""A switch of a transform over HTTP: one word that operators read and set while the proxy runs.

GET /       where the switch is
GET path    the word
PUT path    another word, as the body; for all sessions, from now on
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

# A word has some twenty letters; this is where a client must be sending something else.
MAX_BODY_BYTES = 1024


class HttpSwitch:
    """A WSGI application that shows and sets a word. ``what`` is what the word is, for a person.

    ``write`` raises ``ValueError`` with a sentence for a word that there is not.
    """

    def __init__(
        self, path: str, what: str, read: Callable[[], str], write: Callable[[str], None]
    ) -> None:
        self._path = path
        self._what = what
        self._read = read
        self._write = write

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        headers = [("Content-Type", "text/html"), ("Connection", "close")]
        if path == "/" and method in ("GET", "HEAD"):
            status, text = "200 OK", f"try {self._path}"
        elif path == self._path and method in ("GET", "HEAD"):
            status, text = "200 OK", self._read()
        elif path == self._path and method == "PUT":
            status, text = self._put(environ)
        elif path in ("/", self._path):
            status, text = "405 Method Not Allowed", ""
            headers.append(("Allow", "GET, HEAD, PUT" if path == self._path else "GET, HEAD"))
        else:
            status, text = "404 Not Found", f"try {self._path}"
        body = text.encode("utf-8", "backslashreplace")
        start_response(status, [*headers, ("Content-Length", str(len(body)))])
        return [] if method == "HEAD" else [body]

    def _put(self, environ: dict[str, Any]) -> tuple[str, str]:
        try:
            body = environ["wsgi.input"].read(MAX_BODY_BYTES + 1)
        except OSError:
            return "400 Bad Request", "the request broke off"
        if len(body) > MAX_BODY_BYTES:
            return "413 Request Entity Too Large", f"{self._what} has at most {MAX_BODY_BYTES} bytes"
        try:
            self._write(body.decode("utf-8", "backslashreplace"))
        except ValueError as error:
            return "500 Internal Server Error", f"HTTP 500 error: {error}"
        return "200 OK", ""
