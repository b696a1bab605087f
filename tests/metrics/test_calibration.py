"""Calibration on rows whose truth is known, and against a bin-by-bin sum."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clm_ray.metrics.calibration import ece, recalibration, reliability


def test_a_true_probability_has_little_error_and_a_halved_one_has_much() -> None:
    random = np.random.default_rng(0)
    p = random.uniform(0, 1, 20_000)
    label = (random.uniform(0, 1, len(p)) < p).astype(float)
    assert ece(label, probability=p) < 0.01
    assert ece(label, probability=p / 2) == pytest.approx(0.25, abs=0.01)


def test_bins_hold_equal_mass_and_their_means() -> None:
    p = np.linspace(0, 1, 100)
    label = (p > 0.5).astype(float)
    table = reliability(label, probability=p, bins=4)
    assert table.weight_B.tolist() == [25, 25, 25, 25]
    assert table.predicted_B == pytest.approx(p.reshape(4, 25).mean(1))
    assert table.observed_B == pytest.approx(label.reshape(4, 25).mean(1))
    assert ece(label, probability=p, bins=4) == pytest.approx(np.abs(table.predicted_B - table.observed_B).mean())


def test_equal_probabilities_share_a_bin() -> None:
    label = np.array([1, 0, 0, 0, 1.0])
    table = reliability(label, probability=np.full(5, 0.4), bins=10)
    assert table.weight_B.tolist() == [5]
    assert ece(label, probability=np.full(5, 0.4)) == pytest.approx(0.0)


def test_a_weight_counts_like_repeated_rows() -> None:
    random = np.random.default_rng(1)
    p, label = random.uniform(0, 1, 50), random.integers(0, 2, 50).astype(float)
    times = random.integers(1, 4, 50)
    assert ece(label, probability=p, weight=times.astype(float), bins=5) == pytest.approx(
        ece(np.repeat(label, times), probability=np.repeat(p, times), bins=5)
    )


def test_the_order_of_rows_does_not_matter() -> None:
    random = np.random.default_rng(2)
    p, label = random.integers(0, 10, 200) / 10, random.integers(0, 2, 200).astype(float)
    order = random.permutation(200)
    assert ece(label[order], probability=p[order]) == pytest.approx(ece(label, probability=p))


def test_no_rows_is_nan() -> None:
    assert math.isnan(ece([], probability=[]))


def test_recalibration_is_the_logistic_regression_on_the_log_odds() -> None:
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(0)
    z = random.normal(0, 2, 4_000)
    label = (random.random(4_000) < 1 / (1 + np.exp(-(0.6 * z - 0.3)))).astype(float)
    found = recalibration(label, probability=1 / (1 + np.exp(-z)))
    theirs = LogisticRegression(C=1e9).fit(z[:, None], label)
    assert found.slope == pytest.approx(float(theirs.coef_[0, 0]), abs=1e-3)
    assert found.intercept == pytest.approx(float(theirs.intercept_[0]), abs=1e-3)
    weighted = recalibration(
        np.r_[label, 1 - label],
        probability=1 / (1 + np.exp(-np.r_[z, z])),
        weight=np.r_[np.ones(4_000), np.zeros(4_000)],
    )
    assert weighted.slope == pytest.approx(found.slope)


def test_recalibration_is_not_defined_without_both_outcomes_or_with_one_probability() -> None:
    for label, probability in (([1.0, 1.0], [0.2, 0.4]), ([0.0, 1.0], [0.3, 0.3]), ([], [])):
        assert np.isnan(recalibration(label, probability=probability).slope)
    separated = recalibration([0.0, 0.0, 1.0, 1.0], probability=[0.1, 0.2, 0.8, 0.9])
    assert separated.slope > 5
