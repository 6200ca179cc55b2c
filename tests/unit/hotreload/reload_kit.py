"""What the tests of the reload share: a host with real listeners, and both sides to play against."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import gevent
import pytest
from gevent import socket as gsocket

from shotover_gevent.errors import HotReloadError, causes
from shotover_gevent.hotreload.protocol import ListenerResponse
from shotover_gevent.hotreload.server import HotReloadServer
from shotover_gevent.net.address import Address
from shotover_gevent.net.fdpass import close_all

SEND = b'"SendListeningSockets"'
SHUTDOWN = b'{"GradualShutdown":{"duration":{"secs":60,"nanos":0}}}'
SHUTDOWN_DONE = b'"GradualShutdown"'

SO_COOKIE = 57


def wait_until(check, timeout_s=5.0):
    """Poll until ``check()`` is true, letting other greenlets run; its value."""
    end = time.monotonic() + timeout_s
    while not (value := check()):
        assert time.monotonic() < end, f"not within {timeout_s} s"
        gevent.sleep(0.002)
    return value


def cookie(sock):
    """The kernel's identity of a socket: equal for all descriptors of one socket."""
    return sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8)


def open_count():
    """How many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


def listener(host="127.0.0.1", port=0):
    """A listening, non-blocking TCP socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, port), family=family)
    sock.setblocking(False)
    return sock


class Host:
    """A host with real listeners. ``lent`` are the copies given away, ``retired`` the drain times."""

    def __init__(self, count=1):
        self.listeners = [listener() for _ in range(count)]
        self.copies_per_listener = 1
        self.lent = []
        self.retired = []
        self.is_retired = False

    def lend_listeners(self):
        """A copy of each listener."""
        copies = [each.dup() for each in self.listeners for _ in range(self.copies_per_listener)]
        self.lent += copies
        return [ListenerResponse(Address.of(each.getsockname()), each) for each in copies]

    def retire(self, seconds):
        """Close the listeners, as the proxy does."""
        self.is_retired = True
        self.retired.append(seconds)
        self.close()

    def close(self):
        """Close what is still here."""
        for each in self.listeners:
            each.close()


@contextmanager
def serving(path, host=None, **options):
    """A started server for ``host``; everything is closed at the end, the lent copies by the server."""
    host = host or Host()
    server = HotReloadServer(path, host, **options)
    try:
        server.start()
        yield server
    finally:
        server.close()
        host.close()


def connect(path):
    """A cooperative connection to the control socket."""
    sock = gsocket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(5)
    sock.connect(str(path))
    return sock


def receive(sock):
    """The next packet and its sockets."""
    data, ancillary, _, _ = sock.recvmsg(65536, socket.CMSG_SPACE(4 * 253))
    numbers = []
    for _, _, content in ancillary:
        numbers += memoryview(content).cast("i").tolist()
    return data, [socket.socket(fileno=number) for number in numbers]


def ask(path, data):
    """One request from this process: the answer's bytes, and its sockets, which are the caller's."""
    with connect(path) as sock:
        sock.send(data)
        return receive(sock)


def is_serving(path, host):
    """Whether a reload by this process is possible: the sockets are lent, and are the host's."""
    data, sockets = ask(path, SEND)
    found = data, [cookie(each) for each in sockets]
    close_all(sockets)
    return found == (SEND, [cookie(each) for each in host.listeners])


def error(text):
    """The packet of a refusal."""
    return json.dumps({"Error": text}, separators=(",", ":")).encode()


_SUCCESSOR = """
import json, os, socket, sys
path, uid = sys.argv[1], int(sys.argv[2])
if uid:
    os.setgid(uid); os.setuid(uid)
held = []
for line in sys.stdin:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(5)
    try:
        sock.connect(path)
        sock.send(line.strip().encode())
        data, ancillary, _, _ = sock.recvmsg(65536, socket.CMSG_SPACE(4 * 253))
        count = sum(len(content) // 4 for _, _, content in ancillary)
        held.append(ancillary)
        print(json.dumps([data.decode(), count]), flush=True)
    except OSError as error:
        print(json.dumps([repr(error), -1]), flush=True)
    sock.close()
"""


class Successor:
    """Another process that speaks Shotover's dialect with nothing of the code under test."""

    def __init__(self, path, uid=0):
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", _SUCCESSOR, str(path), str(uid)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    @property
    def pid(self):
        """Its process id."""
        return self.process.pid

    def ask(self, data):
        """Have it make one request; the answer's bytes and how many descriptors it got and keeps."""
        self.process.stdin.write(data + b"\n")
        self.process.stdin.flush()
        line = b""
        while not line.endswith(b"\n"):
            gsocket.wait_read(self.process.stdout.fileno(), 10)
            read = os.read(self.process.stdout.fileno(), 4096)
            assert read, "the successor has ended"
            line += read
        text, count = json.loads(line)
        return text.encode(), count

    def kill(self):
        """End it as the kernel would, without a word."""
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.kill()
        self.process.stdin.close()
        self.process.stdout.close()


class Predecessor:
    """A predecessor that gives one scripted answer per connection, and notes what it was asked.

    An answer is ``(bytes, sockets)``, ``None`` to close without one, or a function of the socket.
    """

    def __init__(self, path, *answers):
        self.asked = []
        self.socket = gsocket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.bind(path)
        self.socket.listen(4)
        self.greenlet = gevent.spawn(self.run, answers)

    def run(self, answers):
        """Serve the connections one after another, as Shotover does."""
        for answer in answers:
            sock, _ = self.socket.accept()
            with sock:
                self.asked.append(sock.recv(65536))
                if callable(answer):
                    answer(sock)
                elif answer is not None:
                    data, sockets = answer
                    if sockets:
                        socket.send_fds(sock, [data], [each.fileno() for each in sockets])
                    else:
                        sock.send(data)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.greenlet.kill()
        self.socket.close()


def refusal(call, *arguments):
    """The texts of the error that ``call`` raises."""
    with pytest.raises(HotReloadError) as caught:
        call(*arguments)
    return list(causes(caught.value))


def addresses(host):
    """Where the listeners of ``host`` listen."""
    return [Address.of(each.getsockname()) for each in host.listeners]
