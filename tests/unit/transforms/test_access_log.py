"""AccessLog writes a line for a request, and no more about it than it was told to."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from shotover_gevent.chain import Batch, BuildContext, Message
from shotover_gevent.codecs.resp import RESP, RequestDecoder
from shotover_gevent.errors import TransformError, UpstreamClosed, UpstreamError
from shotover_gevent.metrics import MetricStore
from shotover_gevent.transforms.access_log import AccessLog
from tests.client import command
from tests.inprocess import session_context

GET, SET = command("get", "k"), command("SET", "key", "secret")


class Lab:
    """A log, and the session that writes it."""

    def __init__(self, folder: Path, **fields: Any) -> None:
        self.path = folder / "access.log"
        self.config = AccessLog(name="log", path=str(self.path), **fields)
        self.config.build(BuildContext(MetricStore(), "c", "Valkey"))
        self.transform = self.config.session(session_context())

    def ask(self, raw: bytes, *answers: bytes) -> bytes:
        """Run the log above a server that gives these answers."""
        def below(requests: Batch) -> Batch:
            for message in requests:
                message.frame = [b"changed"]  # as a transform below may
            return Batch.of(RESP, [Message(RESP, answer, lead=b">p") for answer in answers])

        return self.transform.transform(RequestDecoder().feed(raw), below).raw

    def fail(self, raw: bytes, error: Exception) -> None:
        """Run the log above a server that fails."""
        def below(requests: Batch) -> Batch:
            raise error

        with pytest.raises(type(error)):
            self.transform.transform(RequestDecoder().feed(raw), below)

    def lines(self) -> list[dict[str, Any]]:
        """What was written, without times."""
        self.config.close()
        lines = [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []
        for line in lines:
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
            assert 0 <= line.pop("seconds") < 10
        return lines


BASE = {"source": "s", "chain": "c", "session": 1}


def test_a_line_tells_who_asked_what_and_how_it_went(tmp_path: Path) -> None:
    """In the order of the requests; neither key nor value is in it."""
    lab = Lab(tmp_path)
    assert lab.ask(GET + SET, b"$1\r\nv\r\n", b"-READONLY no\r\n") == b">p$1\r\nv\r\n>p-READONLY no\r\n"
    assert lab.lines() == [
        BASE | {"command": "GET", "bytes_in": len(GET), "bytes_out": 7},
        BASE | {"command": "SET", "bytes_in": len(SET), "bytes_out": 14, "error": "READONLY no"},
    ]


@pytest.mark.parametrize(
    ("fields", "more"),
    [
        ({"keys": "count"}, [{"keys": 2}, {"keys": 0}]), ({"keys": "first"}, [{"key": "a"}, {}]),
        ({"client_address": True}, [{"client": "127.0.0.1"}] * 2),
    ], ids=str)
def test_keys_and_the_client_are_told_on_request(
    tmp_path: Path, fields: dict[str, Any], more: list[dict[str, Any]]
) -> None:
    """Nothing else changes."""
    lab = Lab(tmp_path, **fields)
    lab.ask(command("MGET", "a", "b") + command("PING"), b"*0\r\n", b"+PONG\r\n")
    assert [{key: line[key] for key in line if key not in (*BASE, "command", "bytes_in", "bytes_out")}
            for line in lab.lines()] == more


def test_what_clients_choose_is_shortened_and_escaped(tmp_path: Path) -> None:
    """One line stays one line."""
    lab = Lab(tmp_path, keys="first")
    lab.ask(command("X" * 100, b"\xff\n" + b"k" * 300), b"-" + b"e" * 400 + b"\r\n")
    (line,) = lab.lines()
    assert (line["command"], line["key"], line["error"]) == ("X" * 64, "\\xff\n" + "k" * 254, "e" * 300)


@pytest.mark.parametrize(
    ("fields", "commands"),
    [
        ({"sample_rate": 0}, ["SET"]), ({"sample_rate": 0, "always_on_error": False}, []),
        ({"sample_rate": 1, "always_on_error": False}, ["GET", "SET"]),
    ], ids=str)
def test_a_request_that_fails_is_logged_in_any_case(
    tmp_path: Path, fields: dict[str, Any], commands: list[str]
) -> None:
    """Unless that is switched off."""
    lab = Lab(tmp_path, **fields)
    lab.ask(GET + SET, b"$-1\r\n", b"-ERR no\r\n")
    assert [line["command"] for line in lab.lines()] == commands


def test_a_share_of_the_requests_is_chosen_by_the_seed(tmp_path: Path) -> None:
    """About the right number, and the same in every run."""
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        lab = Lab(tmp_path / name, sample_rate=0.25, seed=5)
        lab.ask(b"".join(command("GET%d" % n) for n in range(400)), *[b"+\r\n"] * 400)
        found.append([line["command"] for line in lab.lines()])
    assert (60 < len(found[0]) < 140, found[0]) == (True, found[1])


def test_a_run_that_fails_is_logged_with_its_causes(tmp_path: Path) -> None:
    """Each of its requests, and the error goes on its way."""
    lab = Lab(tmp_path, sample_rate=0)
    error = TransformError("the sink failed")
    error.__cause__ = UpstreamError("lost")
    lab.fail(GET + GET, error)
    lab.fail(GET, UpstreamClosed("the database closed"))
    assert lab.lines() == [
        BASE | {"command": "GET", "bytes_in": len(GET), "bytes_out": 0, "error": "the sink failed: lost"}] * 2


def test_the_end_of_a_session_is_logged_where_the_request_is_chosen(tmp_path: Path) -> None:
    """It is no failure, but the request was not answered."""
    lab = Lab(tmp_path)
    lab.fail(GET, UpstreamClosed("the database closed"))
    assert [line["error"] for line in lab.lines()] == ["the database closed"]


def test_nothing_is_looked_at_that_is_not_logged(tmp_path: Path) -> None:
    """What is not chosen and has not failed is passed on as it came."""
    lab = Lab(tmp_path, sample_rate=0)
    requests = RequestDecoder().feed(GET)
    raw = requests.raw
    assert lab.transform.transform(requests, lambda below: below).raw is raw
    assert (lab.lines(), lab.path.exists()) == ([], False)


def test_an_empty_run_is_no_line(tmp_path: Path) -> None:
    """There is nothing to tell."""
    lab = Lab(tmp_path)
    lab.transform.transform(Batch(RESP, b"", ()), lambda below: below)
    assert lab.lines() == []


@pytest.mark.parametrize(("path", "is_wrong"), [("log", False), (None, False), ("/no/such/log", True), ("", True)])
def test_the_folder_has_to_exist(path: str | None, is_wrong: bool) -> None:
    """Standard error, and a file in the working folder, are right."""
    problems = AccessLog(name="log", path=path).problems()
    assert problems == ([
        "AccessLog:", f'  path: "{path}" is in no folder that exists; make the folder, or leave path out',
    ] if is_wrong else [])
