"""The approximate index finds what an exact search finds, nearly always, and says when it cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clm_ray.model.item_index import INDEX, ItemIndex

pytest.importorskip("usearch")


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 16))
    return (centres[rng.integers(20, size=3000)] + 0.3 * rng.normal(size=(3000, 16))).astype(np.float32)


@pytest.fixture(scope="module")
def index(vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> ItemIndex:
    path = tmp_path_factory.mktemp("release") / INDEX
    ItemIndex.build(vectors, path)
    opened = ItemIndex.open(path, vectors)
    assert opened is not None
    return opened


def test_nearly_all_of_the_best_are_found_and_never_the_unknown_item(vectors: np.ndarray, index: ItemIndex) -> None:
    query = np.random.default_rng(1).normal(size=(8, 16)).astype(np.float32)
    found = index.search(query, [None] * 8, count=50)
    for b in range(8):
        score = vectors @ query[b]
        exact = set(np.argsort(-score[1:])[:50] + 1)
        assert len(exact & set(found[b].tolist())) >= 45
        assert 0 not in found[b]
        assert (np.diff(score[found[b]]) <= 1e-4).all(), "best first"


def test_equal_vectors_give_an_equal_file(vectors: np.ndarray, tmp_path: Path) -> None:
    for name in ("one", "other"):
        ItemIndex.build(vectors, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_narrow_filter_is_left_to_an_exact_search(vectors: np.ndarray, index: ItemIndex) -> None:
    query = np.random.default_rng(1).normal(size=(2, 16)).astype(np.float32)
    narrow, wide = np.zeros(len(vectors), bool), np.ones(len(vectors), bool)
    narrow[:5] = True
    wide[::3] = False
    found = index.search(query, [narrow, wide], count=20)
    assert list(found) == [1]
    assert wide[found[1]].all()
    assert len(found[1]) == 20


def test_a_release_without_an_index_is_searched_exactly(tmp_path: Path) -> None:
    assert ItemIndex.open(tmp_path / INDEX, np.empty((0, 4), np.float32)) is None


def test_rows_the_index_does_not_know_are_found_too(vectors: np.ndarray, index: ItemIndex) -> None:
    query = np.random.default_rng(1).normal(size=(1, 16)).astype(np.float32)
    best = 10.0 * query
    found = index.search(query, [None], count=10, beside=(np.array([7, 5000], np.int32), np.concatenate([-best, best])))
    assert found[0][0] == 5000
    assert 7 not in found[0], "its vector is another one now"
