"""A window counts what happened within the last seconds."""

from __future__ import annotations

from shotover_gevent.transforms.window import Window


def test_what_is_older_than_the_window_is_forgotten() -> None:
    """In steps of a tenth of it."""
    now = [1000.0]
    window = Window(10.0, lambda: now[0])
    seen = []
    for seconds, count, some in ((0, 5, 1), (4, 3, 3), (5, 1, 0)):
        now[0] += seconds
        window.add(count, some)
        seen.append(window.sums())
    for seconds in (0.9, 0.2, 3.8, 0.2, 5):
        now[0] += seconds
        seen.append(window.sums())
    assert seen == [(5, 1), (8, 4), (9, 4), (9, 4), (4, 3), (4, 3), (1, 0), (0, 0)]


def test_a_window_can_be_emptied() -> None:
    """It counts anew."""
    window = Window(10.0, lambda: 7.0)
    window.add(5, 5)
    window.clear()
    window.add(1)
    assert window.sums() == (1, 0)
