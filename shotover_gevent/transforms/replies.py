"""Which responses of a Valkey server are errors, and of what kind."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import hiredis

from shotover_gevent.chain import Batch
from shotover_gevent.codecs.resp_frames import BlobError, ErrorReply

_CODE = re.compile(r"[A-Z][A-Z0-9]*")


def error_text(value: Any) -> str | None:
    """The text of an error reply, as a batch has it among its values; ``None`` for any other."""
    if isinstance(value, hiredis.ReplyError):
        return str(value)
    return value.text if isinstance(value, (ErrorReply, BlobError)) else None


def errors(responses: Batch) -> list[tuple[int, str]]:
    """The index and the text of each response that is an error, in order."""
    raw = responses.raw
    if b"-" not in raw and b"!" not in raw:  # what no error lacks, and many batches do
        return []
    return [
        (index, text) for index, value in enumerate(responses.values)
        if (text := error_text(value)) is not None]


def code_of(text: str) -> str:
    """The first word of an error, by which clients tell what happened: ``LOADING``."""
    return text.partition(" ")[0]


def code_problems(type_name: str, field: str, codes: Sequence[str]) -> list[str]:
    """What is wrong with a list of codes in a topology, in lines."""
    wrong = [code for code in codes if not _CODE.fullmatch(code)]
    if not wrong:
        return []
    return [
        f"{type_name}:",
        *(f'  {field}: "{code}" is no first word of an error reply; write it as LOADING' for code in wrong)]
