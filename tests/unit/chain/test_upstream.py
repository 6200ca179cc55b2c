"""What is known of one address of a database."""

from __future__ import annotations

from typing import Any

import pytest

from shotover_gevent.chain import BuildContext
from shotover_gevent.chain.upstream import Upstream
from shotover_gevent.errors import UpstreamError
from shotover_gevent.metrics import MetricStore
from shotover_gevent.net.address import Address
from shotover_gevent.net.park import Park
from shotover_gevent.net.stream import ReceiveBuffer
from tests.inprocess import ScriptedServer


def samples(store: MetricStore) -> dict[str, Any]:
    """The value of each metric, by its name."""
    return {
        family.name.removeprefix("shotover_gevent_upstream_"): metric.value
        for family in store.families() for metric in family.children.values()}


def test_connections_are_counted() -> None:
    """Those that were made, those that could not be made, and those that are open."""
    store = MetricStore()
    upstream = Upstream()
    context = BuildContext(metrics=store, chain="c", protocol="Valkey")
    with ScriptedServer(lambda client: None) as server:
        upstream.register(context, "Sink", "s", str(server.address))
        upstream.open(server.address, 1.0, Park(), ReceiveBuffer()).close()
        upstream.connections += 1
        worked = upstream.failure, upstream.failed_s_ago, samples(store)
    with pytest.raises(UpstreamError):
        upstream.open(server.address, 1.0, Park(), ReceiveBuffer())
    assert worked == ("", None, {"connects_count": 1, "connect_failures_count": 0, "connections": 1})
    assert samples(store) == {"connects_count": 1, "connect_failures_count": 1, "connections": 1}
    assert upstream.failure == (
        f"Failed to connect to destination {server.address}: Connection refused (os error 111)")
    assert upstream.failed_s_ago is not None


def test_a_connection_that_works_ends_the_failure() -> None:
    """The last attempt decides."""
    upstream = Upstream()
    with pytest.raises(UpstreamError):
        upstream.open(Address("127.0.0.1", 1), 1.0, Park(), ReceiveBuffer())
    with ScriptedServer(lambda client: None) as server:
        upstream.open(server.address, 1.0, Park(), ReceiveBuffer()).close()
    assert (upstream.failure, upstream.failed_s_ago, upstream.failures.value) == ("", None, 1)
