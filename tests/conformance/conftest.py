"""One proxy of each mode in front of each real server, for the whole session."""

import pytest

from tests.harness import ProxyProcess, free_port
from tests.proxies import MODES, valkey_topology


@pytest.fixture(scope="session", params=MODES)
def valkey_proxy(request, server):
    """A Valkey source in front of the server; ``port`` is where it listens."""
    port = free_port()
    topology = valkey_topology(port, server.port, "connection_limit: 2000", request.param)
    with ProxyProcess(topology, tolerate=["failed to decode message"]) as proxy:
        proxy.wait_ready()
        proxy.port = port
        yield proxy
