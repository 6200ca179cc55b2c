"""What operators see of a running proxy over HTTP, and the status page in a real browser."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shotover_gevent.testing.server import RealServer
from tests import browser as browsers
from tests.browser import Browser
from tests.harness import CONFIG, Client, ProxyProcess, command, eventually, free_port
from tests.integration.load import Load
from tests.proxies import tcp_topology, valkey_topology

DESKTOP, PHONE = (1180, 900), (390, 844)


def get(port: int, path: str) -> tuple[int, str]:
    """Status and body of a page."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def status(port: int) -> dict[str, Any]:
    """The document of ``/status``."""
    return dict(json.loads(get(port, "/status")[1]))


@pytest.fixture
def port() -> int:
    """Where the Valkey source listens."""
    return free_port()


@pytest.fixture
def admin() -> int:
    """The port of the observability interface."""
    return free_port()


@pytest.fixture
def proxy(
    port: int, admin: int, redis_server: RealServer, tmp_path: Path, mode: str
) -> Iterator[ProxyProcess]:
    """A Valkey and a Tcp source in front of a real server; it can be reloaded."""
    topology = valkey_topology(port, redis_server.port, mode=mode)
    more = tcp_topology(free_port(), redis_server.port).replace('"sink"', '"tcp-sink"')
    topology += more.removeprefix("\nsources:\n")
    config = CONFIG + f'observability_interface: "127.0.0.1:{admin}"\n'
    with ProxyProcess(topology, config, tmp_path / "reload.sock") as proxy:
        proxy.wait_ready()
        eventually(lambda: get(admin, "/livez") == (200, "ok"))
        yield proxy


@pytest.fixture
def window(pytestconfig: pytest.Config, tmp_path: Path) -> Iterator[Browser]:
    """A real browser, if there is one."""
    if not browsers.is_installed():
        if pytestconfig.getoption("--require-servers"):
            pytest.fail(browsers.MISSING, pytrace=False)
        pytest.skip(browsers.MISSING)
    with browsers.browser(tmp_path) as window:
        yield window


# -- for programs -------------------------------------------------------------------------------


def test_status_tells_what_runs_and_what_it_did(proxy: ProxyProcess, port: int, admin: int) -> None:
    """Sources, chains and databases of a process under traffic, then the reload that replaced it."""
    with Client(port) as client:
        client.ask(command("PING"), b"+PONG\r\n")
        before = status(admin)
        assert proxy.reload().returncode == 0
        eventually(lambda: status(admin)["pid"] != before["pid"])
        client.ask(command("PING"), b"+PONG\r\n")
        after = status(admin)
    sources = [
        (each["name"], each["type"], each["sessions"], each["opened"], each["requests"])
        for each in before["sources"]]
    assert sources == [("valkey", "Valkey", 1, 1, 1), ("tcp", "Tcp", 0, 0, 0)]
    assert (before["ready"], before["pid"], before["last_reload"]) == (True, proxy.pid, None)
    assert [each["state"] for each in before["upstreams"]] == ["ok", "unused"]
    reload = after["last_reload"]
    assert (reload["result"], reload["moved"], reload["predecessor_pid"], reload["listeners"]["kept"]) == (
        "ok", 1, proxy.pid, 2)
    assert [each["connections"] for each in after["upstreams"]] == [1, 0]


def test_history_tells_the_rate_of_each_source(proxy: ProxyProcess, port: int, admin: int) -> None:
    """A sample a second, and later ones alone on demand."""
    with Load(port, clients=2, connect_rate_s=0.05) as load:
        def rates() -> list[float]:
            told = json.loads(get(admin, "/history")[1])
            return [rate for rate in told["sources"]["valkey"]["requests_per_s"] if rate]

        eventually(lambda: len(rates()) >= 2)
        told = json.loads(get(admin, "/history?since=1")[1])
    assert (load.errors, told["first"], len(told["lag_ms"])) == ([], 1, told["next"] - 1)
    assert told["sources"]["tcp"]["requests_per_s"] == [0.0] * (told["next"] - 1)


def test_a_draining_process_is_alive_and_not_ready(
    proxy: ProxyProcess, port: int, admin: int, redis_server: RealServer
) -> None:
    """It says why, until it ends; nobody else answers there meanwhile."""
    with Client(port) as client, Client(redis_server.port) as direct:
        client.ask(command("PING"), b"+PONG\r\n")
        assert get(admin, "/readyz") == (200, "ok")
        client.send(command("BLPOP", "drain", "0"))
        eventually(lambda: status(admin)["sources"][0]["session_states"]["running"] == 1)
        proxy.terminate()
        told = eventually(lambda: (found := get(admin, "/readyz"))[0] == 503 and found)
        alive, state = get(admin, "/livez"), status(admin)["state"]
        direct.ask(command("RPUSH", "drain", "x"), b":1\r\n")
        client.expect(b"*2\r\n$5\r\ndrain\r\n$1\r\nx\r\n")
    assert (told, alive, state) == ((503, "draining, sessions left: 1"), (200, "ok"), "draining")
    assert proxy.wait() == 0


# -- for people ---------------------------------------------------------------------------------

CARD = """
    const card = document.querySelector("#sources .card");
    return [card.querySelector("h3").textContent, card.querySelector(".now").textContent,
            card.querySelectorAll("svg path.line").length];
"""


def test_the_page_shows_a_proxy_under_load(
    window: Browser, proxy: ProxyProcess, port: int, admin: int, tmp_path: Path
) -> None:
    """Sources, rates and pictures, by itself, on a desk and on a phone; then a reload that happens.

    The console stays empty, and nothing is asked of another host. For whoever wants to look at it, pictures
    are left in the folder of the test.
    """
    with Load(port, clients=4, connect_rate_s=0.05) as load:
        window.show(f"http://127.0.0.1:{admin}/", *DESKTOP, "light")

        def rate() -> int:
            found = re.match(r"([\d,.]+)( k)? requests/s", (window.run(CARD) or ["", ""])[1])
            assert found is not None
            return int(float(found[1].replace(",", "")) * (1000 if found[2] else 1))

        def has_rate() -> bool:
            return bool(window.run("return document.querySelector('#sources .card')")) and rate() > 50

        eventually(has_rate, 30)
        name, _, lines = eventually(lambda: (card := window.run(CARD))[2] >= 3 and card)
        shown = [window.text(f"#{part}") for part in ("state", "version", "upstreams", "reload")]
        proxy.reload()
        eventually(lambda: "took over" in window.text("#reload"), 30)
        marks = eventually(lambda: window.run("return document.querySelectorAll('.mark').length"))
        overflow = {}
        for size in (DESKTOP, PHONE):
            for scheme in ("light", "dark"):
                window.show(f"http://127.0.0.1:{admin}/", *size, scheme)
                eventually(lambda: window.text("#state") == "ready", 30)
                overflow[size[0], scheme] = window.run(
                    "return document.documentElement.scrollWidth - window.innerWidth")
                window.picture(tmp_path / f"{size[0]}-{scheme}.png")
    assert (load.errors, name, lines >= 3, marks > 0) == ([], "valkey", True, True)
    assert (shown[0], shown[3]) == ("ready", "this process has not seen one")
    assert "ValkeySinkSingle of valkey" in shown[2]
    assert overflow == {(size[0], scheme): 0 for size in (DESKTOP, PHONE) for scheme in ("light", "dark")}
    assert (window.complaints(), window.requests()) == ([], {f"127.0.0.1:{admin}"})


def test_the_page_says_that_the_proxy_is_gone(
    window: Browser, proxy: ProxyProcess, admin: int
) -> None:
    """What was shown stays, with a word that it is not from now."""
    window.show(f"http://127.0.0.1:{admin}/", *DESKTOP, "light")
    eventually(lambda: window.text("#state") == "ready", 30)
    proxy.stop()
    eventually(lambda: window.text("#state") == "not reached", 30)
    assert "does not answer" in window.text("#notice")
    assert window.text("#sources h3") == "valkey"
