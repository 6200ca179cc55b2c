"""Building the steps of a chain: the first code of a transform's author that runs.

It may raise anything. What it raises is the configuration's fault or the author's; neither is ours, so
it is reported with the place of the entry, not by a traceback through the proxy.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Sequence
from pathlib import Path

from shotover_gevent.chain.transform import BuildContext, TransformConfig
from shotover_gevent.errors import ConfigError, ShotoverError


class BuildError(ShotoverError):
    """Transforms could not be built; ``failures`` holds each configuration object with what it raised."""

    def __init__(self, failures: Sequence[tuple[TransformConfig, Exception]]) -> None:
        self.failures = tuple(failures)
        super().__init__("; ".join(
            f"{step.type_name} {step.name!r}: {raised_text('build()', error)}" for step, error in failures))


def build_steps(steps: Sequence[TransformConfig], context: BuildContext) -> None:
    """Call ``build()`` of every step. If any raises, those that were built are closed again.

    Raises :class:`BuildError` with all that failed, those of sub-chains too; a ``ConfigError`` passes.
    """
    built: list[TransformConfig] = []
    failures: list[tuple[TransformConfig, Exception]] = []
    try:
        for step in steps:
            try:
                step.build(context)
                built.append(step)
            except BuildError as error:  # of a sub-chain
                failures += error.failures
            except ConfigError:
                raise
            except Exception as error:
                failures.append((step, error))
        if failures:
            raise BuildError(failures)
    except BaseException:
        for step in built:
            step.close()
        raise


def raised_text(what: str, error: Exception) -> str:
    """What an author's code did, in a sentence."""
    text = f"{what} raised {type(error).__name__}"
    return f"{text}: {error}" if str(error) else text


def raised_at(step: type[TransformConfig], error: Exception) -> str | None:
    """Where in the author's file it was raised, else the deepest line: ``rewrite.py:12``."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return None
    try:
        own = inspect.getfile(step)
    except (OSError, TypeError):  # defined in no file
        own = ""
    found = next((frame for frame in reversed(frames) if frame.filename == own), frames[-1])
    return f"{Path(found.filename).name}:{found.lineno}"
