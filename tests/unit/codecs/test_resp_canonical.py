"""What is taken without parsing is what a parser finds, in each of the forms that have a way of their own."""

from __future__ import annotations

import pytest

from shotover_gevent.codecs.resp_canonical import take_canonical
from tests.client import command

GET, SET = command("GET", "key"), command("SET", "key", "value")
DELETE = command("DEL", *map(str, range(7)))

# One request of two and of three arguments, one of more, few and many of the same length, of several.
READS = [
    GET, SET, DELETE, GET * 2, GET * 3 + command("get", ""), GET * 16 + command("EXISTS", "other"),
    SET * 9, DELETE * 3, GET * 5 + SET, SET * 4 + GET * 5, command("PING") * 20,
    command("ECHO", "a\r\nb"), GET * 8 + command("ECHO", "a\r\nb"), command("a\r\nb", "c") * 8,
]


def parsed(raw: bytes) -> tuple[list[list[bytes]], int]:
    """The same, step by step: requests whose lengths have canonical digits, without line ends inside."""
    values: list[list[bytes]] = []
    start = at = 0

    def number(mark: bytes, least: int) -> int:
        nonlocal at
        end = raw.index(b"\r\n", at)
        text = raw[at + 1 : end]
        if raw[at : at + 1] != mark or text != b"%d" % int(text) or int(text) < least:
            raise ValueError
        at = end + 2
        return int(text)

    try:
        while at < len(raw):
            arguments = []
            for _ in range(number(b"*", 1)):
                size = number(b"$", 0)
                argument, end = raw[at : at + size], raw[at + size : at + size + 2]
                if len(argument) != size or end != b"\r\n" or b"\r\n" in argument + end[:1]:
                    raise ValueError
                arguments.append(argument)
                at += size + 2
            values.append(arguments)
            start = at
    except ValueError:
        pass
    return values, start


@pytest.mark.parametrize("raw", READS, ids=range(len(READS)))
def test_a_read_is_taken_as_far_as_it_is_canonical(raw: bytes) -> None:
    """Whole, cut anywhere, and with any byte changed, doubled or left out."""
    changed = [raw[:at] + new + raw[at + 1 :] for at in range(len(raw))
               for new in (b"", b"\r", b"\n", b"$", b"*", b"0", b"4", raw[at : at + 1] * 2)]
    for read in [raw, *(raw[:at] for at in range(len(raw))), *changed, raw + b"\r\n", raw + b"*"]:
        assert take_canonical(read) == parsed(read), read
