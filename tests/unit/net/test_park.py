"""A greenlet waits for its streams, is woken, and loses nothing by it."""

import time

import gevent

from shotover_gevent.net.park import Park
from shotover_gevent.net.stream import ReceiveBuffer, Stream


def test_bytes_that_nobody_waits_for_do_not_spin_the_hub(pair):
    """A watcher that fires while its greenlet is elsewhere stops itself."""
    left, right = pair

    def busy():
        stream = Stream(left, Park(), ReceiveBuffer())
        right.send(b"x")
        gevent.sleep(0.02)
        stopped = stream.is_stopped
        count = stream.read()
        stream.close()
        return stopped, count

    assert gevent.spawn(busy).get(timeout=5) == (True, 1)


def test_a_wake_ends_the_wait_without_taking_bytes(pair):
    """What arrives after a wake is still there."""
    left, right = pair
    parks = []

    def waiter():
        park = Park()
        parks.append(park)
        stream = Stream(left, park, ReceiveBuffer())
        woken = park.wait_any()
        right.send(b"later")
        readable = park.wait_any()
        count = stream.receive()
        stream.close()
        return woken, readable is stream, count

    greenlet = gevent.spawn(waiter)
    gevent.sleep(0)
    parks[0].wake()
    assert greenlet.get(timeout=5) == (None, True, 5)


def test_a_wake_before_the_wait_is_not_lost(pair):
    """A session that is busy when told to stop notices at its next park."""
    left, _ = pair

    def waiter():
        park = Park()
        stream = Stream(left, park, ReceiveBuffer())
        park.wake()
        gevent.sleep(0.01)
        woken = park.wait_any()
        stream.close()
        return woken

    assert gevent.spawn(waiter).get(timeout=5) is None


def test_a_wait_for_any_ends_at_its_timeout(pair):
    """A timeout looks like a wake."""
    left, _ = pair

    def waiter():
        park = Park()
        stream = Stream(left, park, ReceiveBuffer())
        result = park.wait_any(0.01)
        stream.close()
        return result

    assert gevent.spawn(waiter).get(timeout=5) is None


def test_a_timeout_leaves_no_wake_behind(pair):
    """Bytes that come in the same moment as the timeout count, and the next wait waits."""
    left, right = pair

    def both_at_once():
        right.send(b"x")
        time.sleep(0.02)  # the timer is over when the hub looks next

    def waiter():
        park = Park()
        stream = Stream(left, park, ReceiveBuffer())
        found = []
        for _ in range(5):
            park.loop.run_callback(both_at_once)
            while park.wait_any(0.01) is not stream:
                pass
            stream.receive()
            started = time.monotonic()
            found.append((park.wait_any(0.02), time.monotonic() - started > 0.015))
        stream.close()
        return found

    assert gevent.spawn(waiter).get(timeout=5) == [(None, True)] * 5
