"""A database proxy with plain Python transforms and a hot reload that nobody notices."""

from shotover_gevent._version import __version__

__all__ = ["__version__"]
