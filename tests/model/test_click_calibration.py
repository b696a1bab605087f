"""Platt scaling finds a known distortion, and leaves alone what it cannot improve."""

from __future__ import annotations

import numpy as np
import pytest

from clm_ray.model.calibration import Calibration


def _drawn(slope: float, intercept: float, *, offset: float, rows: int = 40_000) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(3)
    logit = rng.normal(-1.0, 1.5, rows)
    chance = 1 / (1 + np.exp(-(slope * logit + intercept + offset)))
    label = (rng.random(rows) < chance).astype(float)
    return logit, label, np.ones(rows), np.full(rows, offset)


@pytest.mark.parametrize("offset", [0.0, 2.0])
def test_finds_the_distortion_behind_a_sampling_offset(offset: float) -> None:
    logit, label, weight, offsets = _drawn(0.6, 0.4, offset=offset)
    found = Calibration.fit(logit, label, weight_N=weight, offset_N=offsets)
    assert found.slope == pytest.approx(0.6, abs=0.03)
    assert found.intercept == pytest.approx(0.4, abs=0.05)
    assert found.rows == len(label)


@pytest.mark.parametrize(("mean", "spread"), [(-4.0, 2.0), (0.0, 4.0), (-6.0, 3.0)])
@pytest.mark.parametrize("slope", [0.2, 0.4])
def test_a_model_that_is_far_too_sure_is_tamed(mean: float, spread: float, slope: float) -> None:
    rng = np.random.default_rng(4)
    logit = rng.normal(mean, spread, 40_000)
    label = (rng.random(40_000) < 1 / (1 + np.exp(-slope * logit))).astype(float)
    found = Calibration.fit(logit, label, weight_N=np.ones(40_000), offset_N=np.zeros(40_000))
    assert found.slope == pytest.approx(slope, abs=0.03)


def test_weights_count_as_repetitions() -> None:
    logit, label, _, offsets = _drawn(0.8, -0.3, offset=0.0, rows=2000)
    twice = np.where(np.arange(2000) % 2, 2.0, 1.0)
    repeated = np.repeat(np.arange(2000), twice.astype(int))
    weighted = Calibration.fit(logit, label, weight_N=twice, offset_N=offsets)
    plain = Calibration.fit(logit[repeated], label[repeated], weight_N=np.ones(3000), offset_N=offsets[repeated])
    assert (weighted.slope, weighted.intercept) == pytest.approx((plain.slope, plain.intercept), abs=1e-6)


def test_one_class_or_nothing_gives_the_identity() -> None:
    none = np.empty(0)
    assert Calibration.fit(none, none, weight_N=none, offset_N=none) == Calibration()
    logit = np.linspace(-1, 1, 50)
    assert Calibration.fit(logit, np.ones(50), weight_N=np.ones(50), offset_N=np.zeros(50)) == Calibration()


def test_never_turns_the_order_around() -> None:
    logit, label, weight, offsets = _drawn(-0.7, 0.0, offset=0.0, rows=5000)
    assert Calibration.fit(logit, label, weight_N=weight, offset_N=offsets) == Calibration()
