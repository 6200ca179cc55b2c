"""Fixtures of the fault tests."""

import pytest

from shotover_gevent.testing.stop_points import DIALECTS
from tests.faults.rig import Rig
from tests.harness import free_port
from tests.proxies import valkey_topology


@pytest.fixture(scope="module", params=DIALECTS)
def dialect(request):
    """What a successor speaks: our dialect, then Shotover's."""
    return request.param


@pytest.fixture(scope="module")
def port():
    """Where the proxy of the module listens."""
    return free_port()


def pytest_collection_modifyitems(config, items):
    """In Shotover's dialect no session moves, so that it is all the same how the sink is connected."""
    surplus = [
        item for item in items
        if "topology" in getattr(item, "fixturenames", ()) and hasattr(item, "callspec")
        and {"mode": "shared", "dialect": "shotover"}.items() <= item.callspec.params.items()]
    config.hook.pytest_deselected(items=surplus)
    items[:] = [item for item in items if item not in surplus]


@pytest.fixture(scope="module")
def topology(port, redis_server, mode):
    """A proxy in front of Redis, in each mode."""
    return valkey_topology(port, redis_server.port, mode=mode)


@pytest.fixture
def rig(topology, dialect):
    """A proxy of one test, whose successors speak the dialect."""
    with Rig(topology, dialect) as rig:
        yield rig
