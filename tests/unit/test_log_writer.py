"""Printing neither waits nor raises, whatever becomes of the stream."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from shotover_gevent import logs
from shotover_gevent.logs.writer import LineWriter

# A caller that is stopped by the stream waits for ever; anything finite is a pass on a busy machine.
BOUND_S = 20.0


Pipe = tuple[io.FileIO, TextIO]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """The reading end of a pipe, and a stream onto its other end."""
    reading, writing = os.pipe()
    with io.FileIO(reading) as reader, os.fdopen(writing, "w") as stream:
        yield reader, stream


def report(count: int) -> str:
    """The line that says how many are lost."""
    return f"lost {count}\n"


def fill(writer: LineWriter, stream: TextIO) -> list[str]:
    """Put lines until the pipe is full and then the queue is, too; those that were accepted."""
    accepted = []
    until = time.monotonic() + BOUND_S
    number, is_accepted = 0, True
    while is_accepted or select.select([], [stream], [], 0)[1]:
        assert time.monotonic() < until
        lost, number = writer.lost, number + 1
        line = f"{number:0999}\n"
        writer.put(line)
        is_accepted = writer.lost == lost
        if is_accepted:
            accepted.append(line)
    return accepted


def drain(reader: io.FileIO) -> tuple[list[str], threading.Thread]:
    """Read a pipe to its end in a thread; the lines, complete when the thread has ended."""
    lines: list[str] = []

    def run() -> None:
        with os.fdopen(os.dup(reader.fileno())) as file:
            lines.extend(file)

    thread = threading.Thread(target=run)
    thread.start()
    return lines, thread


def test_lines_arrive_in_order(pipe: Pipe) -> None:
    """What was put is written, in order, before close returns."""
    reader, stream = pipe
    writer = LineWriter(stream, report)
    for number in range(100):
        writer.put(f"{number}\n")
    is_done = writer.close()
    assert (is_done, reader.read(65536).decode()) == (
        True, "".join(f"{number}\n" for number in range(100)))


def test_a_pipe_that_nobody_reads_does_not_stop_the_caller(pipe: Pipe) -> None:
    """Lines are dropped and counted when the queue is full; later, one line says how many."""
    reader, stream = pipe
    writer = LineWriter(stream, report, max_pending=10_000)
    accepted = fill(writer, stream)
    lost = writer.lost
    lines, thread = drain(reader)
    is_done = writer.close(BOUND_S)
    stream.close()
    thread.join()
    # Lines may have been dropped at several times while the pipe filled up.
    said = [int(line.split()[1]) for line in lines if line.startswith("lost")]
    assert (is_done, [line for line in lines if not line.startswith("lost")], sum(said)) == (
        True, accepted, lost)


def test_the_loss_is_reported_where_it_happened(pipe: Pipe) -> None:
    """The report comes after what was queued before the loss, and before the next line."""
    reader, stream = pipe
    writer = LineWriter(stream, report, max_pending=10)
    writer.put("much too long for the queue\n")
    writer.put("fits\n")
    writer.close()
    assert reader.read(65536).decode() == "lost 1\nfits\n"


def test_closing_gives_up_at_its_deadline(pipe: Pipe) -> None:
    """Close returns when the pipe stays full; what is put afterwards is nowhere."""
    reader, stream = pipe
    writer = LineWriter(stream, report, max_pending=10_000)
    fill(writer, stream)
    is_done = writer.close(0.01)
    lost = writer.lost
    writer.put("late\n")
    assert (is_done, writer.lost) == (False, lost)
    reader.close()  # frees the thread
    assert writer.close(BOUND_S) is True


def test_a_broken_pipe_loses_lines_and_nothing_else(pipe: Pipe) -> None:
    """With the reader gone every line is lost; the writer ends as usual."""
    reader, stream = pipe
    writer = LineWriter(stream, report)
    reader.close()
    for _ in range(3):
        writer.put("x\n")
    assert (writer.close(BOUND_S), writer.lost) == (True, 3)


def test_a_non_blocking_pipe_loses_nothing(pipe: Pipe) -> None:
    """A descriptor that somebody has made non-blocking is waited for, in the thread."""
    reader, stream = pipe
    fcntl.fcntl(stream, fcntl.F_SETFL, os.O_NONBLOCK)
    line = "x" * 300_000 + "\n"
    writer = LineWriter(stream, report)
    writer.put(line)
    lines, thread = drain(reader)
    is_done = writer.close(BOUND_S)
    stream.close()
    thread.join()
    assert (is_done, lines) == (True, [line])


def test_a_closed_stream_loses_lines() -> None:
    """A stream without a descriptor that is closed under the writer is no error."""
    stream = io.StringIO()
    writer = LineWriter(stream, report)
    stream.close()
    writer.put("x\n")
    assert (writer.close(), writer.lost) == (True, 1)


def test_the_number_of_a_closed_stream_is_not_written_to(tmp_path: Path) -> None:
    """Lines go to the file that the stream was made for, not to what has its number later."""
    with open(tmp_path / "log", "w") as stream:
        writer = LineWriter(stream, report)
        number = stream.fileno()
    with open(tmp_path / "other", "w") as other:
        has_number = other.fileno() == number
        writer.put("x\n")
        writer.close()
    texts = [(tmp_path / name).read_text() for name in ("log", "other")]
    assert (has_number, texts) == (True, ["x\n", ""])


def test_a_closed_writer_leaves_no_descriptor(pipe: Pipe) -> None:
    """The writer's own descriptor is closed with it, the stream's is not."""
    reader, stream = pipe
    before = os.listdir("/proc/self/fd")
    writer = LineWriter(stream, report)
    writer.close()
    assert (os.listdir("/proc/self/fd"), stream.closed) == (before, False)


def test_no_stream_is_a_stream_to_nowhere() -> None:
    """A process without standard output logs to nowhere."""
    writer = LineWriter(None, report)
    writer.put("x\n")
    assert (writer.close(), writer.lost) == (True, 0)


def test_the_process_says_that_lines_were_lost(pipe: Pipe) -> None:
    """The report of a loss has the form of every other line."""
    reader, stream = pipe
    handle = logs.configure(logs.parse_directives("info"), stream=stream)
    logging.getLogger("shotover_gevent.a").info("x" * 17 * 1024 * 1024)
    handle.close()
    text = reader.read(65536).decode()
    assert (handle.lost, text[text.index("Z"):]) == (
        1, "Z  WARN shotover::logs: 1 log lines were lost: the output is slow or gone\n")


SCRIPT = """
import sys
if "patched" in sys.argv:
    from gevent import monkey
    monkey.patch_all()
import logging, time, gevent
from shotover_gevent import logs
handle = logs.configure(logs.parse_directives("info"), "json")
logs.install_excepthooks(handle)
ticks = []
def tick():
    while True:
        ticks.append(1)
        gevent.sleep(0)
gevent.spawn(tick)
for _ in range(30_000):
    logging.getLogger("shotover_gevent.a").info("x" * 1000)
gevent.sleep(0.01)
before = time.monotonic()
handle.close()
print(handle.lost > 0, len(ticks) > 1, time.monotonic() - before < 10, file=sys.stderr)
"""


@pytest.mark.parametrize("mode", ["plain", "patched"])
def test_a_process_with_a_stuck_output_runs_and_ends(mode: str) -> None:
    """Nothing waits for the output: not greenlets, not the exit; also in a patched process."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, mode], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        code = process.wait(60)
        text = process.stderr.read()
    assert (text, code) == ("True True True\n", 0)
