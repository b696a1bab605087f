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
    _, value_N = np.unique(p_N, return_inverse=True)
    mass_V = np.bincount(value_N, weight_N)
    middle_V = (np.cumsum(mass_V) - mass_V / 2) / mass_V.sum()
    bin_N = np.minimum((middle_V * bins).astype(np.int64), bins - 1)[value_N]
    weight_B = np.bincount(bin_N, weight_N, bins).astype(np.float64)
    full_B = weight_B > 0
    weight_B = weight_B[full_B]
    predicted_B = np.bincount(bin_N, weight_N * p_N, bins)[full_B] / weight_B
    observed_B = np.bincount(bin_N, weight_N * label_N, bins)[full_B] / weight_B
    return Reliability(weight_B, predicted_B, observed_B)


def ece(label: ArrayLike, *, probability: ArrayLike, weight: ArrayLike | None = None, bins: int = 10) -> float:
    """Expected calibration error, Σ_b (w_b / Σ w) |predicted_b - observed_b|, over bins of about equal weight.

    Naeini et al., AAAI 2015, with equal-mass bins as Nixon et al., CVPR workshops 2019. NaN without weight.
    """
    table = reliability(label, probability=probability, weight=weight, bins=bins)
    if not len(table.weight_B):
        return float("nan")
    return float(np.average(np.abs(table.predicted_B - table.observed_B), weights=table.weight_B))
