"""Retention metrics on references whose outcome is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
