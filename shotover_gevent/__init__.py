"""A database proxy with plain Python transforms and a hot reload that nobody notices.

An embedding program needs one name::

    from shotover_gevent import Proxy

    proxy = Proxy("topology.yaml", "config.yaml")
    proxy.start()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shotover_gevent._version import __version__

if TYPE_CHECKING:
    from shotover_gevent.proxy import Proxy

__all__ = ["Proxy", "__version__"]


def __getattr__(name: str) -> Any:
    """Import :class:`Proxy` when it is first asked for: reading the version costs nothing."""
    if name == "Proxy":
        from shotover_gevent.proxy import Proxy

        return Proxy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
