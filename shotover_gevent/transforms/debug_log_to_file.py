"""DebugLogToFile: writes every message into a file of its own.

``message-log/<n>/requests/message<k>.bin`` is the k-th request of the n-th client, and
``message-log/<n>/responses/message<k>.bin`` its k-th response or push, both counted from 1.

Rules:
 1. Whoever finds ``message-log`` unused empties it. Whoever finds it used, as the successor of a hot
    reload does, adds to it: a client's folder goes on where it moved, and new ones get free numbers.
    ``message-log/.lock`` is locked, shared, by everybody who writes.
 2. The clients do not suffer: a disk that is full, or a bound that is reached, ends the logging, with
    one line that says so.
 3. Files are written by threads, since a disk may be slow; a message goes on when it was written.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from gevent import get_hub
from gevent.lock import BoundedSemaphore
from pydantic import PrivateAttr

from shotover_gevent.chain import Batch, Message, Next, SessionContext, Transform, TransformConfig
from shotover_gevent.chain.handoff import EXPORTED, REBUILT, Luggage
from shotover_gevent.errors import os_error_text

logger = logging.getLogger(__name__)

FOLDER = "message-log"

# For looking at some traffic. One that was forgotten in a chain must not fill the disk: these are what
# a file system of some gigabytes has to spare, and what a folder can be listed with.
MAX_BYTES = 1024 * 1024 * 1024
MAX_FILES = 100_000


class DebugLogToFile(TransformConfig):
    """Writes every message into a file below ``message-log``, in the working folder."""

    _turn: BoundedSemaphore | None = PrivateAttr(None)
    _lock: IO[bytes] | None = PrivateAttr(None)
    _clients: int = PrivateAttr(0)
    _files_left: int = PrivateAttr(MAX_FILES)
    _bytes_left: int = PrivateAttr(MAX_BYTES)
    _is_over: bool = PrivateAttr(False)

    def session(self, context: SessionContext) -> Transform:
        """The log of one client."""
        return MessageLog(self)

    def close(self) -> None:
        """Let others empty the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def new_client(self) -> int:
        """A folder for one more client; returns its number, 0 if there is none to be had."""
        if self._turn is None:  # not sooner: a semaphore cannot be copied, as ParallelMap does
            self._turn = BoundedSemaphore()
        with self._turn:
            return 0 if self._is_over else self._attempt(self._make_folder) or 0

    def rejoin(self) -> None:
        """Keep the folder of a client that came from another process from being emptied; never waits."""
        if self._lock is None and not self._is_over:
            try:
                self._lock = _lock_folder(fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError as error:
                self._end(os_error_text(error))

    def write(self, files: Sequence[tuple[str, bytes]]) -> None:
        """Write files, each with its path, while the bounds and the disk allow."""
        if not self._is_over:
            self._files_left -= len(files)
            self._bytes_left -= sum(len(data) for _, data in files)
            if self._files_left < 0 or self._bytes_left < 0:
                self._end(f"{MAX_FILES} files or {MAX_BYTES} bytes were written")
            elif self._attempt(lambda: _write_all(files)):
                for path, _ in files:
                    logger.info('Logged message to "%s"', path)

    def _attempt(self, do: Callable[[], int]) -> int | None:
        """What ``do`` returns, in a thread; ``None`` if the disk fails, which ends the logging."""
        try:
            return get_hub().threadpool.apply(do)  # type: ignore[no-any-return]
        except OSError as error:
            self._end(os_error_text(error))
            return None

    def _end(self, reason: str) -> None:
        if not self._is_over:
            self._is_over = True
            logger.error("no further message is logged to files: %s", reason)

    def _make_folder(self) -> int:
        if self._lock is None:
            self._lock = _empty_folder()
        while True:
            self._clients += 1
            try:
                os.makedirs(f"{FOLDER}/{self._clients}/requests")
            except FileExistsError:
                continue
            os.mkdir(f"{FOLDER}/{self._clients}/responses")
            return self._clients


class MessageLog(Transform):
    """The files of one client."""

    fates = {"_config": REBUILT, "_number": EXPORTED, "_requests": EXPORTED, "_responses": EXPORTED}

    def __init__(self, config: DebugLogToFile) -> None:
        self._config = config
        self._number = 0
        self._requests = 0
        self._responses = 0

    def transform(self, requests: Batch, next: Next) -> Batch:
        """Write the requests, then ask, then write the responses."""
        self._requests += self._write("requests", self._requests, requests)
        responses = next(requests)
        self._responses += self._write("responses", self._responses, responses)
        return responses

    def push(self, pushes: Batch, forward: Callable[[Batch], None]) -> None:
        """Write it among the responses."""
        self._responses += self._write("responses", self._responses, pushes)
        forward(pushes)

    def adopt(self, state: Any, luggage: Luggage) -> None:
        """Go on in the folder that the client had in another process."""
        super().adopt(state, luggage)
        self._config.rejoin()

    def _write(self, kind: str, before: int, batch: Batch) -> int:
        # Bytes without structure are no messages: what one read brought is written as one.
        messages = batch.messages if batch else [Message(batch.codec, batch.raw)] * bool(batch.raw)
        if messages and not self._number:
            self._number = self._config.new_client()
        if messages and self._number:
            folder = f"{FOLDER}/{self._number}/{kind}"
            self._config.write([
                (f"{folder}/message{count}.bin", message.raw)
                for count, message in enumerate(messages, before + 1)])
        return len(messages)


def _lock_folder(mode: int) -> IO[bytes]:
    """The lock of the folder. Raises ``OSError``."""
    os.makedirs(FOLDER, exist_ok=True)
    lock = open(f"{FOLDER}/.lock", "ab")
    try:
        fcntl.flock(lock, mode)
    except BaseException:
        lock.close()
        raise
    return lock


def _empty_folder() -> IO[bytes]:
    """The lock of the folder, which is emptied if nobody else has it. Raises ``OSError``."""
    try:
        lock = _lock_folder(fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _lock_folder(fcntl.LOCK_SH)
    try:
        for found in Path(FOLDER).iterdir():
            if found.name.isdigit():
                shutil.rmtree(found)
        fcntl.flock(lock, fcntl.LOCK_SH)
    except BaseException:
        lock.close()
        raise
    return lock


def _write_all(files: Sequence[tuple[str, bytes]]) -> int:
    """Write files; returns how many. Raises ``OSError``, and leaves no file that is written in part."""
    for path, data in files:
        try:
            Path(path).write_bytes(data)
        except OSError:
            Path(path).unlink(missing_ok=True)
            raise
    return len(files)
