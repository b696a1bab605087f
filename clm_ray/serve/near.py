"""Which categories lie next to which, by the likeness of their items; and which items are adjacent to what a user chose.

Shape letters: G categories (by code of the catalogue), N nearest ones, E (item, category) entries, C candidates, H items of a history, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clm_ray.features.catalogue import Catalogue

_ROWS_AT_ONCE = 1 << 16
_CATEGORIES_AT_ONCE = 1 << 10


@dataclass(frozen=True)
class NearCategories:
    """near_GN: int32, codes of the nearest categories of each, nearest first; -1 where there are no more. Code 0, no category, is near to none.
    Categories that came after the release are near to none either."""

    near_GN: NDArray[np.int32]

    @staticmethod
    def of(
        catalogue: Catalogue, vectors: Callable[[NDArray[np.int32]], NDArray[np.float32]], *, most: int
    ) -> NearCategories:
        """The `most` nearest by cosine between the categories' centres: means of their items' unit vectors. `vectors`: rows → [rows, D]."""
        centre_GD = _centres(catalogue, vectors)
        size = len(centre_GD)
        near_GN = np.full((size, most), -1, np.int32)
        for first in range(0, size, _CATEGORIES_AT_ONCE):
            code_g = np.arange(first, min(first + _CATEGORIES_AT_ONCE, size))
            likeness_gG = centre_GD[code_g] @ centre_GD.T
            likeness_gG[np.arange(len(code_g)), code_g] = -np.inf
            likeness_gG[:, 0] = -np.inf
            best_gN = np.argsort(-likeness_gG, axis=1, kind="stable")[:, :most].astype(np.int32)
            found_gN = np.take_along_axis(likeness_gG, best_gN, axis=1) > -np.inf
            near_GN[code_g, : best_gN.shape[1]] = np.where(found_gN, best_gN, -1)
        near_GN[0] = -1
        return NearCategories(near_GN)

    def adjacent(
        self, row_C: NDArray[np.int32], *, chosen_H: NDArray[np.int32], catalogue: Catalogue
    ) -> NDArray[np.bool_]:
        """bool_C: has a category that none of the items `chosen_H` has, and that is near to one that they have."""
        own_G = np.zeros(len(catalogue.categories), bool)
        own_G[catalogue.explode(chosen_H)[1]] = True
        own_G[0] = False
        own = np.flatnonzero(own_G[: len(self.near_GN)])
        near_G = np.zeros(len(own_G), bool)
        near = self.near_GN[own].ravel()
        near_G[near[near >= 0]] = True
        near_G &= ~own_G
        query_E, code_E, _ = catalogue.explode(row_C)
        adjacent_C = np.zeros(len(row_C), bool)
        adjacent_C[query_E[near_G[code_E]]] = True
        return adjacent_C


def _centres(catalogue: Catalogue, vectors: Callable[[NDArray[np.int32]], NDArray[np.float32]]) -> NDArray[np.float32]:
    """Unit vectors [G, D]."""
    sum_GD = np.zeros((len(catalogue.categories), vectors(np.zeros(1, np.int32)).shape[1]), np.float32)
    for first in range(1, len(catalogue), _ROWS_AT_ONCE):
        row = np.arange(first, min(first + _ROWS_AT_ONCE, len(catalogue)), dtype=np.int32)
        query_E, code_E, _ = catalogue.explode(row)
        np.add.at(sum_GD, code_E, _unit(vectors(row))[query_E])
    return _unit(sum_GD)


def _unit(vector_RD: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = vector_RD / np.maximum(np.linalg.norm(vector_RD, axis=1, keepdims=True), 1e-9)
    return unit
