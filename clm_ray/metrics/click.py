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
    label_N, score_N = np.asarray(label, np.float64), np.asarray(score)
    weight_N = weights(label_N, weight=weight)
    positive_P, negative_M = np.flatnonzero(label_N > 0), np.flatnonzero(label_N < 1)
    below = _Cumulative.of(score_N[negative_M], (weight_N * (1 - label_N))[negative_M])
    mass_P = (weight_N * label_N)[positive_P]
    if not (mass_P.sum() > 0 and below.total > 0):
        return float("nan")
    # Ties count a half, whatever the order of the rows.
    wins = float(mass_P @ (below.under(score_N[positive_P]) + below.up_to(score_N[positive_P])) / 2)
    # Rounding in the sums must not lift a perfect order above 1.
    return min(1.0, wins / (float(mass_P.sum()) * below.total))


@dataclass(frozen=True)
class _Cumulative:
    """Sorted scores and the weight up to each: all that ranks need of one class."""

    score_M: NDArray[np.floating]
    weight_M: Floats

    @staticmethod
    def of(score_M: NDArray[np.floating], weight_M: Floats) -> _Cumulative:
        if len(weight_M) and (weight_M == weight_M[0]).all():
            return _Cumulative(np.sort(score_M), weight_M[0] * np.arange(len(score_M) + 1))
        order_M = np.argsort(score_M)
        return _Cumulative(score_M[order_M], np.concatenate([[0.0], np.cumsum(weight_M[order_M])]))

    @property
    def total(self) -> float:
        return float(self.weight_M[-1])

    def under(self, score_P: NDArray[np.floating]) -> Floats:
        """Weight of scores < each of `score_P`."""
        return self.weight_M[np.searchsorted(self.score_M, score_P, side="left")]

    def up_to(self, score_P: NDArray[np.floating]) -> Floats:
        """Weight of scores ≤ each of `score_P`."""
        return self.weight_M[np.searchsorted(self.score_M, score_P, side="right")]


def grouped_auc(
    label: ArrayLike, *, score: ArrayLike, group: ArrayLike, weight: ArrayLike | None = None
) -> tuple[Floats, Floats]:
    """`auc` within each group, groups in sorted order: (value_G, NaN where undefined; weight_G, the sum of the rows' weights)."""
    label_N = np.asarray(label, np.float64)
    weight_N = weights(label_N, weight=weight)
    group_N, groups = numbered(group)
    if not len(label_N):
        return np.empty(0), np.empty(0)
    key_N = within(group_N, score=score)
    order_N = np.argsort(key_N)
    key_N = key_N[order_N]
    positive_N = (weight_N * label_N)[order_N]
    negative_N = (weight_N * (1 - label_N))[order_N]
    # One run per distinct (group, score): ties count a half, whatever the order of the rows.
    start_R = np.flatnonzero(np.r_[True, key_N[1:] != key_N[:-1]])
    positive_R, negative_R = np.add.reduceat(positive_N, start_R), np.add.reduceat(negative_N, start_R)
    group_R = group_N[order_N[start_R]]
    positive_G = np.bincount(group_R, positive_R, groups).astype(np.float64)
    negative_G = np.bincount(group_R, negative_R, groups).astype(np.float64)
    before_R = np.cumsum(negative_R) - negative_R - (np.cumsum(negative_G) - negative_G)[group_R]
    wins_G = np.bincount(group_R, positive_R * (before_R + negative_R / 2), groups)
    with np.errstate(invalid="ignore", divide="ignore"):
        value_G = wins_G / (positive_G * negative_G)
    return np.clip(value_G, 0.0, 1.0), positive_G + negative_G


def numbered(name: ArrayLike) -> tuple[NDArray[np.int64], int]:
    """(a number for each row's name, 0 ≤ number < how many names there are), in the names' order."""
    name_N = np.asarray(name)
    if np.issubdtype(name_N.dtype, np.integer) and len(name_N) and name_N.min() >= 0 and name_N.max() < 4 * len(name_N):
        seen = np.zeros(int(name_N.max()) + 1, np.int64)
        seen[name_N] = 1
        return (np.cumsum(seen) - 1)[name_N], int(seen.sum())
    names, code_N = np.unique(name_N, return_inverse=True)
    return code_N.astype(np.int64), len(names)


def within(group_N: NDArray[np.int64], *, score: ArrayLike) -> NDArray[np.int64]:
    """One integer per row that orders by group, then by rising score: much faster to sort than two keys."""
    score_N = np.asarray(score)
    if score_N.dtype == np.float32:
        # The bits of a float32 order like the number itself once those of negative numbers are turned round (0.0 + x: no -0).
        bit_N = (score_N + np.float32(0)).view(np.int32).astype(np.int64)
        place_N = np.where(bit_N < 0, -0x80000000 - bit_N, bit_N) + 0x80000000
    else:
        place_N = np.unique(score_N, return_inverse=True)[1].astype(np.int64)
    return (group_N << 32) | place_N


def gauc(label: ArrayLike, *, score: ArrayLike, user: ArrayLike, weight: ArrayLike | None = None) -> Gauc:
    """GAUC = Σ_u w_u AUC_u / Σ_u w_u over users with both labels, w_u the user's impressions (sum of their weights).

    Zhou et al., Deep Interest Network, KDD 2018, section 5.3. NaN when no user has both labels.
    """
    value_U, weight_U = grouped_auc(label, score=score, group=user, weight=weight)
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
    hit_N, miss_N = weight_N * label_N, weight_N * (1 - label_N)
    hits = _Cumulative.of(score_N[hit_N > 0], hit_N[hit_N > 0])
    if not hits.total:
        return float("nan")
    misses = _Cumulative.of(score_N[miss_N > 0], miss_N[miss_N > 0])
    step_R = np.unique(score_N[hit_N > 0])[::-1]
    hit_R = hits.total - hits.under(step_R)
    called_R = hit_R + misses.total - misses.under(step_R)
    return float((np.diff(hit_R, prepend=0.0) * hit_R / called_R).sum() / hits.total)


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
