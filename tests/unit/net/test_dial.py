"""Dialling ends at its deadline, tries every address, and leaves nothing open."""

from __future__ import annotations

import socket

import gevent
import pytest
from gevent import socket as gsocket

from shotover_gevent.errors import UpstreamError, causes
from shotover_gevent.net.address import Address
from shotover_gevent.net.dial import dial, rust_duration
from shotover_gevent.testing.port import free_port
from tests.inprocess import keeps_descriptors


@pytest.fixture
def listener():
    """A listening socket; the kernel completes connections to it."""
    sock = socket.create_server(("127.0.0.1", 0))
    yield sock
    sock.close()


@pytest.fixture
def full():
    """The address of a socket whose queue is full: connecting to it waits."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(0)
    filler = socket.create_connection(sock.getsockname())
    yield Address.of(sock.getsockname())
    filler.close()
    sock.close()


def failure(address, timeout_s=1.0):
    """The texts of the error, outermost first."""
    with keeps_descriptors():
        with pytest.raises(UpstreamError) as caught:
            dial(address, timeout_s)
    return list(causes(caught.value))


def resolve_to(monkeypatch, *addresses):
    """Let every host name have these addresses."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a.host, a.port)) for a in addresses]
    monkeypatch.setattr(gsocket, "getaddrinfo", lambda *args, **kwargs: found)


def test_a_connection_is_tuned_and_does_not_block(listener):
    """No delay, keep-alive, and the caller owns it."""
    sock = dial(Address.of(listener.getsockname()), 1.0)
    found = (
        sock.gettimeout(), sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), sock.getpeername())
    sock.close()
    assert found == (0.0, 1, 1, listener.getsockname())


def test_a_refused_connection_names_the_error_of_the_system():
    """The texts are Shotover's."""
    address = Address("127.0.0.1", free_port())
    assert failure(address) == [
        f"Failed to connect to destination {address}", "Connection refused (os error 111)"]


@pytest.mark.parametrize(("timeout_s", "text"), [(0.05, "50ms"), (0, "0ns")])
def test_a_server_that_does_not_answer_is_given_up_at_the_deadline(full, timeout_s, text):
    """There is no cause but the time."""
    assert failure(full, timeout_s) == [
        f"destination {full} did not respond to connection attempt within {text}"]


def test_the_next_address_of_a_name_is_tried(monkeypatch, listener):
    """One refusal does not matter while another address answers."""
    good = Address.of(listener.getsockname())
    resolve_to(monkeypatch, Address("127.0.0.1", free_port()), good)
    sock = dial(Address("db.example", 1), 1.0)
    peer = Address.of(sock.getpeername())
    sock.close()
    assert peer == good


def test_all_addresses_of_a_name_share_the_time(monkeypatch, full):
    """An address that waits uses up what the others would have."""
    resolve_to(monkeypatch, full, full)
    address = Address("db.example", 1)
    with gevent.Timeout(1.0):
        assert failure(address, 0.05) == [
            "destination db.example:1 did not respond to connection attempt within 50ms"]


def test_a_name_that_does_not_exist_is_said_so(monkeypatch):
    """In the words of the resolver, not as a number of the system."""

    def fail(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(gsocket, "getaddrinfo", fail)
    assert failure(Address("db.example", 1)) == [
        "Failed to connect to destination db.example:1",
        "failed to lookup address information: Name or service not known"]


def test_a_resolver_that_hangs_is_given_up_at_the_deadline(monkeypatch):
    """Looking up a name is a part of connecting."""
    monkeypatch.setattr(gsocket, "getaddrinfo", lambda *args, **kwargs: gevent.sleep(5))
    assert failure(Address("db.example", 1), 0.05) == [
        "destination db.example:1 did not respond to connection attempt within 50ms"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0ns"), (0.001, "1ms"), (0.5, "500ms"), (1.5, "1.5s"), (3, "3s"), (60, "60s")])
def test_durations_are_printed_as_rust_does(seconds, text):
    """As ``{:?}`` of a ``Duration``."""
    assert rust_duration(seconds) == text
