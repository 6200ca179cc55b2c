"""A chain: the configured steps, and the transforms of one session linked by ``next``.

The steps of a session are closures, linked once when the session starts, so that running a chain is
a few plain calls. Each step counts itself and names itself in the error of whatever fails below.
"""

from __future__ import annotations

import json
import logging
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cached_property
from time import perf_counter
from typing import Any

from pydantic import SecretBytes, SecretStr
from pydantic_core import to_jsonable_python

from shotover_gevent.chain.build import build_steps
from shotover_gevent.chain.handoff import Luggage
from shotover_gevent.chain.steps import all_steps, describe
from shotover_gevent.chain.transform import (
    BuildContext,
    Endpoint,
    Next,
    SessionContext,
    Transform,
    TransformConfig,
)
from shotover_gevent.codecs.batch import Batch
from shotover_gevent.errors import SessionEnd, TransformError
from shotover_gevent.metrics import SIZE_BUCKETS, MetricStore

logger = logging.getLogger(__name__)


class ChainConfig:
    """The steps of one chain and its counters, shared by all sessions.

    ``gathers`` says whether whoever runs it asks :meth:`Chain.patience_s` before. Making one builds
    the steps; raises :class:`~shotover_gevent.chain.build.BuildError`.
    """

    def __init__(
        self, name: str, protocol: str, steps: Sequence[TransformConfig], metrics: MetricStore,
        endpoints: list[Endpoint] | None = None, is_awaited: bool = True,
    ) -> None:
        self.name = name
        self.protocol = protocol
        self.steps = tuple(steps)
        self.gathers = any(step.gathers for step in self.steps)
        #: Whether the responses of many sessions come at the same moment.
        self.answers_together = bool(self.steps) and self.steps[-1].answers_together
        labels = {"chain": name}
        self.total = metrics.counter(
            "shotover_chain_total_count", "Runs of the chain, empty ones too", **labels)
        self.failures = metrics.counter(
            "shotover_chain_failures_count", "Runs of the chain that failed", **labels)
        self.requests_size = metrics.histogram(
            "shotover_chain_requests_batch_size", "Requests in a run", SIZE_BUCKETS, **labels)
        self.responses_size = metrics.histogram(
            "shotover_chain_responses_batch_size", "Responses of a run", SIZE_BUCKETS, **labels)
        self.latency = metrics.histogram(
            "shotover_chain_latency_seconds", "Duration of a run", **labels)
        self.step_metrics = [StepMetrics(step.type_name, metrics) for step in self.steps]
        # A run of the chain is one of its first step, and has as many responses as requests.
        self.responses_size.parts.append(self.requests_size)
        if self.steps:
            self.step_metrics[0].latency.parts.append(self.latency)
        build_steps(self.steps, BuildContext(
            metrics=metrics, chain=name, protocol=protocol,
            endpoints=[] if endpoints is None else endpoints, is_awaited=is_awaited))

    def session(self, context: SessionContext) -> Chain:
        """The chain of one session; the caller closes it."""
        return Chain(self, context)

    def close(self) -> None:
        """Close every step, once no session is left; one that fails does not keep the others open."""
        _close_all(self.steps)

    def export(self) -> dict[str, Any]:
        """What the steps have for a successor that belongs to no session, by their names."""
        states = {step.name: step.export() for step in all_steps(self.steps)}
        return {name: state for name, state in states.items() if state is not None}

    def adopt(self, states: Mapping[str, Any]) -> None:
        """Give the steps what those of an equal chain have exported in another process."""
        for step in all_steps(self.steps):
            if step.name in states:
                step.adopt(states[step.name])

    @cached_property
    def identity(self) -> str:
        """Equal for chains that do the same: the types and fields of all steps, as JSON."""
        return json.dumps(
            [describe(step) for step in self.steps], sort_keys=True, default=_real_value)


def _real_value(value: Any) -> Any:
    """What is compared for a value that JSON has no form for. A secret is compared like any other."""
    if isinstance(value, (SecretStr, SecretBytes)):
        value = value.get_secret_value()
    return to_jsonable_python(value)


class StepMetrics:
    """The counters of one type of transform."""

    __slots__ = ("total", "failures", "latency")

    def __init__(self, type_name: str, metrics: MetricStore) -> None:
        labels = {"transform": type_name}
        self.total = metrics.counter(
            "shotover_transform_total_count", "Runs of transforms of this type", **labels)
        self.failures = metrics.counter(
            "shotover_transform_failures_count", "Runs that failed", **labels)
        self.latency = metrics.histogram(
            "shotover_transform_latency_seconds", "Duration of a run, with all below it", **labels)


class Chain:
    """The transforms of one session. ``run(requests)`` answers a batch; ``close()`` ends them."""

    __slots__ = ("transforms", "run")

    def __init__(self, config: ChainConfig, context: SessionContext) -> None:
        self.transforms: list[Transform] = context.above
        try:
            for step in config.steps:
                self.transforms.append(step.session(context))
        except BaseException:
            self.close()
            raise
        run: Next = _no_sink
        for index in reversed(range(1, len(config.steps))):
            run = _link(config, index, self.transforms[index], run)
        self.run: Next = _first(config, self.transforms[0], run) if config.steps else run

    def patience_s(self, count: int, since: float) -> float:
        """How much longer ``count`` requests, the first of them read at ``since``, may wait for more."""
        return max(transform.patience_s(count, since) for transform in self.transforms)

    def export(self, luggage: Luggage) -> list[Any]:
        """The state of every transform, in the order of the steps. Raises ``Pinned``."""
        return [transform.export(luggage) for transform in self.transforms]

    def adopt(self, states: Sequence[Any], luggage: Luggage) -> None:
        """Give every transform, just made, the state that another process exported."""
        for transform, state in zip(self.transforms, states, strict=True):
            transform.adopt(state, luggage)

    def close(self) -> None:
        """Close every transform, the sink last; one that fails does not keep the others open."""
        _close_all(self.transforms)


def _close_all(things: Sequence[Transform | TransformConfig]) -> None:
    for thing in things:
        try:
            thing.close()
        except Exception:
            logger.exception("%s failed to close", type(thing).__name__)


def _no_sink(requests: Batch) -> Batch:
    raise TransformError("the last transform of the chain called next: it must be terminating")


def _link(config: ChainConfig, index: int, transform: Transform, below: Next) -> Next:
    """The step of ``transform``: what the one above it calls as ``next``."""
    step, metrics = config.steps[index], config.step_metrics[index]
    run, total, latency, clock = transform.transform, metrics.total, metrics.latency, perf_counter
    bounds, counts = latency.bounds, latency.own

    def next(requests: Batch) -> Batch:
        total.value += 1
        start = clock()
        try:
            responses = run(requests, below)
        except SessionEnd:
            raise
        except Exception as error:
            metrics.failures.value += 1
            raise _failure(config, step) from error
        seconds = clock() - start
        counts[bisect_left(bounds, seconds)] += 1
        latency.own_total += seconds
        return responses

    return next


def _first(config: ChainConfig, transform: Transform, below: Next) -> Next:
    """The first step, and with it the whole chain: counted, and held to one response per request."""
    step, metrics = config.steps[0], config.step_metrics[0]
    run, total, chain_total, clock = transform.transform, metrics.total, config.total, perf_counter
    latency, sizes = config.latency, config.requests_size
    bounds, counts = latency.bounds, latency.own
    size_bounds, size_counts = sizes.bounds, sizes.own

    def first(requests: Batch) -> Batch:
        chain_total.value += 1
        total.value += 1
        asked = requests.count
        start = clock()
        try:
            responses = run(requests, below)
        except SessionEnd:
            raise
        except Exception as error:
            metrics.failures.value += 1
            config.failures.value += 1
            raise _failure(config, step) from error
        seconds = clock() - start
        if responses.count != asked:
            config.failures.value += 1
            raise TransformError(
                f"{responses.count} responses to {asked} requests: "
                "this violates the transform invariants")
        counts[bisect_left(bounds, seconds)] += 1
        latency.own_total += seconds
        if asked == 1:
            size_counts[0] += 1
            sizes.own_total += 1
        elif asked:
            size_counts[bisect_left(size_bounds, asked)] += 1
            sizes.own_total += asked
        return responses

    return first


def _failure(config: ChainConfig, step: TransformConfig) -> TransformError:
    return TransformError(f"Transform {step.type_name} named {step.name} failed in chain {config.name}")
