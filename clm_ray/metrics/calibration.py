"""Calibration: does a probability of 0.2 come true two times in ten?

Shape letters: N rows, B bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from clm_ray.metrics.click import Floats, weights


@dataclass(frozen=True)
class Reliability:
    """Rows in bins of about equal weight, by rising probability; empty bins are left out.

    weight_B: weight in the bin. predicted_B: mean probability. observed_B: share of positives.
    """

    weight_B: Floats
    predicted_B: Floats
    observed_B: Floats


def reliability(
    label: ArrayLike, *, probability: ArrayLike, weight: ArrayLike | None = None, bins: int = 10
) -> Reliability:
    """The reliability table over `bins` bins of about equal weight.

    A row's bin is that of the middle of its probability's weight in the cumulative order, so equal probabilities always
    share a bin and the order of the rows does not matter; with few distinct probabilities there are fewer bins.
    """
    label_N, p_N = np.asarray(label, np.float64), np.asarray(probability, np.float64)
    weight_N = weights(label_N, weight=weight)
    if not weight_N.sum() > 0:
        return Reliability(np.empty(0), np.empty(0), np.empty(0))
    order_N = np.argsort(p_N)
    label_N, p_N, weight_N = label_N[order_N], p_N[order_N], weight_N[order_N]
    start_V = np.flatnonzero(np.r_[True, p_N[1:] != p_N[:-1]])
    upto_V = np.append(np.cumsum(weight_N)[start_V[1:] - 1], weight_N.sum())
    middle_V = (np.r_[0.0, upto_V[:-1]] + upto_V) / 2 / upto_V[-1]
    bin_V = np.minimum((middle_V * bins).astype(np.int64), bins - 1)
    start_B = start_V[np.flatnonzero(np.r_[True, np.diff(bin_V) != 0])]
    weight_B = np.add.reduceat(weight_N, start_B)
    full_B = weight_B > 0
    with np.errstate(invalid="ignore"):
        predicted_B = np.add.reduceat(weight_N * p_N, start_B) / weight_B
        observed_B = np.add.reduceat(weight_N * label_N, start_B) / weight_B
    return Reliability(weight_B[full_B], predicted_B[full_B], observed_B[full_B])


def ece(label: ArrayLike, *, probability: ArrayLike, weight: ArrayLike | None = None, bins: int = 10) -> float:
    """Expected calibration error, Σ_b (w_b / Σ w) |predicted_b - observed_b|, over bins of about equal weight.

    Naeini et al., AAAI 2015, with equal-mass bins as Nixon et al., CVPR workshops 2019. NaN without weight.
    """
    table = reliability(label, probability=probability, weight=weight, bins=bins)
    if not len(table.weight_B):
        return float("nan")
    return float(np.average(np.abs(table.predicted_B - table.observed_B), weights=table.weight_B))


@dataclass(frozen=True)
class Recalibration:
    """What would put the log odds right: slope · logit + intercept. 1 and 0: nothing to do. A slope below 1: the probabilities are too far
    apart, the model is too sure. NaN without both outcomes."""

    slope: float
    intercept: float


_STEPS = 50
_CLOSE = 1e-9
_EDGE = 1e-7
_STEEPEST = 100.0


def recalibration(label: ArrayLike, *, probability: ArrayLike, weight: ArrayLike | None = None) -> Recalibration:
    """Calibration slope and intercept: the logistic regression of the labels on the log odds (Cox, Biometrika 1958), by Newton steps.

    NaN where only one label occurs, or where all probabilities are equal. Perfectly separated rows have no finite slope: it is cut at
    100.
    """
    label_N = np.asarray(label, np.float64)
    weight_N = weights(label_N, weight=weight)
    z_N = logit(np.clip(np.asarray(probability, np.float64), _EDGE, 1 - _EDGE))
    positive, total = float(weight_N @ label_N), float(weight_N.sum())
    if not 0 < positive < total or np.ptp(z_N[weight_N > 0]) == 0:
        return Recalibration(float("nan"), float("nan"))
    design = np.stack([z_N, np.ones(len(z_N))], axis=1)
    theta = np.array([1.0, 0.0])

    def loss(at: Floats) -> float:
        eta = design @ at
        return float(weight_N @ (np.logaddexp(0, eta) - label_N * eta))

    for _ in range(_STEPS):
        p_N = expit(design @ theta)
        slope = design.T @ (weight_N * (p_N - label_N))
        curve = (design * (weight_N * p_N * (1 - p_N))[:, None]).T @ design + _CLOSE * np.eye(2)
        step = np.linalg.solve(curve, slope)
        before = loss(theta)
        while np.abs(step).max() >= _CLOSE and not loss(theta - step) <= before:
            step = step / 2
        theta = theta - step
        if np.abs(step).max() < _CLOSE or abs(theta[0]) > _STEEPEST:
            break
    return Recalibration(float(np.clip(theta[0], -_STEEPEST, _STEEPEST)), float(theta[1]))
