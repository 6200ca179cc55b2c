"""A scripted database that writes down what each of its connections was asked."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from shotover_gevent.codecs.resp import RequestDecoder
from shotover_gevent.sinks.valkey_single import ValkeySinkSingle
from tests.client import Client
from tests.inprocess import ScriptedServer

#: The reply to a request; ``None`` closes the connection, and nothing is no reply.
Answer = Callable[[list[bytes]], bytes | None]

OK = b"+OK\r\n"


class Database(ScriptedServer):
    """Answers each request by ``answer``, which a test may change."""

    def __init__(self, answer: Answer = lambda value: OK) -> None:
        super().__init__(self._answer_all)
        self.answer = answer
        #: What each connection was asked, each request in one line; in the order of connecting.
        self.asked: list[list[str]] = []
        self.clients: list[Client] = []
        #: Connections that are open now.
        self.open = 0

    def end(self, number: int) -> None:
        """End a connection, by its number, as a server does that stops."""
        with self.clients[number].socket.dup() as sock:  # of its own: nobody's wait is cancelled
            sock.shutdown(socket.SHUT_RDWR)

    def _answer_all(self, client: Client) -> None:
        asked: list[str] = []
        self.asked.append(asked)
        self.clients.append(client)
        self.open += 1
        try:
            self._serve_client(client, asked)
        except ConnectionError:
            pass
        finally:
            self.open -= 1

    def _serve_client(self, client: Client, asked: list[str]) -> None:
        decoder = RequestDecoder()
        while data := client.read(1_000_000):
            for value in decoder.feed(data).values:
                asked.append(b" ".join(value).decode())
                reply = self.answer(value)
                if reply is None:
                    return
                client.send(reply)


def shared(server: ScriptedServer, **options: Any) -> ValkeySinkSingle:
    """A sink that shares its connections to the server."""
    options = {"connect_timeout_ms": 5000, "connection_mode": "shared"} | options
    return ValkeySinkSingle(name="v", remote_address=str(server.address), **options)
