"""The command ``shotover-gevent`` as a process that stops itself at a step of a hot reload::

    SHOTOVER_GEVENT_STOP_AT=successor:bound SHOTOVER_GEVENT_STOP_REPORT=/tmp/stopped \\
        python -m shotover_gevent.testing.stop_points serve --hotreload-socket PATH ...

At the point it appends the line ``successor:bound PID`` to the file and stops itself with SIGSTOP, once;
whoever waits for the line then sends SIGKILL or SIGCONT. The product knows nothing of this: the
functions named in :data:`POINTS` are wrapped before the command runs.

Rules:
 1. A process stops at most once, at one point. The environment is inherited by a successor that runs
    this module too, and by one that does not, which ignores it.
 2. ``SHOTOVER_GEVENT_CONSTANTS`` shortens waits: ``hotreload.dialect.STEP_S=1``, separated by spaces.
    A constant that is not there is an error, so that no test waits for what was renamed.
 3. ``SHOTOVER_GEVENT_DIALECT=shotover`` makes a successor ask in Shotover's dialect only.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

STOP_AT = "SHOTOVER_GEVENT_STOP_AT"
STOP_REPORT = "SHOTOVER_GEVENT_STOP_REPORT"
CONSTANTS = "SHOTOVER_GEVENT_CONSTANTS"
DIALECT = "SHOTOVER_GEVENT_DIALECT"

#: The two ways of asking a predecessor.
DIALECTS = ("ours", "shotover")

PACKAGE = "shotover_gevent"


@dataclass(frozen=True, slots=True)
class Point:
    """Right before or after a call of any of ``functions``, each ``module:name`` within the package."""

    functions: tuple[str, ...]
    is_after: bool


def _before(*functions: str) -> Point:
    return Point(functions, is_after=False)


def _after(*functions: str) -> Point:
    return Point(functions, is_after=True)


_TAKE_OVER = "serve:take_over"
_CONFIRM = ("hotreload.client:Handover.confirm", "hotreload.taking:Takeover.confirm")
_COMPLETE = ("hotreload.client:Handover.complete", "hotreload.taking:Takeover.complete")

#: The steps of both sides in their order; those of moving sessions exist in our dialect only.
POINTS = {
    "successor:built": _before(_TAKE_OVER),
    "successor:received": _after(_TAKE_OVER),
    "successor:bound": _after("proxy:Proxy._open"),
    "successor:before-confirm": _before(*_CONFIRM),
    "successor:confirmed": _after(*_CONFIRM),
    "successor:accepting": _before(*_COMPLETE),
    "successor:before-adopt": _before("hotreload.taking:adopt"),
    "successor:adopted": _after("hotreload.taking:adopt"),
    "successor:before-done": _before("hotreload.dialect:Line.check"),
    "successor:done": _after(*_COMPLETE),
    "predecessor:before-lend": _before("proxy:Proxy.lend_listeners"),
    "predecessor:lent": _after("hotreload.lending:Lender._lend", "hotreload.giving:Giver._lend"),
    "predecessor:before-go": _after("proxy:Proxy.stop_accepting"),
    "predecessor:before-move": _before("hotreload.giving:move"),
    "predecessor:moved": _after("hotreload.giving:move"),
    "predecessor:before-retire": _before("proxy:Proxy.retire"),
    "predecessor:retired": _after("proxy:Proxy.retire"),
}


def install(environ: Mapping[str, str]) -> None:
    """Do what the environment says to this process. Raises ``ValueError`` for what is not known."""
    if settings := environ.get(CONSTANTS):
        for setting in settings.split():
            name, _, value = setting.partition("=")
            set_constant(name, float(value))
    dialect = environ.get(DIALECT, DIALECTS[0])
    if dialect not in DIALECTS:
        raise ValueError(f"{DIALECT} is {dialect!r}; known are {', '.join(DIALECTS)}")
    if dialect == "shotover":
        from shotover_gevent import serve
        from shotover_gevent.hotreload.client import request_listeners

        setattr(serve, "take_over", lambda path, addresses, seconds: request_listeners(path))
    if (name := environ.get(STOP_AT)) is not None:
        if name not in POINTS:
            raise ValueError(f"{STOP_AT} is {name!r}; known are {', '.join(POINTS)}")
        _wrap(POINTS[name], _Stop(name, Path(environ[STOP_REPORT])))


def set_constant(name: str, value: float) -> None:
    """Set ``module.NAME`` of the package wherever it was imported to, or became a default argument."""
    _module("serve")  # imports everything that a server needs
    path, _, attribute = name.rpartition(".")
    before = getattr(_module(path), attribute)
    for module in [m for key, m in sys.modules.items() if key.split(".")[0] == PACKAGE]:
        if vars(module).get(attribute) is before:
            setattr(module, attribute, value)
        for function in _functions(module):
            function.__defaults__ = _replaced(function.__defaults__, before, value)
            for key, default in (function.__kwdefaults__ or {}).items():
                if default is before:
                    function.__kwdefaults__[key] = value  # type: ignore[index]


def _replaced(defaults: tuple[Any, ...] | None, before: float, value: float) -> tuple[Any, ...] | None:
    return defaults and tuple(value if each is before else each for each in defaults)


def _functions(module: ModuleType) -> list[FunctionType]:
    """The functions and methods that a module defines."""
    classes = [
        each for each in vars(module).values()
        if inspect.isclass(each) and each.__module__ == module.__name__
    ]
    return [
        each for holder in (module, *classes) for each in vars(holder).values()
        if isinstance(each, FunctionType)
    ]


def _module(path: str) -> ModuleType:
    return importlib.import_module(f"{PACKAGE}.{path}")


class _Stop:
    """Stops the process when it is called for the first time."""

    def __init__(self, name: str, report: Path) -> None:
        self._name = name
        self._report = report
        self._is_done = False

    def __call__(self) -> None:
        if self._is_done:
            return
        self._is_done = True
        with self._report.open("a") as report:
            report.write(f"{self._name} {os.getpid()}\n")
        os.kill(os.getpid(), signal.SIGSTOP)


def _wrap(point: Point, stop: Callable[[], None]) -> None:
    """Have ``stop`` called at the point."""
    for place in point.functions:
        path, _, name = place.partition(":")
        *outer, last = name.split(".")
        holder: Any = functools.reduce(getattr, outer, _module(path))
        setattr(holder, last, _wrapped(getattr(holder, last), stop, point.is_after))


def _wrapped(
    function: Callable[..., Any], stop: Callable[[], None], is_after: bool
) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not is_after:
            stop()
        result = function(*args, **kwargs)
        if is_after:
            stop()
        return result

    return wrapper


def main() -> int:
    """Run the command of the arguments."""
    install(os.environ)
    from shotover_gevent.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
