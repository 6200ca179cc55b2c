"""The replies of one connection, dealt to those who wait: every byte to whom it belongs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resp_samples import cut

from shotover_gevent.codecs.resp_deal import ReplyDealer, Share, simple_end
from shotover_gevent.codecs.resp_replies import kind_of, reply_ends
from shotover_gevent.errors import PeerError

PUSH = b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n"
#: Values of every kind that answers something; errors are those that begin with "-".
ANSWERS = [
    b"+OK\r\n", b"+\r\n", b"-ERR a\rb\nc\r\n", b":-1\r\n", b"$0\r\n\r\n", b"$2\r\nab\r\n", b"$2\r\n\r\n\r\n",
    b"$5\r\na\r\nb\xff\r\n", b"$13\r\n$3\r\n+OK\r\n-x\r\n\r\n", b"$-1\r\n", b"*-1\r\n", b"*0\r\n",
    b"$1100\r\n" + b"\r\n-x" * 275 + b"\r\n", b"*2\r\n*1\r\n:1\r\n$1\r\nx\r\n", b"_\r\n", b"#t\r\n",
    b",1.5\r\n", b"(-123456789012345678901234567890\r\n", b"!5\r\nERR x\r\n", b"=5\r\ntxt:x\r\n",
    b"%2\r\n+a\r\n:1\r\n*1\r\n:2\r\n%0\r\n", b"~2\r\n:1\r\n-ERR in a set\r\n", b"|1\r\n+ttl\r\n:9\r\n$1\r\nv\r\n",
    b"|1\r\n+ttl\r\n:9\r\n-ERR led\r\n",
]
NO_ANSWERS = [PUSH, b">1\r\n$2\r\n\r\n\r\n", b"|1\r\n+a\r\n:1\r\n" + PUSH]
texts = st.binary(max_size=8).map(lambda text: text.translate(None, b"\r\n"))
answers = st.one_of(
    st.sampled_from(ANSWERS),
    st.binary(max_size=40).map(lambda text: b"$%d\r\n%b\r\n" % (len(text), text)),
    st.builds(b"%b%b\r\n".__mod__, st.tuples(st.sampled_from([b"+", b"-"]), texts)),
)
#: Many of a kind, with one of another among them now and then.
pipelines = st.builds(
    lambda values, other, at: values if at >= len(values) else [*values[:at], other, *values[at + 1:]],
    st.sampled_from([b"+OK\r\n", b":-1\r\n", b"$0\r\n\r\n", b"$2\r\nab\r\n", b"$2\r\n\r\n\r\n", b"$-1\r\n"]
                    ).flatmap(lambda value: st.lists(st.just(value), min_size=4, max_size=9)),
    answers, st.integers(0, 40))
shares = st.lists(st.one_of(st.lists(answers, min_size=1, max_size=4), pipelines), max_size=6)
Dealt = list[tuple[bytes, int, int]]


def dealer(*counts: int) -> tuple[ReplyDealer, list[Share]]:
    """A dealer, and the shares of those who wait for so many values each."""
    made = ReplyDealer()
    waiting = [Share(count) for count in counts]
    made.waiting.extend(waiting)
    return made, waiting


def deal(made: ReplyDealer, *chunks: bytes) -> list[Share]:
    """The shares that are complete after all chunks."""
    done: list[Share] = []
    for chunk in chunks:
        made.feed(chunk, done)
    return done


def dealt(shares: list[Share]) -> Dealt:
    """Bytes, errors, and what is missing of each share."""
    return [(share.raw, share.errors, share.missing) for share in shares]


def expected(shares: list[list[bytes]]) -> Dealt:
    """What shares of these values are when they are complete."""
    return [
        (b"".join(values), sum(kind_of(value) == ord("-") for value in values), 0) for values in shares]


@given(shares, st.lists(st.integers(0, 2000)), st.lists(st.sampled_from(NO_ANSWERS), max_size=3), st.randoms())
def test_each_share_gets_the_bytes_of_its_values_however_they_are_cut(wanted, places, pushes, random) -> None:
    """Shares complete in their order, errors among them are counted, and pushes go to nobody."""
    values = [value for share in wanted for value in share]
    for push in pushes:
        values.insert(random.randint(0, len(values)), push)
    raw = b"".join(values)
    made, waiting = dealer(*map(len, wanted))
    done = deal(made, *cut(raw, places))
    assert (done, dealt(done), made.pushes, list(made.waiting)) == (
        waiting, expected(wanted), len(pushes), [])
    ends = reply_ends(raw, len(values))  # the authority
    at = [raw[low:high] for low, high in zip([0, *ends], ends)]
    kept = [value for value in at if kind_of(value) != ord(">")]
    assert b"".join(kept) == b"".join(share.raw for share in done)


@pytest.mark.parametrize("value", ANSWERS, ids=lambda value: repr(value[:20]))
@pytest.mark.parametrize("count", [2, 4, 5])
def test_equal_values_are_dealt_wherever_they_are_cut(value: bytes, count: int) -> None:
    """At each place, also right before a line end; those of the next share are its own."""
    raw = value * count + b"+other\r\n" + value * count
    for at in range(1, len(raw) + 1):
        made, (first, other, last) = dealer(count, 1, count)
        assert deal(made, raw[:at], raw[at:]) == [first, other, last], at
        assert (first.raw, other.raw, last.raw) == (value * count, b"+other\r\n", value * count), at


@pytest.mark.parametrize("value", [*ANSWERS, PUSH], ids=lambda value: repr(value[:20]))
@pytest.mark.parametrize("before", [b"$2\r\nab\r\n", b":1\r\n", b"*0\r\n"], ids=repr)
def test_a_value_may_be_cut_at_every_byte(value: bytes, before: bytes) -> None:
    """What stands before and behind it goes to those who wait for that."""
    count = 0 if value is PUSH else 1
    wanted = [[before], *[[value]] * count, [b"$2\r\ncd\r\n"]]
    raw = before + value + b"$2\r\ncd\r\n"
    wrong = []
    for place in range(1, len(raw)):
        made, waiting = dealer(*map(len, wanted))
        done = deal(made, raw[:place], raw[place:])
        if (done, dealt(done)) != (waiting, expected(wanted)):
            wrong.append(place)
    assert wrong == []


@pytest.mark.parametrize("value", ANSWERS, ids=lambda value: repr(value[:20]))
def test_every_byte_may_come_alone(value: bytes) -> None:
    """The value belongs to the oldest, and the next one still waits."""
    made, waiting = dealer(1, 1)
    done = deal(made, *(value[at : at + 1] for at in range(len(value))))
    assert (done, dealt(waiting)) == (
        waiting[:1], [*expected([[value]]), (b"", 0, 1)])


def test_a_share_is_complete_with_the_byte_that_completes_it() -> None:
    """Nothing is held back for what comes later, and nothing is given before."""
    made, (first, second) = dealer(2, 2)
    steps = [deal(made, chunk) for chunk in (b"+a\r\n:1", b"\r\n+b\r\n+", b"", b"c\r", b"\n")]
    assert steps == [[], [first], [], [], [second]]


def test_a_share_with_many_values() -> None:
    """As many as it lacks, and the next one is another's; its errors are counted wherever they stand."""
    values = [b":%d\r\n" % index if index % 100 else b"-ERR %d\r\n" % index for index in range(20_000)]
    raw = b"".join(values)
    made, waiting = dealer(20_000, 1)
    done = deal(made, *(raw[at : at + 4096] for at in range(0, len(raw), 4096)), b"+OK\r\n")
    assert (done, dealt(done)) == (waiting, [(raw, 200, 0), (b"+OK\r\n", 0, 0)])


def test_a_large_string() -> None:
    """It comes in many pieces, between small ones, and what looks like values in it is none."""
    large = b"$3000000\r\n" + b"-E\r\n+A" * 500_000 + b"\r\n"
    raw = b"+a\r\n" + large + b"+b\r\n"
    made, waiting = dealer(1, 1, 1)
    done = deal(made, *(raw[at : at + 65_536] for at in range(0, len(raw), 65_536)))
    assert (done, dealt(done)) == (waiting, expected([[b"+a\r\n"], [large], [b"+b\r\n"]]))


def test_pushes_are_dropped_and_counted() -> None:
    """Also while nobody waits, and in the middle of a share."""
    made, (share,) = dealer(2)
    done = deal(made, PUSH + b":1\r\n" + PUSH + b":2\r\n" + PUSH)
    more = deal(made, PUSH[:5], PUSH[5:])
    assert (dealt(done), more, made.pushes) == ([(b":1\r\n:2\r\n", 0, 0)], [], 4)


def test_a_share_that_nobody_wants_keeps_its_place() -> None:
    """The one behind it gets its own value, not that of the one that has gone."""
    made, (gone, other) = dealer(1, 1)
    assert (deal(made, b"+his\r\n+mine\r\n"), other.raw) == ([gone, other], b"+mine\r\n")


@pytest.mark.parametrize("value", [b"+OK\r\n", b"$1\r\nx\r\n", b"*1\r\n:1\r\n", b"-ERR closing\r\n"], ids=repr)
def test_a_value_that_nobody_waits_for_is_an_error(value: bytes) -> None:
    """Wherever it is cut; who has waited for what came before it has that.

    Whoever asks after its beginning would take it for the answer.
    """
    for place in range(len(value)):
        made, (share,) = dealer(1)
        done: list[Share] = []
        with pytest.raises(PeerError) as caught:
            made.feed(b":1\r\n" + value[:place], done)
            made.feed(value[place:], done)
        found = value[:place] or value  # its beginning is enough
        assert (str(caught.value), dealt(done)) == (f"{found!r} answers nothing", [(b":1\r\n", 0, 0)])


@pytest.mark.parametrize("push", NO_ANSWERS, ids=repr)
def test_a_push_may_begin_before_a_question(push: bytes) -> None:
    """Only a push may: no answer does."""
    for place in range(1, len(push)):
        made = ReplyDealer()
        made.feed(push[:place], [])
        made.waiting.append(Share(1))
        assert dealt(deal(made, push[place:] + b":1\r\n")) == [(b":1\r\n", 0, 0)]


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"HTTP/1.1 400\r\n", "no value begins with b'H': b'HTTP/1.1 400\\r\\n'"),
        (b"$x\r\n", "b'x' is no length"),
        (b"$2\r\nabcd", "a string does not end where its length says"),
        (b"$1100\r\n" + bytes(1102), "a string does not end where its length says"),
    ], ids=lambda value: repr(value[:20]))
@pytest.mark.parametrize("counts", [(1, 1), (2,), (2, 1)], ids=str)
def test_what_is_not_resp_is_an_error(raw: bytes, error: str, counts: tuple[int, ...]) -> None:
    """Who lacks a value then still waits, for whoever tells the bad news."""
    made, waiting = dealer(*counts)
    done: list[Share] = []
    with pytest.raises(PeerError) as caught:
        made.feed(b"+OK\r\n" + raw, done)
    assert (str(caught.value), [*done, *made.waiting]) == (error, waiting)


@pytest.mark.parametrize("place", [1, 5, 8, 9, 500, 1107, 1108, 1109])
def test_a_long_string_that_does_not_end_where_it_says_is_an_error(place: int) -> None:
    """In whatever pieces it comes; who has waited for it still waits, for the bad news."""
    raw = b"$1100\r\n" + bytes(1102)
    made, waiting = dealer(2, 1)
    with pytest.raises(PeerError, match="^a string does not end where its length says$"):
        deal(made, b"+OK\r\n", raw[:place], raw[place:])
    assert list(made.waiting) == waiting


def test_long_strings_of_one_share_follow_each_other() -> None:
    """With other values before, between and behind them; each piece ends anywhere."""
    long = [b"$%d\r\n%b\r\n" % (size, b"x" * size) for size in (1500, 5000, 1023, 1024)]
    wanted = [[b"-ERR a\r\n", *long, b":1\r\n"], [long[0]], [b"*1\r\n" + long[1]], [b"+OK\r\n"]]
    raw = b"".join(value for share in wanted for value in share)
    wrong = []
    for size in (1, 2, 7, 100, 1023, 1024, 1508, 4096, len(raw)):
        made, waiting = dealer(*map(len, wanted))
        done = deal(made, *(raw[at : at + size] for at in range(0, len(raw), size)))
        if (done, dealt(done)) != (waiting, expected(wanted)):
            wrong.append(size)
    assert wrong == []


@pytest.mark.parametrize("value", ANSWERS, ids=lambda value: repr(value[:20]))
def test_where_a_simple_value_ends_is_known_from_its_head(value: bytes) -> None:
    """Strings and lines of RESP2 only; before the head is complete, and for all else, nothing is."""
    head = value.index(b"\r\n") + 2
    known = len(value) if value[:1] in (b"+", b"-", b":", b"$") else 0
    ends = [simple_end(value[:place]) for place in range(1, len(value) + 1)]
    assert ends == [0] * (head - 1) + [known] * (len(value) - head + 1)
