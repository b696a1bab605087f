"""Platt scaling and isotonic regression find a known distortion, and leave alone what they cannot improve."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from clm_ray.metrics.click import auc, log_loss
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


def _bent(logit: np.ndarray) -> np.ndarray:
    """A distortion that no line undoes."""
    return np.where(logit < -1, 3 * logit + 2, 0.2 * logit - 0.8)


@pytest.mark.parametrize("offset", [0.0, 1.5])
def test_isotonic_finds_a_distortion_that_no_line_undoes(offset: float) -> None:
    rng = np.random.default_rng(5)
    logit = rng.normal(-1.0, 1.5, 200_000)
    label = (rng.random(len(logit)) < 1 / (1 + np.exp(-_bent(logit)))).astype(float)
    # Negatives are kept with probability exp(-offset).
    kept = (label > 0) | (rng.random(len(logit)) < np.exp(-offset))
    logit, label = logit[kept], label[kept]
    given = {"weight_N": np.ones(len(label)), "offset_N": np.full(len(label), offset)}
    found = Calibration.fit(logit, label, kind="isotonic", **given)
    platt = Calibration.fit(logit, label, kind="platt", **given)
    at = torch.linspace(-4.0, 2.0, 61, dtype=torch.float64)
    true, told = (1 / (1 + np.exp(-x)) for x in (_bent(at.numpy()), found.apply(at).numpy()))
    assert np.abs(true - told).max() < 0.03
    assert np.abs(true - 1 / (1 + np.exp(-platt.apply(at).numpy()))).max() > 0.06
    assert found.rows == len(label)


def test_isotonic_keeps_the_order_and_goes_on_beyond_what_it_saw() -> None:
    logit, label, weight, offsets = _drawn(0.6, 0.4, offset=0.0, rows=3000)
    found = Calibration.fit(logit, label, weight_N=weight, offset_N=offsets, kind="isotonic")
    told = found.apply(torch.from_numpy(logit)).numpy()
    assert (np.diff(told[np.argsort(logit)]) >= 0).all()
    assert auc(label, score=told) == pytest.approx(auc(label, score=logit), abs=2e-3)
    low, high = found.logit_K[0], found.logit_K[-1]
    ends = found.apply(torch.tensor([low - 7.0, low, high, high + 5.0], dtype=torch.float64)).tolist()
    assert ends[1] - ends[0] == pytest.approx(7.0)
    assert ends[3] - ends[2] == pytest.approx(5.0)


def test_isotonic_promises_no_certainty() -> None:
    rng = np.random.default_rng(6)
    logit = np.linspace(-4, 4, 2000)
    label = (rng.random(2000) < 1 / (1 + np.exp(-2 * logit))).astype(float)
    label[:100], label[-100:] = 0.0, 1.0
    found = Calibration.fit(logit, label, weight_N=np.ones(2000), offset_N=np.zeros(2000), kind="isotonic")
    assert found.kind == "isotonic"
    told = 1 / (1 + np.exp(-found.apply(torch.from_numpy(logit)).numpy()))
    assert 0 < told[0] < told[50] < 0.02
    assert 0.98 < told[-50] < told[-1] < 1
    assert log_loss(label, probability=told) < log_loss(label, probability=1 / (1 + np.exp(-logit)))


def test_a_calibration_survives_json_and_has_a_gradient() -> None:
    logit, label, weight, offsets = _drawn(0.5, 0.1, offset=0.0, rows=2000)
    for kind in ("platt", "isotonic"):
        found = Calibration.fit(logit, label, weight_N=weight, offset_N=offsets, kind=kind)
        assert found.kind == kind
        assert Calibration.from_dict(json.loads(json.dumps(asdict(found)))) == found
        at = torch.tensor([-1.0, 0.3], dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(found.apply, (at,), eps=1e-6)


def test_none_is_the_identity() -> None:
    logit, label, weight, offsets = _drawn(0.5, 0.1, offset=0.0, rows=2000)
    assert Calibration.fit(logit, label, weight_N=weight, offset_N=offsets, kind="none") == Calibration()
