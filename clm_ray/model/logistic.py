"""Logistic regression by damped Newton steps, for calibrations: few columns, weights, a fixed offset.

Shape letters: N targets, P columns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

_STEPS = 50
_RIDGE = 1e-3
"""Pulls towards the start: a handful of validation targets must not decide much."""

Floats = NDArray[np.float64]


def fitted(design_NP: Floats, label_N: Floats, *, start: Floats, weight_N: Floats, offset_N: Floats) -> Floats:
    """[P]: parameters of the largest weighted likelihood, held back towards `start` by a little."""
    parameters = start.copy()

    def penalised(at: Floats) -> float:
        z = design_NP @ at + offset_N
        likelihood = float((weight_N * (np.logaddexp(0.0, z) - label_N * z)).sum())
        return likelihood + 0.5 * _RIDGE * float(((at - start) ** 2).sum())

    for _ in range(_STEPS):
        p = expit(design_NP @ parameters + offset_N)
        gradient = design_NP.T @ (weight_N * (p - label_N)) + _RIDGE * (parameters - start)
        curvature = (design_NP * (weight_N * p * (1 - p))[:, None]).T @ design_NP + _RIDGE * np.eye(len(start))
        step = np.linalg.solve(curvature, gradient)
        # Far from the optimum a whole step overshoots where most probabilities are near 0 or 1.
        loss = penalised(parameters)
        while np.abs(step).max() >= 1e-9 and penalised(parameters - step) > loss:
            step /= 2.0
        parameters = parameters - step
        if np.abs(step).max() < 1e-9:
            break
    return parameters
