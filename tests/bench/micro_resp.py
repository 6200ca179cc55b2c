"""Prints what decoding costs, in ns a message: ``python tests/bench/micro_resp.py``."""

from __future__ import annotations

import timeit
from collections.abc import Callable

from shotover_gevent.codecs.resp import RESP, ReplyScanner, RequestDecoder

GET = b"*2\r\n$3\r\nGET\r\n$16\r\nkey:000000001234\r\n"
SET = b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$%d\r\n%b\r\n"
REPEATS = 7
SECONDS = 0.1


def measure(name: str, run: Callable[[], object], messages: int) -> None:
    """Print the best of some repeats."""
    timer = timeit.Timer(run)
    loops = max(1, int(SECONDS / (timer.timeit(10) / 10)))
    best = min(timer.repeat(REPEATS, loops)) / loops / messages
    print(f"{name:<44}{best * 1e9:>10.0f} ns")


def chunked(data: bytes, size: int) -> Callable[[], object]:
    """Feed ``data`` to a new decoder in reads of ``size``."""
    chunks = [data[at : at + size] for at in range(0, len(data), size)]

    def run() -> None:
        decoder = RequestDecoder()
        for chunk in chunks:
            decoder.feed(chunk)

    return run


def main() -> None:
    """Measure everything."""
    buffer = bytearray(256 * 1024)
    decoder = RequestDecoder()
    for count in (1, 16, 1000):
        view = memoryview(buffer)[: len(GET) * count]
        view[:] = GET * count
        measure(f"{count} GET", lambda view=view: decoder.feed(view), count)
        batch = decoder.feed(view)
        measure(f"  split {count}", lambda batch=batch, n=count: RESP.split(batch.raw, n), count)
        measure(f"  names {count}", lambda batch=batch: RESP.names(batch.values), count)
    measure("1000 GET in reads of 4001 bytes", chunked(GET * 1000, 4001), 1000)
    measure("1000 inline PING", chunked(b"PING\r\n" * 1000, 65536), 1000)
    measure("1000 GET, one byte at a time / 37", chunked(GET * 1000, 1), 37000)
    measure("1 SET of 100 KB", chunked(SET % (100_000, bytes(100_000)), 262144), 1)
    measure("1 SET of 10 MB in reads of 256 KiB", chunked(SET % (10**7, bytes(10**7)), 262144), 1)
    for count in (1, 16, 1000):
        replies = b"$3\r\nxxx\r\n" * count
        scanner = ReplyScanner()
        measure(f"{count} replies", lambda r=replies, s=scanner: s.feed(r), count)


if __name__ == "__main__":
    main()
