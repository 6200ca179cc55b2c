"""The paced client keeps its rate, whatever comes back, and counts from when a request was due."""

from __future__ import annotations

import io
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.paced import main, summary
from bench.peers import GET_SMALL, SMALL_REPLY

# The stall of the server below; much longer than what a loaded machine adds.
STALL_S = 0.5


def serve(listener: socket.socket, stall_at: int, reply: bytes) -> None:
    """Answer one client; the request of that number, and all behind it, wait."""
    client, _ = listener.accept()
    with client:
        count = 0
        while data := client.recv(65536):
            for _ in range(len(data) // len(GET_SMALL)):
                count += 1
                if count == stall_at:
                    time.sleep(STALL_S)
                client.sendall(SMALL_REPLY if count == 1 else reply)


@contextmanager
def server(stall_at: int = 0, reply: bytes = SMALL_REPLY) -> Iterator[int]:
    """The port of a server that answers one client, the first request rightly."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener, stall_at, reply))
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def play(monkeypatch: pytest.MonkeyPatch, port: int, *options: str) -> int:
    """Run the program with a line on its standard input; returns its exit code."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("go\n"))
    monkeypatch.setattr("bench.paced._undisturbed", lambda: None)
    return main(["--port", str(port), "--connections", "1", *options])


def test_a_stall_shows_in_every_request_that_was_due_in_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """200 requests in a second, half a second of standstill: every other one is late, not just one."""
    with server(stall_at=2) as port:
        assert play(monkeypatch, port, "--rate", "200", "--seconds", "1") == 0
    ready, line = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    # The latencies of those due in the stall fall evenly from 500 ms to 0: a quarter is above 250 ms.
    assert (ready, found["requests"], 190 < found["rate"] <= 201) == ("ready", 200, True)
    assert found["max_ms"] >= found["p99_ms"] > 0.9 * STALL_S * 1000
    assert found["lag_p99_ms"] < found["p99_ms"]


def test_a_wrong_reply_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What is not the value that was asked for ends the run with 1."""
    with server(reply=b"-ERR\r\n") as port:
        assert play(monkeypatch, port, "--rate", "100", "--seconds", "0.1") == 1
    assert capsys.readouterr().err == "ConnectionError: not the reply to what was asked: b'-ERR\\r\\n'\n"


def test_a_client_without_a_rate_only_holds_its_connections(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends with its input, and has nothing to tell."""
    with server() as port:
        assert play(monkeypatch, port) == 0
    assert capsys.readouterr().out == "ready\n"


def test_latencies_are_summed_up_in_milliseconds() -> None:
    """A thousand latencies from 1 to 1000 ms in two seconds are a rate of 500."""
    found = summary([number / 1000 for number in range(1, 1001)], [0.0, 0.001], 1000, 2.0)
    assert found == {"requests": 1000.0, "rate": 500.0, "p50_ms": 500.0, "p99_ms": 990.0, "p999_ms": 999.0,
                     "max_ms": 1000.0, "lag_p99_ms": 1.0}
