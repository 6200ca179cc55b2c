"""Who takes part, and by which name they are chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.envoy import EnvoyRedis, EnvoyTcp
from bench.ours import OursShared, OursTcp, OursValkey
from bench.peers import Peer
from bench.relays import Direct, HAProxy, Nginx
from bench.shotover import Shotover

CANDIDATES: dict[str, type[Peer]] = {each.name: each for each in (
    Direct, HAProxy, Nginx, EnvoyTcp, EnvoyRedis, Shotover, OursTcp, OursValkey, OursShared)}

Make = tuple[str, Callable[[int], Peer]]


def makers(names: Sequence[str], connections: int, shotover: str = "") -> list[Make]:
    """Name and constructor of each; a constructor takes the port of the database."""
    return [(name, _maker(CANDIDATES[name], connections, shotover)) for name in names]


def _maker(kind: type[Peer], connections: int, shotover: str) -> Callable[[int], Peer]:
    def make(upstream: int) -> Peer:
        if issubclass(kind, Shotover):
            return kind(upstream, connections, shotover)
        return kind(upstream, connections)

    return make
