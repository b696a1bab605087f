"""The retrieval baselines item-kNN and user-kNN: plain neighbours over the interaction matrix.

Shape letters: U users, I items, K items that one user took, E (row, neighbour) pairs, H neighbours of one user.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import sparse

from clm_ray.config.evaluate import KnnConfig
from clm_ray.data.cosine import nearest_rows
from clm_ray.data.user_neighbours import ends_of
from clm_ray.features.neighbours import RELATIONS, tastes


@dataclass(frozen=True)
class Rows:
    """A sparse matrix row by row, as three arrays that can lie on disk."""

    start: NDArray[np.int64]
    column: NDArray[np.int32]
    value: NDArray[np.float32]

    @staticmethod
    def of(matrix: sparse.csr_matrix) -> Rows:
        """The rows of a CSR matrix."""
        return Rows(matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data.astype(np.float32))

    def weighted_sum(
        self, row_K: NDArray[np.int64], weight_K: NDArray[np.float64], *, width: int
    ) -> NDArray[np.float64]:
        """float64 [width]: the sum of some rows, each times its weight."""
        first_K, count_K = self.start[row_K], self.start[row_K + 1] - self.start[row_K]
        before_K = np.cumsum(count_K) - count_K
        at = np.arange(int(count_K.sum())) + np.repeat(first_K - before_K, count_K)
        value = np.repeat(weight_K, count_K) * self.value[at]
        return np.bincount(self.column[at], value, width).astype(np.float64)


def damped(count_UI: sparse.csr_matrix) -> sparse.csr_matrix:
    """X as the neighbours see it: the tenth time says less than the first."""
    result = count_UI.astype(np.float64)
    result.data = tastes(result.data)
    return result


def fit_item_knn(count_UI: sparse.csr_matrix, config: KnnConfig) -> Rows:
    """The `top` nearest items of each item by shrunk cosine between columns of X; every row of the result is an item.

    Item-based top-N recommendation (Deshpande & Karypis, 2004). Beyond it an item is its own neighbour with similarity 1: where items are taken
    again the list may hold what the user had, and elsewhere the rules take it off the list.
    """
    items = count_UI.shape[1]
    pairs = nearest_rows(damped(count_UI).T.tocsr(), top=config.top, min_common=1, shrinkage=config.shrinkage)
    near_II = sparse.csr_matrix((pairs.similarity_E, (pairs.row_E, pairs.other_E)), shape=(items, items))
    return Rows.of((near_II + sparse.identity(items, format="csr")).tocsr())


@dataclass(frozen=True)
class UserNeighbours:
    """The neighbours of one bucket's users, by choice. `code`: position of each user; `key_E`: slice and position, rising; `row_E`: the neighbour's
    row of X. `end_S`: when slices end."""

    end_S: NDArray[np.int64]
    code: Mapping[str, int]
    key_E: NDArray[np.int64]
    row_E: NDArray[np.int64]
    similarity_E: NDArray[np.float32]

    @staticmethod
    def read(path: Path, *, user_U: pa.Array) -> UserNeighbours:
        """One part of a dataset's user neighbours; neighbours without a row of X have nothing to say and are left out."""
        relation = ("relation", "=", RELATIONS.index("choice"))
        table = pq.read_table(path, filters=[relation], columns=["end", "user_id", "neighbour_id", "similarity"])
        row = pc.index_in(table.column("neighbour_id"), value_set=user_U).fill_null(-1).to_numpy()
        names = pc.unique(table.column("user_id"))
        code = pc.index_in(table.column("user_id"), value_set=names).to_numpy()
        end_S = ends_of(path)
        key = np.searchsorted(end_S, table.column("end").to_numpy()) * max(len(names), 1) + code
        order = np.argsort(key, kind="stable")
        order = order[row[order] >= 0]
        similarity = table.column("similarity").to_numpy()
        position = {name: n for n, name in enumerate(names.to_pylist())}
        return UserNeighbours(end_S, position, key[order], row[order].astype(np.int64), similarity[order])

    def of(self, user_id: str, time: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(rows_H of X, similarities_H) by the last slice closed at or before `time`; nobody before the first."""
        code, slice_ = self.code.get(user_id), int(np.searchsorted(self.end_S, time, side="right")) - 1
        if code is None or slice_ < 0:
            return np.empty(0, np.int64), np.empty(0)
        key = slice_ * max(len(self.code), 1) + code
        cut = slice(np.searchsorted(self.key_E, key, side="left"), np.searchsorted(self.key_E, key, side="right"))
        return self.row_E[cut], self.similarity_E[cut].astype(np.float64)
