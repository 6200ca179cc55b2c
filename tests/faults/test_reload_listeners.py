"""Which listeners pass to a successor, proved by the kernel's identity of the sockets."""

import signal

import pytest

from tests.faults.rig import Rig, end, listening
from tests.harness import Client, free_port
from tests.proxies import is_refused

SOURCE = """
  - Valkey:
      name: "{name}"
      listen_addr: "{address}"
      chain:
        - DebugReturner:
            name: "{name}"
            Valkey: "{name}"
"""


def sources(*addresses):
    """A topology with a source at each address; it answers every request with its place."""
    return "sources:" + ("".join(
        SOURCE.format(name=f"s{number}", address=address)
        for number, address in enumerate(addresses)) or " []\n")


def local(*ports):
    """Addresses of this machine."""
    return [f"127.0.0.1:{port}" for port in ports]


def test_the_successor_has_the_same_socket(rig):
    """It is not bound anew, and the predecessor gives it up."""
    before = listening(rig.pid)
    assert rig.replace().code == 0
    after = rig.settle().serving
    assert (listening(after), len(before), after != rig.pid) == (before, 1, True)


def test_clients_in_the_queue_at_the_switch_are_served(rig, port):
    """Two hundred connect when nobody accepts: the successor serves them all."""
    point = "successor:confirmed"
    with rig.begin(stop_at=point) as reload:
        pid = rig.stopped(point, reload)
        clients = [Client(port) for _ in range(200)]
        try:
            for client in clients:
                client.send(b"PING\r\n")
            end(pid, signal.SIGCONT)
            replies = [client.receive(7) for client in clients]
        finally:
            for client in clients:
                client.close()
        assert (reload.end().code, set(replies)) == (0, {b"+PONG\r\n"})


def test_listeners_are_added_and_removed(dialect):
    """What stays is the same socket, what goes is refused, what comes is served."""
    stays, goes, comes = free_port(), free_port(), free_port()
    with Rig(sources(*local(goes, stays)), dialect) as rig:
        before = listening(rig.pid)
        rig.write_topology(sources(*local(stays, comes)))
        ended = rig.replace()
        after = listening(rig.settle().serving)
        kept = {address: inode for address, inode in after.items() if before.get(address) == inode}
        assert (ended.code, ended.report["listeners"]["kept"] if dialect == "ours" else 1) == (0, 1)
        assert (len(after), len(kept), is_refused(goes)) == (2, 1, True)
        for port, answer in ((stays, b"$2\r\ns0\r\n"), (comes, b"$2\r\ns1\r\n")):
            with Client(port) as client:
                client.ask(b"PING\r\n", answer)


def test_one_port_on_several_addresses_is_several_listeners(dialect):
    """Each passes to the source of its own address, IPv4 and IPv6, though their order has changed."""
    port = free_port()
    addresses = [f"127.0.0.1:{port}", f"127.0.0.2:{port}", f"[::1]:{port}"]
    with Rig(sources(*addresses), dialect) as rig:
        before = listening(rig.pid)
        rig.write_topology(sources(*reversed(addresses)))
        assert rig.replace().code == 0
        assert (listening(rig.settle().serving), len(before)) == (before, 3)
        for number, host in enumerate(["::1", "127.0.0.2", "127.0.0.1"]):
            with Client((host, port)) as client:
                client.ask(b"PING\r\n", b"$2\r\ns%d\r\n" % number)


@pytest.mark.parametrize("dialect", ["ours"], indirect=True)
def test_a_wildcard_is_not_a_specific_address(dialect):
    """A source moved from one to the other is bound anew, if the old one is gone by then."""
    port = free_port()
    with Rig(sources(f"127.0.0.1:{port}"), dialect) as rig:
        rig.write_topology(sources(f"0.0.0.0:{port}"))
        failed = rig.replace()
        assert (failed.code, rig.settle().serving) == (75, rig.pid)
        with Client(port) as client:
            client.ask(b"PING\r\n", b"$2\r\ns0\r\n")


@pytest.mark.parametrize(
    ("dialect", "count"), [("ours", 0), ("ours", 600), ("shotover", 250)], indirect=["dialect"])
def test_many_listeners_pass(dialect, count):
    """More than fit into one packet in our dialect, as many as fit in Shotover's."""
    ports = [free_port() for _ in range(count)]
    with Rig(sources(*local(*ports)), dialect) as rig:
        before = listening(rig.pid)
        assert rig.replace().code == 0
        assert (listening(rig.settle().serving), len(before)) == (before, count)


@pytest.mark.parametrize("dialect", ["shotover"], indirect=True)
def test_more_than_shotover_takes_are_refused_in_its_dialect(dialect):
    """The reason is told, and the predecessor goes on."""
    ports = [free_port() for _ in range(251)]
    with Rig(sources(*local(*ports)), dialect) as rig:
        failed = rig.replace()
        assert (failed.code, failed.reason, rig.settle().serving) == (
            75, "the successor ended with exit code 75: Hot reload client failed: Hot reload server "
            "returned error: 251 listening sockets do not fit into one packet: 250 do", rig.pid)
