"""Streams wake their greenlet only while it waits for them, and lose no byte."""

import os
import socket
import time

import gevent
import pytest

from shotover_gevent.metrics import Histogram
from shotover_gevent.net.park import Park
from shotover_gevent.net.stream import ReceiveBuffer, Stream, close_gently


def test_a_read_waits_for_bytes_and_sees_the_end(pair):
    """read() gives the count, then 0 at the end of the stream."""
    left, right = pair
    buffer = ReceiveBuffer()
    found = []

    def reader():
        stream = Stream(left, Park(), buffer)
        while count := stream.read():
            found.append(bytes(buffer.view[:count]))
        stream.close()

    greenlet = gevent.spawn(reader)
    gevent.sleep(0)
    right.send(b"one")
    gevent.sleep(0.01)
    right.send(b"two")
    gevent.sleep(0.01)
    right.shutdown(socket.SHUT_WR)
    greenlet.get(timeout=5)
    assert found == [b"one", b"two"]


def test_a_large_send_goes_out_as_the_peer_reads(pair):
    """What the kernel does not take at once is sent later, in order."""
    left, right = pair
    data = os.urandom(4_000_000)
    right.setblocking(False)

    def sender():
        stream = Stream(left, Park(), ReceiveBuffer())
        stream.send(data)
        stream.close()

    greenlet = gevent.spawn(sender)
    received = bytearray()
    while len(received) < len(data):
        gevent.socket.wait_read(right.fileno(), timeout=5)
        received += right.recv(1 << 20)
    greenlet.get(timeout=5)
    assert received == data


def test_a_paused_stream_wakes_nobody(pair):
    """Back-pressure: a paused stream is not read until it is resumed."""
    left, right = pair

    def waiter():
        park = Park()
        stream = Stream(left, park, ReceiveBuffer())
        stream.pause()
        right.send(b"x")
        first = park.wait_any(0.02)
        stream.resume()
        second = park.wait_any(5)
        stream.close()
        return first, second is stream

    assert gevent.spawn(waiter).get(timeout=5) == (None, True)


def test_the_end_of_a_peer_shows_behind_unread_bytes():
    """has_ended() looks past bytes that wait to be read."""
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    accepted, _ = listener.accept()

    def look():
        stream = Stream(accepted, Park(), ReceiveBuffer())
        before = stream.has_ended()
        client.send(b"unread")
        client.close()
        gevent.sleep(0.02)
        after = stream.has_ended()
        stream.close()
        return before, after

    result = gevent.spawn(look).get(timeout=5)
    listener.close()
    assert result == (False, True)


def test_a_gentle_close_lets_the_peer_read_everything():
    """Bytes that arrive during the close do not reset the connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    accepted, _ = listener.accept()

    def serve():
        stream = Stream(accepted, Park(), ReceiveBuffer())
        stream.send(b"x" * 1000)
        client.send(b"never read")
        close_gently(stream, 1.0)

    greenlet = gevent.spawn(serve)
    gevent.sleep(0.02)
    received = b""
    client.setblocking(False)
    while True:
        gevent.socket.wait_read(client.fileno(), timeout=5)
        data = client.recv(4096)
        if not data:
            break
        received += data
    client.close()
    greenlet.get(timeout=5)
    listener.close()
    assert received == b"x" * 1000


def test_a_detached_socket_stays_open(pair):
    """detach() gives the socket back to the caller."""
    left, right = pair

    def run():
        stream = Stream(left, Park(), ReceiveBuffer())
        sock = stream.detach()
        right.send(b"x")
        return sock is left, stream.is_closed, sock.recv(1)

    assert gevent.spawn(run).get(timeout=5) == (True, True, b"x")


def test_a_reset_at_the_close_shows_as_one(pair):
    """A peer cannot take what it got for everything."""
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    accepted, _ = listener.accept()
    listener.close()
    stream = Stream(accepted, Park(), ReceiveBuffer())
    stream.send(b"part")
    stream.reset_at_close()
    stream.close()
    with pytest.raises(ConnectionResetError):
        assert client.recv(10) == b"part"
        client.recv(10)
    client.close()


def test_a_gentle_close_reads_a_paused_stream(pair):
    """A peer that was made to wait is read to its end, and not left until the time is over."""
    left, right = pair
    right.setblocking(False)

    def serve():
        stream = Stream(left, Park(), ReceiveBuffer())
        stream.pause()
        close_gently(stream, 60.0)

    greenlet = gevent.spawn(serve)
    gevent.socket.wait_read(right.fileno(), timeout=5)
    right.close()
    greenlet.get(timeout=5)


def test_what_is_sent_soon_leaves_at_the_end_of_the_turn(pair):
    """Two greenlets of one turn have not sent when the second one parks; then both have."""
    left, right = pair
    other_left, other_right = socket.socketpair()
    buffer = ReceiveBuffer()
    seen = []

    def ask(sock, data):
        stream = Stream(sock, Park(), buffer)
        stream.send_soon(data)
        seen.append(waiting(right) + waiting(other_right))
        count = stream.read()
        stream.close()
        return bytes(buffer.view[:count])

    asking = [gevent.spawn(ask, left, b"one"), gevent.spawn(ask, other_left, b"two")]
    gevent.sleep(0.01)
    assert (seen, right.recv(10), other_right.recv(10)) == ([b"", b""], b"one", b"two")
    right.send(b"1")
    other_right.send(b"2")
    assert [each.get(timeout=5) for each in asking] == [b"1", b"2"]
    other_right.close()


def waiting(sock):
    """The bytes that wait to be read, without reading them."""
    try:
        return sock.recv(100, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b""


def test_what_the_kernel_does_not_take_soon_is_sent_by_the_reader(pair):
    """All of it arrives, as the peer reads, before the answer is read."""
    left, right = pair
    data = bytes(range(256)) * 20_000

    def ask():
        stream = Stream(left, Park(), ReceiveBuffer())
        stream.send_soon(data)
        count = stream.read()
        stream.close()
        return count

    asking = gevent.spawn(ask)
    gevent.sleep(0.01)
    received = drain(right, len(data))
    right.send(b"ok")
    assert (asking.get(timeout=5), received == data) == (2, True)


def test_what_cannot_be_sent_soon_is_raised_by_the_reader(pair):
    """As send() would have raised it."""
    left, right = pair
    right.close()

    def ask():
        stream = Stream(left, Park(), ReceiveBuffer())
        stream.send_soon(b"x")
        with pytest.raises(BrokenPipeError):
            stream.read()
        stream.close()
        return True

    assert gevent.spawn(ask).get(timeout=5)


def test_an_idle_greenlet_is_woken_for_what_is_left(pair):
    """It settles that, and nothing is read of the peer before."""
    left, right = pair
    data = bytes(range(256)) * 20_000
    events = []

    def serve():
        park = Park()
        stream = Stream(left, park, ReceiveBuffer())
        stream.send_soon(data)
        while not events or events[-1] is not stream:
            events.append(park.wait_any())
            if events[-1] is None:
                stream.settle()
        stream.close()

    serving = gevent.spawn(serve)
    gevent.sleep(0.01)
    right.send(b"next")
    gevent.sleep(0.01)
    early = list(events)
    received = drain(right, len(data))
    serving.get(timeout=5)
    assert (early, len(events), received == data) == ([None], 2, True)


def drain(sock, size):
    """So many bytes, while the hub runs."""
    received = bytearray()
    sock.setblocking(False)
    with gevent.Timeout(5):
        while len(received) < size:
            try:
                received += sock.recv(1 << 20)
            except BlockingIOError:
                gevent.sleep(0.001)
    return bytes(received)


@pytest.mark.parametrize("size", [3, 5_000_000])
@pytest.mark.parametrize("end", ["send", "send_soon", "shutdown_send"])
def test_whatever_sends_next_sends_what_was_put_off_first(pair, size, end):
    """The order is kept, also where the kernel does not take all at once."""
    left, right = pair
    first, more = b"x" * size, b"" if end == "shutdown_send" else b"yz"

    def serve():
        stream = Stream(left, Park(), ReceiveBuffer())
        stream.send_soon(first)
        getattr(stream, end)(*([more] if more else []))
        gevent.sleep(0)
        gevent.sleep(0.01)
        stream.close()

    serving = gevent.spawn(serve)
    received = drain(right, len(first + more))
    serving.get(timeout=5)
    assert (received == first + more, right.recv(10)) == (True, b"")


def test_what_was_put_off_can_be_sent_now(pair):
    """All or a part of it; each latency is taken, and once."""
    left, right = pair
    parts, latencies = [], []

    def serve():
        stream = Stream(left, Park(), ReceiveBuffer())
        for data in (b"", b"x", b"y" * 5_000_000):
            latency = Histogram()
            latencies.append(latency)
            if data:
                stream.send_soon(data, latency, time.perf_counter() - 100)
            parts.append((stream.send_now(), stream.send_now()))
        stream.settle()
        stream.close()

    serving = gevent.spawn(serve)
    received = drain(right, 5_000_001)
    serving.get(timeout=5)
    assert parts == [(True, True), (True, True), (False, False)]
    assert (len(received), [each.counts[-1] for each in latencies]) == (5_000_001, [0, 1, 1])


def test_a_stream_that_is_closed_in_the_meantime_sends_nothing(pair):
    """Whoever waited for the answer has gone."""
    left, right = pair

    def ask():
        stream = Stream(left, Park(), ReceiveBuffer())
        stream.send_soon(b"x")
        stream.close()

    gevent.spawn(ask).get(timeout=5)
    gevent.sleep(0.01)
    assert right.recv(10) == b""
