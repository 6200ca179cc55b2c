"""AccessLog: one line of JSON for a request, of all or of a share of them.

Values never appear; keys only where the configuration says so.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Literal

from pydantic import Field, PrivateAttr

from shotover_gevent.chain import (
    Batch,
    BuildContext,
    Next,
    SessionContext,
    Transform,
    TransformConfig,
)
from shotover_gevent.chain.handoff import REBUILT
from shotover_gevent.codecs.resp_keys import keys_of
from shotover_gevent.errors import SessionEnd, causes
from shotover_gevent.transforms.access_writer import AccessWriter, AppendedFile
from shotover_gevent.transforms.replies import errors

# Clients choose names, keys and, by way of these, errors. The longest command of a server has 21 letters;
# a key is to be recognised, not to be copied.
MAX_NAME_BYTES = 64
MAX_KEY_BYTES = 256
MAX_ERROR_CHARS = 300


class AccessLog(TransformConfig):
    """Writes a line of JSON for each request, or for a share of them, to a file or to standard error."""

    protocols: ClassVar[tuple[str, ...] | None] = ("Valkey",)

    path: str | None = Field(
        None, description="The file that lines are appended to; standard error if it is left out")
    sample_rate: float = Field(1.0, ge=0, le=1, description="Which share of the requests is logged")
    always_on_error: bool = Field(True, description="Whether a request that fails is logged in any case")
    client_address: bool = Field(False, description="Whether a line has the IP of the client")
    keys: Literal["none", "count", "first"] = Field(
        "none", description="Whether a line has the number of keys, or the first key")
    seed: int | None = Field(None, description="Makes the choice the same in every run of the program")
    _writer: AccessWriter = PrivateAttr()
    _random: Random = PrivateAttr()

    def problems(self) -> list[str]:
        """The folder of the file has to be there."""
        if self.path is None or (self.path and Path(self.path).parent.is_dir()):
            return []
        return [
            f"{self.type_name}:",
            f'  path: "{self.path}" is in no folder that exists; make the folder, or leave path out']

    def build(self, context: BuildContext) -> None:
        """Register the counter; the file is opened by the first line."""
        dropped = context.metrics.counter(
            "shotover_gevent_access_log_dropped_count", "Lines that were not written",
            chain=context.chain, name=self.name)
        self._writer = AccessWriter(AppendedFile(self.path), self.name, dropped)
        self._random = Random(self.seed)

    def close(self) -> None:
        """Write what is still queued."""
        self._writer.close()

    def session(self, context: SessionContext) -> Transform:
        """The log of one session; the file is that of all."""
        return _Access(self, context)


class _Access(Transform):
    fates = {"_config": REBUILT, "_writer": REBUILT, "_about": REBUILT, "_chance": REBUILT}

    def __init__(self, config: AccessLog, context: SessionContext) -> None:
        self._config = config
        self._writer = config._writer
        self._about: dict[str, Any] = {
            "source": context.source, "chain": context.chain, "session": context.session_id}
        if config.client_address:
            self._about["client"] = context.client_address
        self._chance = config._random.random

    def transform(self, requests: Batch, next: Next) -> Batch:
        if not requests:
            return next(requests)
        kept = requests.copy()  # those below may change what they are given
        chosen = self._choose(len(requests))
        started, start = time.time(), time.perf_counter()
        try:
            responses = next(requests)
        except Exception as error:
            is_failure = not isinstance(error, SessionEnd)
            if is_failure and self._config.always_on_error:
                chosen = range(len(kept))
            if chosen:
                text = ": ".join(causes(error))
                self._write(kept, chosen, started, start, [0] * len(kept), dict.fromkeys(chosen, text))
            raise
        failed = dict(errors(responses)) if chosen or self._config.always_on_error else {}
        if failed and self._config.always_on_error:
            chosen = sorted({*chosen, *failed})
        if chosen:
            self._write(kept, chosen, started, start, responses.sizes, failed)
        return responses

    def _choose(self, count: int) -> Sequence[int]:
        rate = self._config.sample_rate
        if rate == 1.0:
            return range(count)
        return [index for index in range(count) if self._chance() < rate]

    def _write(
        self, requests: Batch, chosen: Sequence[int], started: float, start: float,
        bytes_out: list[int], failed: dict[int, str],
    ) -> None:
        seconds = round(time.perf_counter() - start, 6)
        about = {"time": _time(started), **self._about}
        names, values, bytes_in = requests.names, requests.values, requests.sizes
        lines = []
        for index in chosen:
            line = about | {"command": _text(names[index], MAX_NAME_BYTES)} | self._keys(values[index])
            line |= {"bytes_in": bytes_in[index], "bytes_out": bytes_out[index], "seconds": seconds}
            if index in failed:
                line["error"] = failed[index][:MAX_ERROR_CHARS]
            lines.append(json.dumps(line).encode() + b"\n")
        self._writer.put(lines)

    def _keys(self, words: Any) -> dict[str, Any]:
        how = self._config.keys
        if how == "none" or not isinstance(words, list):
            return {}
        keys = keys_of(words)
        if how == "count":
            return {"keys": len(keys)}
        return {"key": _text(keys[0], MAX_KEY_BYTES)} if keys else {}


def _text(data: bytes, limit: int) -> str:
    """Bytes of a client for a line; what is no UTF-8 is escaped."""
    return data[:limit].decode("utf-8", "backslashreplace")


def _time(seconds: float) -> str:
    """A time as ISO 8601 has it, in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
