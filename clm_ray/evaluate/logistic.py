"""Logistic regression with a known logit offset, which the negative sampling of the training rows needs.

Shape letters: P rows, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

Floats = NDArray[np.float64]
_STEPS = 50
_CLOSE = 1e-8
LEAST_WEIGHT = 1e-6
"""Weight of a column that `fit_rising` left out."""


@dataclass(frozen=True)
class Logistic:
    """P(label = 1 | x) = 1 / (1 + exp(-(bias + x · weight)))."""

    weight_F: Floats
    bias: float

    def logit(self, x_PF: Floats) -> Floats:
        """The log odds of each row, without any offset."""
        return x_PF @ self.weight_F + self.bias

    def probability(self, x_PF: Floats) -> Floats:
        """The probability of each row."""
        return np.asarray(expit(self.logit(x_PF)))


def fit_rising(
    x_PF: Floats,
    *,
    label: NDArray[np.floating],
    weight: NDArray[np.floating] | None = None,
    offset: NDArray[np.floating] | None = None,
) -> Logistic:
    """`fit` with weights that never fall below zero, for columns that by their meaning must not count against an item.

    A column whose weight comes out negative is left out and the others are fitted again; it keeps a weight of LEAST_WEIGHT, too
    small to change a probability, so that it still decides between rows that are equal otherwise.
    """
    kept_F = np.ones(x_PF.shape[1], bool)
    while True:
        found = fit(x_PF[:, kept_F], label=label, weight=weight, offset=offset)
        if (found.weight_F >= 0).all():
            break
        kept_F[np.flatnonzero(kept_F)[np.argmin(found.weight_F)]] = False
    weight_F = np.full(x_PF.shape[1], LEAST_WEIGHT)
    weight_F[kept_F] = np.maximum(found.weight_F, LEAST_WEIGHT)
    return Logistic(weight_F, found.bias)


def fit(
    x_PF: Floats,
    *,
    label: NDArray[np.floating],
    weight: NDArray[np.floating] | None = None,
    offset: NDArray[np.floating] | None = None,
    penalty: float = 1.0,
) -> Logistic:
    """Maximum likelihood by Newton's method, ½ · penalty · |standardised weights|² added (scikit-learn's C = 1 / penalty).

    `offset` is added to the logit while fitting and is no part of the result: with -log(kept share) of sampled negatives the
    probabilities are those of the unsampled rows. Where only one label occurs, the constant (½-smoothed) rate is returned.
    """
    label_P = np.asarray(label, np.float64)
    weight_P = np.ones(len(label_P)) if weight is None else np.asarray(weight, np.float64)
    offset_P = np.zeros(len(label_P)) if offset is None else np.asarray(offset, np.float64)
    positive, total = float(weight_P @ label_P), float(weight_P.sum())
    start = float(logit((positive + 0.5) / (total + 1)))
    if not 0 < positive < total:
        return Logistic(np.zeros(x_PF.shape[1]), start)
    mean_F, scale_F = x_PF.mean(0), x_PF.std(0)
    scale_F[scale_F < 1e-12] = 1.0
    design_PG = np.column_stack([np.ones(len(x_PF)), (x_PF - mean_F) / scale_F])
    penalty_G = np.r_[0.0, np.full(x_PF.shape[1], penalty)]
    theta_G = np.r_[start - float(weight_P @ offset_P) / total, np.zeros(x_PF.shape[1])]

    def loss(theta: Floats) -> float:
        eta_P = design_PG @ theta + offset_P
        return float(weight_P @ (np.logaddexp(0, eta_P) - label_P * eta_P) + penalty_G @ theta**2 / 2)

    best = loss(theta_G)
    for _ in range(_STEPS):
        p_P = expit(design_PG @ theta_G + offset_P)
        slope_G = design_PG.T @ (weight_P * (p_P - label_P)) + penalty_G * theta_G
        curve_GG = (design_PG * (weight_P * p_P * (1 - p_P))[:, None]).T @ design_PG + np.diag(penalty_G + 1e-9)
        step_G = np.linalg.solve(curve_GG, slope_G)
        size = 1.0
        while loss(theta_G - size * step_G) > best and size > 1e-6:
            size /= 2
        theta_G = theta_G - size * step_G
        best = loss(theta_G)
        if np.abs(size * step_G).max() < _CLOSE:
            break
    weight_F = theta_G[1:] / scale_F
    return Logistic(weight_F, float(theta_G[0] - mean_F @ weight_F))
