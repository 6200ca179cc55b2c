"""The files of the status page, and the headers that keep it to itself.

The page takes nothing from another host, and a browser is told to let it take nothing: whoever finds
a way to put a text of theirs into a name of the topology still runs nothing.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

#: What a browser may do with the page: ask its own host for its files and for numbers.
HEADERS = (
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    # A new version of the proxy brings a new version of the page.
    ("Cache-Control", "no-cache"),
)

#: Where each file is served, with its name in the package and its type.
ASSETS = {
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/chart.js": ("chart.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}

INDEX = ("index.html", "text/html; charset=utf-8")


@cache
def read(name: str) -> bytes:
    """A file of the page."""
    return files(__package__).joinpath("page", name).read_bytes()
