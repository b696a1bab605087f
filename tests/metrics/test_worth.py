"""Figures of expected spend, against hand counts and the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clm_ray.metrics.worth import gini, tenths, top_share


def test_gini_is_one_in_the_right_order_zero_in_none_and_minus_one_in_the_reverse() -> None:
    spend = np.random.default_rng(0).gamma(1.0, 10.0, 500)
    assert gini(spend, predicted=spend**3) == pytest.approx(1.0)
    assert gini(spend, predicted=np.ones(500)) == pytest.approx(0.0, abs=1e-12)
    assert gini(spend, predicted=-spend) == pytest.approx(-1.0)


def test_gini_is_the_area_between_the_lorenz_curve_and_the_diagonal() -> None:
    rng = np.random.default_rng(1)
    spend, guess = rng.gamma(1.0, 10.0, 300), rng.random(300)

    def area(order: np.ndarray) -> float:
        curve = np.r_[0.0, np.cumsum(spend[order]) / spend.sum()]
        return 0.5 - float(np.trapezoid(curve, dx=1 / 300))

    assert gini(spend, predicted=guess) == pytest.approx(area(np.argsort(guess)) / area(np.argsort(spend)))


def test_the_share_of_the_top_tenth_counts_ties_at_the_edge_in_part() -> None:
    spend = np.array([10.0, 6.0, 2.0, *[1.0] * 17])
    assert top_share(spend, predicted=spend) == pytest.approx(16 / 35)
    tied = np.array([3.0, 2.0, 2.0, *[1.0] * 17])  # two places: the first row, and half of each of the two tied ones
    assert top_share(spend, predicted=tied) == pytest.approx((10 + 4) / 35)


def test_tenths_rise_with_the_prediction_and_hold_every_row() -> None:
    predicted = np.arange(25.0)[::-1]
    found = tenths(predicted * 2, predicted=predicted)
    assert sum(one.rows for one in found) == 25
    assert [one.predicted for one in found] == sorted(one.predicted for one in found)
    assert all(one.actual == pytest.approx(2 * one.predicted) for one in found)
    assert len(tenths([1.0, 2.0], predicted=[1.0, 2.0])) == 2


def test_without_any_spend_nothing_is_said() -> None:
    nothing = np.zeros(10)
    assert math.isnan(gini(nothing, predicted=np.arange(10)))
    assert math.isnan(top_share(nothing, predicted=np.arange(10)))
    assert tenths([], predicted=[]) == []
