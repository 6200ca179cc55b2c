"""The control socket's file: made without a gap, inspected without disturbing, removed if ours.

Rules:
 1. The socket is bound beside its path, listens, and is renamed to the path: at no moment is the
    path absent, or a file that refuses connections. Mode 0600 from its first instant.
 2. What is at the path decides. Nothing: absent. A socket file of our user that no process holds:
    stale, to be replaced. A socket of the right type that a process holds: live. Anything else (a
    file, a directory, a symbolic link, another user's socket, a socket of another type) is refused
    with an error and never touched.
 3. Looking connects to nothing: the kernel tells a socket of another type apart from a file that
    nobody holds, so that a process that serves sees no connection for it.
 4. A file is ours while its device and inode are those of the file that we made. Our open socket
    keeps the inode from being given to another file; so unlink first, then close.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import stat
from dataclasses import dataclass

from shotover_gevent.errors import HotReloadError
from shotover_gevent.hotreload.peer import credentials

# sun_path has 108 bytes, the last of which is zero: unix(7).
MAX_PATH_BYTES = 107

# A reload makes two connections and they are accepted at once; the rest is for those who retry.
BACKLOG = 16

MODE = 0o600


@dataclass(frozen=True, slots=True)
class Absent:
    """There is no file: nobody serves here."""


@dataclass(frozen=True, slots=True)
class Stale:
    """A socket file that nobody holds: its process ended without removing it."""


@dataclass(frozen=True, slots=True)
class Live:
    """A process holds the control socket at ``path``."""

    path: str

    @property
    def pid(self) -> int:
        """Who: asked by a connection that is closed at once. 0 if in another pid namespace."""
        with _unix(socket.SOCK_SEQPACKET) as sock:
            try:
                sock.connect(self.path)
            except OSError as error:
                raise HotReloadError(
                    f"Failed to connect to hot reload server at: {self.path}") from error
            return credentials(sock).pid


def inspect(path: str | os.PathLike[str]) -> Absent | Stale | Live:
    """What is at ``path``. Raises :class:`HotReloadError` for what must not be touched."""
    path = _checked(path)
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return Absent()
    except OSError as error:
        raise _unusable(path, "it cannot be examined") from error
    if not stat.S_ISSOCK(status.st_mode):
        raise _unusable(path, f"it is {_kind(status.st_mode)}, not a socket")
    if status.st_uid != os.geteuid():
        raise _unusable(path, f"it belongs to user {status.st_uid}, not to {os.geteuid()}")
    code = _probe(path, socket.SOCK_DGRAM)
    if code == errno.EPROTOTYPE:
        # Held, and no datagram socket. Whoever holds it may end before the second look.
        code = _probe(path, socket.SOCK_STREAM)
        if code not in (errno.EPROTOTYPE, errno.ENOENT, errno.ECONNREFUSED):
            code = 0
    if code == errno.ENOENT:
        return Absent()
    if code == errno.ECONNREFUSED:
        return Stale()
    if code == 0:
        raise _unusable(path, "it is the socket of another program: its type is not SOCK_SEQPACKET")
    if code != errno.EPROTOTYPE:
        raise _unusable(path, "it cannot be connected to") from OSError(code, os.strerror(code))
    return Live(path)


class ControlSocket:
    """A listening control socket and its file. ``close()`` closes the socket and leaves the file."""

    def __init__(self, path: str, sock: socket.socket, identity: tuple[int, int]) -> None:
        """Take ownership of ``sock``, whose file is at ``path``."""
        self.path = path
        self.socket = sock
        self.identity = identity

    @classmethod
    def bind(cls, path: str | os.PathLike[str]) -> ControlSocket:
        """Listen at ``path``, in the place of any control socket that is there.

        Raises :class:`HotReloadError` for a path that :func:`inspect` refuses, or a directory in
        which no file can be made; nothing is left behind then.
        """
        path = _checked(path)
        inspect(path)
        sock = _unix(socket.SOCK_SEQPACKET)
        try:
            # bind() makes the file with the mode of the socket: so no umask is changed, which
            # would be that of every thread.
            os.fchmod(sock.fileno(), MODE)
            temporary = _bind_beside(sock, path)
            try:
                sock.listen(BACKLOG)
                status = os.lstat(temporary)
                os.rename(temporary, path)
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            sock.close()
            directory = os.path.dirname(path) or "."
            if error.errno == errno.ENOENT:
                reason = f"the directory {directory} does not exist"
            else:
                reason = f"no file can be made in the directory {directory}"
            raise _unusable(path, reason) from error
        except BaseException:
            sock.close()
            raise
        return cls(path, sock, (status.st_dev, status.st_ino))

    def found(self) -> tuple[int, int] | None:
        """Device and inode of what is at the path now; ``None`` when nothing can be seen there."""
        try:
            status = os.lstat(self.path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def is_in_place(self) -> bool:
        """Whether the file at the path is ours."""
        return self.found() == self.identity

    def unlink_if_ours(self) -> bool:
        """Remove the file unless it is another's or gone; whether it was removed.

        Call it before :meth:`close`. A file renamed to the path between the look and the removal
        would be lost; its owner, which looks after its file, makes it again.
        """
        if not self.is_in_place():
            return False
        try:
            os.unlink(self.path)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the socket; connections in its queue are closed with it."""
        self.socket.close()

    def __repr__(self) -> str:
        return f"<ControlSocket {self.path}>"


def _unix(kind: socket.SocketKind) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.setblocking(False)
    return sock


def _probe(path: str, kind: socket.SocketKind) -> int:
    """The error number of connecting a socket of that type to ``path``; 0 if it worked."""
    with _unix(kind) as sock:
        return sock.connect_ex(path)


def _bind_beside(sock: socket.socket, path: str) -> str:
    """Bind to a new name in the directory of ``path`` and return that name."""
    temporary = f"{path}.{secrets.token_hex(4)}"
    if len(os.fsencode(temporary)) <= MAX_PATH_BYTES:
        sock.bind(temporary)
        return temporary
    # The path is so long that no suffix fits: reach its directory by a shorter way.
    directory = os.path.dirname(path)
    name = temporary[-8:]
    number = os.open(directory or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.bind(f"/proc/self/fd/{number}/{name}")
    finally:
        os.close(number)
    return os.path.join(directory, name)


def _checked(path: str | os.PathLike[str]) -> str:
    path = os.fspath(path)
    length = len(os.fsencode(path))
    if length == 0 or "\0" in path:
        raise HotReloadError(f"{path!r} is not a path for the hot reload socket")
    if length > MAX_PATH_BYTES:
        raise _unusable(
            path, f"it has {length} bytes, and the path of a socket has at most {MAX_PATH_BYTES}")
    return path


def _kind(mode: int) -> str:
    for is_kind, name in (
        (stat.S_ISLNK, "a symbolic link"), (stat.S_ISDIR, "a directory"), (stat.S_ISREG, "a file"),
    ):
        if is_kind(mode):
            return name
    return "a device or pipe"


def _unusable(path: str, reason: str) -> HotReloadError:
    return HotReloadError(f"Cannot use {path} as the hot reload socket: {reason}")
