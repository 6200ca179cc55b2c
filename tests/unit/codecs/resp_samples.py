"""What the RESP tests are made of: odd requests, strategies, and a way to ask a server."""

from __future__ import annotations

import socket

from hypothesis import strategies as st

from shotover_gevent.codecs.batch import Batch
from shotover_gevent.codecs.resp import MalformedRequest, RequestDecoder

PING = b"*1\r\n$4\r\nPING\r\n"
ECHO = b"*2\r\n$4\r\nECHO\r\n$3\r\na\r\n\r\n"

#: Pieces of requests, odd requests and near misses.
PIECES = (
    PING, ECHO, b"*1\r\n", b"*2\r\n", b"*3\r\n", b"*0\r\n", b"*-1\r\n", b"*01\r\n", b"*", b"\r",
    b"\n", b"\r\n", b"*2\r\n$4\r\nECHO\r\n$0\r\n\r\n", b"*2\r\n$4\r\nECHO\r\n$3\r\n+ok\r\n",
    b"$4\r\nPING\r\n", b"$4\r\nECHO\r\n", b"$0\r\n\r\n", b"$-1\r\n", b"$1\r\nx\r\n", b"$2\r\n\r\n\r\n",
    b"$", b"+OK\r\n", b"(12\r\n", b"=5\r\ntxt:a\r\n", b"~1\r\n", b">1\r\n", b"|1\r\n", b"%1\r\n",
    b":1\r\n", b"_\r\n", b"PING\r\n", b"PING\n", b"PING", b"ECHO a\r\n", b"ECHO 'a b'\r\n",
    b'ECHO "\\x41\\n"\r\n', b" ", b"'", b'"', b"\\", b"\t", b"x", b"1", b"9", b"-", b"\xff", b"\v",
)

#: Anything that a client might send, most of it wrong.
streams = st.lists(
    st.one_of(st.sampled_from(PIECES), st.binary(max_size=3)), max_size=10
).map(b"".join)


def command(words: list[bytes]) -> bytes:
    """The canonical request of these words."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)


#: Streams that are all right.
good_streams = st.lists(
    st.one_of(
        st.lists(st.binary(max_size=6), min_size=1, max_size=3).map(command),
        st.sampled_from([b"PING\r\n", b"\r\n", b"*0\r\n", b"echo 'a'\n", b"*-1\r\n"]),
    ),
    max_size=8,
).map(b"".join)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """``data`` in pieces, cut at these places (taken modulo its length)."""
    edges = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[low:high] for low, high in zip(edges, edges[1:])]


def read_all(decoder: RequestDecoder, chunks: list[bytes]) -> tuple[bytes, list[list[bytes]], str]:
    """The bytes passed on, the arguments, and the error, after all chunks."""
    batches: list[Batch] = []
    error = ""
    try:
        for chunk in chunks:
            batches.append(decoder.feed(chunk))
    except MalformedRequest as malformed:
        batches.append(malformed.batch)
        error = malformed.reply.decode("latin-1")
    raw = b"".join(batch.raw for batch in batches)
    return raw, [value for batch in batches for value in batch.values], error


def answers(port: int, data: bytes, may_end: bool = True) -> bytes:
    """All that the server says to ``data`` until it closes.

    It closes at the end of the data, and then drops what it could not send yet; unless
    ``may_end``, it must close by itself.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(data)
        if may_end:
            sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(65536), b""))
