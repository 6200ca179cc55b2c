"""What a client has made of its connection, and what each request needs of one.

Transcripts: each step is a request, written as words, and the reply of the server to it.
"""

from __future__ import annotations

import json

import pytest

from shotover_gevent.codecs.resp_frames import ErrorReply as Error
from shotover_gevent.codecs.resp_frames import Map, SimpleString, encode
from shotover_gevent.codecs.resp_state import TELLING, UNUSUAL, ConnectionState, Identity, Need, needs

OK, QUEUED, RESET = SimpleString(b"OK"), SimpleString(b"QUEUED"), SimpleString(b"RESET")
REFUSED = Error(b"ERR no")
HELLO_3, HELLO_2 = Map([(b"proto", 3)]), [b"proto", 2]
SUBSCRIBED, UNSUBSCRIBED = [b"subscribe", b"a", 1], [b"unsubscribe", b"a", 0]
Step = tuple[str, object]


def follow(*steps: Step, state: ConnectionState | None = None) -> ConnectionState:
    """The state after these requests were sent one by one and answered so."""
    state = state or ConnectionState()
    for request, reply in steps:
        send(state, request)
        state.received(encode(reply))
    return state


def send(state: ConnectionState, *requests: str) -> None:
    """Note requests that are being sent."""
    values = [request.encode().split() for request in requests]
    state.sent([value[0].upper() for value in values], values)


def facts(state: ConnectionState) -> tuple[object, ...]:
    """All that makes a state."""
    return (
        state.auth, state.database, state.is_resp3, state.name, state.switches, state.is_watching,
        state.is_subscribed, state.is_in_transaction, state.reply_mode.value, state.is_shareable)


def fact(
    auth: tuple[bytes, ...] = (), database: int = 0, resp3: bool = False, name: bytes = b"",
    switches: tuple[bytes, ...] = (), watching: bool = False, subscribed: bool = False, queuing: bool = False,
    reply_mode: str = "on", shareable: bool = True,
) -> tuple[object, ...]:
    """What :func:`facts` should be."""
    return (auth, database, resp3, name, set(switches), watching, subscribed, queuing, reply_mode, shareable)


# -- needs ------------------------------------------------------------------------------------------

NEEDS = {
    Need.ANY: [
        "GET k", "set k v", "EVAL x 0", "EXEC", "DISCARD", "UNWATCH", "PUBLISH a b", "XREAD STREAMS s 0",
        "XREADGROUP GROUP g c STREAMS s >", "CLIENT LIST", "client kill 1.2.3.4:5", "CLIENT PAUSE 10",
        "CLIENT UNPAUSE", "CLIENT UNBLOCK 3", "CLIENT GETREDIR", "CLIENT TRACKINGINFO", "CLIENT HELP",
        "SCRIPT LOAD x", "SCRIPT EXISTS x", "SCRIPT FLUSH", "SCRIPT", "FUNCTION LIST", "FUNCTION LOAD x",
        "FUNCTION", "WAIT", "WAIT 1", "WAIT x 100", "WAIT 1 -1", "WAITAOF 1 1 x",
        "WAIT 1 99999999999999999999", "PING", "ACL WHOAMI", "INFO"],
    Need.NAME: ["CLIENT SETNAME a", "CLIENT GETNAME", "client setinfo LIB-NAME x", "CLIENT SETINFO nonsense x"],
    Need.TURN: ["WAIT 1 100", "wait 0 0", "WAITAOF 1 1 100", "WAIT 1 9223372036854775807"],
    Need.END: ["QUIT", "quit now", "POST / HTTP/1.1", "Host: x"],
    Need.OWN: [
        "MULTI", "WATCH k", "SUBSCRIBE a", "PSUBSCRIBE a*", "SSUBSCRIBE a", "UNSUBSCRIBE", "MONITOR", "AUTH p",
        "SELECT 1", "HELLO 3", "RESET", "SHUTDOWN", "READONLY", "READWRITE", "ASKING", "REPLCONF x", "SYNC",
        "PSYNC ? -1", "DEBUG SLEEP 1", "BLPOP k 0", "BRPOPLPUSH a b 0", "BLMOVE a b LEFT LEFT 0",
        "BZMPOP 0 1 k MIN", "XREAD BLOCK 0 STREAMS s $", "xread count 1 block 5 streams s $",
        "XREADGROUP GROUP g c BLOCK 0 STREAMS s >", "SCRIPT KILL", "script debug YES", "FUNCTION KILL",
        "FUNCTION STATS", "CLIENT", "CLIENT ID", "CLIENT INFO", "CLIENT REPLY OFF", "CLIENT TRACKING ON",
        "CLIENT CACHING YES", "CLIENT NO-EVICT ON", "CLIENT NO-TOUCH ON", "CLIENT NEXT-YEARS-COMMAND",
        "CLIENT SETNAME", "CLIENT SETNAME a b", "CLIENT GETNAME a", "CLIENT SETINFO LIB-NAME"],
}


@pytest.mark.parametrize(
    ("need", "request_"), [(need, each) for need in NEEDS for each in NEEDS[need]],
    ids=lambda each: each.name if isinstance(each, Need) else each)
def test_what_a_request_needs(need: Need, request_: str) -> None:
    """Whatever is not known to leave a connection as it is gets one of its own."""
    words = request_.encode().split()
    name = words[0].upper()
    assert (needs(name, words), need is Need.ANY or name in UNUSUAL) == (need, True)


def test_a_name_may_be_empty() -> None:
    """It is a name like any other, which takes the old one away."""
    assert needs(b"CLIENT", [b"client", b"SetName", b""]) is Need.NAME


def test_whatever_may_set_something_is_followed() -> None:
    """The replies to all that may need other than any connection are looked at on one's own."""
    assert UNUSUAL <= TELLING and ConnectionState.special - {b"UNWATCH"} <= UNUSUAL


# -- following --------------------------------------------------------------------------------------

MULTI: Step = ("MULTI", OK)
FOLLOWED: dict[str, tuple[list[Step], tuple[object, ...]]] = {
    "nothing": ([("GET k", b"v")], fact()),
    "select": ([("SELECT 3", OK)], fact(database=3)),
    "select back": ([("SELECT 3", OK), ("SELECT 0", OK)], fact()),
    "select refused": ([("SELECT 3", OK), ("SELECT 99", REFUSED)], fact(database=3)),
    "auth": ([("AUTH p", OK)], fact(auth=(b"p",))),
    "auth of a user": ([("AUTH p", OK), ("auth u q", OK)], fact(auth=(b"u", b"q"))),
    "auth refused": ([("AUTH p", OK), ("AUTH wrong", Error(b"WRONGPASS"))], fact(auth=(b"p",))),
    "watch": ([("WATCH k", OK)], fact(watching=True, shareable=False)),
    "watch refused": ([("WATCH", REFUSED)], fact()),
    "unwatch": ([("WATCH k", OK), ("UNWATCH", OK)], fact()),
    "multi": ([MULTI, ("SELECT 3", QUEUED)], fact(queuing=True, shareable=False)),
    "multi refused": ([("MULTI", REFUSED)], fact()),
    "exec": ([("WATCH k", OK), MULTI, ("GET k", QUEUED), ("EXEC", [b"v"])], fact()),
    "exec of nothing": ([("WATCH k", OK), MULTI, ("EXEC", [])], fact()),
    "exec of what was changed": ([("WATCH k", OK), MULTI, ("SELECT 3", QUEUED), ("EXEC", None)], fact()),
    "exec aborted": (
        [("WATCH k", OK), MULTI, ("SELECT 3", QUEUED), ("NO", REFUSED), ("EXEC", Error(b"EXECABORT"))], fact()),
    "exec outside": ([("WATCH k", OK), ("EXEC", REFUSED)], fact(watching=True, shareable=False)),
    "discard": ([("WATCH k", OK), MULTI, ("SELECT 3", QUEUED), ("DISCARD", OK)], fact()),
    "discard outside": ([("WATCH k", OK), ("DISCARD", REFUSED)], fact(watching=True, shareable=False)),
    "select in exec": (
        [MULTI, ("GET k", QUEUED), ("SELECT 3", QUEUED), ("AUTH p", QUEUED), ("EXEC", [b"v", OK, OK])],
        fact(auth=(b"p",), database=3)),
    "select refused in exec": ([MULTI, ("SELECT 99", QUEUED), ("EXEC", [REFUSED])], fact()),
    "unwatch in exec": ([("WATCH k", OK), MULTI, ("UNWATCH", QUEUED), ("EXEC", [OK])], fact()),
    "tracking in exec": (
        [MULTI, ("CLIENT TRACKING ON", QUEUED), ("CLIENT SETNAME n", QUEUED), ("EXEC", [OK, OK])],
        fact(switches=(b"tracking",), name=b"n", shareable=False)),
    "hello": ([("HELLO 3", HELLO_3)], fact(resp3=True)),
    "hello of nothing": ([("HELLO 3", HELLO_3), ("HELLO", HELLO_3)], fact(resp3=True)),
    "hello back": ([("HELLO 3", HELLO_3), ("HELLO 2", HELLO_2)], fact()),
    "hello with options": (
        [("HELLO 3 auth u p SETNAME n", HELLO_3)], fact(auth=(b"u", b"p"), resp3=True, name=b"n")),
    "hello with options turned": (
        [("HELLO 3 setname n AUTH u p", HELLO_3)], fact(auth=(b"u", b"p"), resp3=True, name=b"n")),
    "hello refused": ([("HELLO 3 AUTH u p SETNAME n", Error(b"WRONGPASS"))], fact()),
    "name": ([("CLIENT SETNAME n", OK), ("CLIENT SETINFO LIB-NAME l", OK), ("CLIENT GETNAME", b"n")],
             fact(name=b"n")),
    "name refused": ([("CLIENT SETNAME n", OK), ("CLIENT SETNAME m", REFUSED)], fact(name=b"n")),
    "tracking": ([("CLIENT TRACKING on BCAST", OK)], fact(switches=(b"tracking",), shareable=False)),
    "tracking refused": ([("CLIENT TRACKING ON", REFUSED)], fact()),
    "tracking off": ([("CLIENT TRACKING ON", OK), ("client tracking off", OK)], fact()),
    "caching": ([("CLIENT CACHING YES", OK)], fact()),
    "no-evict": (
        [("CLIENT NO-EVICT ON", OK), ("CLIENT NO-TOUCH ON", OK), ("CLIENT NO-EVICT OFF", OK)],
        fact(switches=(b"no-touch",), shareable=False)),
    "import-source": ([("CLIENT IMPORT-SOURCE ON", OK)], fact(switches=(b"import-source",), shareable=False)),
    "client that tells": (
        [("CLIENT INFO", b"id=5"), ("CLIENT LIST", b""), ("CLIENT GETREDIR", -1)], fact()),
    "client that knows its number": ([("CLIENT ID", 5)], fact(switches=(b"for ever",), shareable=False)),
    "client unknown": ([("CLIENT CAPA redirect", OK)], fact(switches=(b"for ever",), shareable=False)),
    "client unknown, refused": ([("CLIENT NONSENSE", REFUSED), ("CLIENT", REFUSED)], fact()),
    "script debug": ([("SCRIPT DEBUG YES", OK)], fact(switches=(b"script-debug",), shareable=False)),
    "script debug off": ([("SCRIPT DEBUG YES", OK), ("SCRIPT DEBUG NO", OK)], fact()),
    "script": ([("SCRIPT LOAD x", b"sha")], fact()),
    "asking": ([("ASKING", OK)], fact(switches=(b"asking",), shareable=False)),
    "asking refused": ([("ASKING", REFUSED)], fact()),
    "asking is for one command": ([("ASKING", OK), ("GET k", b"v")], fact()),
    "asking is for one command, refused": ([("ASKING", OK), ("GET k", REFUSED)], fact()),
    "readonly": ([("READONLY", OK), ("GET k", b"v")], fact(switches=(b"readonly",), shareable=False)),
    "readwrite": ([("READONLY", OK), ("READWRITE", OK)], fact()),
    "replica": ([("REPLCONF listening-port 1", OK)], fact(switches=(b"for ever",), shareable=False)),
    "subscribe": ([("SUBSCRIBE a", SUBSCRIBED)], fact(subscribed=True, shareable=False)),
    "unsubscribe": ([("SUBSCRIBE a", SUBSCRIBED), ("UNSUBSCRIBE", UNSUBSCRIBED)], fact()),
    "reset": (
        [("AUTH p", OK), ("SELECT 3", OK), ("HELLO 3 SETNAME n", HELLO_3), ("WATCH k", OK),
         ("CLIENT TRACKING ON", OK), ("READONLY", OK), ("RESET", RESET)], fact()),
    "reset of a transaction": ([MULTI, ("RESET", RESET)], fact()),
    "reset of what stays": (
        [("SELECT 3", OK), ("CLIENT CAPA redirect", OK), ("RESET", RESET)],
        fact(switches=(b"for ever",), shareable=False)),
    "reset refused": ([("SELECT 3", OK), ("RESET", REFUSED)], fact(database=3)),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_state_follows_what_has_succeeded(name: str) -> None:
    """What was refused, or queued and not run, has set nothing."""
    steps, expected = FOLLOWED[name]
    assert facts(follow(*steps)) == expected


@pytest.mark.parametrize("name", FOLLOWED)
def test_state_goes_on_in_another_process(name: str) -> None:
    """It travels as JSON, and is the same there; what follows has the same effect."""
    steps, expected = FOLLOWED[name]
    before = follow(*steps)
    after = ConnectionState.adopt(json.loads(json.dumps(before.export())))
    assert facts(after) == expected
    rest: list[Step] = [("EXEC", [OK] * 9)] if before.is_in_transaction else [("GET k", b"v")]
    assert facts(follow(*rest, state=after)) == facts(follow(*rest, state=before))


def test_state_of_any_bytes_travels() -> None:
    """Passwords and names need not be text."""
    state = ConnectionState()
    for value in ([b"AUTH", b"\xff\x00", b'"\xe4'], [b"CLIENT", b"SETNAME", b"\xfe"]):
        state.sent([value[0]], [value])
        state.received(b"+OK\r\n")
    after = ConnectionState.adopt(json.loads(json.dumps(state.export())))
    assert facts(after) == fact(auth=(b"\xff\x00", b'"\xe4'), name=b"\xfe")


def test_state_without_anything_is_nothing() -> None:
    """A session that has set nothing travels light."""
    assert (ConnectionState().export(), facts(ConnectionState.adopt({}))) == ({}, fact())


def test_state_is_not_known_while_a_reply_is_pending() -> None:
    """Such a session cannot travel, nor share a connection."""
    state = ConnectionState()
    send(state, "SELECT 3")
    assert (state.export(), state.is_shareable, state.database) == (None, False, 0)


def test_what_follows_in_one_pipeline_is_followed_one_by_one() -> None:
    """Each reply belongs to its request, whatever was sent with it."""
    state = ConnectionState()
    send(state, "SELECT 1", "SELECT 99", "ASKING", "GET k", "CLIENT SETNAME n", "SELECT 2")
    for reply in (OK, REFUSED, OK, b"v", OK, OK):
        state.received(encode(reply))
    assert facts(state) == fact(database=2, name=b"n")


@pytest.mark.parametrize(
    ("requests", "mode"), [(["CLIENT REPLY OFF"], "off"), (["CLIENT REPLY SKIP"], "skip"),
                           (["CLIENT REPLY SKIP", "GET k"], "on")], ids=str)
def test_a_client_that_wants_no_replies_cannot_share(requests: list[str], mode: str) -> None:
    """Nobody could tell whose replies are missing; after SKIP all is as before."""
    state = ConnectionState()
    send(state, *requests)
    assert facts(state) == fact(reply_mode=mode, shareable=mode == "on")


def test_replies_are_wanted_again() -> None:
    """The answer to CLIENT REPLY ON is the first that comes."""
    state = ConnectionState()
    send(state, "CLIENT REPLY OFF")
    assert facts(follow(("CLIENT REPLY ON", OK), state=state)) == fact()


def test_who_shares_a_connection() -> None:
    """Clients of the same credentials, database and protocol, whatever their names."""
    one = follow(("AUTH u p", OK), ("SELECT 2", OK), ("CLIENT SETNAME n", OK))
    other = follow(("SELECT 2", OK), ("HELLO 2 AUTH u p SETNAME m", HELLO_2))
    third = follow(("AUTH u p", OK), ("SELECT 2", OK), ("HELLO 3", HELLO_3))
    identity = Identity((b"u", b"p"), 2)
    assert (one.identity, other.identity, third.identity) == (identity, identity, identity._replace(is_resp3=True))


def test_an_identity_shows_no_password() -> None:
    """Its repr may be in a log."""
    shown = [repr(each) for each in (
        Identity(), Identity((b"secret",), 1), Identity((b"bob", b"secret"), 2, True))]
    assert shown == [
        "<identity nobody, database 0, RESP2>", "<identity default, database 1, RESP2>",
        "<identity bob, database 2, RESP3>"]
