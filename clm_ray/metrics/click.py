"""Click metrics: how well a probability tells positives from negatives, and how right it is as a number.

Shape letters: N rows, G groups, U users. `label` is 0 or 1, `weight` not negative (None: 1 each). A metric that is not
defined for its rows (no rows, or one class only where two are needed) is NaN, never 0 or 0.5; each docstring says when.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
LEAST_PROBABILITY = 1e-7
"""Probabilities are clipped to [this, 1 - this] in the log loss: below it float32 cannot tell 1 - p from 1."""


@dataclass(frozen=True)
class Gauc:
    """Per-user AUC averaged over users. `users` counted of `all_users`: the others have one class only."""

    value: float
    users: int
    all_users: int


@dataclass(frozen=True)
class Decisions:
    """What calling every row with probability ≥ `threshold` positive would give."""

    threshold: float
    accuracy: float
    precision: float
    recall: float
    f1: float


def auc(label: ArrayLike, *, score: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Area under the ROC curve: P(score of a positive > score of a negative) + ½ P(equal), rows drawn by weight.

    Rank form of Mann and Whitney (1947), Hanley and McNeil (1982). NaN without positive or without negative weight.
    """
    label_N, score_N = np.asarray(label), np.asarray(score)
    if not len(label_N):
        return float("nan")
    value_G, _, _ = grouped_auc(label_N, score=score_N, group=np.zeros(len(label_N), np.int64), weight=weight)
    return float(value_G[0])


def grouped_auc(
    label: ArrayLike, *, score: ArrayLike, group: ArrayLike, weight: ArrayLike | None = None
) -> tuple[Floats, Floats, NDArray[np.generic]]:
    """`auc` within each group: (value_G, NaN where undefined; weight_G, the sum of the rows' weights; the groups' names)."""
    label_N, score_N = np.asarray(label, np.float64), np.asarray(score)
    weight_N = weights(label_N, weight=weight)
    if not len(label_N):
        nothing_G = np.empty(0, np.float64)
        return nothing_G, nothing_G, np.asarray(group)
    name_G, group_N = np.unique(np.asarray(group), return_inverse=True)
    order_N = np.lexsort((score_N, group_N))
    group_N, score_N = group_N[order_N], score_N[order_N]
    positive_N = (weight_N * label_N)[order_N]
    negative_N = (weight_N * (1 - label_N))[order_N]
    # One run per distinct (group, score): ties count a half, whatever the order of the rows.
    start_R = np.flatnonzero(np.r_[True, (np.diff(group_N) != 0) | (np.diff(score_N) != 0)])
    positive_R, negative_R = np.add.reduceat(positive_N, start_R), np.add.reduceat(negative_N, start_R)
    group_R = group_N[start_R]
    positive_G = np.bincount(group_R, positive_R, len(name_G))
    negative_G = np.bincount(group_R, negative_R, len(name_G))
    before_R = np.cumsum(negative_R) - negative_R - (np.cumsum(negative_G) - negative_G)[group_R]
    wins_G = np.bincount(group_R, positive_R * (before_R + negative_R / 2), len(name_G))
    with np.errstate(invalid="ignore", divide="ignore"):
        value_G = wins_G / (positive_G * negative_G)
    # Rounding in the sums must not lift a perfect order above 1.
    value_G = np.clip(value_G, 0.0, 1.0)
    return value_G, (positive_G + negative_G).astype(np.float64), name_G


def gauc(label: ArrayLike, *, score: ArrayLike, user: ArrayLike, weight: ArrayLike | None = None) -> Gauc:
    """GAUC = Σ_u w_u AUC_u / Σ_u w_u over users with both labels, w_u the user's impressions (sum of their weights).

    Zhou et al., Deep Interest Network, KDD 2018, section 5.3. NaN when no user has both labels.
    """
    value_U, weight_U, _ = grouped_auc(label, score=score, group=user, weight=weight)
    counted_U = np.isfinite(value_U)
    if not counted_U.any():
        return Gauc(value=float("nan"), users=0, all_users=len(value_U))
    value = float(np.average(value_U[counted_U], weights=weight_U[counted_U]))
    return Gauc(value=value, users=int(counted_U.sum()), all_users=len(value_U))


def log_losses(label: ArrayLike, *, probability: ArrayLike) -> Floats:
    """Cross-entropy of each row, nats: -(y log p + (1-y) log(1-p)), p clipped to [1e-7, 1-1e-7]."""
    label_N = np.asarray(label, np.float64)
    p_N = np.clip(np.asarray(probability, np.float64), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return -(label_N * np.log(p_N) + (1 - label_N) * np.log1p(-p_N))


def log_loss(label: ArrayLike, *, probability: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Weighted mean cross-entropy, nats. NaN without weight."""
    return mean(log_losses(label, probability=probability), weight=weight)


def brier(label: ArrayLike, *, probability: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Weighted mean squared error of the probability (Brier, 1950). NaN without weight."""
    label_N, p_N = np.asarray(label, np.float64), np.asarray(probability, np.float64)
    return mean((p_N - label_N) ** 2, weight=weight)


def decisions(
    label: ArrayLike, *, probability: ArrayLike, threshold: float = 0.5, weight: ArrayLike | None = None
) -> Decisions:
    """Accuracy, precision, recall and F1 of calling rows with probability ≥ `threshold` positive.

    For rare positives give the observed base rate as threshold: at 0.5 a calibrated model then calls nobody positive.
    Precision is NaN when nothing is called positive, recall NaN when nothing is positive, F1 = 2 TP / (2 TP + FP + FN) NaN
    only when there is neither.
    """
    label_N, called_N = np.asarray(label, np.float64), np.asarray(probability) >= threshold
    weight_N = weights(label_N, weight=weight)
    hit = float((weight_N * label_N * called_N).sum())
    called, positive, total = (
        float((weight_N * called_N).sum()),
        float((weight_N * label_N).sum()),
        float(weight_N.sum()),
    )
    return Decisions(
        threshold=threshold,
        accuracy=_ratio(total - called - positive + 2 * hit, total),
        precision=_ratio(hit, called),
        recall=_ratio(hit, positive),
        f1=_ratio(2 * hit, called + positive),
    )


def average_precision(label: ArrayLike, *, score: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Σ_n (R_n - R_{n-1}) P_n over the distinct scores, highest first (no interpolation; ties form one step).

    Manning, Raghavan and Schütze, Introduction to Information Retrieval, 2008, section 8.4. NaN without positives.
    """
    label_N, score_N = np.asarray(label, np.float64), np.asarray(score)
    weight_N = weights(label_N, weight=weight)
    if not len(label_N) or not (weight_N * label_N).sum():
        return float("nan")
    order_N = np.argsort(-score_N, kind="stable")
    last_R = np.flatnonzero(np.r_[np.diff(score_N[order_N]) != 0, True])
    hit_R = np.cumsum((weight_N * label_N)[order_N])[last_R]
    called_R = np.cumsum(weight_N[order_N])[last_R]
    precision_R = np.divide(hit_R, called_R, out=np.zeros_like(hit_R), where=called_R > 0)
    return float((np.diff(hit_R, prepend=0.0) * precision_R).sum() / hit_R[-1])


def roc(label: ArrayLike, *, score: ArrayLike, weight: ArrayLike | None = None) -> tuple[Floats, Floats]:
    """The ROC curve: (false positive rate, true positive rate) from (0, 0) to (1, 1), one point per distinct score."""
    label_N, score_N = np.asarray(label, np.float64), np.asarray(score)
    weight_N = weights(label_N, weight=weight)
    order_N = np.argsort(-score_N, kind="stable")
    last_R = np.flatnonzero(np.r_[np.diff(score_N[order_N]) != 0, True])
    true_R = np.cumsum((weight_N * label_N)[order_N])[last_R]
    false_R = np.cumsum((weight_N * (1 - label_N))[order_N])[last_R]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.r_[0.0, false_R / false_R[-1]], np.r_[0.0, true_R / true_R[-1]]


def mean(value: ArrayLike, *, weight: ArrayLike | None = None) -> float:
    """Weighted mean; of labels it is the observed CTR, of probabilities the predicted CTR. NaN without weight."""
    value_N = np.asarray(value, np.float64)
    weight_N = weights(value_N, weight=weight)
    return _ratio(float((weight_N * value_N).sum()), float(weight_N.sum()))


def weights(value: Floats, *, weight: ArrayLike | None) -> Floats:
    """The weights as float64, one per row of `value`; 1 each when None."""
    return np.ones(len(value)) if weight is None else np.asarray(weight, np.float64)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")
