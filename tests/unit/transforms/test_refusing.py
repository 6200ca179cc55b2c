"""Some requests are answered in the place of the server, and nothing that their client does breaks."""

from __future__ import annotations

import pytest

from shotover_gevent.chain import Batch, Message, Next
from shotover_gevent.chain.handoff import Luggage
from shotover_gevent.codecs.resp import RESP, RequestDecoder
from shotover_gevent.transforms.refusing import RefusingTransform, answer_some
from tests.client import command
from tests.inprocess import summary

NO = b"-ERR no\r\n"
ABORTED = b"-EXECABORT Transaction discarded because of previous errors.\r\n"


class Refuser(RefusingTransform):
    """Refuses what begins with NO, and MULTI while ``refuses_multi``; writes down what it was asked."""

    def __init__(self, refuses_multi: bool = False) -> None:
        super().__init__()
        self.refuses_multi = refuses_multi
        self.judged: list[tuple[bytes, bool]] = []

    def transform(self, requests: Batch, next: Next) -> Batch:
        """Judge each request by its name."""
        def judge(index: int, may_refuse: bool) -> bytes | None:
            name = requests.names[index]
            self.judged.append((name, may_refuse))
            return NO if name.startswith(b"NO") or (name == b"MULTI" and self.refuses_multi) else None

        return self.refuse(requests, next, judge)


class Server:
    """Answers as a server does, as far as transactions and replies go; ``got`` are the names it got."""

    def __init__(self, refuses_multi: bool = False) -> None:
        self.got: list[bytes] = []
        self.refuses_multi = refuses_multi
        self._queue: list[bytes] | None = None
        self._replies = b"ON"

    def __call__(self, requests: Batch) -> Batch:
        """Answer a batch."""
        return Batch.of(RESP, [Message(RESP, self._answer(m.frame)) for m in requests])

    def _answer(self, words: list[bytes]) -> bytes:
        name = words[0].upper()
        self.got.append(name)
        answer = self._reply(name)
        if name == b"CLIENT" and words[1] == b"REPLY":
            self._replies = words[2]
            return b"+OK\r\n" if self._replies == b"ON" else b""
        if name == b"RESET":
            self._replies, self._queue = b"ON", None
        if self._replies == b"SKIP":
            self._replies, answer = b"ON", b""
        return answer if self._replies == b"ON" else b""

    def _reply(self, name: bytes) -> bytes:
        if name == b"MULTI":
            if self.refuses_multi:
                return b"-NOAUTH\r\n"
            self._queue = []
            return b"+OK\r\n"
        if name in (b"EXEC", b"DISCARD"):
            queue, self._queue = self._queue, None
            if queue is None:
                return b"-ERR without MULTI\r\n"
            return b"+OK\r\n" if name == b"DISCARD" else b"*%d\r\n" % len(queue) + b"".join(queue)
        if self._queue is not None and name != b"RESET":
            self._queue.append(b"+" + name + b"\r\n")
            return b"+QUEUED\r\n"
        return b"+" + name + b"\r\n"


def ask(refuser: Refuser, server: Server, text: str) -> bytes:
    """The answers to requests that are separated by ``;``."""
    raw = b"".join(command(*words.split()) for words in text.split(";"))
    return refuser.transform(RequestDecoder().feed(raw), server).raw


@pytest.mark.parametrize(
    ("refuses_multi", "text", "answers", "got"),
    [
        (False, "GET a;NO b;GET c", b"+GET\r\n" + NO + b"+GET\r\n", "GET GET"),
        (False, "NO a;NO b", NO * 2, ""),
        (False, "MULTI;GET a;EXEC", b"+OK\r\n+QUEUED\r\n*1\r\n+GET\r\n", "MULTI GET EXEC"),
        (False, "MULTI;GET a;NO b;GET c;EXEC;GET d",
         b"+OK\r\n+QUEUED\r\n" + NO + b"+QUEUED\r\n" + ABORTED + b"+GET\r\n", "MULTI GET GET DISCARD GET"),
        (False, "MULTI;NO a;DISCARD;NO b;MULTI;EXEC", b"+OK\r\n" + NO + b"+OK\r\n" + NO + b"+OK\r\n*0\r\n",
         "MULTI DISCARD MULTI EXEC"),
        (True, "MULTI;GET a;MULTI;EXEC;GET d",
         b"+OK\r\n" + NO + b"-ERR MULTI calls can not be nested\r\n" + ABORTED + b"+GET\r\n", "GET"),
        (True, "MULTI;GET a;DISCARD;GET b", b"+OK\r\n" + NO + b"+OK\r\n+GET\r\n", "GET"),
        (True, "MULTI;RESET;GET b", b"+OK\r\n+RESET\r\n+GET\r\n", "RESET GET"),
        (False, "MULTI;RESET;NO a;EXEC", b"+OK\r\n+RESET\r\n" + NO + b"-ERR without MULTI\r\n",
         "MULTI RESET EXEC"),
        (False, "CLIENT REPLY OFF;NO a;GET a;CLIENT REPLY ON;NO b", b"+OK\r\n" + NO,
         "CLIENT GET CLIENT"),
        (False, "CLIENT REPLY OFF;NO a;RESET;NO b", b"+RESET\r\n" + NO, "CLIENT RESET"),
        (False, "CLIENT REPLY SKIP;NO a;NO b;GET c", NO + b"+GET\r\n", "CLIENT NO GET"),
        (False, "CLIENT REPLY SKIP;EXEC;NO b", NO, "CLIENT EXEC"),
        (False, "CLIENT REPLY SKIP;CLIENT REPLY OFF;NO a;RESET;NO b", b"+RESET\r\n" + NO, "CLIENT CLIENT RESET"),
        (False, "CLIENT REPLY SKIP;CLIENT REPLY SKIP;NO a;NO b", NO, "CLIENT CLIENT NO"),
        (False, "CLIENT REPLY SKIP;CLIENT REPLY ON;NO a", b"+OK\r\n" + NO, "CLIENT CLIENT"),
        (True, "CLIENT REPLY OFF;MULTI;GET a;EXEC;CLIENT REPLY ON", b"+OK\r\n", "CLIENT CLIENT"),
        (False, "CLIENT REPLY OFF;MULTI;NO a;EXEC;CLIENT REPLY ON", b"+OK\r\n",
         "CLIENT MULTI DISCARD CLIENT"),
        (False, "CLIENT INFO;NO a", b"+CLIENT\r\n" + NO, "CLIENT"),
    ])
@pytest.mark.parametrize("at_once", [True, False], ids=["pipelined", "one by one"])
def test_a_refusal_leaves_the_client_where_a_server_would(
    refuses_multi: bool, text: str, answers: bytes, got: str, at_once: bool
) -> None:
    """Every request has the answers that it waits for, and no transaction runs in part."""
    server, refuser = Server(), Refuser(refuses_multi)
    parts = [text] if at_once else text.split(";")
    assert (b"".join(ask(refuser, server, part) for part in parts), server.got) == (
        answers, [name.encode() for name in got.split()])


def test_a_transaction_that_the_server_did_not_begin_is_none() -> None:
    """After an error to MULTI, a refused request aborts nothing."""
    server, refuser = Server(refuses_multi=True), Refuser()
    assert [ask(refuser, server, text) for text in ("MULTI", "NO a", "EXEC")] == [
        b"-NOAUTH\r\n", NO, b"-ERR without MULTI\r\n"]


@pytest.mark.parametrize("refuses_multi", [True, False])
def test_a_session_goes_on_with_its_transaction_in_another_process(refuses_multi: bool) -> None:
    """An aborted one fails there, and one that the server knows nothing of is still refused."""
    server, there, here = Server(), Refuser(refuses_multi), Refuser()
    ask(there, server, "MULTI;NO a")
    here.adopt({name: getattr(there, name) for name in RefusingTransform.fates}, Luggage())
    assert ask(here, server, "NO b;EXEC;GET c") == NO + ABORTED + b"+GET\r\n"


def test_what_failed_below_is_not_followed() -> None:
    """Whoever asks again from above asks the same transform in the same state."""
    server, refuser = Server(), Refuser()

    def fails(requests: Batch) -> Batch:
        raise OSError

    batch = RequestDecoder().feed(command("MULTI") + command("NO"))
    with pytest.raises(OSError):
        refuser.transform(batch, fails)
    assert refuser.transform(batch, server).raw == b"+OK\r\n" + NO


def test_control_requests_are_judged_but_not_refused() -> None:
    """A judge that counts sees them."""
    refuser = Refuser()
    ask(refuser, Server(), "MULTI;GET a;EXEC;CLIENT REPLY ON;RESET")
    assert refuser.judged == [
        (b"MULTI", True), (b"GET", True), (b"EXEC", False), (b"CLIENT", False), (b"RESET", False)]


def test_pushes_stay_at_their_places() -> None:
    """Also before an EXEC whose answer is replaced."""
    def below(requests: Batch) -> Batch:
        return Batch.of(RESP, [Message(RESP, b"+x\r\n", lead=b">%d" % i) for i in range(len(requests))])

    batch = RequestDecoder().feed(b"".join(command(*w.split()) for w in ("MULTI", "NO", "EXEC", "GET a")))
    assert summary(Refuser().transform(batch, below)) == [
        (b">0", b"+x\r\n"), (b"", NO), (b">1", ABORTED), (b">2", b"+x\r\n")]


def test_what_passes_as_a_whole_is_not_touched() -> None:
    """The very batch goes down, and the very answers come back."""
    requests = RequestDecoder().feed(command("GET", "a"))
    assert answer_some(requests, lambda below: below, {}) is requests
    assert Refuser().transform(requests, lambda below: below) is requests
