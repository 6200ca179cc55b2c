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


@pytest.fixture(scope="module")
def topology(port, redis_server, mode):
    """A proxy in front of Redis, in each mode."""
    return valkey_topology(port, redis_server.port, mode=mode)


@pytest.fixture
def rig(topology, dialect):
    """A proxy of one test, whose successors speak the dialect."""
    with Rig(topology, dialect) as rig:
        yield rig
