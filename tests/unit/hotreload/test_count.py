"""Reloads are counted by both processes, under labels from fixed sets."""

import time
from collections import Counter

from shotover_gevent.hotreload.count import ReloadCounts
from shotover_gevent.hotreload.moving import Moved
from shotover_gevent.metrics import MetricStore


def samples(store):
    """What is not zero: values by name and labels."""
    return {
        (family.name.removeprefix("shotover_gevent_"), *(value for _, value in labels)): metric.value
        for family in store.families() for labels, metric in family.children.items()
        if metric.value and family.name != "shotover_gevent_reload_timestamp_seconds"}


def count_of(store):
    """How many samples there are."""
    return sum(len(family.children) for family in store.families())


def test_everything_exists_from_the_start():
    """Four kinds of reload, moved, adopted, seven reasons, the pause and the time; nothing is added later."""
    store = MetricStore()
    counts = ReloadCounts(store)
    before = count_of(store), samples(store)
    counts.given(Moved(kept=Counter({"anything": 1, "at 127.0.0.1:1": 2})), is_ok=True)
    assert (before, count_of(store)) == ((15, {}), 15)


def test_the_last_reload_is_told():
    """None before the first; then its end, with the reason when it has failed."""
    counts = ReloadCounts(MetricStore())
    told = [counts.last]
    counts.given(Moved(moved=5, kept=Counter({"busy": 2}), longest_pause_s=0.25), is_ok=True)
    told.append(dict(counts.last))
    counts.given(Moved(), is_ok=False, reason="it broke")
    told.append(dict(counts.last))
    ends = [each.pop("ended_at") for each in told[1:]]
    assert told == [
        None,
        {"role": "predecessor", "result": "ok", "reason": "", "moved": 5, "kept": {"busy": 2},
         "longest_pause_ms": 250.0},
        {"role": "predecessor", "result": "failed", "reason": "it broke", "moved": 0, "kept": {},
         "longest_pause_ms": 0.0}]
    assert all(abs(end - time.time()) < 60 for end in ends)


def test_a_predecessor_counts_what_moved_and_what_it_kept():
    """A reason that is not of the fixed set counts as another one."""
    store = MetricStore()
    counts = ReloadCounts(store)
    kept = Counter({"busy": 2, "the chain has changed": 3, "nothing listens at 1.1.1.1:1": 4})
    counts.given(Moved(moved=5, kept=kept, longest_pause_s=0.25), is_ok=True)
    counts.given(Moved(), is_ok=False)
    counts.moved_late(2)
    assert samples(store) == {
        ("reloads_count", "predecessor", "ok"): 1, ("reloads_count", "predecessor", "failed"): 1,
        ("reload_sessions_count", "moved"): 7, ("reload_sessions_count", "kept", "busy"): 2,
        ("reload_sessions_count", "kept", "the chain has changed"): 3,
        ("reload_sessions_count", "kept", "other"): 4,
    }


def test_a_successor_counts_what_it_adopted():
    """Its predecessor's account, in seconds; without one, only the reload."""
    store = MetricStore()
    counts = ReloadCounts(store)
    counts.taken({"moved": 3, "kept": {"connecting": 1}, "longest_pause_ms": 12.5})
    counts.adopted_late(1)
    after = samples(store)
    counts.taken({})
    counts.not_taken()
    assert after == {
        ("reloads_count", "successor", "ok"): 1, ("reload_sessions_count", "adopted"): 4,
        ("reload_sessions_count", "kept", "connecting"): 1, ("reload_longest_pause_seconds",): 0.0125,
    }
    assert [samples(store)["reloads_count", "successor", result] for result in ("ok", "failed")] == [2, 1]
