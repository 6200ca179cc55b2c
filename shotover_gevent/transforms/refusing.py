"""Answering some requests in the place of the server, without breaking what their client is doing.

Rules:
 1. A refused request is answered at its place, and is not sent.
 2. No transaction runs in part. Refusing a request inside MULTI makes EXEC fail as the server makes it
    fail for a command that it could not queue: the server gets DISCARD, the client ``EXECABORT``.
 3. A refused MULTI begins a transaction that exists here only: it is answered with ``OK``, all in it is
    refused, and EXEC fails. An error would not keep a client that has sent the rest already from
    having it executed piece by piece.
 4. EXEC, DISCARD, RESET, QUIT and CLIENT REPLY are never refused: refusing them would leave the client
    in a state that it has ended, or with one answer more or less than it waits for.
 5. Whoever has switched replies off (CLIENT REPLY) is told nothing here either.

The texts are those of Redis (``src/multi.c``, ``src/server.c``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal

from shotover_gevent.chain import Batch, Message, Next, Transform
from shotover_gevent.chain.handoff import EXPORTED

#: For a request (its index in the batch): the error to answer, or ``None`` to let it pass. The second
#: argument says whether it may be refused at all; where not, the answer of the judge is ignored.
Judge = Callable[[int, bool], bytes | None]

# "virtual" is a transaction that the server knows nothing of; "aborted" is one that it must discard.
Transaction = Literal["none", "open", "aborted", "virtual"]
ReplyMode = Literal["on", "off", "skip"]

OK: Final = b"+OK\r\n"
ABORTED: Final = b"-EXECABORT Transaction discarded because of previous errors.\r\n"
NESTED: Final = b"-ERR MULTI calls can not be nested\r\n"
DISCARD: Final = b"*1\r\n$7\r\nDISCARD\r\n"

_ENDS = frozenset({b"RESET", b"QUIT"})
_NOTED = _ENDS | {b"MULTI", b"EXEC", b"DISCARD", b"CLIENT"}


def answer_some(
    requests: Batch, next: Next, own: Mapping[int, bytes], sent: Mapping[int, bytes] | None = None
) -> Batch:
    """Answer the requests at the indexes of ``own`` with these bytes, and ask below for the others.

    ``sent`` has what is sent in the place of some of the others.
    """
    if not own and not sent:
        return next(requests)
    codec, sent = requests.codec, sent or {}
    answers = Batch.of(codec, [Message(codec, own.get(index, b"")) for index in range(len(requests))])
    passing = [index for index in range(len(requests)) if index not in own]
    if passing:
        allowed = Batch.of(codec, [
            Message(codec, sent[index]) if index in sent else requests[index] for index in passing])
        allowed.received_at = requests.received_at
        responses = next(allowed)
        for index, response in zip(passing, responses, strict=True):
            answers[index] = response
        answers.received_at = responses.received_at
    return answers


class RefusingTransform(Transform):
    """A transform that may refuse requests; it follows the transaction and the reply mode of a client."""

    fates = {"_transaction": EXPORTED, "_replies": EXPORTED, "_refusal": EXPORTED}

    def __init__(self) -> None:
        self._transaction: Transaction = "none"
        self._replies: ReplyMode = "on"
        #: What a transaction that exists here only was refused with.
        self._refusal = ""

    def is_ordinary(self, requests: Batch) -> bool:
        """Whether nothing of what this class follows plays a part in the batch."""
        return (
            self._transaction == "none" and self._replies == "on"
            and _NOTED.isdisjoint(requests.names))

    def follow(self, requests: Batch, next: Next) -> Batch:
        """Ask below, and refuse nothing but what belongs to a transaction that was refused before."""
        if self.is_ordinary(requests):
            return next(requests)
        return self.refuse(requests, next, lambda index, may_refuse: None)

    def refuse(self, requests: Batch, next: Next, judge: Judge) -> Batch:
        """Answer what ``judge`` refuses, and ask below for the rest."""
        if self.is_ordinary(requests):
            verdicts = [(index, judge(index, True)) for index in range(len(requests))]
            return answer_some(requests, next, {i: raw for i, raw in verdicts if raw is not None})
        course = _Course(self._transaction, self._replies, self._refusal, judge)
        for index, (name, value) in enumerate(zip(requests.names, requests.values)):
            course.take(index, name, value)
        responses = answer_some(requests, next, course.own, course.sent)
        # Only now: what fails below may be asked again from above.
        self._transaction, self._replies = course.transaction, course.replies
        self._refusal = course.refusal
        self._follow(course, responses)
        return responses

    def _follow(self, course: _Course, responses: Batch) -> None:
        """Put in what was not known before: which EXEC failed here, and whether MULTI worked."""
        for index in course.sent:
            raw = ABORTED if responses[index].raw else b""  # nothing, if the replies are off
            responses[index] = Message(responses.codec, raw)
        begun = course.begun
        if begun is not None and responses[begun].raw.startswith(b"-"):
            self._transaction = "none"


class _Course:
    """What becomes of the requests of one batch, taken in their order."""

    __slots__ = ("transaction", "replies", "refusal", "own", "sent", "begun", "_judge")

    def __init__(
        self, transaction: Transaction, replies: ReplyMode, refusal: str, judge: Judge
    ) -> None:
        self.transaction = transaction
        self.replies = replies
        self.refusal = refusal
        self.own: dict[int, bytes] = {}
        self.sent: dict[int, bytes] = {}
        #: Which request began the transaction that the batch leaves open, if one of the server's.
        self.begun: int | None = None
        self._judge = judge

    def take(self, index: int, name: bytes, value: object) -> None:
        """Decide on one request."""
        if name in _ENDS:
            self._judge(index, False)
            self.transaction, self.begun = "none", None
            if name == b"RESET":
                self.replies = "on"
        elif self.transaction == "virtual":
            self._take_virtual(index, name)
        elif name in (b"EXEC", b"DISCARD"):
            self._end(index, name)
        elif (mode := _reply_mode(name, value)) is not None and self.transaction == "none":
            self._judge(index, False)
            self._set_replies(mode)
        elif self.replies == "skip":
            self.replies = "on"  # the server skips the answer to this one
            self._judge(index, False)
            self._begin(index, name)
        elif (error := self._judge(index, True)) is not None:
            self._refuse(index, name, error)
        else:
            self._begin(index, name)

    def _begin(self, index: int, name: bytes) -> None:
        if name == b"MULTI" and self.transaction == "none":
            self.transaction, self.begun = "open", index

    def _end(self, index: int, name: bytes) -> None:
        self._judge(index, False)
        if self.transaction == "aborted" and name == b"EXEC":
            self.sent[index] = DISCARD
        if self.replies == "skip":
            self.replies = "on"
        self.transaction, self.begun = "none", None

    def _refuse(self, index: int, name: bytes, error: bytes) -> None:
        if name == b"MULTI" and self.transaction == "none":
            self.transaction, self.refusal, error = "virtual", error.decode("latin-1"), OK
        elif self.transaction == "open":
            self.transaction = "aborted"
        self._answer(index, error)

    def _take_virtual(self, index: int, name: bytes) -> None:
        if name in (b"EXEC", b"DISCARD"):
            self.transaction = "none"
            self._answer(index, ABORTED if name == b"EXEC" else OK)
        else:
            self._answer(index, NESTED if name == b"MULTI" else self.refusal.encode("latin-1"))

    def _answer(self, index: int, raw: bytes) -> None:
        self.own[index] = raw if self.replies == "on" else b""

    def _set_replies(self, mode: bytes) -> None:
        if mode == b"ON":
            self.replies = "on"
        elif mode == b"OFF":
            self.replies = "off"
        elif mode == b"SKIP" and self.replies != "off":
            self.replies = "skip"


def _reply_mode(name: bytes, value: object) -> bytes | None:
    """The mode that CLIENT REPLY asks for; ``None`` for any other request."""
    if name == b"CLIENT" and isinstance(value, list) and len(value) == 3 and value[1].upper() == b"REPLY":
        mode: bytes = value[2].upper()
        return mode
    return None
