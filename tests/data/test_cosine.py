"""The nearest rows of a sparse matrix: against a dense computation, and the same however the rows are cut into blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from clm_ray.data.cosine import nearest_rows


def made(seed: int, *, rows: int = 14, columns: int = 9, share: float = 0.4) -> sparse.csr_matrix:
    """Small whole numbers, so that many similarities are equal; some stored cells are 0."""
    random = np.random.default_rng(seed)
    stored = random.uniform(size=(rows, columns)) < share
    row, column = np.nonzero(stored)
    return sparse.csr_matrix((random.integers(-1, 3, len(row)).astype(float), (row, column)), shape=(rows, columns))


def found(matrix: sparse.csr_matrix, **options: object) -> dict[tuple[int, int], float]:
    asked = {"top": 4, "min_common": 2, "shrinkage": 3.0, **options}
    pairs = nearest_rows(matrix, **asked)  # type: ignore[arg-type]
    return dict(zip(zip(pairs.row_E.tolist(), pairs.other_E.tolist(), strict=True), pairs.similarity_E, strict=True))


@settings(max_examples=80)
@given(st.integers(0, 2**32), st.sampled_from([0.1, 0.4, 1.0]))
def test_the_strongest_of_the_shrunk_cosines(seed: int, share: float) -> None:
    matrix = made(seed, share=share)
    value, known = matrix.toarray(), np.zeros(matrix.shape)
    known[np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)), matrix.indices] = 1.0
    norm = np.linalg.norm(value, axis=1)
    norm[norm == 0] = np.inf
    common = known @ known.T
    similarity = (value / norm[:, None]) @ (value / norm[:, None]).T * common / (common + 3.0)
    similarity[common < 2] = 0.0
    np.fill_diagonal(similarity, 0.0)
    strength = np.round(np.abs(similarity), 7)
    expected = {}
    for row in range(len(value)):
        best = np.argsort(-strength[row], kind="stable")[:4]
        expected |= {(row, int(other)): similarity[row, other] for other in best if strength[row, other] > 0}
    assert found(matrix) == pytest.approx(expected)


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.sampled_from([1, 7, 30, 1 << 20]))
def test_blocks_do_not_show(seed: int, block_cells: int) -> None:
    matrix = made(seed)
    whole = found(matrix)
    assert found(matrix, block_cells=block_cells) == whole
    some = np.array([2, 5, 6, 11])
    assert found(matrix, block_cells=block_cells, asked=some) == {p: s for p, s in whole.items() if p[0] in some}


def test_a_matrix_without_rows_or_cells_has_no_pairs() -> None:
    assert (
        found(sparse.csr_matrix((0, 5))) == found(sparse.csr_matrix((3, 0))) == found(sparse.csr_matrix((3, 4))) == {}
    )
