"""Retention metrics on discrete hazard bins: time to the next activity, with the end of the log as censoring.

Shape letters: R references (a user at a moment), B hazard bins. `back_R` is the bin of the next activity (B when none was
seen), `seen_R` the number of bins that the log covers in full after the reference, whether or not the user came back
(columns `bin` and
`censored` of the references dataset).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clm_ray.metrics import click
from clm_ray.metrics.click import Floats


@dataclass(frozen=True)
class Outcome:
    """known_R: the log covers the horizon of this reference. active_R: 1 when the user was active again within it."""

    known_R: NDArray[np.bool_]
    active_R: Floats


def active_within(hazard: ArrayLike) -> Floats:
    """[R, B] hazards → [R, B] P(active again by the end of bin j) = 1 - Π_{i ≤ j} (1 - h_i).

    Singer and Willett, Journal of Educational Statistics 1993.
    """
    return np.asarray(1 - np.cumprod(1 - np.asarray(hazard, np.float64), axis=-1))


def survival(hazard: ArrayLike) -> Floats:
    """[R, B] hazards → [R, B] P(still inactive at the end of bin j)."""
    return np.asarray(1 - active_within(hazard))


def outcome(back: ArrayLike, *, seen: ArrayLike, horizon: int) -> Outcome:
    """What happened by the end of bin `horizon`, for references that the log covers that far.

    A reference covered less far is left out even when its user came back in time: keeping only those would favour the active.
    """
    return Outcome(known_R=np.asarray(seen) > horizon, active_R=(np.asarray(back) <= horizon).astype(np.float64))


def horizon_auc(back: ArrayLike, *, seen: ArrayLike, probability: ArrayLike, horizon: int) -> float:
    """AUC of P(active within the horizon) over references with a known outcome. NaN when they share one outcome."""
    at = outcome(back, seen=seen, horizon=horizon)
    return click.auc(at.active_R[at.known_R], score=np.asarray(probability)[at.known_R])


def horizon_brier(back: ArrayLike, *, seen: ArrayLike, probability: ArrayLike, horizon: int) -> float:
    """Mean squared error of P(active within the horizon) over references with a known outcome. NaN without any.

    The Brier score of Graf et al., Statistics in Medicine 1999, without censoring weights: the end of the log censors by
    calendar, independently of the user.
    """
    at = outcome(back, seen=seen, horizon=horizon)
    return click.brier(at.active_R[at.known_R], probability=np.asarray(probability)[at.known_R])


def kaplan_meier(back: ArrayLike, *, seen: ArrayLike, bins: int) -> Floats:
    """[B] share still inactive at the end of each bin, Π_{i ≤ j} (1 - came back in i / at risk in i).

    At risk in bin i: not back before it, and the log covers it in full (a bin seen only in part contributes nothing). NaN from
    the first bin that nobody is at risk in. Kaplan and Meier, JASA 1958.
    """
    back_R, seen_R = np.asarray(back), np.asarray(seen)
    step_B = np.arange(bins)
    at_risk_RB = (back_R[:, None] >= step_B) & (seen_R[:, None] > step_B)
    returned_B = (at_risk_RB & (back_R[:, None] == step_B)).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.cumprod(1 - returned_B / at_risk_RB.sum(0))
