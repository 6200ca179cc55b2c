"""A chain answers each request once, counts its runs, names what failed, and closes everything."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shotover_gevent.chain import Batch, BuildContext, Message, Next, TransformConfig
from shotover_gevent.chain.chain import Chain, ChainConfig
from shotover_gevent.codecs.resp import RESP
from shotover_gevent.errors import ClientGone, SessionEnd, TransformError, UpstreamClosed, causes
from shotover_gevent.metrics import Histogram, MetricStore
from tests.inprocess import Answerer, Step, session_context


def batch(count: int) -> Batch:
    """So many requests."""
    return Batch.of(RESP, [Message(RESP, b"PING\r\n") for _ in range(count)])


def echo(requests: Batch) -> Batch:
    """Each request answered by its own bytes."""
    return Batch.of(requests.codec, [Message(requests.codec, m.raw) for m in requests])


def build(*steps: TransformConfig, metrics: MetricStore | None = None) -> Chain:
    """The chain of one session."""
    return ChainConfig("c", "Valkey", steps, metrics or MetricStore()).session(session_context(chain="c"))


def sink(answer: Callable[[Batch], Batch] = echo) -> Answerer:
    """A sink of that function."""
    return Answerer(name="sink", answer=answer)


def raising(error: BaseException) -> Callable[..., Batch]:
    """A function that raises it."""

    def fail(*args: object) -> Batch:
        raise error

    return fail


def numbers(metrics: MetricStore) -> dict[str, object]:
    """Each metric as ``name{label values}``: a number, or for histograms the count of values."""
    found: dict[str, object] = {}
    for family in metrics.families():
        for key, metric in family.children.items():
            name = f"{family.name.removeprefix('shotover_')}{{{','.join(value for _, value in key)}}}"
            found[name] = sum(metric.counts) if isinstance(metric, Histogram) else metric.value
    return found


def test_a_run_passes_each_transform_from_top_to_sink_and_back() -> None:
    """Each is ordinary code around ``next``."""
    trace: list[str] = []

    def traced(name: str) -> Callable[[Batch, Next], Batch]:
        def run(requests: Batch, next: Next) -> Batch:
            trace.append(f"{name} asks")
            responses = next(requests)
            trace.append(f"{name} answers")
            return responses

        return run

    chain = build(Step(name="a", run=traced("a")), Step(name="b", run=traced("b")), sink())
    responses = chain.run(batch(2))
    assert (responses.raw, trace) == (
        b"PING\r\n" * 2, ["a asks", "b asks", "b answers", "a answers"])


def test_a_transform_may_ask_again_or_not_at_all() -> None:
    """Retrying, dropping and splitting requests is nobody's business but the transform's."""

    def halve(requests: Batch, next: Next) -> Batch:
        next(requests)
        return Batch.of(RESP, [*next(requests[0:1]), Message(RESP, b"+own\r\n")])

    asked: list[int] = []

    def answer(requests: Batch) -> Batch:
        asked.append(len(requests))
        return echo(requests)

    chain = build(Step(name="a", run=halve), sink(answer))
    assert (chain.run(batch(2)).raw, asked) == (b"PING\r\n+own\r\n", [2, 1])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_as_many_responses_as_requests_are_demanded(count: int) -> None:
    """Otherwise the run has failed, and the error says by how much."""
    metrics = MetricStore()
    chain = build(sink(lambda requests: batch(count)), metrics=metrics)
    with pytest.raises(TransformError) as caught:
        chain.run(batch(2))
    failures = (numbers(metrics)["chain_failures_count{c}"], numbers(metrics)["transform_failures_count{Answerer}"])
    assert (str(caught.value), failures) == (
        f"{count} responses to 2 requests: this violates the transform invariants", (1, 0))


def test_a_failure_names_every_transform_above_it() -> None:
    """The texts are Shotover's, outermost first, then what failed."""
    chain = build(Step(name="top"), Step(name="middle"), sink(raising(ConnectionRefusedError(111, "refused"))))
    with pytest.raises(TransformError) as caught:
        chain.run(batch(1))
    assert list(causes(caught.value)) == [
        "Transform Step named top failed in chain c", "Transform Step named middle failed in chain c",
        "Transform Answerer named sink failed in chain c", "Connection refused (os error 111)"]


def test_a_transform_may_answer_for_one_that_failed() -> None:
    """A failure that is caught counts for the transforms below and not for the chain."""
    metrics = MetricStore()

    def rescue(requests: Batch, next: Next) -> Batch:
        try:
            return next(requests)
        except TransformError:
            return echo(requests)

    chain = build(Step(name="a", run=rescue), sink(raising(ValueError("x"))), metrics=metrics)
    raw, found = chain.run(batch(1)).raw, numbers(metrics)
    assert (raw, found["chain_failures_count{c}"], found["transform_failures_count{Step}"],
            found["transform_failures_count{Answerer}"]) == (b"PING\r\n", 0, 0, 1)


@pytest.mark.parametrize("error", [SessionEnd("x"), UpstreamClosed("x"), ClientGone("x")], ids=repr)
def test_the_end_of_a_session_passes_as_it_is(error: SessionEnd) -> None:
    """It is no failure: neither wrapped nor counted."""
    metrics = MetricStore()
    chain = build(Step(name="a"), sink(raising(error)), metrics=metrics)
    with pytest.raises(SessionEnd) as caught:
        chain.run(batch(1))
    failures = [value for name, value in numbers(metrics).items() if "failures" in name]
    assert (caught.value, failures) == (error, [0, 0, 0])


def test_being_killed_is_no_failure() -> None:
    """A session that is ended by force leaves no error behind."""
    from gevent import GreenletExit

    metrics = MetricStore()
    chain = build(sink(raising(GreenletExit())), metrics=metrics)
    with pytest.raises(GreenletExit):
        chain.run(batch(1))
    assert [value for name, value in numbers(metrics).items() if "failures" in name] == [0, 0]


def test_a_chain_without_a_sink_says_so() -> None:
    """Validation prevents it; an embedding program might not have asked for that."""
    chain = build(Step(name="a"))
    with pytest.raises(TransformError) as caught:
        chain.run(batch(1))
    assert list(causes(caught.value)) == [
        "Transform Step named a failed in chain c",
        "the last transform of the chain called next: it must be terminating"]


def test_every_run_is_counted() -> None:
    """Runs, failures, durations and sizes; empty runs have no size; types share their counters."""
    metrics = MetricStore()

    def answer(requests: Batch) -> Batch:
        if len(requests) == 5:
            raise ValueError("five")
        return echo(requests)

    chain = build(Step(name="a"), Step(name="b"), sink(answer), metrics=metrics)
    before = numbers(metrics)
    for count in (0, 1, 3):
        chain.run(batch(count))
    with pytest.raises(TransformError):
        chain.run(batch(5))
    names = list(before)
    assert names == [
        "chain_total_count{c}", "chain_failures_count{c}", "chain_requests_batch_size{c}",
        "chain_responses_batch_size{c}", "chain_latency_seconds{c}", "transform_total_count{Step}",
        "transform_total_count{Answerer}", "transform_failures_count{Step}",
        "transform_failures_count{Answerer}", "transform_latency_seconds{Step}",
        "transform_latency_seconds{Answerer}"]
    assert set(before.values()) == {0}
    assert list(numbers(metrics).values()) == [4, 1, 2, 2, 3, 8, 4, 2, 1, 6, 3]
    sizes = metrics.histogram("shotover_chain_requests_batch_size", "", chain="c")
    assert (sizes.total, sizes.counts[:4]) == (4, [1, 0, 1, 0])


def test_all_transforms_are_closed_even_if_one_fails(caplog: pytest.LogCaptureFixture) -> None:
    """From the top to the sink; the failure is logged."""
    closed: list[str] = []

    def step(name: str) -> Step:
        def close() -> None:
            closed.append(name)
            if name == "b":
                raise ValueError("cannot close")

        return Step(name=name, closed=close)

    build(step("a"), step("b"), step("c"), sink()).close()
    assert (closed, caplog.messages) == (["a", "b", "c"], ["_Step failed to close"])


def test_transforms_made_before_one_that_fails_are_closed() -> None:
    """A session that cannot start leaves nothing open."""
    closed: list[str] = []
    steps = [Step(name=name, closed=lambda name=name: closed.append(name)) for name in "ab"]  # type: ignore[misc]
    with pytest.raises(ValueError):
        build(*steps, Step(name="c", made=raising(ValueError("no")), closed=lambda: closed.append("c")))
    assert closed == ["a", "b"]


def test_each_step_is_built_once_with_the_metrics_and_the_names() -> None:
    """What is registered there is exported before the first client comes."""
    built: list[tuple[str, str]] = []
    metrics = MetricStore()

    def register(context: BuildContext) -> None:
        built.append((context.chain, context.protocol))
        context.metrics.counter("mine", "help")

    config = ChainConfig("c", "Valkey", [Step(name="a", built=register), sink()], metrics)
    for _ in range(2):
        config.session(session_context())
    assert (built, numbers(metrics)["mine{}"]) == ([("c", "Valkey")], 0)


class Closing(Answerer):
    """A step that notes when it is closed, and fails if it is told to."""

    fails: bool = False

    def close(self) -> None:
        closed.append(self.name)
        if self.fails:
            raise ValueError("not now")


closed: list[str] = []


def test_the_steps_are_closed_with_their_chain_even_if_one_fails(
    caplog: pytest.LogCaptureFixture
) -> None:
    """What the steps opened for all sessions is given back."""
    closed.clear()
    steps = [Closing(name="a", answer=echo, fails=True), Closing(name="b", answer=echo)]

    ChainConfig("c", "Valkey", steps, MetricStore()).close()

    assert (closed, [r.getMessage() for r in caplog.records]) == (["a", "b"], ["Closing failed to close"])
