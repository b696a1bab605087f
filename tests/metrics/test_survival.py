"""Retention metrics on references whose outcome is known."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.duration.survfunc import SurvfuncRight

from clm_ray.metrics import survival


def test_hazards_add_up_to_survival() -> None:
    hazard = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    assert survival.active_within(hazard).tolist() == [[0.5, 0.75, 0.75], [0.0, 0.0, 1.0]]
    assert survival.survival(hazard).tolist() == [[0.5, 0.25, 0.25], [1.0, 1.0, 0.0]]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_the_chance_to_return_never_falls(hazard: list[float]) -> None:
    within = survival.active_within(np.array([hazard]))[0]
    assert (np.diff(within) >= 0).all()
    assert ((within >= 0) & (within <= 1)).all()


def test_references_not_covered_by_the_log_are_left_out_even_when_the_user_came_back() -> None:
    back = np.array([0, 0, 3, 3])
    seen = np.array([3, 1, 3, 1])
    at = survival.outcome(back, seen=seen, horizon=1)
    assert at.known_R.tolist() == [True, False, True, False]
    assert at.active_R.tolist() == [1, 1, 0, 0]
    probability = np.array([0.9, 0.0, 0.1, 1.0])
    assert survival.horizon_auc(back, seen=seen, probability=probability, horizon=1) == 1.0
    assert survival.horizon_brier(back, seen=seen, probability=probability, horizon=1) == pytest.approx(0.01)


def test_an_outcome_shared_by_all_has_no_auc() -> None:
    assert math.isnan(survival.horizon_auc([0, 0], seen=[3, 3], probability=[0.2, 0.4], horizon=1))
    assert math.isnan(survival.horizon_brier([0], seen=[0], probability=[0.2], horizon=1))


def test_kaplan_meier_of_a_small_sample() -> None:
    # Four users: back in bin 0; back in bin 1; nothing in two bins, then unseen; nothing in one bin, then unseen.
    curve = survival.kaplan_meier([0, 1, 3, 3], seen=[3, 3, 2, 1], bins=3)
    assert curve[0] == pytest.approx(3 / 4)
    assert curve[1] == pytest.approx(3 / 4 * 1 / 2)
    assert math.isnan(curve[2])


def test_kaplan_meier_without_censoring_is_the_share_of_the_inactive() -> None:
    back = np.random.default_rng(0).integers(0, 5, 500)
    curve = survival.kaplan_meier(back, seen=np.full(500, 4), bins=4)
    assert curve == pytest.approx([(back > j).mean() for j in range(4)])


@pytest.mark.parametrize("seed", range(5))
def test_product_limit_is_that_of_statsmodels(seed: int) -> None:
    random = np.random.default_rng(seed)
    day = random.geometric(0.02, 400) - seed % 2  # half of the draws have lives of no days
    ended = random.random(400) < 0.6
    theirs = SurvfuncRight(day, ended.astype(int))
    # Counts by day, cut into two parts in any order, as two buckets would give them.
    half = random.random(400) < 0.5
    parts = [
        (d, int((ended & mine & (day == d)).sum()), int((~ended & mine & (day == d)).sum()))
        for mine in (half, ~half)
        for d in random.permutation(np.unique(day[mine]))
    ]
    days, ends, last_seen = zip(*parts, strict=True)
    ours = survival.product_limit(days, ended=ends, censored=last_seen)
    at = np.isin(ours.day_D, theirs.surv_times)
    some = ours.survival_D[at] > 0
    np.testing.assert_allclose(ours.survival_D[at], theirs.surv_prob)
    np.testing.assert_array_equal(ours.at_risk_D[at], theirs.n_risk)
    np.testing.assert_allclose(ours.error_D[at][some], np.asarray(theirs.surv_prob_se)[some])
    assert ours.median() == theirs.quantile(0.5)


def test_product_limit_by_hand() -> None:
    """Two of four leave on day 1, one is last seen on day 1, the last leaves on day 3."""
    found = survival.product_limit([3, 1], ended=[1, 2], censored=[0, 1])
    assert found.day_D.tolist() == [1, 3]
    assert found.at_risk_D.tolist() == [4, 1]
    np.testing.assert_allclose(found.survival_D, [0.5, 0.0])
    np.testing.assert_allclose(found.error_D[0], np.sqrt(0.5**2 * 2 / (4 * 2)))
    spread = np.exp(NormalDist().inv_cdf(0.975) * found.error_D[0] / (0.5 * np.log(2)))
    np.testing.assert_allclose([found.low_D[0], found.high_D[0]], [0.5**spread, 0.5 ** (1 / spread)])
    assert found.low_D[0] < 0.5 < found.high_D[0]
    assert found.median() == 1


def test_nobody_left_is_a_flat_curve() -> None:
    found = survival.product_limit([2, 9], ended=[0, 0], censored=[3, 4])
    assert found.survival_D.tolist() == found.low_D.tolist() == found.high_D.tolist() == [1.0, 1.0]
    assert found.median() is None
