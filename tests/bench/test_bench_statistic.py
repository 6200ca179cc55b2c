"""The arithmetic of a comparison is right, at its edges too."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from bench.machine import connection_cap, process_cpu_s
from bench.redis_benchmark import Load, LoadError, parse
from bench.results import interleaved
from bench.statistic import median, percentile, ratio, spread

# What redis-benchmark 7.0.15 prints with --csv for a command of its user's.
CSV = (
    '"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms",'
    '"max_latency_ms"\n"GET bench:small","111111.12","0.290","0.120","0.279","0.423","0.975","1.095"\n')


def test_a_median_is_between_the_rounds() -> None:
    """Of an odd number it is the middle one, of an even number the mean of two, of none nothing."""
    assert [median(values) for values in ([3.0, 1.0, 2.0], [4.0, 1.0, 2.0, 3.0], [])] == [2.0, 2.5, None]


def test_a_ratio_of_nothing_is_nothing() -> None:
    """A missing number, or a base of zero, gives no ratio."""
    assert [ratio(3.0, 2.0), ratio(None, 2.0), ratio(3.0, None), ratio(3.0, 0.0), ratio(0.0, 2.0)] == [
        1.5, None, None, None, 0.0]


def test_a_spread_is_the_most_over_the_least() -> None:
    """Equal values have a spread of one."""
    assert [spread([2.0, 3.0, 2.5]), spread([2.0, 2.0]), spread([])] == [1.5, 1.0, None]


@pytest.mark.parametrize(("share", "expected"), [
    (0.0, 1.0), (0.5, 500.0), (0.501, 501.0), (0.99, 990.0), (0.999, 999.0), (1.0, 1000.0)])
def test_a_percentile_is_the_nearest_rank(share: float, expected: float) -> None:
    """Of the numbers from 1 to 1000, the 99.9th percentile is 999, not a number between two."""
    assert percentile([float(number) for number in range(1, 1001)], share) == expected


def test_a_percentile_of_one_value_is_that_value() -> None:
    """Every share of one value is that value; of none there is no percentile."""
    assert [percentile([7.0], share) for share in (0.0, 0.5, 0.999, 1.0)] == [7.0] * 4
    with pytest.raises(ValueError, match="a percentile of nothing"):
        percentile([], 0.5)


def test_rounds_are_interleaved_and_begin_with_another_candidate() -> None:
    """Each round has every candidate once, so that none always follows the same one."""
    assert ["".join(interleaved("abc", rounds)) for rounds in (0, 2, 4)] == ["", "abcbca", "abcbcacababc"]
    assert list(interleaved([], 3)) == []


def test_the_output_of_redis_benchmark_is_read() -> None:
    """The columns are found by their names."""
    assert parse(CSV, 2000) == Load(2000, 111111.12, 0.279, 0.975)


@pytest.mark.parametrize("output", [
    "", "Could not connect to Redis", CSV.splitlines()[0] + "\n", CSV.replace("111111.12", "nan?"),
    CSV.replace("p99_latency_ms", "p98_latency_ms"), CSV + CSV.splitlines()[1] + "\n",
    '"GET","1.0"\n"SET","2.0"\n'])
def test_other_output_of_redis_benchmark_is_an_error(output: str) -> None:
    """What is no result is not taken for one."""
    with pytest.raises(LoadError, match="not the output"):
        parse(output, 2000)


def test_the_cpu_time_of_a_process_is_told_exactly() -> None:
    """That of this process is what it says of itself; a process that has ended has none."""
    before = time.process_time()
    found = process_cpu_s(os.getpid())
    assert before <= found <= time.process_time()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert process_cpu_s(ended.pid) == 0.0


@pytest.mark.parametrize(("descriptors", "expected"), [(1024, 412), (20000, 9900), (1_000_000, 10_000)])
def test_connections_are_capped_by_descriptors(descriptors: int, expected: int) -> None:
    """Two for each connection, some to spare, and never more than the goals speak of."""
    assert connection_cap(descriptors) == expected
