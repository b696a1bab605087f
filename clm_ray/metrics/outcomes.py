"""What became of what was shown: click rate, calibration, log loss and revenue, each with an interval, for one version and between two.

Intervals are percentile intervals of a bootstrap over users: whole users are drawn with replacement, since the slates of one user depend
on each other (Cameron, Gelbach and Miller, Review of Economics and Statistics 2008). Shape letters: S slates, N shown items, U users,
K sums per user, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clm_ray.metrics.calibration import ece
from clm_ray.metrics.click import LEAST_PROBABILITY, Floats, numbered

RATIOS = ("ctr", "answered", "calibration", "log_loss", "revenue")
"""The figures with an interval, see `Figures`; each is one sum over users by another."""


@dataclass(frozen=True)
class Shown:
    """Slates of which the outcome is known, and their items. user_S: whose (ids or numbers); revenue_S: spent on what was shown, in the
    currency of the log. slate_N: the slate of each item; probability_N: its click probability as served, NaN where no model scored it;
    label_N: 1 where it was answered positively, else 0.
    """

    user_S: NDArray[np.generic]
    revenue_S: Floats
    slate_N: NDArray[np.int64]
    probability_N: Floats
    label_N: Floats

    @staticmethod
    def of(user: ArrayLike, *, revenue: ArrayLike, slate: ArrayLike, probability: ArrayLike, label: ArrayLike) -> Shown:
        """From anything that reads as arrays."""
        return Shown(
            np.asarray(user),
            np.asarray(revenue, np.float64),
            np.asarray(slate, np.int64),
            np.asarray(probability, np.float64),
            np.asarray(label, np.float64),
        )


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval; NaN where it is not defined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Figures:
    """One version. ctr: share of shown items answered positively. answered: share of slates with a positive answer. calibration:
    positive answers by the sum of the probabilities, 1 is right (scored items only, as the following). log_loss: mean, nats. ece: expected
    calibration error over ten bins of about equal count. revenue: per slate.
    """

    slates: int
    users: int
    items: int
    scored: int
    ece: float
    ctr: Estimate
    answered: Estimate
    calibration: Estimate
    log_loss: Estimate
    revenue: Estimate


def figures(shown: Shown, *, resamples: int = 500, confidence: float = 0.95, seed: int = 0) -> Figures:
    """The figures of one version, with intervals."""
    total_UK = _totals(shown)
    value_R = _ratios(_draws(total_UK, resamples=resamples, seed=seed))
    value = _ratios(total_UK.sum(0)[None])
    estimates = {name: _estimate(float(value[name][0]), value_R[name], confidence) for name in RATIOS}
    scored_N = np.isfinite(shown.probability_N)
    return Figures(
        slates=len(shown.user_S),
        users=len(total_UK),
        items=len(shown.label_N),
        scored=int(scored_N.sum()),
        ece=ece(shown.label_N[scored_N], probability=shown.probability_N[scored_N]),
        **estimates,
    )


def differences(
    one: Shown, *, other: Shown, paired: bool, resamples: int = 500, confidence: float = 0.95, seed: int = 0
) -> dict[str, Estimate]:
    """`other` less `one` for each of RATIOS, with intervals.

    `paired`: both are about the same slates (a shadow), so that both are computed on the same draws of users; otherwise the users of the
    two are drawn apart.
    """
    totals = _totals(one), _totals(other)
    assert not paired or len(totals[0]) == len(totals[1]), "paired versions have the same slates"
    seeds = (seed, seed if paired else seed + 1)
    drawn = [_ratios(_draws(t, resamples=resamples, seed=s)) for t, s in zip(totals, seeds, strict=True)]
    whole = [_ratios(t.sum(0)[None]) for t in totals]
    return {
        name: _estimate(float(whole[1][name][0] - whole[0][name][0]), drawn[1][name] - drawn[0][name], confidence)
        for name in RATIOS
    }


def _totals(shown: Shown) -> Floats:
    """[U, K]: per user slates, answered slates, revenue, items, positive answers, and of scored items: count, answers, Σp, Σ loss."""
    user_S, users = numbered(shown.user_S)
    label_N, scored_N = shown.label_N, np.isfinite(shown.probability_N)
    p_N = np.where(scored_N, np.clip(shown.probability_N, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY), 0.5)
    loss_N = -(label_N * np.log(p_N) + (1 - label_N) * np.log1p(-p_N))
    user_N = user_S[shown.slate_N]
    answered_S = np.bincount(shown.slate_N, label_N, len(user_S)) > 0
    ones_S, ones_N = np.ones(len(user_S)), np.ones(len(label_N))
    by_slate = [np.bincount(user_S, part_S, users) for part_S in (ones_S, answered_S, shown.revenue_S)]
    parts = (ones_N, label_N, scored_N, scored_N * label_N, scored_N * p_N, scored_N * loss_N)
    return np.stack(by_slate + [np.bincount(user_N, part_N, users) for part_N in parts], axis=1)


def _draws(total_UK: Floats, *, resamples: int, seed: int) -> Floats:
    """[R, K]: the sums over users drawn with replacement."""
    users, random = len(total_UK), np.random.default_rng(seed)
    sums_RK = np.zeros((resamples, total_UK.shape[1]))
    for sums_K in sums_RK if users else ():
        sums_K += np.bincount(random.integers(0, users, users), minlength=users) @ total_UK
    return sums_RK


def _ratios(sums_RK: Floats) -> dict[str, Floats]:
    slates, answered, revenue, items, positive, scored, hits, expected, loss = sums_RK.T
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "ctr": positive / items,
            "answered": answered / slates,
            "calibration": hits / expected,
            "log_loss": loss / scored,
            "revenue": revenue / slates,
        }


def _estimate(value: float, sampled_R: Floats, confidence: float) -> Estimate:
    usable_R = sampled_R[np.isfinite(sampled_R)]
    if not np.isfinite(value) or len(usable_R) < 2:
        return Estimate(float("nan"), float("nan"), float("nan"))
    low, high = np.quantile(usable_R, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, float(low), float(high))
