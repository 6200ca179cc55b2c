"""A plan compares what serves with what would serve, and touches nothing."""

import json
import os
import socket
from contextlib import contextmanager

import gevent
import pytest
from reload_kit import ask, connect, listener, receive

from shotover_gevent import Proxy
from shotover_gevent.errors import HotReloadError
from shotover_gevent.hotreload.dialect import fingerprint, is_ours, is_status
from shotover_gevent.hotreload.plan import Change, Plan, ask_status, compare, plan
from shotover_gevent.hotreload.socketfile import ControlSocket
from shotover_gevent.net.address import Address
from shotover_gevent.net.listener import bind_error
from tests.certificates import Authority

STATUS = b'{"Status":{}}'


def topology(address, reply="here", limit=512, name="v", tls=None):
    """One source that answers every request with ``reply``."""
    return {"sources": [{"Valkey": {
        "name": name, "listen_addr": address, "connection_limit": limit, "tls": tls,
        "chain": [{"DebugReturner": {"name": "r", "Valkey": reply}}]}}]}


def sources(address, **options):
    """What a successor would serve, not started."""
    return Proxy(topology(address, **options)).sources


@pytest.fixture
def proxy(path):
    """A serving proxy with a control socket."""
    proxy = Proxy(topology("127.0.0.1:0"), hotreload_socket=path)
    proxy.start()
    gevent.sleep(0)
    yield proxy
    proxy.stop(0)


def status(address, reply="here", sessions=0, tls=None):
    """What a process says that serves that source."""
    (source,) = sources(address, reply=reply, tls=tls)
    return {
        "protocol": 1,
        "listeners": [{"name": "v", "address": address, "identity": fingerprint(source.state_identity)}],
        "sessions": {address: sessions}}


@contextmanager
def peer(path, answer):
    """A process at the control socket that answers its first packet with ``answer``, or closes."""
    control = ControlSocket.bind(path)

    def serve():
        gevent.socket.wait_read(control.socket.fileno(), 5)
        with control.socket.accept()[0] as sock:
            gevent.socket.wait_read(sock.fileno(), 5)
            sock.recv(65536)
            if answer is not None:
                sock.send(json.dumps(answer).encode())

    greenlet = gevent.spawn(serve)
    try:
        yield
    finally:
        greenlet.join(5)
        control.unlink_if_ours()
        control.close()


# -- Status -------------------------------------------------------------------------------------


def test_the_status_tells_listeners_and_sessions_and_ends_the_connection(path, proxy):
    """One packet, then the end; the chain is told by a fingerprint only."""
    (source,) = proxy.sources
    address = str(source.address)
    with connect(path) as sock:
        sock.send(STATUS)
        data, _ = receive(sock)
        end = sock.recv(10)
    assert (json.loads(data), end) == ({"Status": {
        "protocol": 1, "version": "0.1.0", "pid": os.getpid(),
        "listeners": [{"name": "v", "address": address, "type": "Valkey",
                       "identity": fingerprint(source.state_identity)}],
        "sessions": {address: 0}}}, b"")


def test_the_status_is_told_while_a_reload_runs(path, proxy):
    """A conversation in progress is neither in the way nor disturbed, in either dialect."""
    hello = {"Hello": {"protocol": 1, "version": "x", "pid": 1, "gradual_shutdown_seconds": 0}}
    with connect(path) as successor:
        successor.send(json.dumps(hello).encode())
        receive(successor)
        during = ask_status(path)["pid"]
        successor.send(json.dumps({"SendListeningSockets": {"addresses": []}}).encode())
        answer, _ = receive(successor)
    assert (during, list(json.loads(answer))) == (os.getpid(), ["ListeningSockets"])


def test_the_status_is_told_while_the_sockets_are_lent_in_shotovers_dialect(path, proxy):
    """The lease of a Rust Shotover does not hide what is served."""
    _, sockets = ask(path, b'"SendListeningSockets"')
    for each in sockets:
        each.close()
    assert ask_status(path)["sessions"] == {str(proxy.sources[0].address): 0}


def test_a_status_request_is_of_our_dialect():
    """It is told from a request in Shotover's."""
    assert [(is_ours(data), is_ours(data) and is_status(data)) for data in (
        STATUS, b'{"Hello":{}}', b'"SendListeningSockets"')] == [(True, True), (True, False), (False, False)]


@pytest.mark.parametrize("answer,text", [
    (None, "the process that serves cannot say what it serves: it speaks Shotover's dialect only; a "
           "reload would take over its listening sockets and move no session"),
    ({"Error": "no"}, "no"),
    ({"Status": {"protocol": 2}}, "the process that serves speaks protocol 2, not 1"),
    ({"Status": {}}, "field protocol of a message is missing or of the wrong type"),
    ({"Go": {}}, "unexpected message Go; expected Status"),
])
def test_what_is_no_status_is_an_error(path, answer, text):
    """Each says what was found; nothing stays open."""
    with peer(path, answer), pytest.raises(HotReloadError) as caught:
        ask_status(path)
    assert str(caught.value) == text


# -- comparing ----------------------------------------------------------------------------------

HERE = "127.0.0.1:26379"


@pytest.mark.parametrize("before,after,change", [
    ({"sessions": 3}, {}, Change("kept", "v", HERE, 3, 3)),
    ({"sessions": 3, "reply": "was"}, {}, Change("kept", "v", HERE, 3, 0, "the chain has changed")),
    ({"sessions": 3}, {"limit": 2}, Change("kept", "v", HERE, 3, 2, "the connection limit is reached")),
    ({"sessions": 3}, {"name": "w"}, Change("kept", "v", HERE, 3, 3)),
])
def test_a_kept_listener_moves_what_finds_its_chain_again(before, after, change):
    """The name of a source does not matter, its chain and its limit do."""
    assert compare(status(HERE, **before), sources(HERE, **after)) == [change]


def test_sessions_with_tls_do_not_move(tmp_path):
    """Whatever else is equal: their keys cannot leave the process."""
    certificate, key = Authority(tmp_path).issue()
    tls = {"certificate_path": certificate, "private_key_path": key}
    before = status(HERE, sessions=3, tls=tls)
    assert compare(before, sources(HERE, tls=tls)) == [Change("kept", "v", HERE, 3, 0, "tls")]
    assert compare(before, sources(HERE)) == [Change("kept", "v", HERE, 3, 0, "the chain has changed")]


def test_a_listener_that_moves_to_another_address_is_one_removed_and_one_added():
    """Its sessions stay behind."""
    with listener() as probe:
        there = str(Address.of(probe.getsockname()))
    assert compare(status(HERE, sessions=1), sources(there)) == [
        Change("removed", "v", HERE, 1, 0, f"nothing listens at {HERE}"), Change("added", "v", there)]


def test_a_name_and_its_number_are_one_address():
    """The process that serves tells the number that it has bound."""
    (change,) = compare(status(HERE), sources("localhost:26379"))
    assert change.what == "kept"


def test_an_added_address_that_is_in_use_fails_the_plan():
    """What cannot be bound now is told, and is not bound for trying."""
    with listener() as other:
        address = str(Address.of(other.getsockname()))
        result = Plan()
        result.add(compare({"sessions": {}, "listeners": []}, sources(address)))
    assert (result.is_ok, result.reason) == (
        False, f"cannot listen on {address}: Address already in use (os error 98)")


def test_a_plan_adds_up_its_changes():
    """The same keys as in a report; reasons are counted by session."""
    result = Plan(predecessor_pid=41)
    result.add([
        Change("kept", "a", "1.1.1.1:1", 5, 4, "the connection limit is reached"),
        Change("kept", "b", "1.1.1.1:2", 2, 0, "the chain has changed"),
        Change("removed", "c", "1.1.1.1:3"), Change("added", "d", "1.1.1.1:4")])
    assert (result.listeners, result.sessions, result.reasons) == (
        {"kept": 2, "added": 1, "removed": 1}, {"moved": 4, "drained": 3, "kept": 0, "dropped": 0},
        {"the connection limit is reached": 1, "the chain has changed": 2})
    assert result.as_text() == """\
a reload would replace process 41; listeners: 2 kept, 1 added, 1 removed
  kept     1.1.1.1:1  a  sessions: 4 would move, 1 would be drained: the connection limit is reached
  kept     1.1.1.1:2  b  sessions: 2 would be drained: the chain has changed
  removed  1.1.1.1:3  c  no sessions
  added    1.1.1.1:4  d  can be bound
sessions: 4 would move, 3 would be drained
nothing was done"""


@pytest.mark.parametrize("command,text", [
    (["shotover-gevent", "check"], "not a command line of shotover-gevent serve: shotover-gevent check"),
    (["shotover-gevent", "serve", "--wrong"], "the successor's command line is wrong: no such flag"),
])
def test_a_command_line_that_cannot_serve_is_told(path, proxy, command, text):
    """It is read by the parser of the command."""
    def parse(arguments):
        import sys

        print("no such flag", file=sys.stderr)
        raise SystemExit(2)

    result = plan(path, command, parse, Proxy)
    assert (result.verdict, result.reason) == ("failed", text)


# -- binding, for trying ------------------------------------------------------------------------


def test_an_address_that_can_be_bound_stays_free():
    """Trying leaves nothing behind."""
    with listener() as probe:
        address = Address.of(probe.getsockname())
    assert (bind_error(address), bind_error(address)) == (None, None)


def test_a_unix_address_is_judged_by_its_file_and_folder(folder):
    """A stale file will be replaced, a live one is in use; a missing folder is an error."""
    path = os.path.join(folder, "client.sock")
    sock = socket.socket(socket.AF_UNIX)
    results = [bind_error(Address("", 0, path))]
    sock.bind(path)
    sock.listen()
    results.append(bind_error(Address("", 0, path)))
    sock.close()
    results.append(bind_error(Address("", 0, path)))
    results.append(bind_error(Address("", 0, os.path.join(folder, "none", "client.sock"))))
    assert [each and each.errno for each in results] == [None, 98, None, 2]
