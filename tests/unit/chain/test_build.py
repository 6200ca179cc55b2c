"""What the code of a transform's author raises before the start is collected, and nothing stays built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import pytest

from shotover_gevent.chain import BuildContext, SessionContext, Sink, Steps, TransformConfig
from shotover_gevent.chain.build import BuildError, raised_at
from shotover_gevent.chain.chain import ChainConfig
from shotover_gevent.errors import ConfigError, Problem
from shotover_gevent.metrics import MetricStore

LOG: list[str] = []


class Noted(TransformConfig):
    """Writes down that it was built and closed; ``fail`` may raise."""

    terminating: ClassVar[bool] = True
    fail: Callable[[], None] = lambda: None

    def build(self, context: BuildContext) -> None:
        """Fail, or be built."""
        self.fail()
        LOG.append(f"{self.name} built")

    def close(self) -> None:
        """Be closed."""
        LOG.append(f"{self.name} closed")

    def session(self, context: SessionContext) -> Sink:
        """A sink that does nothing."""
        return Sink()


class Outer(Noted):
    """Has a chain inside."""

    chain: Steps

    def subchains(self) -> Sequence[tuple[str, Sequence[TransformConfig]]]:
        """One."""
        return [(self.name, self.chain)]

    def build(self, context: BuildContext) -> None:
        """Build what is inside."""
        ChainConfig(self.name, context.protocol, self.chain, context.metrics)


@pytest.fixture(autouse=True)
def empty_log() -> None:
    """Begin with nothing."""
    LOG.clear()


def failing(error: Exception) -> Callable[[], None]:
    """A function that raises it."""

    def fail() -> None:
        raise error

    return fail


def build(*steps: TransformConfig) -> ChainConfig:
    """The chain of these steps."""
    return ChainConfig("c", "Valkey", steps, MetricStore())


def test_all_that_fails_is_told_together() -> None:
    """Those of sub-chains too; what was built is closed again."""
    lost, broken = KeyError("lost"), ValueError()
    inner = Noted(name="inner", fail=failing(broken))
    with pytest.raises(BuildError) as caught:
        build(Noted(name="a"), Noted(name="b", fail=failing(lost)), Outer(name="o", chain=(inner,)),
              Noted(name="c"))
    assert (caught.value.failures[0][1], caught.value.failures[1], str(caught.value), LOG) == (
        lost, (inner, broken), "Noted 'b': build() raised KeyError: 'lost'; Noted 'inner': build() raised ValueError",
        ["a built", "c built", "a closed", "c closed"])


def test_a_configuration_error_passes_as_it_is() -> None:
    """It knows its place itself."""
    error = ConfigError([Problem("other.yaml", 1, 2, "x", "is wrong")])
    with pytest.raises(ConfigError) as caught:
        build(Noted(name="a"), Noted(name="b", fail=failing(error)))
    assert (caught.value, LOG) == (error, ["a built", "a closed"])


def test_the_place_is_in_the_file_of_the_author() -> None:
    """Also when the error comes from a library that it calls."""

    def call_a_library() -> None:
        int("x" * 3, base=99)

    with pytest.raises(BuildError) as caught:
        build(Noted(name="a", fail=call_a_library))
    error = caught.value.failures[0][1]
    assert (raised_at(Noted, error) or "").startswith("test_build.py:")
    assert raised_at(Noted, ValueError()) is None
