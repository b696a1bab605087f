"""Ranking metrics against scikit-learn and hand-made lists."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import ndcg_score

from clm_ray.metrics import ranking
from clm_ray.metrics.ranking import Found


@given(st.integers(1, 6), st.integers(2, 12), st.integers(1, 12), st.integers(0, 10_000))
def test_ndcg_agrees_with_scikit_learn(occasions: int, candidates: int, k: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    label = random.integers(0, 2, (occasions, candidates)).astype(float)
    label[:, 0] = 1
    score = random.permuted(np.tile(np.arange(candidates), (occasions, 1)), axis=1).astype(float)
    at = ranking.found(
        label.ravel(),
        score=score.ravel(),
        occasion=np.repeat(np.arange(occasions), candidates),
        item=np.tile(np.arange(candidates), occasions),
    )
    assert len(at) == occasions
    assert ranking.ndcg(at, k=k) == pytest.approx(ndcg_score(label, score, k=k))


def test_metrics_of_a_list_counted_by_hand() -> None:
    # Occasion 0: positives at ranks 1 and 4. Occasion 1: ranks 3 and not in the list. Occasion 2: no positive.
    at = ranking.found(
        [1, 0, 0, 1, 0, 0, 1, 0], score=[4, 3, 2, 1, 9, 8, 7, 1], occasion=[0, 0, 0, 0, 1, 1, 1, 2], item=range(8)
    )
    at = Found(np.append(at.rank_F, 0), np.append(at.occasion_F, 1))
    assert at.rank_F.tolist() == [1, 4, 3, 0]
    assert len(at) == 2
    assert ranking.recalls(at, k=3).tolist() == [0.5, 0.5]
    assert ranking.hit_rate(at, k=2) == 0.5
    assert ranking.mrr(at) == pytest.approx((1 + 1 / 3) / 2)
    assert ranking.mrr(at, k=2) == pytest.approx(0.5)
    best = 1 + 1 / math.log2(3)
    assert ranking.ndcgs(at, k=3) == pytest.approx([1 / best, 0.5 / best])


def _ranks(score: NDArray, occasion: NDArray, item: NDArray, seed: int = 0) -> NDArray[np.int64]:
    return ranking.found(np.ones(len(score)), score=score, occasion=occasion, item=item, seed=seed).rank_F


def test_ties_are_broken_by_a_hash_of_the_item_alone() -> None:
    items, flat = np.arange(200), np.zeros(200)
    order = np.random.default_rng(0).permutation(200)
    first = _ranks(flat, flat, items)
    assert sorted(first) == list(range(1, 201))
    assert _ranks(flat, flat, items[order]).tolist() == first[order].tolist()
    # A stable sort would give the first twenty rows the first twenty places.
    assert 60 < first[:20].mean() < 140
    assert _ranks(flat, flat, items, seed=1).tolist() != first.tolist()


@given(st.integers(0, 10_000), st.sampled_from([np.float32, np.float64]))
def test_rows_stand_by_score_then_tie_break_in_their_own_occasion(seed: int, kind: type) -> None:
    random = np.random.default_rng(seed)
    score, occasion = (random.integers(-3, 3, 40) / 4).astype(kind), random.integers(0, 4, 40)
    label = random.integers(0, 2, 40)
    at = ranking.found(label, score=score, occasion=occasion, item=np.arange(40))
    order = np.lexsort((ranking.tie_break(np.arange(40)), -score, occasion)).tolist()
    for row, rank in zip(np.flatnonzero(label), at.rank_F, strict=True):
        mine = [r for r in order if occasion[r] == occasion[row]]
        assert mine.index(row) + 1 == rank


def test_nothing_to_find_is_nan() -> None:
    nothing = ranking.found([0, 0], score=[1, 2], occasion=[0, 0], item=[1, 2])
    assert len(nothing) == 0
    assert math.isnan(ranking.recall(nothing, k=1))
    assert math.isnan(ranking.ndcg(nothing, k=1))
    assert math.isnan(ranking.mrr(nothing))


def test_coverage_counts_distinct_items_in_the_first_places() -> None:
    assert ranking.coverage([[1, 2, 3], [2, 1, 4]], k=2, catalogue=8) == 0.25
    assert ranking.coverage([], k=2, catalogue=8) == 0.0


def test_diversity_of_equal_and_of_orthogonal_items() -> None:
    vectors = np.array([[1, 0], [2, 0], [0, 3.0]])
    assert ranking.vector_diversity([[0, 1]], k=2, vectors=vectors) == pytest.approx(0.0)
    assert ranking.vector_diversity([[0, 2]], k=2, vectors=vectors) == pytest.approx(1.0)
    assert ranking.vector_diversity([[0, 1, 2]], k=3, vectors=vectors) == pytest.approx(2 / 3)
    categories = [["a"], ["a"], ["b"], ["a", "b"]]
    assert ranking.category_diversity([[0, 1]], k=2, categories=categories) == pytest.approx(0.0)
    assert ranking.category_diversity([[0, 2]], k=2, categories=categories) == pytest.approx(1.0)
    assert ranking.category_diversity([[0, 3]], k=2, categories=categories) == pytest.approx(0.5)
    assert math.isnan(ranking.vector_diversity([[0]], k=2, vectors=vectors))
