"""The control socket's file is made without a gap, and what is not ours is never touched."""

import os
import socket
import stat
import subprocess
import sys

import pytest

from shotover_gevent.errors import HotReloadError, causes
from shotover_gevent.hotreload import socketfile
from shotover_gevent.hotreload.socketfile import Absent, ControlSocket, Live, Stale, inspect

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
NOBODY = 65534


@pytest.fixture
def control(path):
    """A control socket at its path."""
    made = ControlSocket.bind(path)
    yield made
    made.close()


def refusal(call, *arguments):
    """The texts of the error that ``call`` raises."""
    with pytest.raises(HotReloadError) as caught:
        call(*arguments)
    return list(causes(caught.value))


def test_a_bound_socket_listens_and_is_private(control, folder):
    """Mode 0600 whatever the umask, of the right type, with nothing beside it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(control.path)
    assert stat.S_IMODE(os.lstat(control.path).st_mode) == 0o600
    assert os.listdir(folder) == ["control.sock"]
    assert os.get_inheritable(control.socket.fileno()) is False
    assert control.socket.gettimeout() == 0.0


def test_the_umask_is_left_alone(path):
    """It belongs to the whole process."""
    before = os.umask(0)
    try:
        ControlSocket.bind(path).close()
        during = os.umask(0)
    finally:
        os.umask(before)
    assert (during, stat.S_IMODE(os.lstat(path).st_mode)) == (0, 0o600)


def test_inspecting_tells_absent_stale_and_live(path, control):
    """A file that nobody holds is stale; a removed one absent."""
    live = inspect(path)
    found = [live, live.pid]
    control.close()
    found.append(inspect(path))
    os.unlink(path)
    found.append(inspect(path))
    assert found == [Live(path), os.getpid(), Stale(), Absent()]


def test_inspecting_connects_to_nothing(path, control):
    """The process that serves never sees it."""
    inspect(path)
    with pytest.raises(BlockingIOError):
        control.socket.accept()


def test_asking_a_dead_socket_for_its_process_fails_in_order(path, control):
    """The process may end between two looks."""
    live = inspect(path)
    control.close()
    assert refusal(lambda: live.pid) == [
        f"Failed to connect to hot reload server at: {path}", "Connection refused (os error 111)"]


def test_a_stale_file_is_replaced(path, control):
    """What a killed process left behind stops nobody."""
    control.close()
    again = ControlSocket.bind(path)
    found = control.is_in_place(), again.is_in_place()
    again.close()
    assert found == (False, True)


def test_binding_over_a_live_socket_leaves_no_gap(path, control):
    """A successor's socket takes the place of its predecessor's, which goes on but is not found."""
    successor = ControlSocket.bind(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(path)
        accepted, _ = successor.socket.accept()
        accepted.close()
    with pytest.raises(BlockingIOError):
        control.socket.accept()
    found = control.unlink_if_ours(), os.path.exists(path)
    successor.close()
    assert found == (False, True)


def test_only_the_own_file_is_removed(path, control):
    """Ours once, and never one that somebody else put in its place."""
    found = [control.unlink_if_ours(), os.path.lexists(path), control.unlink_if_ours()]
    with open(path, "w"):
        pass
    found += [control.unlink_if_ours(), os.path.lexists(path)]
    assert found == [True, False, False, False, True]


def make_file(path):
    """A regular file."""
    with open(path, "w") as file:
        file.write("precious")


def make_dangling(path):
    """A symbolic link to nowhere."""
    os.symlink(path + ".nowhere", path)


def make_link_to_socket(path):
    """A symbolic link to a stale socket of ours."""
    ControlSocket.bind(path + ".target").close()
    os.symlink(path + ".target", path)


@pytest.mark.parametrize(
    "make,what",
    [(make_file, "a file"), (os.mkdir, "a directory"), (os.mkfifo, "a device or pipe"),
     (make_dangling, "a symbolic link"), (make_link_to_socket, "a symbolic link")],
)
def test_what_is_no_socket_is_refused_and_kept(path, folder, make, what):
    """Neither looking nor binding changes anything."""
    make(path)
    before = os.lstat(path), sorted(os.listdir(folder))
    expected = [f"Cannot use {path} as the hot reload socket: it is {what}, not a socket"]
    assert [refusal(inspect, path), refusal(ControlSocket.bind, path)] == [expected, expected]
    assert (os.lstat(path), sorted(os.listdir(folder))) == before


@pytest.mark.parametrize("is_removed,found", [(True, Absent()), (False, Stale())])
def test_a_process_that_ends_meanwhile_is_gone(path, control, monkeypatch, is_removed, found):
    """Between two looks its socket closes, and its file may vanish; that is no other program's."""
    probe = socketfile._probe

    def look(path, kind):
        code = probe(path, kind)
        if is_removed:
            control.unlink_if_ours()
        control.close()
        return code

    monkeypatch.setattr(socketfile, "_probe", look)
    assert inspect(path) == found


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_the_socket_of_another_program_is_refused_and_kept(path, kind):
    """Its type gives it away; its program goes on with it."""
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(path)
        if kind == socket.SOCK_STREAM:
            other.listen()
        before = os.lstat(path)
        expected = [
            f"Cannot use {path} as the hot reload socket: it is the socket of another program: "
            "its type is not SOCK_SEQPACKET"]
        assert [refusal(inspect, path), refusal(ControlSocket.bind, path)] == [expected, expected]
        assert os.lstat(path).st_ino == before.st_ino


@needs_root
def test_another_users_socket_is_refused_and_kept(path, control):
    """Even by root: it is not this service's."""
    os.chown(path, NOBODY, NOBODY)
    expected = [f"Cannot use {path} as the hot reload socket: it belongs to user 65534, not to 0"]
    assert [refusal(inspect, path), refusal(ControlSocket.bind, path)] == [expected, expected]
    assert control.is_in_place()


def path_of(folder, length):
    """A path in ``folder`` of that many bytes."""
    return os.path.join(folder, "x" * (length - len(folder) - 1))


@pytest.mark.parametrize("length", [90, 98, 99, 107])
def test_a_path_may_be_as_long_as_the_kernel_allows(folder, length):
    """The name that it is bound to at first does not make it shorter."""
    path = path_of(folder, length)
    control = ControlSocket.bind(path)
    found = isinstance(inspect(path), Live), os.listdir(folder), control.unlink_if_ours()
    control.close()
    assert found == (True, [os.path.basename(path)], True)


@pytest.mark.parametrize("call", [inspect, ControlSocket.bind])
def test_a_longer_path_is_refused(folder, call):
    """The error says how long it is and how long it may be."""
    path = path_of(folder, 108)
    assert refusal(call, path) == [
        f"Cannot use {path} as the hot reload socket: "
        "it has 108 bytes, and the path of a socket has at most 107"]


@pytest.mark.parametrize("bad", ["", "\0abstract", "a\0b"])
def test_what_is_no_path_is_refused(bad):
    """Neither an empty nor an abstract name is a file."""
    assert refusal(inspect, bad) == [f"{bad!r} is not a path for the hot reload socket"]


def test_a_missing_directory_is_named(folder):
    """Nothing is there, and nothing can be made there."""
    path = os.path.join(folder, "missing", "control.sock")
    assert inspect(path) == Absent()
    assert refusal(ControlSocket.bind, path) == [
        f"Cannot use {path} as the hot reload socket: "
        f"the directory {folder}/missing does not exist",
        "No such file or directory (os error 2)"]


def test_a_file_as_directory_is_refused(folder):
    """The cause is the system's."""
    make_file(os.path.join(folder, "file"))
    path = os.path.join(folder, "file", "control.sock")
    assert refusal(inspect, path) == [
        f"Cannot use {path} as the hot reload socket: it cannot be examined",
        "Not a directory (os error 20)"]


_BIND_AS = """
import os, sys
from shotover_gevent.errors import HotReloadError, causes
from shotover_gevent.hotreload import socketfile
from shotover_gevent.hotreload.socketfile import ControlSocket
if os.geteuid() == 0:
    os.setuid(65534)
try:
    ControlSocket.bind(sys.argv[1])
except HotReloadError as error:
    print("\\n".join(causes(error)))
"""


def test_a_read_only_directory_is_named(folder, path):
    """A user who may not write there learns where."""
    os.chmod(folder, 0o555)
    result = subprocess.run(
        [sys.executable, "-c", _BIND_AS, path], capture_output=True, text=True, timeout=20)
    os.chmod(folder, 0o755)
    assert (result.stdout.splitlines(), os.listdir(folder)) == (
        [f"Cannot use {path} as the hot reload socket: no file can be made in the directory {folder}",
         "Permission denied (os error 13)"], [])
