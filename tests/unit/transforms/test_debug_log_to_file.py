"""DebugLogToFile writes every message into a file, and harms nobody when it cannot."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from shotover_gevent.chain import Batch, Message
from shotover_gevent.chain.handoff import Luggage
from shotover_gevent.codecs.raw import RAW
from shotover_gevent.codecs.resp import RESP, RequestDecoder
from shotover_gevent.transforms import debug_log_to_file
from shotover_gevent.transforms.debug_log_to_file import DebugLogToFile, MessageLog
from tests.client import command
from tests.inprocess import keeps_descriptors, session_context

GET, PING = command("GET", "a"), command("PING")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "message-log"


def log_of(config: DebugLogToFile) -> MessageLog:
    """The transform of one session."""
    transform = config.session(session_context())
    assert isinstance(transform, MessageLog)
    return transform


def below(requests: Batch) -> Batch:
    """Answers each request, the first behind a push that was seen already."""
    return Batch.of(RESP, [Message(RESP, b"+%d\r\n" % i, lead=b">") for i in range(len(requests))])


def ask(log: MessageLog, raw: bytes) -> bytes:
    """Run the transform."""
    return log.transform(RequestDecoder().feed(raw), below).raw


def files(folder: Path) -> dict[str, bytes]:
    """Everything that was written."""
    found = sorted(folder.glob("*/*/*"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_each_client_has_a_folder_and_each_message_a_file(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Counted from 1, pushes among the responses; a client that sends nothing has none."""
    caplog.set_level(logging.INFO)
    config = DebugLogToFile(name="l")
    quiet, first, second = log_of(config), log_of(config), log_of(config)
    assert ask(first, GET + PING) == b">+0\r\n>+1\r\n"
    first.push(Batch(RESP, b"+p\r\n", (b"p",), [4]), lambda pushes: None)
    ask(second, PING)
    ask(first, PING)
    quiet.close()
    assert files(folder) == {
        "1/requests/message1.bin": GET, "1/requests/message2.bin": PING,
        "1/requests/message3.bin": PING, "1/responses/message1.bin": b"+0\r\n",
        "1/responses/message2.bin": b"+1\r\n", "1/responses/message3.bin": b"+p\r\n",
        "1/responses/message4.bin": b"+0\r\n", "2/requests/message1.bin": PING,
        "2/responses/message1.bin": b"+0\r\n"}
    assert caplog.messages[0] == 'Logged message to "message-log/1/requests/message1.bin"'
    config.close()


def test_a_folder_that_nobody_uses_is_emptied(folder: Path) -> None:
    """Of the folders of clients, and of nothing else."""
    (folder / "1" / "requests").mkdir(parents=True)
    (folder / "17").mkdir()
    (folder / "notes").mkdir()
    config = DebugLogToFile(name="l")
    ask(log_of(config), PING)
    config.close()
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "1", "notes"]


def test_two_that_log_do_not_disturb_each_other(folder: Path) -> None:
    """The second adds to what the first has written, with numbers that are free."""
    one, two = DebugLogToFile(name="one"), DebugLogToFile(name="two")
    ask(log_of(one), GET)
    ask(log_of(two), PING)
    ask(log_of(one), PING)
    one.close(), two.close()
    assert [files(folder)[f"{n}/requests/message1.bin"] for n in (1, 2, 3)] == [GET, PING, PING]


def test_a_client_that_moves_goes_on_in_its_folder(folder: Path) -> None:
    """Also when the process that it came from has ended, and another client comes."""
    before, after = DebugLogToFile(name="l"), DebugLogToFile(name="l")
    there, here = log_of(before), log_of(after)
    ask(there, GET)
    here.adopt(there.export(Luggage()), Luggage())
    before.close()
    ask(log_of(after), PING)
    ask(here, PING)
    after.close()
    requests = {path: data for path, data in files(folder).items() if "requests" in path}
    assert requests == {
        "1/requests/message1.bin": GET, "1/requests/message2.bin": PING, "2/requests/message1.bin": PING}


def test_bytes_without_messages_are_written(folder: Path) -> None:
    """What one read of a Tcp source brought is one file."""
    config = DebugLogToFile(name="l")
    log = log_of(config)
    nothing = Batch(RAW, b"", ())
    passed = log.transform(Batch(RAW, b"hi", ()), lambda requests: nothing if requests.raw == b"hi" else requests)
    log.push(Batch(RAW, b"ho", ()), lambda pushes: None)
    config.close()
    assert (passed.raw, files(folder)) == (
        b"", {"1/requests/message1.bin": b"hi", "1/responses/message1.bin": b"ho"})


@pytest.mark.parametrize(("bound", "value"), [("_files_left", 3), ("_bytes_left", 32)])
def test_a_bound_ends_the_logging(
    folder: Path, caplog: pytest.LogCaptureFixture, bound: str, value: int
) -> None:
    """One line says so, and the clients go on."""
    config = DebugLogToFile(name="l")
    setattr(config, bound, value)
    log = log_of(config)
    assert ask(log, PING) + ask(log, PING) + ask(log_of(config), PING) == b">+0\r\n" * 3
    config.close()
    assert caplog.messages == [
        "no further message is logged to files: 100000 files or 1073741824 bytes were written"]
    assert len(files(folder)) == 3


def test_a_disk_that_fails_ends_the_logging(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing stays that is written in part."""
    config = DebugLogToFile(name="l")
    log = log_of(config)
    ask(log, PING)

    def full(path: Path, data: bytes) -> int:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert ask(log, PING) == b">+0\r\n"
    config.close()
    assert (caplog.messages, len(files(folder))) == (
        ["no further message is logged to files: No space left on device (os error 28)"], 2)


def test_a_folder_that_cannot_be_made_ends_the_logging(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The client is answered."""
    folder.write_text("a file")
    with keeps_descriptors():
        config = DebugLogToFile(name="l")
        assert ask(log_of(config), PING) == b">+0\r\n"
    assert caplog.messages == ["no further message is logged to files: File exists (os error 17)"]


def test_building_touches_nothing(folder: Path) -> None:
    """A configuration that is only looked at leaves what another process has written."""
    DebugLogToFile(name="l").close()
    assert (folder.exists(), debug_log_to_file.FOLDER) == (False, "message-log")
