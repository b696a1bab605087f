"""Candidates from the whole catalogue by retrieval score: through the index where there is one, else exactly.

Shape letters: B users, D width, I item rows, N rows that are newer than the index.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History
from clm_ray.model.item_index import ItemIndex

Mask = NDArray[np.bool_]


def nearest(
    query_BD: Tensor,
    item_ID: Tensor,
    masks: Sequence[Mask | None],
    *,
    count: int,
    index: ItemIndex | None,
    newer_N: NDArray[np.int64],
) -> list[NDArray[np.int32]]:
    """Up to `count` rows with the highest retrieval score among those allowed, per user. `newer_N`: rows that the index does not know as they are."""
    found: dict[int, NDArray[np.int32]] = {}
    if index is not None:
        rows = np.unique(newer_N)
        beside = rows.astype(np.int32), item_ID[torch.from_numpy(rows)].numpy()
        found = index.search(query_BD.numpy(), masks, count=count, beside=beside)
    rest = [b for b in range(len(masks)) if b not in found]
    if rest:
        score = query_BD[rest] @ item_ID.T
        score[:, 0] = float("-inf")
        for n, b in enumerate(rest):
            mask = masks[b]
            if mask is not None:
                score[n, torch.from_numpy(~mask)] = float("-inf")
        best, places = torch.topk(score, min(count, score.shape[1] - 1), dim=1)
        for b, r, v in zip(rest, places, best, strict=True):
            found[b] = r[v > float("-inf")].numpy().astype(np.int32)
    return [found[b] for b in range(len(masks))]


def without(mask: Mask | None, rows: NDArray[np.int32], *, items: int) -> Mask:
    """bool [I]: what is allowed, less `rows`. `mask` None: all of the `items` rows are."""
    kept = np.ones(items, bool) if mask is None else mask.copy()
    kept[rows] = False
    return kept


def own_items(history: History, *, vocabulary: EventVocabulary) -> NDArray[np.int32]:
    """Item rows of a user's context events, most events first."""
    seen = history.item_N[vocabulary.is_context(history) & (history.item_N > 0)]
    items, events = np.unique(seen, return_counts=True)
    return items[np.lexsort((items, -events))]


def first_distinct(first: NDArray[np.int32], then: NDArray[np.int32], count: int) -> NDArray[np.int32]:
    """The first `count` of both, `first` before `then`, each once."""
    return np.concatenate([first, then[~np.isin(then, first)]])[:count]
