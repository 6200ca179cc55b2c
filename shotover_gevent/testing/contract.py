"""``check_transform``: the contract of a transform, run against any implementation of it.

The rules are those of :mod:`shotover_gevent.chain.transform` and :mod:`shotover_gevent.chain.handoff`,
each a function here. A rule that is broken raises ``AssertionError`` with one sentence: the transform,
the rule, what was expected and what was seen. The first one ends the check.

What a transform may do, but has to declare, is an argument of the check: whoever reads the test of a
transform reads there what it does that others do not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import gevent

from shotover_gevent.chain.handoff import Pinned, fields_of
from shotover_gevent.chain.steps import all_steps
from shotover_gevent.chain.transform import Sink, Transform, TransformConfig
from shotover_gevent.codecs.batch import Batch
from shotover_gevent.errors import (
    SessionEnd, ShotoverError, TransformError, UpstreamClosed, UpstreamError,
)
from shotover_gevent.sources.protocol import PROTOCOLS
from shotover_gevent.testing.case import PUSHES, Case, as_messages, describe, make_case, shown
from shotover_gevent.testing.closing import counting_closings, descriptors, running_greenlets, settles
from shotover_gevent.testing.session import TransformSession
from shotover_gevent.testing.upstream import RESET, AnsweringUpstream, Answer, echo

# A run that takes longer than this hangs; the slowest of ours takes a second.
RUN_S = 10.0


def check_transform(
    config: TransformConfig | Callable[[], TransformConfig],
    *,
    requests: Sequence[bytes] | None = None,
    answer: Answer = echo,
    upstream: AnsweringUpstream | None = None,
    protocol: str | None = None,
    timeout_s: float = RUN_S,
    swallows_pushes: bool = False,
    answers_errors: bool = False,
    varies: bool = False,
    pins: bool = False,
    keeps_connections: bool = False,
) -> None:
    """Check that the transforms of ``config`` keep the contract. Raises ``AssertionError``.

    ``config`` is a configuration object that was not built yet, or a function that makes one: every
    session that must share nothing with others gets its own. ``requests`` are complete requests, each as
    bytes; ``answer`` is what the database answers to one. A sink that asks a database is given one that
    is running, as ``upstream``, which the check stops at its end. ``timeout_s`` bounds each run.

    Declarations:
     * ``swallows_pushes``: messages that nobody asked for need not arrive at the client;
     * ``answers_errors``: failures of what is below may be answered instead of passed on;
     * ``varies``: answers depend on time, chance, or other sessions, so they are not compared;
     * ``pins``: a session with this transform may be unable to move to another process;
     * ``keeps_connections``: what a session opens may stay open for other sessions.
    """
    case = make_case(
        config, protocol, requests, answer=answer, upstream=upstream, timeout_s=timeout_s,
        swallows_pushes=swallows_pushes, answers_errors=answers_errors, varies=varies, pins=pins,
        keeps_connections=keeps_connections)
    gevent.sleep(0)  # the hub is a greenlet, too
    before = running_greenlets()
    try:
        for rule in RULES:
            try:
                rule(case)
            finally:
                case.close_sessions()
    finally:
        settles(lambda: running_greenlets() <= before)


def check_configuration(case: Case) -> None:
    """The configuration is valid, can be written as JSON, and makes the right kind of transform."""
    config = case.make()
    problems = config.problems()
    if problems:
        case.broken("the configuration that is checked is valid", "no problems()", "; ".join(problems))
    with case.within("the fields of a configuration can be written as JSON (sessions move to equal chains)"):
        config.model_dump_json()
    session = case.session()
    made, wanted = session.transform, Sink if case.is_sink else Transform
    if not isinstance(made, wanted):
        case.broken(
            f"session() returns a {wanted.__name__}", f"a {wanted.__name__}", f"a {type(made).__name__}",
            "what is terminating answers by itself" if case.is_sink else "")
    _close(case, session, "close() works before the first request")


def check_answers(case: Case) -> None:
    """However requests are cut into batches, each gets its answer, and the same answer."""
    rule = "responses[i] answers requests[i], however requests are cut into batches"
    one_by_one = _alone(case, [case.batch([request]) for request in case.requests])
    count = len(case.requests)
    for size in sorted({2, 3, count}):
        parts = [case.batch(case.requests[at : at + size]) for at in range(0, count, size)]
        got = _alone(case, parts)
        if not case.varies:
            case.same(rule, one_by_one, got, f"in batches of {size}, response")
    if case.is_stream:
        return
    split = _alone(case, [as_messages(case.batch(case.requests))])
    if not case.varies:
        case.same(rule, one_by_one, split, "in a batch that was split before, response")
    empty = Batch(PROTOCOLS[case.protocol].codec, b"", ())
    _alone(case, [empty, case.batch(case.requests[:1]), empty])


def check_ownership(case: Case) -> None:
    """After a run, batches belong to others; what was given away is not used again."""
    session = case.session()
    seen: list[tuple[str, Batch, bytes]] = []
    first: list[bytes] = []
    for number in range(2):
        requests = case.batch(case.requests)
        responses = case.ask(session, requests)
        if number == 0:
            first = shown(responses)
        elif not case.varies and first != shown(responses) and first == _again(case):
            case.same(
                "responses that were given away are not given again", first, shown(responses),
                "the second time, response", "a message may be changed by those above: give a copy")
        below = [("requests below", batch) for batch in session.below.batches]
        seen += [(what, batch, batch.raw) for what, batch in [
            ("requests", requests), ("responses", responses), *below]]
        session.below.batches.clear()
        if number == 0 and not case.is_stream:
            for message in responses:
                message.frame = b"changed by a transform above"
            seen[1] = ("responses", responses, responses.raw)
    gevent.sleep(0)
    for what, batch, raw in seen:
        if batch.raw != raw:
            case.broken(
                "a transform changes nothing that belongs to others by then",
                f"the {what} of an earlier run to stay {raw!r}", repr(batch.raw))


def check_pushes(case: Case) -> None:
    """What nobody asked for arrives at the client, as often as it came."""
    pushes = PUSHES.get(case.protocol)
    if pushes is None or case.swallows_pushes or (case.is_sink and case.upstream is None):
        return
    session = case.session()
    if case.is_sink:
        if case.is_stream:
            return  # all that it answers are pushes, and were compared
        case.ask(session, case.batch(case.requests[:1]))
        assert case.upstream is not None
        case.upstream.connections[-1].send(pushes[0])
        with case.within("a sink pushes what its database says unasked"):
            while not session.pushed:
                session.wait_push(case.timeout_s)
    else:
        with case.within("a push raises nothing"):
            session.push(*pushes)
    if not session.pushed:
        case.broken(
            "pushes are forwarded", f"{len(pushes)} push at the client", "none",
            "call forward(pushes), or declare swallows_pushes=True")


def check_errors(case: Case) -> None:
    """What fails below is passed on as it is, and the transform can be closed afterwards."""
    if case.is_sink:
        return
    lost = TransformError("the step below failed")
    lost.__cause__ = UpstreamError("the database was lost")
    for failure in (lost, UpstreamClosed("the database closed the connection")):
        session = case.session()
        session.below.failure = failure
        requests = case.batch(case.requests)
        way_out = "catch it only to answer it, and then declare answers_errors=True"
        outcome = _outcome(case, session, requests)
        is_declared = case.answers_errors and not isinstance(failure, SessionEnd)
        if session.below.asked and outcome is not failure and not is_declared:
            rule = "an error from below passes as it is"
            if isinstance(failure, SessionEnd):
                rule, way_out = "the end of a session passes as it is", "a SessionEnd is no failure"
            seen = f"{len(outcome)} responses" if isinstance(outcome, Batch) else describe(outcome)
            case.broken(rule, describe(failure), seen, way_out)
        _close(case, session, "close() works after a failure")


def check_lost_upstream(case: Case) -> None:
    """A sink tells the loss of its database by an error of its family, in time."""
    upstream = case.upstream
    if not case.is_sink or upstream is None or case.is_stream:
        return
    for after_bytes, ending in ((0, RESET), (2, RESET)):
        session = case.session()
        upstream.cut_next(after_bytes, ending)
        outcome = _outcome(case, session, case.batch(case.requests[:2]))
        _need_upstream_error(case, outcome, f"whose connection ends after {after_bytes} bytes of an answer")
        _close(case, session, "close() works after a failure")


def check_closing(case: Case) -> None:
    """A session is closed once, everything in it too, and then nothing of it is open any more."""
    at_start = descriptors()
    config = case.built()
    with counting_closings(config) as closings:
        before = running = 0
        for number in range(2):  # what the first one opens may stay, for all sessions
            if number == 1:
                before, running = descriptors(), running_greenlets()
            session = case.session(config)
            case.answers(session, case.batch(case.requests))
            _close(case, session, "close() raises nothing")
        rule = "a transform is closed once, by the chain"
        if closings.most() > 1:
            case.broken(rule, "one call of close()", f"{closings.most()}", "a transform does not close itself")
        if not case.keeps_connections and not settles(lambda: not closings.closed(0)):
            case.broken(
                rule, "every transform of the session's sub-chains to be closed",
                f"{', '.join(closings.closed(0))} open", "close() closes the chains inside")
    if not case.keeps_connections and not settles(lambda: descriptors() <= before):
        case.broken(
            "close() gives back what the session holds", f"{before} open descriptors as before it",
            f"{descriptors()}", "or declare keeps_connections=True")
    if not case.keeps_connections and not settles(lambda: running_greenlets() <= running):
        case.broken("close() ends what runs for the session", "no greenlet to run on", "one that does",
                    "or declare keeps_connections=True")
    case.configs.remove(config)
    with case.within("close() of a configuration raises nothing"):
        config.close()
    if not settles(lambda: descriptors() <= at_start):
        case.broken(
            "close() of a configuration gives back what is left", f"{at_start} open descriptors as before it "
            "was built", f"{descriptors()}")


def check_sessions(case: Case) -> None:
    """Two sessions at the same time get the answers that they get one after the other."""
    if case.varies:
        return
    orders = (case.requests, case.requests[::-1])

    def two(interleaved: bool) -> list[list[bytes]]:
        config = case.built()
        sessions = [case.session(config) for _ in orders]
        got: list[list[bytes]] = [[], []]
        turns = [(which, at) for which in (0, 1) for at in range(len(case.requests))]
        for which, at in sorted(turns, key=lambda turn: turn[1]) if interleaved else turns:
            got[which] += case.answers(sessions[which], case.batch([orders[which][at]]))
        return got

    for number, (apart, together) in enumerate(zip(two(False), two(True))):
        case.same(
            "sessions share nothing by accident", apart, together,
            f"beside another session, in session {number} response",
            "keep the state of a session on the transform; if answers may depend on others: varies=True")


def check_move(case: Case) -> None:
    """Every field says what happens to it, and a session goes on elsewhere as if it had not moved."""
    half = len(case.requests) // 2
    first, second = case.batch(case.requests[:half]), case.batch(case.requests[half:])
    stayed = _alone(case, [case.batch(case.requests[:half]), case.batch(case.requests[half:])])
    config = case.built()
    old = case.session(config)
    before = case.answers(old, first)
    _need_fates(case, old.transform)
    try:
        with gevent.Timeout(case.timeout_s):
            state, luggage = old.export()
            again, _ = old.export()
            shared = json.dumps({step.name: step.export() for step in all_steps([config])})
    except gevent.Timeout:
        case.broken("a session between requests can move", f"its state within {case.timeout_s:g} s", "none")
    except Pinned as error:
        if case.pins:
            return
        case.broken("a session between requests can move", "its state", describe(error),
                    "export the state, or declare pins=True")
    except TypeError as error:
        case.broken("the exported state is JSON", "values that JSON has", describe(error),
                    "for bytes there is pack_bytes()", cause=error)
    case.same("exporting changes nothing", state, again, "the second export's character")
    new = _elsewhere(case, shared)
    with case.within("adopt() takes what export() gives"):
        new.adopt(state, luggage)
    if not case.is_sink:
        after_export = case.joined(before, case.answers(old, case.batch(case.requests[half:])))
        if not case.varies:
            case.same("exporting changes nothing", stayed, after_export, "after an export, response")
    old.close()
    moved = case.joined(before, case.answers(new, second))
    if not case.varies:
        case.same("a session goes on elsewhere as if it had not moved", stayed, moved,
                  "after the move, response", "export in fates what later answers depend on")


def _elsewhere(case: Case, shared: str) -> TransformSession:
    """A session of a successor, which takes over what belongs to no session before it makes any."""
    config, states = case.built(), json.loads(shared)
    with case.within("adopt() of a configuration takes what export() gives"):
        for step in all_steps([config]):
            if states[step.name] is not None:
                step.adopt(states[step.name])
    return case.session(config)


def check_refused_upstream(case: Case) -> None:
    """A sink whose database does not listen says so. This stops the upstream: it is the last rule."""
    upstream = case.upstream
    if not case.is_sink or upstream is None or case.is_stream:
        return
    upstream.stop()
    session = case.session()
    outcome = _outcome(case, session, case.batch(case.requests[:2]))
    _need_upstream_error(case, outcome, "that does not listen")
    _close(case, session, "close() works after a failure")


#: In the order in which they are checked: what later ones rely on comes first.
RULES = (
    check_configuration, check_answers, check_ownership, check_pushes, check_errors,
    check_lost_upstream, check_closing, check_sessions, check_move, check_refused_upstream,
)


def _alone(case: Case, batches: list[Batch]) -> list[bytes]:
    """The answers to these batches in a session and a process of its own."""
    session = case.session()
    return case.answers(session, *batches)


def _again(case: Case) -> list[bytes]:
    """The second answers to the same requests, of a session whose first ones nobody changed."""
    session = case.session()
    case.ask(session, case.batch(case.requests))
    return shown(case.ask(session, case.batch(case.requests)))


def _outcome(case: Case, session: TransformSession, requests: Batch) -> Batch | Exception:
    """What a run returns or raises; if it returns, one response per request."""
    caught: list[Exception] = []

    def run() -> Batch | None:
        try:
            return session.run(requests)
        except Exception as error:
            caught.append(error)
            return None

    count = len(requests)
    with case.within("a failure ends the run"):
        outcome = run()
    if caught:
        return caught[0]
    if not isinstance(outcome, Batch) or len(outcome) != count:
        seen = f"{len(outcome)} responses" if isinstance(outcome, Batch) else describe(outcome)
        case.broken("one response per request", f"{count} responses to {count} requests", seen)
    return outcome


def _need_upstream_error(case: Case, outcome: Batch | Exception, when: str) -> None:
    if isinstance(outcome, ShotoverError) or (case.answers_errors and isinstance(outcome, Batch)):
        return
    seen = f"{len(outcome)} responses" if isinstance(outcome, Batch) else describe(outcome)
    case.broken(f"a sink tells of a database {when}", "an UpstreamError", seen,
                "raise UpstreamError(...) from the error, or declare answers_errors=True")


def _need_fates(case: Case, transform: Transform) -> None:
    undeclared = [name for name in fields_of(transform) if name not in transform.fates]
    if undeclared:
        case.broken(
            "every field says in fates what happens to it when the session moves",
            f"{type(transform).__name__}.fates to have {', '.join(undeclared)}",
            f"{', '.join(transform.fates) or 'no fates'}", "each is EXPORTED, REBUILT or PINS")


def _close(case: Case, session: TransformSession, rule: str) -> None:
    with case.within(rule):
        session.close()
