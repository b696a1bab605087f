"""Label windows against a loop that reads the definition literally."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clm_ray.lifecycle.windows import next_activity_bins, on_grid, reference_grid
from clm_ray.schema import DAY_US

HOUR_US = DAY_US // 24
HOURS = st.lists(st.integers(0, 24 * 90), max_size=30).map(lambda hours: np.array(sorted(hours), np.int64) * HOUR_US)
ENDS = st.lists(st.integers(1, 40), min_size=1, max_size=6, unique=True).map(sorted)


def test_grid_is_day_aligned_and_reaches_the_end() -> None:
    first, last = 3 * DAY_US + 5, 24 * DAY_US
    assert (reference_grid(first, last, 7) // DAY_US).tolist() == [3, 10, 17, 24]
    assert (reference_grid(first, last - 1, 7) // DAY_US).tolist() == [3, 10, 17]
    assert not (reference_grid(first, last, 7) % DAY_US).any()
    assert len(reference_grid(last, first, 7)) == 0


@given(HOURS, HOURS, ENDS, st.integers(0, 24 * 100))
def test_bins_follow_the_definition(
    activity: np.ndarray, references: np.ndarray, ends: list[int], log_end_hour: int
) -> None:
    log_end = log_end_hour * HOUR_US
    bins, seen = next_activity_bins(activity, references, bin_ends=ends, log_end_us=log_end)
    for got, got_seen, reference in zip(bins, seen, references, strict=True):
        observed = [ref_end for ref_end in ends if reference + ref_end * DAY_US <= log_end]
        expected = len(ends)
        for j in range(len(observed)):
            start = reference + (ends[j - 1] if j else 0) * DAY_US
            stop = reference + ends[j] * DAY_US
            if any(start <= moment < stop for moment in activity):
                expected = j
                break
        assert (got, got_seen) == (expected, len(observed))


def test_borders_are_half_open() -> None:
    reference = np.array([10 * DAY_US])
    for delay, expected in ((0, 0), (DAY_US - 1, 0), (DAY_US, 1), (3 * DAY_US - 1, 1), (3 * DAY_US, 2)):
        bins, _ = next_activity_bins(reference + delay, reference, bin_ends=(1, 3), log_end_us=99 * DAY_US)
        assert bins.tolist() == [expected]


def test_a_bin_seen_in_part_contributes_nothing() -> None:
    reference, activity = np.array([0]), np.array([5 * DAY_US])
    whole = next_activity_bins(activity, reference, bin_ends=(1, 3, 7), log_end_us=7 * DAY_US)
    part = next_activity_bins(activity, reference, bin_ends=(1, 3, 7), log_end_us=7 * DAY_US - 1)
    assert [a.tolist() for a in whole] == [[2], [3]]
    assert [a.tolist() for a in part] == [[3], [2]]


@given(HOURS, HOURS, st.integers(1, 40))
def test_on_grid_looks_at_the_past_alone(activity: np.ndarray, references: np.ndarray, days: int) -> None:
    for got, reference in zip(on_grid(activity, references, days), references, strict=True):
        past = [moment for moment in activity if moment < reference]
        assert got == (bool(past) and reference - past[-1] <= days * DAY_US)
