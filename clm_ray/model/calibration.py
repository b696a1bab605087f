"""Calibration of click probabilities: Platt scaling, fitted on the validation split.

Shape letters: N targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clm_ray.metrics.click import log_loss

_STEPS = 50
_RIDGE = 1e-3
"""Pulls towards the identity: a handful of validation targets must not decide much."""


@dataclass(frozen=True)
class Calibration:
    """p = sigmoid(slope · logit + intercept). The identity where nothing was fitted (`rows` 0)."""

    slope: float = 1.0
    intercept: float = 0.0
    rows: int = 0

    @staticmethod
    def fit(
        logit_N: NDArray[np.float64],
        label_N: NDArray[np.float64],
        *,
        weight_N: NDArray[np.float64],
        offset_N: NDArray[np.float64],
    ) -> Calibration:
        """Maximum likelihood by damped Newton steps (Platt, 1999), with the sampling offset held fixed.

        Returns the identity where only one class is there, or where the fit turns the order around or does not lower the log loss.
        """
        positives = float(label_N.sum())
        if not 0 < positives < len(label_N):
            return IDENTITY
        design = np.stack([logit_N, np.ones(len(logit_N))], axis=1)
        start = np.array([1.0, 0.0])
        parameters = start.copy()

        def penalised(at: NDArray[np.float64]) -> float:
            z = design @ at + offset_N
            likelihood = float((weight_N * (np.logaddexp(0.0, z) - label_N * z)).sum())
            return likelihood + 0.5 * _RIDGE * float(((at - start) ** 2).sum())

        for _ in range(_STEPS):
            p = _sigmoid(design @ parameters + offset_N)
            gradient = design.T @ (weight_N * (p - label_N)) + _RIDGE * (parameters - start)
            curvature = (design * (weight_N * p * (1 - p))[:, None]).T @ design + _RIDGE * np.eye(2)
            step = np.linalg.solve(curvature, gradient)
            # Far from the optimum a whole step overshoots where most probabilities are near 0 or 1.
            loss = penalised(parameters)
            while np.abs(step).max() >= 1e-9 and penalised(parameters - step) > loss:
                step /= 2.0
            parameters = parameters - step
            if np.abs(step).max() < 1e-9:
                break
        fitted = Calibration(float(parameters[0]), float(parameters[1]), len(label_N))
        before = log_loss(label_N, probability=_sigmoid(logit_N + offset_N), weight=weight_N)
        after = log_loss(label_N, probability=_sigmoid(design @ parameters + offset_N), weight=weight_N)
        return fitted if fitted.slope > 0 and after < before else IDENTITY


IDENTITY = Calibration()
"""No calibration."""


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1.0 / (1.0 + np.exp(-np.clip(x, -60, 60)))
