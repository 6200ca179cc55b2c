"""Log lines as Shotover prints them, on top of the standard library's ``logging``.

The library logs to ``logging.getLogger("shotover_gevent...")`` and leaves the rest to its host.
Only ``serve`` calls :func:`configure`, which prints the lines of the whole process.

Rules:
 1. Nothing happens at import. :func:`configure` adds one handler to the root logger and sets
    levels; closing its handle takes both back.
 2. Printing neither waits nor raises: lines go through a bounded queue to a thread. What does not
    fit is dropped, counted, and reported in one line when there is room again.
 3. A *target* is a logger's name in Shotover's spelling: ``shotover_gevent.net.listener`` is
    ``shotover::net::listener``. A line of Shotover's external contract says its own:
    ``extra={"target": "shotover::runner"}``.
 4. Facts are fields: ``extra={"fields": {"source": "v"}}`` prints `` source=v`` after the message
    or goes to the object ``fields`` in JSON.
 5. ``span`` marks the lines of a greenlet, as ``connection{id=1 source=v}`` of a session.
"""

from shotover_gevent.logs.directive import TRACE, Directive, directives_from, parse_directives
from shotover_gevent.logs.handle import LogHandle, configure, install_excepthooks
from shotover_gevent.logs.line import span

__all__ = [
    "TRACE", "Directive", "LogHandle", "configure", "directives_from", "install_excepthooks",
    "parse_directives", "span",
]
