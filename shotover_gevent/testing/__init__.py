"""Public test kit: real servers, free ports, and families of processes.

It is for the tests of programs that use this package, for its own, and for the demo. It patches
nothing and needs no hub: it works in a plain program and beside gevent.
"""

from shotover_gevent.testing.family import Family
from shotover_gevent.testing.port import free_port
from shotover_gevent.testing.server import RealServer, ServerBinary, find_server, find_servers

__all__ = ["Family", "RealServer", "ServerBinary", "find_server", "find_servers", "free_port"]
