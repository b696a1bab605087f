"""The nearest rows of a sparse matrix by cosine: sparse products of a block of rows at a time, never N by N.

Shape letters: N rows (items or users), X columns (users or items), B rows of a block, E (row, other row) pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

BLOCK_CELLS = 1 << 21
"""Non-zeros of one block's product: bounds memory (about 128 MiB a block; a single row has at most N)."""


@dataclass(frozen=True)
class Pairs:
    """Rows and their nearest, sorted by row, then by the other."""

    row_E: NDArray[np.int64]
    other_E: NDArray[np.int64]
    similarity_E: NDArray[np.float64]


def nearest_rows(
    value_NX: sparse.csr_matrix,
    *,
    top: int,
    min_common: int,
    shrinkage: float,
    asked: NDArray[np.int64] | None = None,
    block_cells: int = BLOCK_CELLS,
) -> Pairs:
    """The `top` others of each row (of the rows `asked`) by |similarity|; of equal ones the first. A row is not its own neighbour.

    Similarity is the cosine times n / (n + shrinkage) for n columns in common, 0 for fewer than `min_common`. A column is in common where both
    rows have a stored cell, be it 0. Norms are over all of a row, not over what is common alone: a similarity that rests on few of many
    columns is small. The result does not depend on `block_cells`, nor on which rows are asked about together.
    """
    count = value_NX.shape[0]
    value_NX = value_NX.sorted_indices()
    row_C = np.repeat(np.arange(count), np.diff(value_NX.indptr))
    norm_N = np.sqrt(np.bincount(row_C, value_NX.data**2, count))
    scale_N = np.divide(1.0, norm_N, out=np.zeros_like(norm_N), where=norm_N > 0)
    unit_NX = _with(value_NX, value_NX.data * scale_N[row_C])
    known_NX = _with(value_NX, np.ones(len(row_C)))
    unit_XN, known_XN = unit_NX.T.tocsr(), known_NX.T.tocsr()
    rows = np.arange(count) if asked is None else asked
    parts = []
    for cut in _blocks(known_NX, rows, block_cells):
        common_BN = known_NX[cut] @ known_XN
        n = common_BN.data
        common_BN.data = np.where(n >= min_common, n / (n + shrinkage), 0.0)
        similar_BN = sparse.csr_matrix((unit_NX[cut] @ unit_XN).multiply(common_BN))
        parts.append(_top(similar_BN, cut, top=top))
    joined: list[NDArray[Any]] = [np.concatenate(part) for part in zip(*parts, strict=True)]
    return Pairs(*joined) if parts else Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))


def _with(like: sparse.csr_matrix, data: NDArray[np.float64]) -> sparse.csr_matrix:
    """Other values in the same cells."""
    return sparse.csr_matrix((data, like.indices, like.indptr), shape=like.shape)


def _blocks(known_NX: sparse.csr_matrix, rows: NDArray[np.int64], block_cells: int) -> Iterator[NDArray[np.int64]]:
    """The rows in runs whose products have at most `block_cells` non-zeros, one row at least."""
    raters_X = np.bincount(known_NX.indices, minlength=known_NX.shape[1])
    others_N = np.minimum(known_NX @ raters_X.astype(np.float64), known_NX.shape[0])
    cells = np.cumsum(others_N[rows])
    first = 0
    while first < len(rows):
        before = cells[first - 1] if first else 0.0
        stop = max(first + 1, int(np.searchsorted(cells, before + block_cells, side="right")))
        yield rows[first:stop]
        first = stop


def _top(
    similar_BN: sparse.csr_matrix, rows: NDArray[np.int64], *, top: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """(row, other, similarity) of the strongest of each row of a block."""
    similar_BN.sort_indices()
    row_C = np.repeat(np.arange(len(rows)), np.diff(similar_BN.indptr))
    # Rounded: products of another number of columns in another order differ in the last bits, and must not decide.
    strength_C = np.round(np.abs(similar_BN.data), 7)
    strength_C[similar_BN.indices == rows[row_C]] = 0.0
    keep_C = strength_C > 0
    for start, stop in zip(similar_BN.indptr[:-1], similar_BN.indptr[1:], strict=True):
        if stop - start > top:
            keep_C[start + np.argsort(-strength_C[start:stop], kind="stable")[top:]] = False
    return rows[row_C[keep_C]], similar_BN.indices[keep_C].astype(np.int64), similar_BN.data[keep_C]
