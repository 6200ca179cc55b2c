"""Points name functions that exist; what is not known is refused."""

from __future__ import annotations

import subprocess
import sys
from functools import reduce
from importlib import import_module

import pytest

from shotover_gevent.testing import stop_points


@pytest.mark.parametrize("name", stop_points.POINTS)
def test_every_point_names_functions(name: str) -> None:
    """A function that is renamed is renamed in the table too."""
    for place in stop_points.POINTS[name].functions:
        module, _, path = place.partition(":")
        assert callable(reduce(getattr, path.split("."), import_module(f"shotover_gevent.{module}")))


def run(code: str, **environ: str) -> str:
    """What a process of its own prints after ``install``; or how it failed."""
    result = subprocess.run(
        [sys.executable, "-c", f"from shotover_gevent.testing import stop_points\n"
         f"stop_points.install({environ!r})\n{code}"],
        capture_output=True, text=True, check=False, timeout=30)
    return result.stdout or result.stderr.splitlines()[-1]


@pytest.mark.parametrize(("name", "value", "error"), [
    ("SHOTOVER_GEVENT_STOP_AT", "nowhere", "ValueError: SHOTOVER_GEVENT_STOP_AT is 'nowhere'; known are "),
    ("SHOTOVER_GEVENT_DIALECT", "none", "ValueError: SHOTOVER_GEVENT_DIALECT is 'none'; known are ours"),
    ("SHOTOVER_GEVENT_CONSTANTS", "hotreload.dialect.NONE=1",
     "AttributeError: module 'shotover_gevent.hotreload.dialect' has no attribute 'NONE'"),
])
def test_what_is_not_known_is_refused(name: str, value: str, error: str) -> None:
    """A test never waits for what cannot happen."""
    said = run("", **{name: value})
    assert said[: len(error)] == error


def test_a_constant_is_set_where_it_was_imported_and_as_a_default() -> None:
    """Names and default arguments that were made from it have the new value."""
    code = (
        "from shotover_gevent.hotreload import dialect, taking\n"
        "from shotover_gevent.hotreload.dialect import Line\n"
        "print(dialect.STEP_S, taking.STEP_S, Line.receive.__defaults__[0], dialect.START_S)")
    assert run(code, SHOTOVER_GEVENT_CONSTANTS="hotreload.dialect.STEP_S=0.5") == "0.5 0.5 0.5 60.0\n"
