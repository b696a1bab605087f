"""The paired bootstrap: its interval against drawing the rows outright."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clm_ray.metrics import click
from clm_ray.metrics.bootstrap import paired_auc, paired_mean

USERS = 60


def _rows(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    user = np.repeat(np.arange(USERS), random.integers(5, 40, USERS))
    taste = random.normal(0, 1, USERS)[user]
    signal = random.normal(0, 1, len(user))
    label = (signal + taste + random.normal(0, 1, len(user)) > 0.5).astype(float)
    return label, signal + taste, signal, user


def test_auc_interval_is_that_of_drawing_users_outright() -> None:
    label, good, poor, user = _rows(0)
    ours = paired_auc(label, score_a=good, score_b=poor, user=user, resamples=400)
    assert ours.estimate == click.auc(label, score=good) - click.auc(label, score=poor)
    rows_of = [np.flatnonzero(user == u) for u in range(USERS)]
    random = np.random.default_rng(1)
    drawn = []
    for _ in range(400):
        rows = np.concatenate([rows_of[u] for u in random.integers(0, USERS, USERS)])
        drawn.append(click.auc(label[rows], score=good[rows]) - click.auc(label[rows], score=poor[rows]))
    assert ours.standard_error == pytest.approx(np.std(drawn), rel=0.2)
    assert ours.low == pytest.approx(np.quantile(drawn, 0.025), abs=0.015)
    assert ours.high == pytest.approx(np.quantile(drawn, 0.975), abs=0.015)
    assert ours.low < ours.estimate < ours.high
    assert ours.users == USERS


def test_a_model_does_not_differ_from_itself() -> None:
    label, good, _, user = _rows(2)
    same = paired_auc(label, score_a=good, score_b=good, user=user, resamples=50)
    assert (same.estimate, same.low, same.high) == (0.0, 0.0, 0.0)


def test_rows_of_one_user_stay_together() -> None:
    # One user holds half of the rows: drawing rows would give a far smaller error than drawing users.
    user = np.r_[np.zeros(500), np.arange(1, 21)]
    value = np.where(user == 0, 1.0, 0.0)
    ours = paired_mean(value, value_b=np.zeros(520), user=user, resamples=400)
    assert ours.standard_error > 0.2


def test_mean_difference_is_signed_and_weighted() -> None:
    ours = paired_mean([1.0, 3.0], value_b=[2.0, 0.0], user=[0, 1], weight=[3.0, 1.0], resamples=50)
    assert ours.estimate == pytest.approx((3 * -1 + 3) / 4)
    assert paired_mean([2.0, 0.0], value_b=[1.0, 3.0], user=[0, 1], resamples=50).estimate == pytest.approx(-1.0)


def test_the_same_seed_gives_the_same_interval() -> None:
    label, good, poor, user = _rows(3)
    first = paired_auc(label, score_a=good, score_b=poor, user=user, resamples=50, seed=7)
    assert first == paired_auc(label, score_a=good, score_b=poor, user=user, resamples=50, seed=7)
    assert first != paired_auc(label, score_a=good, score_b=poor, user=user, resamples=50, seed=8)


def test_one_class_has_no_interval() -> None:
    nothing = paired_auc(np.ones(4), score_a=np.arange(4.0), score_b=np.arange(4.0), user=np.arange(4), resamples=10)
    assert math.isnan(nothing.estimate)
    assert math.isnan(nothing.low)
