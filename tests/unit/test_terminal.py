"""What commands write for people."""

from __future__ import annotations

import io
import time

import pytest

from shotover_gevent import terminal
from shotover_gevent.terminal import Progress, is_terminal, size, span, table


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        """It is one."""
        return True


class Broken(io.StringIO):
    """Nobody reads it."""

    def write(self, text: str) -> int:
        """As a pipe whose reader has gone."""
        raise BrokenPipeError


XTERM = {"TERM": "xterm"}


def test_elsewhere_each_text_is_a_line() -> None:
    """Once; the same text again says nothing new."""
    stream = io.StringIO()
    with Progress(stream, environ=XTERM) as progress:
        for text in ("starting", "starting", "moving", "starting"):
            progress(text)
    assert stream.getvalue() == "starting\nmoving\nstarting\n"


def test_on_a_terminal_there_is_one_line() -> None:
    """Each text is written over the one before, and nothing is left at the end."""
    screen = Screen()
    with Progress(screen, environ={**XTERM, "NO_COLOR": "1"}) as progress:
        progress("starting")
        progress("moving")
    assert screen.getvalue() == "\r\x1b[Kstarting  0.0 s\r\x1b[Kmoving  0.0 s\r\x1b[K"


def test_the_time_is_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is waited for."""
    monkeypatch.setattr(terminal, "REFRESH_S", 0.001)
    screen = Screen()
    with Progress(screen, environ=XTERM) as progress:
        progress("waiting")
        until = time.monotonic() + 5
        while screen.getvalue().count("waiting") < 3 and time.monotonic() < until:
            time.sleep(0.001)
    assert screen.getvalue().startswith("\r\x1b[Kwaiting  \x1b[2m0.0 s\x1b[0m" * 3)


def test_a_text_is_cut_to_the_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is wrapped could not be written over."""
    monkeypatch.setenv("COLUMNS", "30")
    screen = Screen()
    with Progress(screen, environ={**XTERM, "NO_COLOR": "1"}) as progress:
        progress("x" * 100)
    assert screen.getvalue() == "\r\x1b[K" + "x" * 21 + "  0.0 s\r\x1b[K"


@pytest.mark.parametrize("stream", [io.StringIO(), Screen()])
def test_it_can_be_off(stream: io.StringIO) -> None:
    """Where the output is for programs."""
    with Progress(stream, is_on=False, environ=XTERM) as progress:
        progress("starting")
    assert stream.getvalue() == ""


def test_nobody_needs_to_read_it() -> None:
    """The command goes on."""
    with Progress(Broken(), environ=XTERM) as progress:
        progress("starting")
        progress("moving")


@pytest.mark.parametrize(
    ("stream", "environ", "wanted"),
    [(Screen(), XTERM, True), (Screen(), {"TERM": "dumb"}, False), (Screen(), {}, False),
     (io.StringIO(), XTERM, False), (None, XTERM, False)],
)
def test_a_terminal_can_write_over_lines(
    stream: io.StringIO | None, environ: dict[str, str], wanted: bool
) -> None:
    """A dumb one cannot."""
    assert is_terminal(stream, environ) is wanted


def test_columns_are_as_wide_as_they_need_to_be() -> None:
    """Numbers to the right; no blanks at the end of a line."""
    assert table(("name", "count"), [("a", "1"), ("longer", "100000")], right=(1,)) == [
        "name     count", "a            1", "longer  100000"]


def test_sizes_and_times_are_for_people() -> None:
    """In the largest unit that they fill."""
    sizes = [size(value) for value in (0, 1023, 1024, 150 * 1024, 5.5 * 1024**2, 2 * 1024**5)]
    spans = [span(value) for value in (0.04, 59.96, 61, 3600 * 3 + 60, 86400 * 2 + 3600)]
    assert sizes == ["0 B", "1023 B", "1.0 KiB", "150 KiB", "5.5 MiB", "2048 TiB"]
    assert spans == ["0.0 s", "60.0 s", "1 min 1 s", "3 h 1 min", "2 d 1 h"]
