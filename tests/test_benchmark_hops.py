"""The benchmark's stopwatch counts work where it is done, once."""

from __future__ import annotations

import time

from benchmarks.serve_hops import WORK, Stopwatch


def busy(seconds: float) -> None:
    began = time.thread_time()
    while time.thread_time() - began < seconds:
        pass


def test_work_within_other_work_counts_where_it_is_done() -> None:
    watch = Stopwatch()
    inner = watch.around("inner", lambda: busy(0.03))

    def outer() -> None:
        inner()
        inner()
        busy(0.02)

    began = time.thread_time()
    watch.around("outer", outer)()
    total = time.thread_time() - began
    assert watch.seconds["inner"] >= 0.06
    assert 0.02 <= watch.seconds["outer"] <= total - 0.06
    assert sum(watch.seconds.values()) <= total


def test_every_kind_of_work_names_functions_that_exist_and_are_put_back() -> None:
    before = [getattr(owner, name) for calls in WORK.values() for owner, name in calls]
    with Stopwatch().watching():
        during = [getattr(owner, name) for calls in WORK.values() for owner, name in calls]
    assert all(one is not two for one, two in zip(before, during, strict=True))
    after = [getattr(owner, name) for calls in WORK.values() for owner, name in calls]
    assert [getattr(f, "__func__", f) for f in before] == [getattr(f, "__func__", f) for f in after]
