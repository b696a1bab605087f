"""The population stability index."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clm_ray.metrics.drift import equal_groups, index_by_chance, stability_index


def test_the_index_by_hand() -> None:
    expected = (0.5 - 0.3) * math.log(0.5 / 0.3) + (0.5 - 0.7) * math.log(0.5 / 0.7)
    assert stability_index([30, 70], actual=[5, 5]) == pytest.approx(expected)
    assert stability_index([5, 5], actual=[30, 70]) == pytest.approx(expected)
    assert stability_index([3, 0, 7], actual=[30, 0, 70]) == 0.0


def test_a_group_that_one_side_lacks_counts_as_half_a_row() -> None:
    expected = (0.5 - 0.05) * math.log(0.5 / 0.05) + (0.5 - 1.0) * math.log(0.5 / 1.0)
    assert stability_index([0, 10], actual=[5, 5]) == pytest.approx(expected)


def test_no_rows_are_no_index() -> None:
    assert math.isnan(stability_index([0, 0], actual=[1, 2]))


def test_without_drift_the_index_is_what_chance_gives() -> None:
    random = np.random.default_rng(0)
    share = np.full(10, 0.1)
    found = [stability_index(random.multinomial(400, share), actual=random.multinomial(200, share)) for _ in range(500)]
    assert np.mean(found) == pytest.approx(index_by_chance(10, expected=400, actual=200), rel=0.1)


def test_groups_hold_equal_shares_and_never_divide_a_bin() -> None:
    assert equal_groups(np.ones(20), groups=10).tolist() == np.repeat(np.arange(10), 2).tolist()
    heavy = equal_groups([1, 1, 1, 1, 96], groups=10)
    assert heavy.tolist() == [0, 0, 0, 0, 1]
    assert equal_groups([100]).tolist() == [0]
    # A bin that only the other rows fill, beyond the last of these.
    assert equal_groups([50, 50, 0]).tolist() == [0, 1, 2]
