"""The calibration that the model gets on the validation split, for baselines too: otherwise it alone would know the later base rate.

Shape letters: P candidates, R references, J hazard bins.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, logit

from clm_ray.evaluate.sample import Sample
from clm_ray.model.calibration import IDENTITY, Calibration
from clm_ray.model.network import survival_from
from clm_ray.model.retention_calibration import RetentionCalibration

Floats = NDArray[np.float64]
_LEAST = 1e-7
"""Probabilities are kept this far from 0 and 1."""


def fit_click(probability_P: NDArray[np.floating], later: Sample) -> Calibration:
    """Platt scaling of a baseline's probabilities, without offset, of the candidates of `later`."""
    return Calibration.fit(
        _logit(probability_P),
        later.label_P.astype(np.float64),
        weight_N=later.weight_P.astype(np.float64),
        offset_N=later.offset_P.astype(np.float64),
    )


def click(calibration: Calibration, probability_P: NDArray[np.floating]) -> NDArray[np.float32]:
    """float32 [P]: calibrated probabilities."""
    if calibration == IDENTITY:
        return probability_P.astype(np.float32)
    return np.asarray(expit(calibration.apply(torch.from_numpy(_logit(probability_P))).numpy()), np.float32)


def fit_returns(within_RJ: Floats, later: Sample, *, by_stage: bool) -> RetentionCalibration:
    """Of a baseline's chances of being active again by the end of each bin, at the references of `later`. `by_stage`: else one for all users."""
    found = RetentionCalibration.fit(
        _hazard_logits(within_RJ),
        bin_R=later.bin_R.astype(np.int64),
        seen_R=later.seen_R.astype(np.int64),
        stage_R=later.stage_R,
    )
    return found if by_stage else RetentionCalibration(found.pooled)


def returns(calibration: RetentionCalibration, within_RJ: Floats, stage_R: NDArray[np.int8]) -> Floats:
    """[R, J]: calibrated chances, which never fall with the days."""
    logit_RJ = torch.from_numpy(_hazard_logits(within_RJ))
    return np.asarray(survival_from(calibration.apply(logit_RJ, stage_R)).numpy())


def _hazard_logits(within_RJ: Floats) -> Floats:
    """Log odds of returning in each bin, where there was no return before."""
    stay_RJ = 1.0 - np.clip(within_RJ, 0.0, 1.0 - _LEAST)
    before_RJ = np.column_stack([np.ones(len(stay_RJ)), stay_RJ[:, :-1]])
    return _logit(1.0 - stay_RJ / before_RJ)


def _logit(probability: NDArray[np.floating]) -> Floats:
    return np.asarray(logit(np.clip(probability.astype(np.float64), _LEAST, 1.0 - _LEAST)))
