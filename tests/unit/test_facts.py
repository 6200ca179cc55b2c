"""What a proxy tells of itself."""

from __future__ import annotations

from typing import Any

import pytest
from gevent import socket as gsocket

from shotover_gevent import Proxy
from shotover_gevent.facts import ProxyFacts
from shotover_gevent.hotreload.count import ReloadCounts
from shotover_gevent.hotreload.moving import Moved
from tests.inprocess import until


def topology(**fields: Any) -> dict[str, Any]:
    """One source that answers by itself."""
    chain = [{"DebugReturner": {"name": "sink", "Valkey": "x"}}]
    return {"sources": [{"Valkey": {"name": "v", "listen_addr": "127.0.0.1:0", "chain": chain, **fields}}]}


def facts_of(proxy: Proxy) -> tuple[ProxyFacts, ReloadCounts]:
    """The facts, and the reloads that they tell of."""
    counts = ReloadCounts(proxy.metrics)
    return ProxyFacts(proxy, counts), counts


def connect(proxy: Proxy) -> Any:
    """A client; close it."""
    return gsocket.create_connection(("127.0.0.1", proxy.sources[0].address.port), timeout=10)


def test_a_proxy_is_ready_while_it_accepts() -> None:
    """Before and after, the phase of its life is the reason."""
    proxy = Proxy(topology())
    facts, _ = facts_of(proxy)
    before = facts.obstacles()
    with proxy:
        facts.serving()
        during, uptime_s = facts.readiness(), facts.uptime_s
    assert (before, during, facts.obstacles()) == (
        ["built, sessions left: 0"], (True, ""), ["stopped, sessions left: 0"])
    assert 0 <= uptime_s < 10


def test_a_source_that_refuses_is_the_reason() -> None:
    """A hard limit closes the listener; the process as a whole is not ready then."""
    with Proxy(topology(connection_limit=1, hard_connection_limit=True)) as proxy:
        facts, _ = facts_of(proxy)
        with connect(proxy):
            until(facts.obstacles)
            told = facts.readiness()
    assert told == (False, "source v: connections are refused: the connection limit is reached")


def test_metrics_follow() -> None:
    """The gauge of readiness, and what runs."""
    proxy = Proxy(topology())
    families = {family.name: list(family.children.items()) for family in proxy.metrics.families()}
    with proxy:
        during = families["shotover_gevent_ready"][0][1].value
    after = families["shotover_gevent_ready"][0][1].value
    labels, gauge = families["shotover_gevent_build_info"][0]
    assert (during, after, gauge.value, [name for name, _ in labels]) == (
        1, 0, 1, ["version", "python", "gevent"])


@pytest.mark.parametrize("has_report", [True, False])
def test_the_last_reload_is_told_with_what_is_known_of_it(has_report: bool) -> None:
    """A successor that has taken over knows more; a failure as a predecessor is later and alone."""
    proxy = Proxy(topology())
    facts, counts = facts_of(proxy)
    assert facts.last_outcome is None
    if has_report:
        proxy.last_reload = {"predecessor_pid": 7, "listeners": {"kept": 1}, "sessions": {}}
    counts.taken({"moved": 3})
    taken = facts.last_outcome
    counts.given(Moved(), is_ok=False, reason="it broke")
    failed = facts.last_outcome
    assert taken is not None and failed is not None
    assert (taken["moved"], taken.get("predecessor_pid")) == (3, 7 if has_report else None)
    assert (failed["reason"], "predecessor_pid" in failed) == ("it broke", False)
