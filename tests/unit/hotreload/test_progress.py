"""A reload says what it is doing, and never waits to say it."""

import os
import socket

from shotover_gevent.hotreload.notify import COMMAND_VARIABLE, PROGRESS, Notifier, parse


def receiver(folder):
    """The socket of a command that reloads, and its path."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.bind(os.fspath(folder / "notify"))
    return sock, os.fspath(folder / "notify")


def test_the_command_is_told(tmp_path):
    """Nothing else is in the message: it is neither the end nor a failure."""
    sock, path = receiver(tmp_path)
    with sock:
        Notifier({COMMAND_VARIABLE: path}).progress("has 50 of 812 sessions")
        assert parse(sock.recv(65536)) == {PROGRESS: "has 50 of 812 sessions"}


def test_a_text_that_nobody_reads_is_lost(tmp_path):
    """A full queue, or no socket any more, is no reason to stop."""
    sock, path = receiver(tmp_path)
    with sock:
        notifier = Notifier({COMMAND_VARIABLE: path})
        for number in range(2000):
            notifier.progress(f"step {number}")
    os.unlink(path)
    notifier.progress("gone")


def test_without_a_command_nobody_is_told():
    """A process that was started by other means."""
    Notifier({}).progress("alone")
