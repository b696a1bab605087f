"""Lives by length, against the definition applied user by user."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clm_ray.lifecycle.lives import lives_by_day

USERS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 5)), max_size=20)


@given(USERS, st.floats(0.5, 30))
def test_who_ended_and_who_is_censored_when(users: list[tuple[int, int, int]], churned_days: float) -> None:
    ended, censored, too_new = Counter[int](), Counter[int](), 0
    for life, silence, count in users:
        cut = life + silence - churned_days  # days from the first activity to the last day on which an end can be seen
        if silence >= churned_days:
            ended[life] += count
        elif np.floor(cut) >= 0:
            censored[int(np.floor(cut))] += count
        else:
            too_new += count
    columns = np.array(users, np.int64).reshape(-1, 3).T
    found = lives_by_day(*columns, churned_days=churned_days)
    for days, counts in ((found.ended_D, ended), (found.censored_D, censored)):
        assert {int(d): int(n) for d, n in zip(found.day_D, days, strict=True) if n} == dict(counts)
    assert found.too_new == too_new


def test_a_life_cannot_be_censored_after_its_last_sight_of_an_end() -> None:
    """First active 30 days before the log's end, last on its last day: known to have lived 30 - 10 days when ends were last visible."""
    found = lives_by_day(np.array([30]), np.array([0]), np.array([1]), churned_days=10)
    assert (found.day_D.tolist(), found.censored_D.tolist()) == ([20], [1])


def test_the_curve_finds_the_truth_of_a_made_log() -> None:
    """Users arrive evenly, live exponentially long and are active every day: the curve is that of the exponential."""
    from clm_ray.metrics.survival import product_limit

    random = np.random.default_rng(1)
    first = random.integers(0, 200, 20_000)
    last = np.minimum(first + random.geometric(1 / 60, 20_000) - 1, 199)
    found = lives_by_day(last - first, 199 - last, np.ones(20_000, np.int64), churned_days=14)
    curve = product_limit(found.day_D, ended=found.ended_D, censored=found.censored_D)
    for day in (7, 30, 90, 150):
        assert curve.survival_D[np.searchsorted(curve.day_D, day)] == pytest.approx((1 - 1 / 60) ** (day + 1), abs=0.02)
