"""Our dialect, as a successor meets it: it takes over completely, or it touches nothing."""

import json
import os
import socket
from contextlib import contextmanager

import gevent
import pytest
from reload_kit import listener, receive, wait_until

from shotover_gevent import Proxy
from shotover_gevent.errors import HotReloadError, causes
from shotover_gevent.hotreload import dialect
from shotover_gevent.hotreload.client import Handover
from shotover_gevent.hotreload.taking import Takeover, take_over
from shotover_gevent.net.address import Address

TOPOLOGY = {"sources": [{"Valkey": {
    "name": "v", "listen_addr": "127.0.0.1:0",
    "chain": [{"DebugReturner": {"name": "r", "Valkey": "here"}}],
}}]}


class Predecessor:
    """A scripted predecessor: ``answers`` maps the name of a message to what is sent for it.

    An answer is a message, a message with sockets, or ``None``, which closes the connection.
    """

    def __init__(self, path, answers):
        self.heard = []
        self.last = {}
        self.answers = answers
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.setblocking(False)
        self.sock.bind(path)
        self.sock.listen(4)
        self.greenlet = gevent.spawn(self.serve)

    def serve(self):
        """Answer one connection after the other."""
        while True:
            gevent.socket.wait_read(self.sock.fileno())
            connection, _ = self.sock.accept()
            with connection:
                self.converse(connection)

    def converse(self, connection):
        """Answer until the script ends it."""
        connection.setblocking(False)
        while True:
            gevent.socket.wait_read(connection.fileno())
            data, _ = receive(connection)
            if not data:
                return
            document = json.loads(data)
            name = document if isinstance(document, str) else next(iter(document))
            self.heard.append(name)
            self.last[name] = document
            answer = self.answers.get(name)
            if answer is None:
                return
            for message, sockets in answer:
                socket.send_fds(
                    connection, [json.dumps(message).encode()], [s.fileno() for s in sockets])

    def close(self):
        """End it."""
        self.greenlet.kill()
        self.sock.close()


@contextmanager
def predecessor(path, **answers):
    """A scripted predecessor at ``path``."""
    found = Predecessor(path, {name: [(m, ()) if isinstance(m, dict) else m for m in messages]
                               for name, messages in answers.items()})
    try:
        yield found
    finally:
        found.close()


def hello(**changes):
    """The predecessor's Hello."""
    return {"Hello": {"protocol": 1, "version": "x", "pid": 1, "listeners": [], "sessions": 0} | changes}


def sockets_message(sockets, is_last=True):
    """A packet of listening sockets."""
    addresses = [str(Address.of(s.getsockname())) for s in sockets]
    return {"ListeningSockets": {"addresses": addresses, "last": is_last}}, sockets


def failure(path):
    """The texts of the error that taking over raises."""
    with pytest.raises(HotReloadError) as caught:
        take_over(path, [], 1.0)
    return list(causes(caught.value))


def test_a_refusal_is_passed_on(path):
    """The reason of the predecessor is the reason of the failure."""
    with predecessor(path, Hello=[{"Error": "not now"}]):
        assert failure(path) == ["not now"]


def test_another_protocol_is_refused(path):
    """A predecessor of another version serves on."""
    with predecessor(path, Hello=[hello(protocol=2)]):
        assert failure(path) == ["the predecessor speaks protocol 2, not 1"]


def test_a_predecessor_without_our_dialect_is_asked_in_shotovers(path):
    """It closes the connection on Hello; then it is asked in the words that it knows."""
    with listener() as lent, predecessor(
        path, SendListeningSockets=[("SendListeningSockets", [lent])]
    ) as there, take_over(path, [], 1.0) as handover:
        assert (type(handover), there.heard, handover.remaining) == (
            Handover, ["Hello", "SendListeningSockets"], [Address.of(lent.getsockname())])


def test_sockets_in_several_packets_are_each_acknowledged(path):
    """All of them are there when the last packet has come."""
    with listener() as first, listener() as second, predecessor(
        path, Hello=[hello()], SendListeningSockets=[sockets_message([first], False)],
        Ack=[sockets_message([second])],
    ) as there, take_over(path, [], 1.0) as takeover:
        addresses = [Address.of(s.getsockname()) for s in (first, second)]
        assert (type(takeover), takeover.remaining) == (Takeover, addresses)
        wait_until(lambda: there.heard == ["Hello", "SendListeningSockets", "Ack", "Ack"])


@pytest.mark.parametrize("answer", [
    {"Go": {}}, {"ListeningSockets": {}}, {"ListeningSockets": {"last": 1}}, {"Error": "gone"},
])
def test_a_bad_answer_ends_the_attempt(path, answer):
    """What was received until then is closed."""
    with predecessor(path, Hello=[hello()], SendListeningSockets=[answer]):
        assert failure(path)


def test_two_successors_exclude_each_other(path):
    """The second is told who holds the lock, without asking the predecessor."""
    with predecessor(
        path, Hello=[hello()], SendListeningSockets=[sockets_message([])]
    ) as there, take_over(path, [], 1.0):
        texts = failure(path)
        assert (texts, there.heard.count("Hello")) == (
            [f"another reload is in progress: process {os.getpid()} holds {path}.lock"], 1)


@pytest.mark.parametrize("closes_on", ["Ready", "Accepting", "Done"])
def test_a_lease_that_is_lost_undoes_everything(path, closes_on):
    """The predecessor lives and has closed: this proxy ends, and its clients are not touched."""
    answers = {
        "Hello": [hello()], "SendListeningSockets": [sockets_message([])], "Ack": [],
        "Ready": [{"Go": {}}], "Accepting": [{"End": {"moved": 0, "kept": {}}}],
    }
    answers.pop(closes_on, None)
    proxy = Proxy(TOPOLOGY)
    with predecessor(path, **answers), take_over(path, proxy.addresses, 1.0) as takeover:
        if closes_on == "Done":
            proxy.start(takeover)
            assert proxy.ready.is_set()
            proxy.stop(0)
        else:
            with pytest.raises(dialect.LeaseLost):
                proxy.start(takeover)
    assert proxy.ended.is_set()


def test_sessions_are_adopted_and_served(path):
    """An offered session goes on where it was; the answer names it."""
    client, moved = socket.socketpair()
    proxy = Proxy(TOPOLOGY)
    with client, moved, listener() as lent:
        address = str(Address.of(lent.getsockname()))
        topology = json.loads(json.dumps(TOPOLOGY).replace("127.0.0.1:0", address))
        proxy = Proxy(topology)
        offer = {
            "id": 7, "source": "v", "address": address, "sockets": 1,
            "identity": proxy.sources[0].state_identity,
            "state": {"pending": "KjENCg==", "chain": [{}], "peer": ["127.0.0.1", 1], "requests": 3},
        }
        with predecessor(
            path, Hello=[hello()], SendListeningSockets=[sockets_message([lent])], Ack=[],
            Ready=[{"Go": {}}], Accepting=[({"Sessions": [offer]}, [moved])],
            Adopted=[{"End": {"moved": 1, "kept": {}}}], Done=[],
        ) as there, take_over(path, proxy.addresses, 1.0) as takeover:
            proxy.start(takeover)
            client.setblocking(False)
            client.send(b"$4\r\nPING\r\n")
            gevent.socket.wait_read(client.fileno(), 5)
            assert (client.recv(100), proxy.last_reload["sessions"]["moved"]) == (b"$4\r\nhere\r\n", 1)
            wait_until(lambda: there.heard[-2:] == ["Adopted", "Done"])
        proxy.stop(1)


@pytest.mark.parametrize(("changes", "reason"), [
    ({"address": "127.0.0.1:1"}, "nothing listens at 127.0.0.1:1"),
    ({"identity": "Valkey []"}, "the chain has changed"),
])
def test_a_session_that_does_not_fit_is_refused_with_the_reason(path, changes, reason):
    """Its sockets are closed here; it stays with the predecessor."""
    client, moved = socket.socketpair()
    answers = []
    with client, moved, listener() as lent:
        address = str(Address.of(lent.getsockname()))
        proxy = Proxy(json.loads(json.dumps(TOPOLOGY).replace("127.0.0.1:0", address)))
        offer = {
            "id": 7, "source": "v", "address": address, "sockets": 1, "state": {},
            "identity": proxy.sources[0].state_identity,
        } | changes

        class Listening(Predecessor):
            def converse(self, connection):
                connection.setblocking(False)
                for message, sockets in (
                    (hello(), ()), sockets_message([lent]), (None, ()), ({"Go": {}}, ()),
                    ({"Sessions": [offer]}, [moved]), ({"End": {"moved": 0, "kept": {}}}, ()), (None, ()),
                ):
                    gevent.socket.wait_read(connection.fileno())
                    answers.append(json.loads(receive(connection)[0]))
                    if message is not None:
                        socket.send_fds(
                            connection, [json.dumps(message).encode()], [s.fileno() for s in sockets])

        there = Listening(path, {})
        with take_over(path, proxy.addresses, 1.0) as takeover:
            proxy.start(takeover)
            wait_until(lambda: {"Done": {}} in answers)
        proxy.stop(1)
        there.close()
    assert {"Adopted": [], "Refused": {"7": reason}} in answers


def test_sessions_without_their_sockets_end_the_reload(path):
    """A packet that does not hold what it says is no packet of a predecessor."""
    proxy = Proxy(TOPOLOGY)
    offer = {"id": 1, "address": "x", "identity": "x", "sockets": 2, "state": {}}
    with predecessor(
        path, Hello=[hello()], SendListeningSockets=[sockets_message([])], Ack=[],
        Ready=[{"Go": {}}], Accepting=[{"Sessions": [offer]}],
    ), take_over(path, proxy.addresses, 1.0) as takeover:
        with pytest.raises(HotReloadError) as caught:
            proxy.start(takeover)
    assert str(caught.value) == "session 1 came without its sockets"


def test_a_session_that_cannot_be_built_again_is_refused(path):
    """It stays with the predecessor: our copies are closed without ending its connection."""
    client, moved = socket.socketpair()
    with client, moved, listener() as lent:
        address = str(Address.of(lent.getsockname()))
        proxy = Proxy(json.loads(json.dumps(TOPOLOGY).replace("127.0.0.1:0", address)))
        offer = {
            "id": 7, "source": "v", "address": address, "sockets": 1,
            "identity": proxy.sources[0].state_identity,
            "state": {"pending": "", "chain": [{}, {}], "peer": "", "requests": 0},
        }
        with predecessor(
            path, Hello=[hello()], SendListeningSockets=[sockets_message([lent])], Ack=[],
            Ready=[{"Go": {}}], Accepting=[({"Sessions": [offer]}, [moved])],
            Adopted=[{"End": {"moved": 0, "kept": {}}}], Done=[],
        ) as there, take_over(path, proxy.addresses, 1.0) as takeover:
            proxy.start(takeover)
            wait_until(lambda: "Done" in there.heard)
        proxy.stop(1)
        client.send(b"still open")
        assert (moved.recv(100), there.last["Adopted"]) == (
            b"still open", {"Adopted": [], "Refused": {"7": "it could not be built again"}})
