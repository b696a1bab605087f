"""Retention metrics on discrete hazard bins: time to the next activity, with the end of the log as censoring; and the survival
curve of whole lives by day.

Shape letters: R references (a user at a moment), B hazard bins, D days. `back_R` is the bin of the next activity (B when none was
seen), `seen_R` the number of bins that the log covers in full after the reference, whether or not the user came back
(columns `bin` and
`censored` of the references dataset).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

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


@dataclass(frozen=True)
class SurvivalCurve:
    """A survival curve by day.

    day_D: days on which a life ended or was last seen, rising. at_risk_D: lives known to have lasted that long. survival_D: P(life >
    day). error_D: its standard error (Greenwood). low_D, high_D: its interval. NaN where nothing is known (see `product_limit`).
    """

    day_D: NDArray[np.int64]
    at_risk_D: NDArray[np.int64]
    survival_D: Floats
    error_D: Floats
    low_D: Floats
    high_D: Floats

    def median(self) -> int | None:
        """The first day by which half of the lives have ended; None where fewer have."""
        half = np.flatnonzero(self.survival_D <= 0.5)
        return int(self.day_D[half[0]]) if len(half) else None


def product_limit(day: ArrayLike, *, ended: ArrayLike, censored: ArrayLike, confidence: float = 0.95) -> SurvivalCurve:
    """The Kaplan-Meier curve from counts: `ended` lives ended on each `day`, `censored` lives were last seen alive on it.

    S(t) = Π_{d ≤ t} (1 - ended_d / at_risk_d), at risk on day d: every life of at least d days, so that a life last seen on d
    outlasts one that ended on d. Kaplan and Meier, JASA 1958.
    Var S(t) = S(t)² Σ_{d ≤ t} ended_d / (at_risk_d (at_risk_d - ended_d)). Greenwood, Reports on Public Health 33, 1926; NaN at S = 0.
    Interval: S^exp(± z error / (S ln S)), which stays within 0 and 1. Kalbfleisch and Prentice, 1980. At S = 1, S itself; NaN at S = 0.
    Days may repeat and come in any order.
    """
    day_D, where = np.unique(np.asarray(day, np.int64), return_inverse=True)
    ended_D = np.bincount(where, np.asarray(ended, np.float64), minlength=len(day_D))
    seen_D = ended_D + np.bincount(where, np.asarray(censored, np.float64), minlength=len(day_D))
    at_risk_D = np.cumsum(seen_D[::-1])[::-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        survival_D: Floats = np.asarray(np.cumprod(1 - ended_D / at_risk_D), np.float64)
        variance_D = np.cumsum(ended_D / (at_risk_D * (at_risk_D - ended_D)))
        error_D: Floats = np.asarray(survival_D * np.sqrt(variance_D), np.float64)
        z = NormalDist().inv_cdf(0.5 + confidence / 2)
        spread_D = np.exp(z * error_D / (survival_D * np.abs(np.log(survival_D))))
        whole_D = survival_D == 1.0
        low_D = np.where(whole_D, 1.0, survival_D**spread_D)
        high_D = np.where(whole_D, 1.0, survival_D ** (1 / spread_D))
    return SurvivalCurve(day_D, at_risk_D.astype(np.int64), survival_D, error_D, low_D, high_D)
