"""Paired bootstrap over users: is the difference between two models larger than the luck of which users were drawn?

Users, not rows, are drawn with replacement (the rows of one user depend on each other), and both models are scored on the
same draw. Cameron, Gelbach and Miller, Review of Economics and Statistics 2008 (pairs cluster bootstrap), percentile interval.
Shape letters: N rows, U users, S resamples, C score classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clm_ray.metrics import click
from clm_ray.metrics.click import Floats

CLASSES = 500
"""Score classes of each label in the resampled AUC; the point estimate is exact."""
_USERS_AT_ONCE = 4096


@dataclass(frozen=True)
class Difference:
    """metric(a) - metric(b) with a percentile interval; NaN where the metric is undefined."""

    estimate: float
    low: float
    high: float
    standard_error: float
    users: int


def paired_auc(
    label: ArrayLike,
    *,
    score_a: ArrayLike,
    score_b: ArrayLike,
    user: ArrayLike,
    weight: ArrayLike | None = None,
    resamples: int = 500,
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """AUC of a minus AUC of b. The resamples count scores in classes of at most 1/500 of either label (ties within a class)."""
    found = paired_aucs(
        label,
        score=score_a,
        others={"b": score_b},
        user=user,
        weight=weight,
        resamples=resamples,
        confidence=confidence,
        seed=seed,
    )
    return found["b"]


def paired_aucs(
    label: ArrayLike,
    *,
    score: ArrayLike,
    others: Mapping[str, ArrayLike],
    user: ArrayLike,
    weight: ArrayLike | None = None,
    resamples: int = 500,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Difference]:
    """`paired_auc` of one score against several others, all on the same draws."""
    label_N = np.asarray(label, np.float64)
    weight_N = click.weights(label_N, weight=weight)
    user_N, draws_SU = _draws(user, resamples=resamples, seed=seed)

    def both(scores: ArrayLike) -> tuple[float, Floats]:
        exact = click.auc(label_N, score=scores, weight=weight_N)
        return exact, _resampled_auc(label_N, np.asarray(scores), weight_N, user_N, draws_SU)

    exact, sampled_S = both(score)
    result = {}
    for name, other in others.items():
        exact_other, sampled_other_S = both(other)
        gap_S = sampled_S - sampled_other_S
        result[name] = _difference(exact - exact_other, gap_S, users=draws_SU.shape[1], confidence=confidence)
    return result


def paired_mean(
    value_a: ArrayLike,
    *,
    value_b: ArrayLike,
    user: ArrayLike,
    weight: ArrayLike | None = None,
    resamples: int = 500,
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Weighted mean of a minus that of b, for metrics that are means over rows: log loss, Brier score, NDCG of occasions."""
    gap_N = np.asarray(value_a, np.float64) - np.asarray(value_b, np.float64)
    weight_N = click.weights(gap_N, weight=weight)
    user_N, draws_SU = _draws(user, resamples=resamples, seed=seed)
    sum_U = np.bincount(user_N, weight_N * gap_N, draws_SU.shape[1])
    weight_U = np.bincount(user_N, weight_N, draws_SU.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        sampled_S = (draws_SU @ sum_U) / (draws_SU @ weight_U)
    estimate = click.mean(gap_N, weight=weight_N)
    return _difference(estimate, sampled_S, users=draws_SU.shape[1], confidence=confidence)


def _draws(user: ArrayLike, *, resamples: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Each row's user as a number, and how often each user is drawn in each resample."""
    user_N, users = click.numbered(user)
    random = np.random.default_rng(seed)
    draws_SU = np.zeros((resamples, users), np.float32)
    for draw_U in draws_SU:
        draw_U += np.bincount(random.integers(0, users, users), minlength=users) if users else 0
    return user_N, draws_SU


def _resampled_auc(
    label_N: Floats,
    score_N: NDArray[np.floating],
    weight_N: Floats,
    user_N: NDArray[np.int64],
    draws_SU: NDArray[np.float32],
) -> Floats:
    """AUC of every resample from per-user histograms over score classes, a few thousand users at a time."""
    class_N, classes = _score_classes(label_N, score_N)
    order_N = np.argsort(user_N, kind="stable")
    edges = np.searchsorted(user_N[order_N], np.arange(0, draws_SU.shape[1] + _USERS_AT_ONCE, _USERS_AT_ONCE))
    mass = np.zeros((2, len(draws_SU), classes))
    for block, (start, stop) in enumerate(pairwise(edges)):
        first = block * _USERS_AT_ONCE
        draws_SB = draws_SU[:, first : first + _USERS_AT_ONCE]
        rows = order_N[start:stop]
        cell_N = (user_N[rows] - first) * classes + class_N[rows]
        for side, share_N in enumerate((label_N[rows], 1 - label_N[rows])):
            histogram = np.bincount(cell_N, weight_N[rows] * share_N, draws_SB.shape[1] * classes)
            mass[side] += draws_SB @ histogram.reshape(draws_SB.shape[1], classes).astype(np.float32)
    positive_SC, negative_SC = mass
    below_SC = np.cumsum(negative_SC, axis=1) - negative_SC / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return (positive_SC * below_SC).sum(1) / (positive_SC.sum(1) * negative_SC.sum(1))


def _score_classes(label_N: Floats, score_N: NDArray[np.floating]) -> tuple[NDArray[np.int64], int]:
    edges = []
    for value in (0.0, 1.0):
        score_M = score_N[label_N == value]
        if len(score_M):
            place = np.linspace(0, len(score_M) - 1, CLASSES + 1).round().astype(np.int64)
            edges.append(np.sort(score_M)[place])
    edge_C = np.unique(np.concatenate(edges)) if edges else np.zeros(1)
    return np.searchsorted(edge_C, score_N, side="right"), len(edge_C) + 1


def _difference(estimate: float, sampled_S: Floats, *, users: int, confidence: float) -> Difference:
    usable_S = sampled_S[np.isfinite(sampled_S)]
    if not np.isfinite(estimate) or len(usable_S) < 2:
        return Difference(estimate, float("nan"), float("nan"), float("nan"), users)
    low, high = np.quantile(usable_S, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Difference(float(estimate), float(low), float(high), float(usable_S.std(ddof=1)), users)
