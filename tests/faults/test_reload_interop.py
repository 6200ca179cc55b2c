"""Scripted peers that behave as Shotover does, one request per connection, against real processes."""

import os
import socket
import threading

import pytest

from tests.faults.rig import Rig, peer_pid
from tests.harness import Client, eventually

SEND = b'"SendListeningSockets"'
SHUTDOWN = b'{"GradualShutdown":{"duration":{"secs":1,"nanos":0}}}'
TIMEOUT_S = 20


@pytest.fixture
def rig(topology):
    """A proxy that knows nothing of who will ask."""
    with Rig(topology) as rig:
        yield rig


def seqpacket():
    """A socket as Shotover opens it."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(TIMEOUT_S)
    return sock


def ask(path, request):
    """One request on a connection of its own: the answer and the listeners that came with it."""
    with seqpacket() as sock:
        sock.connect(str(path))
        sock.sendmsg([request], [], socket.MSG_EOR)
        data, numbers, _, _ = socket.recv_fds(sock, 65536, 250)
        return data, [socket.socket(fileno=number) for number in numbers]


def test_a_successor_as_shotover_takes_over(rig, port):
    """It gets the socket, confirms, unlinks the path and binds its own; the predecessor ends with 0."""
    path = rig.hotreload_socket
    answer, (listener,) = ask(path, SEND)
    with listener, seqpacket() as own:
        assert (answer, listener.getsockname()) == (SEND, ("127.0.0.1", port))
        assert ask(path, SHUTDOWN) == (b'"GradualShutdown"', [])
        path.unlink()
        own.bind(str(path))
        own.listen(10)
        with Client(port) as client:
            listener.settimeout(TIMEOUT_S)
            listener.accept()[0].close()
            client.eof()
        assert (rig.wait(), peer_pid(str(path))) == (0, os.getpid())


class Predecessor(threading.Thread):
    """A process as Shotover: it answers two requests, parks, and unlinks the path when it exits.

    What it does not understand it closes without an answer.
    """

    def __init__(self, path, listener):
        super().__init__(daemon=True)
        self.path = path
        self.requests = []
        self._listener = listener
        self._control = seqpacket()
        self._control.bind(path)
        self._control.listen(10)

    def run(self):
        """Serve until it is told to drain."""
        while SHUTDOWN not in self.requests:
            peer, _ = self._control.accept()
            with peer:
                request = peer.recv(65536)
                self.requests.append(request)
                if request == SEND:
                    socket.send_fds(peer, [SEND], [self._listener.fileno()])
                    self._listener.close()
                elif request == SHUTDOWN:
                    peer.send(b'"GradualShutdown"')

    def exit(self):
        """What Shotover does in the end, whoever has the path by then."""
        self.join(TIMEOUT_S)
        os.unlink(self.path)
        self._control.close()


def test_a_predecessor_as_shotover_is_taken_over(topology, port, tmp_path):
    """It hands over and unlinks the path as it exits: our file is put back, and a reload works."""
    path = str(tmp_path / "control")
    predecessor = Predecessor(path, socket.create_server(("127.0.0.1", port)))
    predecessor.start()
    with Rig(topology, hotreload_socket=path) as rig:
        eventually(lambda: peer_pid(path) == rig.pid)
        predecessor.exit()
        assert [request[:9] for request in predecessor.requests] == [
            b'{"Hello":', SEND[:9], SHUTDOWN[:9]]
        eventually(lambda: peer_pid(path) == rig.pid)
        assert (rig.replace().code, rig.settle().serving != rig.pid) == (0, True)
        with Client(port) as client:
            client.ask(b"PING\r\n", b"+PONG\r\n")
