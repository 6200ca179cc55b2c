"""Lines go to a file in the background, and nobody waits for a disk."""

from __future__ import annotations

import logging
import os
import sys
import threading
from pathlib import Path

import gevent
import pytest

from shotover_gevent.metrics import Counter
from shotover_gevent.transforms.access_writer import AccessWriter, AppendedFile
from tests.inprocess import keeps_descriptors


class Disk:
    """A file that fails, or is stuck until it is let go."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.failure: OSError | None = None
        self.is_free = threading.Event()
        self.is_free.set()
        self.is_closed = False

    def write(self, data: bytes) -> None:
        """Called in a thread."""
        self.is_free.wait(10)
        if self.failure is not None:
            raise self.failure
        self.written.append(data)

    def close(self) -> None:
        """The end."""
        self.is_closed = True


def a_writer(disk: Disk, max_pending: int = 1000) -> tuple[AccessWriter, Counter]:
    """A writer to that disk, and what it has dropped."""
    dropped = Counter()
    return AccessWriter(disk, "log", dropped, max_pending), dropped  # type: ignore[arg-type]


def test_lines_are_written_in_order_and_those_that_gather_together() -> None:
    """While one write is on its way, what comes waits for the next."""
    disk = Disk()
    writer, dropped = a_writer(disk)
    disk.is_free.clear()
    writer.put([b"1\n", b"2\n"])
    gevent.sleep(0)
    writer.put([b"3\n"])
    writer.put([b"4\n"])
    disk.is_free.set()
    assert (writer.close(), disk.written, disk.is_closed, dropped.value) == (
        True, [b"1\n2\n", b"3\n4\n"], True, 0)


def test_a_stuck_disk_holds_up_nobody_and_costs_a_bounded_memory() -> None:
    """What does not fit is dropped and counted; there is room again when it was written."""
    disk = Disk()
    writer, dropped = a_writer(disk, max_pending=10)
    disk.is_free.clear()
    writer.put([b"12345678\n", b"2\n", b"\n"])
    gevent.sleep(0)
    writer.put([b"3\n"])
    assert (dropped.value, writer.close(0.01), disk.is_closed) == (2, False, False)
    disk.is_free.set()
    writer.close()
    writer.put([b"4\n"])
    writer.close()
    assert (b"".join(disk.written), dropped.value) == (b"12345678\n\n4\n", 2)


def test_what_cannot_be_written_is_counted_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """And it is told when it works again."""
    caplog.set_level(logging.INFO)
    disk = Disk()
    writer, dropped = a_writer(disk)
    for failure, line in ((OSError(28, ""), b"1\n"), (OSError(28, ""), b"2\n"), (None, b"3\n")):
        disk.failure = failure
        writer.put([line])
        writer.close()
    assert (disk.written, dropped.value, caplog.messages) == (
        [b"3\n"], 2,
        ["access log log loses lines: No space left on device (os error 28)", "access log log is written again"])


def test_a_file_that_was_moved_or_deleted_is_opened_anew(tmp_path: Path) -> None:
    """Which is looked for once a second at most."""
    path, now = tmp_path / "access.log", [10.0]
    with keeps_descriptors():
        file = AppendedFile(str(path), lambda: now[0])
        file.write(b"1\n")
        path.rename(tmp_path / "moved")
        now[0] += 0.9
        file.write(b"2\n")
        now[0] += 0.1
        file.write(b"3\n")
        before = path.read_bytes()
        path.unlink()
        now[0] += 1
        file.write(b"4\n")
        file.close()
    assert ((tmp_path / "moved").read_bytes(), before, path.read_bytes()) == (b"1\n2\n", b"3\n", b"4\n")


def test_lines_are_appended_and_not_for_everybody_to_read(tmp_path: Path) -> None:
    """What is in the file stays."""
    path = tmp_path / "access.log"
    for line in (b"1\n", b"2\n"):
        file = AppendedFile(str(path))
        file.write(line)
        file.close()
    assert (path.read_bytes(), path.stat().st_mode & 0o007) == (b"1\n2\n", 0)


def test_a_line_that_was_cut_off_is_not_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one begins on a line of its own."""
    path, write, limit = tmp_path / "access.log", os.write, [5]

    def full(descriptor: int, data: bytes) -> int:
        if not limit[0]:
            raise OSError(28, "No space left on device")
        count = write(descriptor, bytes(data)[: limit[0]])
        limit[0] -= count
        return count

    file = AppendedFile(str(path))
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError):
        file.write(b"12345678\n")
    monkeypatch.undo()
    file.write(b"next\n")
    file.close()
    assert path.read_bytes() == b"12345\nnext\n"


def test_standard_error_stays_open(capfd: pytest.CaptureFixture[str]) -> None:
    """It belongs to everybody."""
    file = AppendedFile(None)
    file.write(b"line\n")
    file.close()
    assert (os.fstat(sys.stderr.fileno()).st_mode > 0, capfd.readouterr().err) == (True, "line\n")


def test_a_folder_that_is_gone_loses_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As any other error of the disk."""
    dropped = Counter()
    writer = AccessWriter(AppendedFile(str(tmp_path / "no" / "log")), "log", dropped)
    writer.put([b"1\n"])
    writer.close()
    assert (dropped.value, caplog.messages) == (
        1, ["access log log loses lines: No such file or directory (os error 2)"])
