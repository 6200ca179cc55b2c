"""A client that sends and expects exact bytes: the one of the public test kit."""

from shotover_gevent.testing.client import CLIENT_S, Client, command

__all__ = ["CLIENT_S", "Client", "command"]
