"""An approximate index over item vectors, for catalogues that are too large to be searched one by one: HNSW (Malkov & Yashunin, 2018) by usearch.

It belongs to a release, is mapped into memory when it is opened, and so shared by the replicas of a node.

Shape letters: B users, I item rows, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clm_ray.errors import ReleaseError

INDEX = "item_vectors.usearch"
_CONNECTIVITY, _BUILD, _SEARCH = 24, 128, 512
_MORE = 4
"""Times the wanted count that is searched where some items may not be shown."""


class ItemIndex:
    """Finds the rows with the greatest product with a query.

    Products are no distances, and a graph of neighbours is lost among them; so each vector gets one more component that makes all equally
    long, and the nearest ones are those with the greatest product (Bachrach et al., 2014).
    """

    def __init__(self, index: Any, item_ID: NDArray[np.float32]) -> None:
        self._index = index
        self._item_ID = item_ID

    @staticmethod
    def build(item_ID: NDArray[np.float32], path: Path) -> None:
        """Write the index of all rows but the first: equal vectors, equal file. Raises ReleaseError where usearch is not installed.

        One thread builds it. Several would insert in an order that hangs on timing: another graph, and another release, each time, and on few
        vectors a worse one.
        """
        found = _usearch().Index(
            ndim=item_ID.shape[1] + 1,
            metric="l2sq",
            dtype="f32",
            connectivity=_CONNECTIVITY,
            expansion_add=_BUILD,
        )
        square_I = (item_ID[1:] ** 2).sum(1, keepdims=True)
        longer = np.concatenate([item_ID[1:], np.sqrt(square_I.max(initial=0.0) - square_I)], axis=1)
        found.add(np.arange(1, len(item_ID)), longer.astype(np.float32), threads=1)
        found.save(str(path))

    @staticmethod
    def open(path: Path, item_ID: NDArray[np.float32]) -> ItemIndex | None:
        """Map it into memory, beside the vectors it was built of; None where the release has none. Raises ReleaseError where usearch is not installed."""
        if not path.is_file():
            return None
        index = _usearch().Index.restore(str(path), view=True)
        index.expansion_search = _SEARCH
        return ItemIndex(index, item_ID)

    def search(
        self,
        query_BD: NDArray[np.float32],
        masks: Sequence[NDArray[np.bool_] | None],
        *,
        count: int,
        beside: tuple[NDArray[np.int32], NDArray[np.float32]] | None = None,
    ) -> dict[int, NDArray[np.int32]]:
        """User → `count` rows, best first. Users of whom too few of the rows found may be shown are left out: they need an exact search.

        `beside`: rows that have other vectors than in the index, or none there, with their vectors; they are searched one by one.
        """
        rows_N, vector_ND = beside or (np.empty(0, np.int32), np.empty((0, query_BD.shape[1]), np.float32))
        filtered = len(rows_N) > 0 or any(mask is not None for mask in masks)
        wanted = min(count * _MORE, len(self._index)) if filtered else min(count, len(self._index))
        longer_BD = np.concatenate([query_BD, np.zeros((len(query_BD), 1), np.float32)], axis=1)
        key_BN = np.atleast_2d(self._index.search(longer_BD, wanted, threads=1).keys)
        found = {}
        for b, mask in enumerate(masks):
            rows = key_BN[b].astype(np.int32)
            if len(rows_N):
                own = rows[~np.isin(rows, rows_N)]
                score = np.concatenate([self._item_ID[own] @ query_BD[b], vector_ND @ query_BD[b]])
                rows = np.concatenate([own, rows_N])[np.argsort(-score, kind="stable")]
            rows = rows if mask is None else rows[mask[rows]]
            if len(rows) >= min(count, len(self._index)):
                found[b] = rows[:count]
        return found


def _usearch() -> Any:
    try:
        import usearch.index
    except ImportError as error:
        raise ReleaseError(
            "a catalogue of this size needs usearch",
            field="serve.exact_items",
            fix="pip install 'clm-ray[index]', or raise serve.exact_items",
        ) from error
    return usearch.index
