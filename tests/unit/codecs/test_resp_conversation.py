"""Which value of a server answers which request, as transcripts of connections.

In a transcript ``>`` sends requests, and every other line is a value that the server sends then, with
what the conversation makes of it: ``push``, ``part`` of an answer, or the ``end`` of one.
"""

from __future__ import annotations

import pytest

from shotover_gevent.codecs.resp import RequestDecoder
from shotover_gevent.codecs.resp_conversation import Conversation, ReplyMode, sets_up
from shotover_gevent.codecs.resp_frames import Map, Push, SimpleString, encode
from shotover_gevent.codecs.resp_frames import ErrorReply as Error

ENDS = {None: "push", False: "part", True: "end"}
OK, QUEUED = SimpleString(b"OK"), SimpleString(b"QUEUED")
ANSWERED, SILENT = [True], [False]


def send(conversation: Conversation, *requests: str) -> list[bool]:
    """Note requests, each written as words; tells which will be answered."""
    values = [request.encode().split() for request in requests]
    return conversation.sent([value[0].upper() for value in values], values)


def receive(conversation: Conversation, *frames: object) -> str:
    """What the conversation makes of each value."""
    raws = [frame if isinstance(frame, Raw) else encode(frame) for frame in frames]
    return " ".join(ENDS[conversation.received(raw)] for raw in raws)


class Raw(bytes):
    """A value as its bytes."""


def confirm(kind: str, channel: str | None, count: int) -> list[object]:
    """The confirmation of a subscription in RESP2."""
    return [kind.encode(), None if channel is None else channel.encode(), count]


def message(channel: str = "a", kind: str = "message") -> list[object]:
    """A message of a channel in RESP2."""
    return [kind.encode(), channel.encode(), b"text"]


def hello(version: int) -> object:
    """The answer to HELLO in that version."""
    pairs: list[tuple[object, object]] = [(b"server", b"redis"), (b"proto", version), (b"modules", [])]
    return Map(pairs) if version == 3 else [item for pair in pairs for item in pair]


def in_resp3() -> Conversation:
    """A conversation after HELLO 3."""
    conversation = Conversation()
    send(conversation, "HELLO 3")
    receive(conversation, hello(3))
    return conversation


def subscribed(*channels: str, conversation: Conversation | None = None) -> Conversation:
    """A conversation that has subscribed to channels, in RESP2 unless it is given."""
    conversation = conversation or Conversation()
    send(conversation, "SUBSCRIBE " + " ".join(channels))
    for count, channel in enumerate(channels, 1):
        receive(conversation, confirm("subscribe", channel, count))
    return conversation


def state(conversation: Conversation) -> tuple[bool, int, tuple[set[bytes], ...]]:
    """Plain, pending, subscriptions."""
    return conversation.is_plain, conversation.pending, conversation.subscriptions


# -- plain commands ---------------------------------------------------------------------------------


def test_one_value_answers_one_request():
    """Values of any kind, errors and arrays of messages among them, answer in order."""
    conversation = Conversation()
    told = send(conversation, "GET k", "LRANGE l 0 -1", "NOSUCH", "GET missing")
    between = (conversation.is_plain, conversation.pending)
    found = receive(conversation, b"v", message(), Error(b"ERR unknown command"), None)
    assert (told, between, found, state(conversation)) == (
        [True] * 4, (False, 4), "end end end end", (True, 0, (set(), set(), set())))


def test_a_value_that_answers_nothing_is_a_push():
    """What the server sends unasked is passed on at its place."""
    assert receive(Conversation(), OK, message(), Error(b"ERR closing")) == "push push push"


def test_a_value_with_attributes_answers_like_any_other():
    """An attribute belongs to the value behind it, whatever that is."""
    conversation = in_resp3()
    send(conversation, "GET k", "GET k")
    raw = Raw(b"|1\r\n+ttl\r\n:9\r\n")
    assert receive(conversation, Raw(raw + b"$1\r\nv\r\n"), Raw(raw + b"-ERR x\r\n")) == "end end"


# -- SUBSCRIBE --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["subscribe", "psubscribe", "ssubscribe"])
@pytest.mark.parametrize("wrap", [list, Push], ids=["resp2", "resp3"])
def test_subscribing_is_answered_once_per_channel(kind: str, wrap: type[list[object]]):
    """The last confirmation completes the request, also if a channel was named twice."""
    conversation = in_resp3() if wrap is Push else Conversation()
    send(conversation, f"{kind} a b a", "PING")
    values = [wrap(confirm(kind, name, count)) for name, count in (("a", 1), ("b", 2), ("a", 2))]
    pong = [b"pong", b""] if wrap is list else SimpleString(b"PONG")
    assert receive(conversation, *values, pong) == "part part end end"
    place = ["subscribe", "psubscribe", "ssubscribe"].index(kind)
    assert conversation.subscriptions[place] == {b"a", b"b"}


def test_messages_arrive_among_confirmations_and_answers_in_resp2():
    """Arrays that begin like a message are pushes while something is subscribed."""
    conversation = subscribed("a")
    send(conversation, "PSUBSCRIBE n* m*", "PING")
    found = receive(
        conversation, message(), confirm("psubscribe", "n*", 2), [b"pmessage", b"n*", b"news", b"x"],
        message(kind="smessage"), confirm("psubscribe", "m*", 3), message(), [b"pong", b""], message())
    assert (found, conversation.is_plain) == ("push part push push end push end push", False)


def test_every_push_of_resp3_is_a_push_among_answers():
    """Invalidations and messages answer nothing, and arrays that look like messages answer."""
    conversation = subscribed("a", conversation=in_resp3())
    send(conversation, "LRANGE l 0 -1", "GET k")
    found = receive(
        conversation, Push([b"invalidate", [b"k"]]), message(), Push(message()), b"v", Push([]))
    assert (found, conversation.is_plain) == ("push end push end push", True)


@pytest.mark.parametrize("kind", ["UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"])
def test_unsubscribing_from_nothing_is_answered_once(kind: str):
    """Without subscriptions there is one confirmation, of null."""
    conversation = Conversation()
    send(conversation, kind, "GET k")
    assert receive(conversation, confirm(kind.lower(), None, 0), b"v") == "end end"


def test_unsubscribing_from_everything_is_answered_once_per_subscription():
    """What counts are the subscriptions when the server gets there, not those when it was asked."""
    conversation = Conversation()
    send(conversation, "SUBSCRIBE a b", "UNSUBSCRIBE", "UNSUBSCRIBE", "GET k")
    found = receive(
        conversation, confirm("subscribe", "a", 1), confirm("subscribe", "b", 2),
        confirm("unsubscribe", "b", 1), message(), confirm("unsubscribe", "a", 0),
        confirm("unsubscribe", None, 0), b"v")
    assert (found, state(conversation)) == (
        "part end part push end end end", (True, 0, (set(), set(), set())))


def test_unsubscribing_from_named_channels_is_answered_once_per_name():
    """Names that were not subscribed are confirmed as well."""
    conversation = subscribed("a", "b")
    send(conversation, "UNSUBSCRIBE b x")
    found = receive(conversation, confirm("unsubscribe", "b", 1), confirm("unsubscribe", "x", 1))
    assert (found, state(conversation)) == ("part end", (False, 0, ({b"a"}, set(), set())))


def test_a_confirmation_that_nobody_asked_for_is_a_push_and_counts():
    """A server unsubscribes by itself when a slot moves away."""
    conversation = in_resp3()
    send(conversation, "SSUBSCRIBE s")
    receive(conversation, Push(confirm("ssubscribe", "s", 1)))
    send(conversation, "GET k")
    found = receive(conversation, Push(confirm("sunsubscribe", "s", 0)), b"v")
    assert (found, conversation.subscriptions) == ("push end", (set(), set(), set()))


def test_a_refused_subscription_is_one_error():
    """An error completes the request, and nothing is subscribed."""
    conversation = Conversation()
    send(conversation, "SUBSCRIBE", "PING")
    found = receive(conversation, Error(b"ERR wrong number of arguments"), SimpleString(b"PONG"))
    assert (found, state(conversation)) == ("end end", (True, 0, (set(), set(), set())))


# -- MONITOR ----------------------------------------------------------------------------------------


def test_the_lines_of_a_monitor_are_pushes():
    """Lines with a time stamp answer nothing, other status lines do; RESET ends it."""
    line = Raw(b'+1339518083.107412 [0 127.0.0.1:60866] "keys" "*"\r\n')
    conversation = Conversation()
    before = (send(conversation, "GET k"), receive(conversation, line))
    send(conversation, "MONITOR")
    found = [receive(conversation, OK, line), conversation.is_plain]
    send(conversation, "PING", "RESET", "GET k")
    found.append(receive(conversation, line, SimpleString(b"PONG"), line, SimpleString(b"RESET"), line))
    assert (before, found, conversation.is_plain) == (
        (ANSWERED, "end"), ["end push", False, "push end push end end"], True)


def test_a_refused_monitor_changes_nothing():
    """After an error, lines with a time stamp are answers."""
    conversation = Conversation()
    send(conversation, "MONITOR")
    assert (receive(conversation, Error(b"NOPERM")), conversation.is_monitoring) == ("end", False)


# -- CLIENT REPLY -----------------------------------------------------------------------------------


def test_nothing_is_answered_while_replies_are_off():
    """OFF and what follows it have no answer; ON has one."""
    conversation = Conversation()
    told = send(conversation, "client reply off", "SET a 1", "SUBSCRIBE a", "CLIENT REPLY SKIP")
    off = (conversation.reply_mode, conversation.is_plain)
    told += send(conversation, "CLIENT REPLY on", "GET a")
    found = receive(conversation, OK, b"1")
    assert (told, off, found, conversation.is_plain) == (
        [False] * 4 + [True] * 2, (ReplyMode.OFF, False), "end end", True)


def test_skip_silences_itself_and_the_next_request():
    """The one after that is answered; a second SKIP is the one that is silenced."""
    conversation = Conversation()
    told = send(
        conversation, "CLIENT REPLY SKIP", "SET a 1", "GET a", "CLIENT REPLY SKIP", "CLIENT REPLY SKIP",
        "SET a 2", "GET a")
    assert (told, receive(conversation, b"1", b"2"), conversation.is_plain) == (
        [False, False, True, False, False, False, True], "end end", True)


def test_reset_ends_off_and_is_silenced_by_skip():
    """It is answered after OFF, and not after SKIP; what follows is answered."""
    off, skip = Conversation(), Conversation()
    told = [send(off, "CLIENT REPLY OFF", "RESET", "GET a"), send(skip, "CLIENT REPLY SKIP", "RESET", "GET a")]
    assert (told, off.reply_mode, skip.reply_mode) == (
        [[False, True, True], [False, False, True]], ReplyMode.ON, ReplyMode.ON)


def test_a_refused_client_reply_is_answered():
    """A mode that does not exist, or one word too many, is a plain request."""
    conversation = Conversation()
    told = send(conversation, "CLIENT REPLY MAYBE", "CLIENT REPLY", "CLIENT REPLY OFF x", "CLIENT ID")
    error = Error(b"ERR syntax")
    assert (told, receive(conversation, error, error, error, 7), conversation.is_plain) == (
        [True] * 4, "end end end end", True)


def test_an_answer_although_replies_are_off_means_that_off_was_refused():
    """The answer is a push at its place, and from then on requests are answered."""
    conversation = Conversation()
    told = send(conversation, "CLIENT REPLY OFF")
    found = receive(conversation, Error(b"NOAUTH Authentication required."))
    told += send(conversation, "GET a")
    assert (told, found, receive(conversation, b"1"), conversation.is_plain) == (
        [False, True], "push", "end", True)


def test_reset_turns_replies_on():
    """RESET itself is answered."""
    conversation = Conversation()
    told = send(conversation, "CLIENT REPLY OFF", "SET a 1", "RESET", "GET a")
    assert (told, receive(conversation, SimpleString(b"RESET"), b"1"), conversation.is_plain) == (
        [False, False, True, True], "end end", True)


# -- HELLO and RESET --------------------------------------------------------------------------------


def test_hello_changes_the_protocol_when_it_succeeds():
    """Each way, by what the reply says; an error changes nothing."""
    conversation, seen = Conversation(), []
    for request, reply in (
        ("HELLO", hello(2)), ("HELLO 3", hello(3)), ("HELLO 4", Error(b"NOPROTO")), ("HELLO", hello(3)),
        ("HELLO 2", hello(2)), ("HELLO 3 AUTH u p", Error(b"WRONGPASS")),
    ):
        send(conversation, request)
        receive(conversation, reply)
        seen.append(conversation.is_resp3)
    assert (seen, conversation.is_plain) == ([False, True, True, True, False, False], True)


def test_a_subscriber_that_returns_to_resp2_gets_messages_as_arrays():
    """Subscriptions stay; only the protocol changes."""
    conversation = subscribed("a", conversation=in_resp3())
    before = conversation.is_plain
    send(conversation, "HELLO 2")
    receive(conversation, hello(2))
    assert (before, conversation.is_plain, receive(conversation, message())) == (True, False, "push")


def test_reset_puts_everything_back():
    """Protocol, subscriptions, monitor, replies and the transaction are as on a new connection."""
    conversation = subscribed("a", conversation=in_resp3())
    send(conversation, "MONITOR", "MULTI", "GET k", "RESET", "GET k")
    found = receive(conversation, OK, OK, QUEUED, SimpleString(b"RESET"), message())
    assert (found, conversation.is_resp3, conversation.is_monitoring, state(conversation)) == (
        "end end end end end", False, False, (True, 0, (set(), set(), set())))


# -- QUIT and SHUTDOWN ------------------------------------------------------------------------------


def test_quit_ends_the_connection_answered_or_not():
    """What follows it is answered by the end; what stands before it is not."""
    conversation, seen = Conversation(), []
    told = send(conversation, "GET k", "QUIT", "GET k", "SUBSCRIBE a b")
    for value in (b"v", OK):
        seen.append(conversation.awaits_only_the_end)
        receive(conversation, value)
    seen.append(conversation.awaits_only_the_end)
    assert (told, seen, conversation.pending, conversation.is_plain) == (
        [True] * 4, [False, True, True], 2, False)


@pytest.mark.parametrize("request_", ["QUIT", "SHUTDOWN NOSAVE", "POST /", "Host: x"])
def test_the_end_is_an_answer_to_what_ends_the_connection(request_: str):
    """A server that just closes has answered."""
    conversation = Conversation()
    send(conversation, request_)
    assert (conversation.awaits_only_the_end, conversation.is_ending) == (True, True)


def test_a_refused_shutdown_goes_on():
    """An answer to it says that the connection stays."""
    conversation = Conversation()
    send(conversation, "SHUTDOWN")
    found = receive(conversation, Error(b"ERR Errors trying to SHUTDOWN."))
    send(conversation, "GET k")
    assert (found, conversation.awaits_only_the_end, receive(conversation, b"v"), conversation.is_plain) == (
        "end", False, "end", True)


# -- MULTI ------------------------------------------------------------------------------------------


def test_in_a_transaction_each_request_is_queued():
    """Special ones too: each is answered by one value, until EXEC."""
    conversation = Conversation()
    send(conversation, "MULTI", "GET k", "CLIENT REPLY OFF", "HELLO 3", "MONITOR", "EXEC")
    found = receive(conversation, OK, QUEUED, QUEUED, QUEUED, QUEUED, [b"v", OK, hello(3), OK])
    assert (found, conversation.is_resp3, conversation.is_monitoring) == (
        "end end end end end end", True, True)


def test_what_failed_in_a_transaction_has_no_effect():
    """Each value within the reply to EXEC belongs to the request at its place."""
    conversation = Conversation()
    send(conversation, "MULTI", "GET k", "HELLO 3", "GET k", "EXEC")
    receive(conversation, OK, QUEUED, QUEUED, QUEUED)
    assert (receive(conversation, [b"v", Error(b"NOPROTO"), b"v"]), conversation.is_resp3) == ("end", False)


def test_a_subscription_in_a_transaction_counts_from_exec_on():
    """The confirmation stands in the reply to EXEC; those of further channels follow it unasked."""
    conversation = Conversation()
    send(conversation, "MULTI", "SUBSCRIBE a b", "EXEC")
    found = receive(conversation, OK, QUEUED, [confirm("subscribe", "a", 1)], confirm("subscribe", "b", 2))
    assert (found, state(conversation)) == ("end end end push", (False, 0, ({b"a", b"b"}, set(), set())))


@pytest.mark.parametrize(
    "reply", [Raw(b"*-1\r\n"), Raw(b"_\r\n"), Error(b"EXECABORT"), Error(b"ERR EXEC without MULTI"), []], ids=repr)
def test_an_exec_that_did_nothing_has_no_effect(reply: object):
    """A watched key had changed, or a request was refused when it was queued."""
    conversation = Conversation()
    send(conversation, "MULTI", "HELLO 3", "EXEC")
    assert (receive(conversation, OK, QUEUED, reply), conversation.is_resp3, conversation.is_plain) == (
        "end end end", False, True)


def test_discard_forgets_what_was_queued():
    """A later EXEC has nothing to do with it."""
    conversation = Conversation()
    send(conversation, "MULTI", "HELLO 3", "DISCARD", "EXEC")
    found = receive(conversation, OK, QUEUED, OK, Error(b"ERR EXEC without MULTI"))
    assert (found, conversation.is_resp3, conversation.is_plain) == ("end end end end", False, True)


def test_a_nested_multi_is_refused_and_the_transaction_goes_on():
    """What was queued before and after it still counts."""
    conversation = Conversation()
    send(conversation, "MULTI", "SUBSCRIBE a")
    receive(conversation, OK, QUEUED)
    send(conversation, "MULTI")
    found = [receive(conversation, Error(b"ERR MULTI calls can not be nested")), conversation.is_plain]
    send(conversation, "PSUBSCRIBE b", "EXEC")
    found.append(receive(conversation, QUEUED, [confirm("subscribe", "a", 1), confirm("psubscribe", "b", 2)]))
    assert (found, conversation.subscriptions) == (["end", False, "end end"], ({b"a"}, {b"b"}, set()))


def test_a_refused_multi_opens_no_transaction():
    """Also when it was not the last request of its batch."""
    conversation = Conversation()
    send(conversation, "MULTI", "AUTH secret")
    found = receive(conversation, Error(b"NOAUTH"), OK)
    send(conversation, "SUBSCRIBE a b")
    found += " " + receive(conversation, confirm("subscribe", "a", 1), confirm("subscribe", "b", 2))
    assert (found, state(conversation)) == ("end end part end", (False, 0, ({b"a", b"b"}, set(), set())))


def test_quit_and_reset_are_not_queued():
    """They act within a transaction as they do outside."""
    quitting, resetting = Conversation(), Conversation()
    send(quitting, "MULTI", "QUIT")
    send(resetting, "MULTI", "RESET", "SUBSCRIBE a b")
    found = receive(resetting, OK, SimpleString(b"RESET"), confirm("subscribe", "a", 1))
    assert (receive(quitting, OK), quitting.awaits_only_the_end, found) == ("end", True, "end end part")


@pytest.mark.parametrize(
    ("words", "is_set_up"),
    [
        ("GET k", False), ("MULTI", False), ("client setinfo lib-name x", False), ("CLIENT SETNAME me", False),
        ("CLIENT", False), ("select 3", True), ("AUTH secret", True), ("HELLO 3", True), ("SUBSCRIBE a", True),
        ("psubscribe a*", True), ("MONITOR", True), ("client reply off", True), ("CLIENT TRACKING ON", True),
    ])
def test_what_lasts_as_long_as_the_connection_is_known(words: str, is_set_up: bool) -> None:
    """A second connection would answer what follows differently; the names of clients do not matter."""
    batch = RequestDecoder().feed(encode([b"PING"]) + encode(words.encode().split()))
    assert sets_up(batch) is is_set_up
