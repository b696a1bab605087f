"""Calibration: does a probability of 0.2 come true two times in ten?

Shape letters: N rows, B bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

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
