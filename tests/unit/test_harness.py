"""The harness judges rightly: what it accepts, what it refuses, and that it leaves nothing behind."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import (
    READY,
    Client,
    Event,
    ProxyProcess,
    command,
    eventually,
    unlisted_events,
)

# Stands in for the proxy: it logs what its topology file says, and ends by SIGTERM with 0.
FAKE = """
import pathlib, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print(pathlib.Path("topology.yaml").read_text(), end="", flush=True)
signal.pause()
"""


def line(level: str, message: str, **fields: object) -> str:
    """A log line as the proxy writes it."""
    document = {"level": level, "target": "t", "fields": {"message": message, **fields}}
    return json.dumps(document) + "\n"


class FakeProxy(ProxyProcess):
    """A process that logs the given lines instead of serving."""

    program = (sys.executable, "-c", FAKE)


@pytest.fixture
def pair() -> Iterator[tuple[Client, socket.socket]]:
    """A client, and the socket at its other end."""
    ours, theirs = socket.socketpair()
    with Client(ours, timeout_s=0.2) as client, theirs:
        yield client, theirs


def test_a_quiet_process_passes() -> None:
    """Lines below WARN are no reason to fail; they are there as events."""
    with FakeProxy(line("INFO", READY, port=1)) as proxy:
        pass
    assert (proxy.events, proxy.returncode) == ([Event("INFO", "t", READY, {"port": 1})], 0)


def test_an_unlisted_warning_fails_the_test() -> None:
    """A warning that the test did not list fails it at the end of the block."""
    with pytest.raises(AssertionError) as caught, FakeProxy(line("INFO", READY) + line("WARN", "odd")):
        pass
    assert str(caught.value).splitlines()[0] == "unexpected WARN t: odd"


def test_a_listed_warning_passes_and_a_missing_one_fails() -> None:
    """``expect`` must come, ``tolerate`` may."""
    events = [Event("WARN", "t", "disk 1 is slow", {}), Event("ERROR", "t", "lost", {})]
    assert (
        unlisted_events(events, expect=[r"disk \d is slow"], tolerate=["lost", "never"]),
        unlisted_events(events, expect=["disk", "never"]),
    ) == ([], ["unexpected ERROR t: lost", "no warning or error matches 'never'"])


def test_output_besides_the_log_fails_the_test() -> None:
    """A traceback, or a stray print, is not overlooked."""
    with pytest.raises(AssertionError, match="written besides the log: stray"):
        with FakeProxy(line("INFO", READY) + "stray\n"):
            pass


def test_a_process_that_ends_early_is_told_with_its_output() -> None:
    """Waiting for a log line ends when the process does, and shows what it said."""
    class Broken(ProxyProcess):
        program = (sys.executable, "-c", "raise SystemExit('no such file')")

    with pytest.raises(AssertionError, match=r"was not logged before the end, code 1\nno such file"):
        with Broken(""):
            pass


def test_the_folder_and_the_process_are_gone_after_the_block() -> None:
    """Nothing is left behind, also when the test in the block fails."""
    with pytest.raises(ZeroDivisionError), FakeProxy(line("INFO", READY)) as proxy:
        folder, pid = proxy.folder, proxy.pid
        _ = 1 / 0
    assert (folder.exists(), Path(f"/proc/{pid}").exists(), proxy.family.pids()) == (False, False, [])


def test_a_block_with_its_own_configuration_begins_at_once() -> None:
    """A test that says what to log waits by itself; the process can be measured and told to end."""
    with FakeProxy(line("INFO", "no other line"), config="main_log_level: error") as proxy:
        proxy.wait_log("no other line")
        measured = (proxy.descriptors() > 2, proxy.rss_bytes() > 1_000_000)
        proxy.terminate()
        code = proxy.wait()
    assert (measured, code) == ((True, True), 0)


def test_wait_log_counts_from_the_start_of_the_log() -> None:
    """The n-th matching event is returned, whether it came before or after the call."""
    with FakeProxy(line("INFO", READY) + line("INFO", "step 1") + line("INFO", "step 2")) as proxy:
        found = proxy.wait_log("step", count=2)
    assert found.message == "step 2"


def test_a_request_is_an_array_of_bulk_strings() -> None:
    """Text and bytes are encoded as clients do it."""
    assert command("SET", b"k", "ü") == b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\xc3\xbc\r\n"


def test_a_client_compares_bytes_that_come_in_pieces(pair: tuple[Client, socket.socket]) -> None:
    """Expected bytes may arrive in any pieces; what follows them is left for the next call."""
    client, peer = pair
    writer = threading.Thread(target=lambda: [peer.sendall(b"%c" % byte) for byte in b"+PONG\r\n:1\r\n"])
    writer.start()
    client.expect(b"+PONG\r\n")
    client.expect(b":1\r\n")
    writer.join()
    assert client.receive(1) == b""


def test_a_client_refuses_other_bytes(pair: tuple[Client, socket.socket]) -> None:
    """A different byte, and a missing one, fail the expectation."""
    client, peer = pair
    peer.sendall(b"+PONK\r\n+PO")
    for _ in range(2):
        with pytest.raises(AssertionError):
            client.expect(b"+PONG\r\n")


def test_an_end_is_told_from_silence(pair: tuple[Client, socket.socket]) -> None:
    """An open connection is silent and has no end; a closed one has an end and is not silent."""
    client, peer = pair
    client.silent(0.01)
    with pytest.raises(AssertionError, match="still open"):
        client.eof()
    peer.close()
    client.eof()
    with pytest.raises(AssertionError, match="nothing was expected"):
        client.silent(0.01)


def test_eventually_returns_what_became_true() -> None:
    """A check is repeated until it returns something true."""
    values = iter([0, None, "yes"])
    assert eventually(lambda: next(values)) == "yes"


def test_eventually_ends_with_the_last_failure() -> None:
    """At the deadline the last failed assertion is raised."""
    def check() -> bool:
        raise AssertionError("not three yet")

    with pytest.raises(AssertionError, match="not three yet"):
        eventually(check, timeout_s=0.02)
