"""Messages of sd_notify(3): their form, and that nobody who does not read them holds up the hub."""

import socket

import gevent
import pytest

from shotover_gevent.hotreload.notify import COMMAND_VARIABLE, VARIABLE, Notifier, parse, send


@pytest.fixture
def receiver(tmp_path):
    """A socket that a message can be sent to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(20)
        sock.bind(str(tmp_path / "notify"))
        yield sock


def received(sock):
    """The next message."""
    return parse(sock.recv(65536))


def fill(path):
    """Send until the queue is full."""
    with pytest.raises(BlockingIOError):
        for _ in range(10_000):
            send(path, 0.0, filler=1)


def test_a_message_has_a_line_for_each_field(receiver):
    """Upper-cased, and a line end in a value is one again when it is read."""
    send(receiver.getsockname(), status="two\nlines", ready=1)
    assert received(receiver) == {"STATUS": "two\nlines", "READY": "1"}


def test_a_name_in_the_abstract_namespace_begins_with_an_at_sign():
    """As ``NOTIFY_SOCKET`` has it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(20)
        sock.bind("")  # the kernel chooses one
        send("@" + sock.getsockname()[1:].decode(), ready=1)
        assert received(sock) == {"READY": "1"}


def test_a_receiver_that_does_not_read_holds_up_nobody(receiver):
    """Other greenlets run while a message waits for its time."""
    fill(receiver.getsockname())
    turns = []

    def turn():
        while True:
            turns.append(1)
            gevent.sleep(0.001)

    turning = gevent.spawn(turn)
    with pytest.raises(TimeoutError):
        send(receiver.getsockname(), 0.1, ready=1)
    turning.kill()
    assert len(turns) > 5


def test_a_watchdog_is_not_heard_twice_when_nobody_reads(receiver, caplog):
    """A full queue is no news."""
    fill(receiver.getsockname())
    notifier = Notifier({VARIABLE: receiver.getsockname(), "WATCHDOG_USEC": "2000"})
    ping = gevent.spawn(notifier._ping, 0.001)
    gevent.sleep(0.02)
    ping.kill()
    assert caplog.messages == []


def test_without_a_manager_nothing_is_sent(caplog):
    """Whoever starts it in a shell wants no messages."""
    notifier = Notifier({"WATCHDOG_USEC": "1000"})
    notifier.ready("serving", None)
    notifier.stopping()
    notifier.replaced(1)
    assert (caplog.messages, notifier.is_successor) == ([], False)


def test_a_manager_that_is_gone_is_worth_a_line(tmp_path, caplog):
    """The process serves all the same."""
    Notifier({VARIABLE: str(tmp_path / "none")}).stopping()
    assert caplog.messages == [f"cannot report to {tmp_path}/none: [Errno 2] No such file or directory"]


def test_the_variable_of_the_command_is_taken_out(receiver):
    """So that no child of ours reports to it; the manager's stays for a successor."""
    environ = {VARIABLE: "m", COMMAND_VARIABLE: receiver.getsockname()}
    notifier = Notifier(environ)
    notifier.failed("because")
    assert (environ, received(receiver), notifier.is_successor) == (
        {VARIABLE: "m"}, {"STATUS": "because"}, True)
