"""Ranking metrics: are the items that were taken near the top of the list, and what do the lists look like?

All relevance is binary. Shape letters: N rows (occasion, item), O occasions with at least one positive, F positives,
K places of a list, L lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clm_ray.metrics.click import Floats, numbered, within

Ints = NDArray[np.int64]
_TIED_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Found:
    """Where the positives stand: all that Recall, NDCG, MRR and hit rate need.

    rank_F: 1-based rank of each positive in its occasion's list, 0 when it is not in the list. occasion_F: 0 ≤ its occasion < O.
    """

    rank_F: Ints
    occasion_F: Ints

    @property
    def positives_O(self) -> Ints:
        """Positives of each occasion."""
        return np.bincount(self.occasion_F)

    def __len__(self) -> int:
        """Number of occasions."""
        return int(self.occasion_F.max()) + 1 if len(self.occasion_F) else 0


def tie_break(item: ArrayLike, *, seed: int = 0) -> NDArray[np.uint64]:
    """A fixed random number per item (splitmix64 of row and seed): orders equal scores without regard to label or model."""
    with np.errstate(over="ignore"):
        z_N = np.asarray(item).astype(np.uint64) + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        z_N = (z_N ^ (z_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z_N = (z_N ^ (z_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z_N ^ (z_N >> np.uint64(31))


def found(label: ArrayLike, *, score: ArrayLike, occasion: ArrayLike, item: ArrayLike, seed: int = 0) -> Found:
    """Rank every row within its occasion, highest score first, and keep the positives' ranks.

    Equal scores stand in the order of `tie_break(item)`. Occasions without a positive are left out.
    """
    positive_F = np.flatnonzero(np.asarray(label) > 0)
    occasion_N, _ = numbered(occasion)
    key_N = within(occasion_N, score=score)
    order_N = np.argsort(key_N)
    sorted_N = key_N[order_N]
    first_F = np.searchsorted(sorted_N, key_N[positive_F], side="left")
    last_F = np.searchsorted(sorted_N, key_N[positive_F], side="right")
    end_F = np.searchsorted(sorted_N, (occasion_N[positive_F] + 1) << 32, side="left")
    rank_F = 1 + end_F - last_F + _tied_before(order_N, first_F, last_F, positive_F, tie_break(item, seed=seed))
    return Found(rank_F=rank_F.astype(np.int64), occasion_F=numbered(occasion_N[positive_F])[0])


def _tied_before(
    order_N: Ints, first_F: Ints, last_F: Ints, positive_F: Ints, tie_N: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """For each positive, how many rows of its run of equal scores (places first to last) its tie-break puts before it."""
    before_F = np.zeros(len(positive_F), np.int64)
    tied = np.flatnonzero(last_F - first_F > 1)
    length = (last_F - first_F)[tied]
    for part in np.split(tied, np.flatnonzero(np.diff(np.cumsum(length) // _TIED_AT_ONCE)) + 1):
        count = (last_F - first_F)[part]
        owner = np.repeat(np.arange(len(part)), count)
        place = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count - first_F[part], count)
        earlier = tie_N[order_N[place]] < tie_N[positive_F[part]][owner]
        before_F[part] = np.bincount(owner, earlier, len(part))
    return before_F


def recalls(positives: Found, *, k: int) -> Floats:
    """Recall@k of each occasion: positives in the first k places / positives."""
    return _share(positives, value_F=_in_top(positives, k=k).astype(np.float64))


def recall(positives: Found, *, k: int) -> float:
    """Recall@k, mean over occasions. NaN without occasions. (The most one can reach with n > k positives is k/n.)"""
    return _mean(recalls(positives, k=k))


def hit_rate(positives: Found, *, k: int) -> float:
    """Share of occasions with a positive in the first k places. NaN without occasions."""
    return _mean((recalls(positives, k=k) > 0).astype(np.float64))


def ndcgs(positives: Found, *, k: int) -> Floats:
    """NDCG@k of each occasion: Σ_{positives with rank ≤ k} 1/log2(rank + 1), over the same sum of the best order.

    Järvelin and Kekäläinen, ACM TOIS 2002, with binary gains.
    """
    top_F = _in_top(positives, k=k)
    gain_F = np.where(top_F, 1 / np.log2(np.maximum(positives.rank_F, 1) + 1), 0.0)
    best_K = np.cumsum(1 / np.log2(np.arange(2, k + 2)))
    ideal_O = best_K[np.minimum(positives.positives_O, k) - 1]
    return np.bincount(positives.occasion_F, gain_F, len(positives)) / ideal_O


def ndcg(positives: Found, *, k: int) -> float:
    """NDCG@k, mean over occasions. NaN without occasions."""
    return _mean(ndcgs(positives, k=k))


def mrr(positives: Found, *, k: int | None = None) -> float:
    """Mean over occasions of 1 / rank of the first positive (0 when none is in the list, or within k). NaN without occasions."""
    reached_F = positives.rank_F > 0 if k is None else _in_top(positives, k=k)
    best_O = np.zeros(len(positives))
    np.maximum.at(best_O, positives.occasion_F, np.where(reached_F, 1 / np.maximum(positives.rank_F, 1), 0.0))
    return _mean(best_O)


def coverage(lists: Sequence[ArrayLike], *, k: int, catalogue: int) -> float:
    """Catalogue coverage@k: distinct items in the first k places of any list / items of the catalogue. NaN without a catalogue.

    Herlocker et al., ACM TOIS 2004, section 5.1.
    """
    shown = np.unique(np.concatenate([np.asarray(items)[:k] for items in lists])) if len(lists) else np.empty(0)
    return len(shown) / catalogue if catalogue else float("nan")


def vector_diversity(lists: Sequence[ArrayLike], *, k: int, vectors: NDArray[np.floating]) -> float:
    """Intra-list diversity@k: 1 - mean cosine of the pairs of a list's first k items, mean over lists of at least two items.

    `vectors` [items, width] by item row. Ziegler et al., WWW 2005. NaN when no list has two items.
    """
    values = []
    for items in lists:
        row_K = np.asarray(items)[:k]
        if len(row_K) < 2:
            continue
        unit_KH = np.asarray(vectors[row_K], np.float64)
        unit_KH /= np.maximum(np.linalg.norm(unit_KH, axis=1, keepdims=True), 1e-12)
        # Σ_{i≠j} cos = |Σ v|² - Σ |v|²
        pairs = float((unit_KH.sum(0) ** 2).sum() - (unit_KH**2).sum())
        values.append(max(0.0, 1 - pairs / (len(row_K) * (len(row_K) - 1))))
    return _mean(np.array(values))


def category_diversity(lists: Sequence[ArrayLike], *, k: int, categories: Sequence[Sequence[str]]) -> float:
    """Intra-list diversity@k by category: 1 - mean Jaccard overlap of the pairs' category sets, mean over lists of two or more.

    `categories` by item row; two items without categories share none. NaN when no list has two items.
    """
    values = []
    for items in lists:
        row_K = np.asarray(items)[:k]
        if len(row_K) < 2:
            continue
        names = {name: j for j, name in enumerate(sorted({c for row in row_K for c in categories[row]}))}
        member_KC = np.zeros((len(row_K), max(1, len(names))))
        for place, row in enumerate(row_K):
            member_KC[place, [names[c] for c in categories[row]]] = 1
        shared_KK = member_KC @ member_KC.T
        size_K = member_KC.sum(1)
        either_KK = size_K[:, None] + size_K[None, :] - shared_KK
        overlap_KK = shared_KK / np.maximum(either_KK, 1)
        values.append(1 - (overlap_KK.sum() - np.trace(overlap_KK)) / (len(row_K) * (len(row_K) - 1)))
    return _mean(np.array(values))


def _in_top(positives: Found, *, k: int) -> NDArray[np.bool_]:
    return (positives.rank_F > 0) & (positives.rank_F <= k)


def _share(positives: Found, *, value_F: Floats) -> Floats:
    return np.bincount(positives.occasion_F, value_F, len(positives)) / positives.positives_O


def _mean(value: Floats) -> float:
    return float(value.mean()) if len(value) else float("nan")
