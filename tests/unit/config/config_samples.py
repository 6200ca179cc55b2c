"""Small transforms and helpers that the tests of the configuration share."""

from typing import ClassVar

import pytest

from shotover_gevent.chain.steps import Steps
from shotover_gevent.chain.transform import TransformConfig
from shotover_gevent.config.registry import Registry
from shotover_gevent.config.topology import parse_topology
from shotover_gevent.errors import ConfigError


class Pass(TransformConfig):
    """Stands anywhere but last."""


class Count(TransformConfig):
    """Has fields of several types."""

    counter_name: str
    size: int = 3
    is_loud: bool = False
    words: list[str] = []


class End(TransformConfig):
    """A sink for any protocol."""

    terminating: ClassVar[bool] = True
    remote_address: str | None = None
    connect_timeout_ms: int | None = None


class ValkeyEnd(TransformConfig):
    """A sink for one protocol."""

    terminating: ClassVar[bool] = True
    protocols: ClassVar[tuple[str, ...] | None] = ("Valkey",)


class Coalesce(TransformConfig):
    """Has rules of its own."""

    count: int | None = None

    def problems(self) -> list[str]:
        if self.count is not None:
            return []
        return ["Coalesce:", "  Provide at least one of:", "  * count", "", "  But none were."]


class Fork(TransformConfig):
    """Has a sub-chain, and another one that is optional."""

    chain: Steps
    mismatch: Steps | None = None

    def subchains(self):
        chains = [(self.name, self.chain)]
        return chains if self.mismatch is None else [*chains, (f"{self.name}.mismatch", self.mismatch)]


class Copies(TransformConfig):
    """Has several copies of one sub-chain."""

    terminating: ClassVar[bool] = True
    parallelism: int
    chain: Steps

    def subchains(self):
        return [(f"{self.name}[{index}]", self.chain) for index in range(self.parallelism)]


SAMPLES = [Pass, Count, End, ValkeyEnd, Coalesce, Fork, Copies]


def read(data, transforms=SAMPLES):
    """The topology in a text or in data."""
    return parse_topology(data, Registry(transforms), "topology.yaml")


def refusal(data, transforms=SAMPLES):
    """The error of a topology that is refused."""
    with pytest.raises(ConfigError) as caught:
        read(data, transforms)
    return caught.value


def refused(data, transforms=SAMPLES):
    """Its problems as they are printed."""
    return [str(problem) for problem in refusal(data, transforms).problems]


def source(*chain, name="edge", listen_addr="127.0.0.1:0", kind="Valkey", **fields):
    """A source as data."""
    return {kind: {"name": name, "listen_addr": listen_addr, "chain": list(chain), **fields}}


def sources(*entries):
    """A topology as data."""
    return {"sources": list(entries)}
