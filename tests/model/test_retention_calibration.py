"""Each stage's distortion of the hazards is found; few references take the pooled calibration; scoring applies what was fitted."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from clm_ray.lifecycle.stages import CODE
from clm_ray.model.retention_calibration import FEWEST_REFERENCES, UNCALIBRATED, RetentionCalibration

BINS = 4
Drawn = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _drawn(stage: str, *, slope: float, intercept: float, rows: int, seed: int = 0, seen: int = BINS) -> Drawn:
    """(logit, bin, seen, stage) of references whose true hazards are slope · logit + intercept; the log shows `seen` bins."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(-1.0, 1.2, (rows, BINS))
    back = rng.random((rows, BINS)) < 1 / (1 + np.exp(-(slope * logit + intercept)))
    back[:, seen:] = False
    bins = np.where(back.any(1), back.argmax(1), BINS)
    return logit, bins, np.full(rows, seen), np.full(rows, CODE[stage], np.int8)


def _fit(*parts: Drawn) -> RetentionCalibration:
    logit, bins, seen, stage = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return RetentionCalibration.fit(logit, bin_R=bins, seen_R=seen, stage_R=stage)


def test_each_stage_has_its_own_distortion() -> None:
    found = _fit(
        _drawn("established", slope=0.6, intercept=0.5, rows=8000),
        _drawn("at_risk", slope=1.3, intercept=-0.7, rows=8000, seed=1),
    )
    assert set(found.by_stage) == {"established", "at_risk"}
    for stage, slope, intercept in (("established", 0.6, 0.5), ("at_risk", 1.3, -0.7)):
        assert found.of(stage).slope == pytest.approx(slope, abs=0.06)
        assert found.of(stage).intercept == pytest.approx(intercept, abs=0.06)


def test_what_the_log_shows_in_part_counts_for_the_bins_that_were_seen() -> None:
    found = _fit(_drawn("new", slope=0.7, intercept=0.4, rows=12_000, seen=2))
    assert (found.pooled.slope, found.pooled.intercept) == pytest.approx((0.7, 0.4), abs=0.06)


def test_a_stage_of_few_references_takes_the_pooled_calibration() -> None:
    few = _drawn("churned", slope=2.0, intercept=1.0, rows=FEWEST_REFERENCES - 1, seed=2)
    found = _fit(_drawn("established", slope=0.6, intercept=0.5, rows=4000), few)
    assert "churned" not in found.by_stage
    assert found.of("churned") == found.of("prospect") == found.pooled
    assert found.pooled.rows == 4000 + FEWEST_REFERENCES - 1


def test_a_stage_that_nearly_always_comes_back_takes_the_pooled_calibration() -> None:
    sure = _drawn("new", slope=1.0, intercept=9.0, rows=3000, seed=3)
    assert "new" not in _fit(_drawn("established", slope=0.6, intercept=0.5, rows=4000), sure).by_stage


def test_without_references_nothing_changes() -> None:
    empty = np.empty(0, np.int64)
    nothing = RetentionCalibration.fit(np.empty((0, BINS)), bin_R=empty, seen_R=empty, stage_R=empty.astype(np.int8))
    logit = torch.randn(3, BINS)
    torch.testing.assert_close(nothing.apply(logit, np.array([0, 3, 5], np.int8)), logit)


def test_each_user_gets_the_calibration_of_the_own_stage_also_from_json() -> None:
    found = _fit(
        _drawn("established", slope=0.6, intercept=0.5, rows=4000),
        _drawn("at_risk", slope=1.3, intercept=-0.7, rows=4000, seed=1),
    )
    again = RetentionCalibration.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found
    logit = torch.randn(3, BINS, dtype=torch.float64)
    calibrated = again.apply(logit, np.array([CODE["at_risk"], CODE["established"], CODE["new"]], np.int8))
    for row, one in enumerate((found.of("at_risk"), found.of("established"), found.pooled)):
        torch.testing.assert_close(calibrated[row], one.slope * logit[row] + one.intercept)
    assert RetentionCalibration.from_dict(UNCALIBRATED.to_dict()) == UNCALIBRATED
