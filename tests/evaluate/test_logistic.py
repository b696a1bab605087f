"""The offset regression against scikit-learn, and against rows whose negatives were sampled."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from clm_ray.evaluate.logistic import fit


def _rows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal([3.0, 0.0], [2.0, 0.1], (count, 2))
    label = (random.uniform(0, 1, count) < expit(0.5 * x[:, 0] - 4 * x[:, 1] - 3.0)).astype(float)
    return x, label


def test_agrees_with_scikit_learn_without_penalty() -> None:
    x, label = _rows(500, 0)
    weight = np.random.default_rng(1).uniform(0.5, 2, 500)
    ours = fit(x, label=label, weight=weight, penalty=0.0)
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(x, label, sample_weight=weight)
    assert ours.weight_F == pytest.approx(theirs.coef_[0], rel=1e-3)
    assert ours.bias == pytest.approx(theirs.intercept_[0], rel=1e-3)


def test_agrees_with_scikit_learn_with_penalty() -> None:
    x, label = _rows(300, 2)
    unit = (x - x.mean(0)) / x.std(0)
    theirs = LogisticRegression(C=0.1, tol=1e-10).fit(unit, label)
    ours = fit(x, label=label, penalty=10.0)
    assert ours.probability(x) == pytest.approx(theirs.predict_proba(unit)[:, 1], abs=1e-5)


def test_the_offset_undoes_the_sampling_of_negatives() -> None:
    x, label = _rows(60_000, 3)
    kept_share = 0.1
    keep = (label == 1) | (np.random.default_rng(4).uniform(0, 1, len(label)) < kept_share)
    offset = np.full(int(keep.sum()), -np.log(kept_share))
    corrected = fit(x[keep], label=label[keep], offset=offset)
    assert corrected.probability(x).mean() == pytest.approx(label.mean(), rel=0.03)
    assert fit(x[keep], label=label[keep]).probability(x).mean() > 1.5 * label.mean()


def test_one_label_gives_its_smoothed_rate() -> None:
    only = fit(np.zeros((3, 2)), label=np.ones(3))
    assert only.probability(np.ones((1, 2))) == pytest.approx([3.5 / 4])
    assert fit(np.zeros((0, 2)), label=np.zeros(0)).probability(np.ones((1, 2))) == pytest.approx([0.5])


def test_a_perfectly_separable_column_stays_finite() -> None:
    x = np.arange(10.0)[:, None]
    separated = fit(x, label=(x[:, 0] > 4).astype(float))
    assert np.isfinite(separated.weight_F).all()
    assert (separated.probability(x)[5:] > 0.5).all()


def test_a_constant_column_does_no_harm() -> None:
    x, label = _rows(300, 5)
    wider = np.column_stack([x, np.ones(300)])
    assert fit(wider, label=label).probability(wider) == pytest.approx(fit(x, label=label).probability(x), abs=1e-6)
