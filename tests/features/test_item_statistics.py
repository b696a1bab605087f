"""Dated item statistics against counting the log."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from made_logs import ITEMS, START, Row, label_of, moments, rows, statistics_of

from clm_ray.features.statistics import STATISTICS, ItemStatistics, day_of
from clm_ray.schema import DAY_US

FIRST_DAY = START // DAY_US
DAYS = st.lists(st.integers(FIRST_DAY - 3, FIRST_DAY + 45), min_size=1, max_size=6)


@settings(max_examples=60)
@given(rows(moments()), DAYS, st.integers(1, 30))
def test_a_day_counts_once_it_is_over(log: list[Row], days: list[int], window: int) -> None:
    found = statistics_of(log)
    for day in days:
        item_Q, day_Q = np.arange(len(ITEMS), dtype=np.int32), np.full(len(ITEMS), day)
        for item in range(len(ITEMS)):
            known = [
                (row.time // DAY_US, label, float(np.float32(row.value or 0)))
                for row in log
                if (label := label_of(row)) is not None and item in (row.item, 0) and row.time // DAY_US < day
            ]
            assert found.events(item_Q, day_Q)[item] == len(known)
            assert found.positives(item_Q, day_Q)[item] == sum(label for _, label, _ in known)
            assert found.window(item_Q, day_Q, days=window)[item] == sum(d >= day - window for d, _, _ in known)
            mean = sum(value for _, _, value in known) / max(len(known), 1)
            np.testing.assert_allclose(found.mean_total(item_Q, day_Q)[item], mean, rtol=1e-6)


def test_the_mean_rating_is_of_ratings_alone_and_shrunk() -> None:
    log = [
        Row("u1", START, "rating", 1, 5.0),
        Row("u2", START, "rating", 2, 2.0),
        Row("u3", START, "purchase", 1, 90.0),
    ]
    asked = np.array([1, 2, 3], np.int32), np.full(3, FIRST_DAY + 1)
    mean = (5.0 + 2.0) / 2
    expected = [(5.0 + 4 * mean) / 5, (2.0 + 4 * mean) / 5, mean]
    np.testing.assert_allclose(statistics_of(log).mean_rating(*asked, prior=4.0), expected, rtol=1e-6)
    assert statistics_of(log).mean_rating(asked[0], asked[1] - 1, prior=4.0).tolist() == [0, 0, 0]
    assert statistics_of([]).mean_rating(*asked, prior=4.0).tolist() == [0, 0, 0]


@settings(max_examples=60)
@given(rows(moments()), st.randoms(use_true_random=False))
def test_daily_sums_come_in_any_order(log: list[Row], random: object) -> None:
    one = statistics_of(log)
    shuffled = list(log)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    two = statistics_of(shuffled)
    for name in (f"{name}_K" for name in STATISTICS):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_rows_are_cumulative_by_item_and_day_and_row_0_holds_all_items() -> None:
    item, day = np.array([2, 1, 2], np.int32), np.array([10, 10, 8], np.int32)
    found = ItemStatistics.from_daily(item, day, *(np.array(v, float) for v in ([1, 2, 4], [1, 0, 3], [5, 6, 7])))
    assert found.item_K.tolist() == [0, 0, 1, 2, 2]
    assert found.day_K.tolist() == [8, 10, 10, 8, 10]
    assert found.events_K.tolist() == [4, 7, 2, 4, 5]
    assert found.positives_K.tolist() == [3, 4, 0, 3, 4]
    assert found.total_K.tolist() == [7, 18, 6, 7, 12]


def test_an_unknown_item_has_the_rate_of_all_and_an_empty_log_one_half() -> None:
    log = [Row("u1", START, "purchase", 1), Row("u1", START, "skip", 1), Row("u1", START, "purchase", 2)]
    asked = np.array([1, 5], np.int32), np.full(2, FIRST_DAY + 1)
    overall = (2 + 1) / (3 + 2)
    np.testing.assert_allclose(
        statistics_of(log).like_rate(*asked, prior=4.0), [(1 + 4 * overall) / (2 + 4), overall], rtol=1e-6
    )
    assert statistics_of(log).like_rate(asked[0], asked[1] - 1, prior=4.0).tolist() == [0.5, 0.5]
    empty = statistics_of([])
    assert empty.like_rate(*asked, prior=4.0).tolist() == [0.5, 0.5]
    for figures in (empty.events(*asked), empty.positives(*asked), empty.mean_total(*asked)):
        assert figures.tolist() == [0, 0]


def test_days_are_utc_days_before_1970_too() -> None:
    assert day_of(np.array([-1, 0, DAY_US - 1, DAY_US])).tolist() == [-1, 0, 0, 1]


def test_one_absurd_price_spoils_its_own_item_alone() -> None:
    item, day = np.array([1, 2, 2], np.int32), np.array([3, 1, 2], np.int32)
    ones = np.ones(3)
    found = ItemStatistics.from_daily(item, day, ones, ones, np.array([1e30, 5.0, 7.0]))
    assert found.mean_total(np.array([2, 2], np.int32), np.array([2, 3])).tolist() == [5.0, 6.0]


def test_a_released_table_does_not_fade_with_time() -> None:
    item, day = np.array([1, 1, 2], np.int32), np.array([10, 12, 11], np.int32)
    found = ItemStatistics.from_daily(item, day, *(np.array([3, 2, 5], float) for _ in range(3)))
    released = found.as_released()
    items, later = np.array([1, 2], np.int32), np.array([40, 40])
    assert found.window(items, later, days=7).tolist() == [0, 0]
    assert released.window(items, later, days=7).tolist() == [5, 5]
    for known in (10, 11, 12, 13):
        at = np.full(2, known)
        assert released.window(items, at, days=2).tolist() == found.window(items, at, days=2).tolist()
