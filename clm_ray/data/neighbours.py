"""Item-to-item neighbours per slice of time, built with Ray: one task per slice, relation and block of items.

    log, whole users per block ─▶ opinions (user, item, time, surprise, choice) ─▶ cosine per slice ─▶ the top of each item

A slice holds every event before its end; ends lie at midnight, at equal shares of the labelled events, the last one after the log's end.

Shape letters: E opinions, U users, I items of a slice, B items of a block, S slices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from numpy.typing import NDArray
from scipy import sparse

from clm_ray.config.data import NeighboursConfig
from clm_ray.data.bucket import users_of
from clm_ray.data.buckets import hash_of
from clm_ray.features.neighbours import RELATIONS, ItemNeighbours, choices, tastes
from clm_ray.features.spec import FeatureSource
from clm_ray.features.statistics import ItemStatistics
from clm_ray.schema import DAY_US, NEIGHBOURS

_BLOCK_CELLS = 1 << 24
"""Cells of one dense block of similarities: bounds memory (128 MiB a block)."""


def build_neighbours(
    events: ray.data.Dataset, source: FeatureSource, config: NeighboursConfig, *, log_end: int
) -> pa.Table:
    """schema.NEIGHBOURS, sorted by relation, end, item, neighbour. `events`: schema.EVENTS plus `item`, whole users in a block; `log_end`:
    the log's last event."""
    if not config.slices:
        return NEIGHBOURS.empty_table()
    shared = ray.put(source)

    def opinions(block: pa.Table) -> pa.Table:
        return opinions_of(block, ray.get(shared))

    blocks = events.map_batches(opinions, batch_format="pyarrow", batch_size=None).to_arrow_refs()
    ends = slice_ends(source.statistics, slices=config.slices, log_end=log_end)
    relations = [r for r, name in enumerate(RELATIONS) if name != "surprise" or _has_dislikes(source)]
    tasks = [_slice.remote(relation, end, config, *blocks) for relation in relations for end in ends]
    parts = ray.get(tasks)
    return pa.concat_tables(parts) if parts else NEIGHBOURS.empty_table()


def neighbours_of(table: pa.Table) -> ItemNeighbours:
    """Item neighbours from their NEIGHBOURS table."""
    return ItemNeighbours.from_rows(*(table.column(name).to_numpy() for name in NEIGHBOURS.names))


def slice_ends(statistics: ItemStatistics, *, slices: int, log_end: int) -> list[int]:
    """Midnights that cut the labelled events into equal shares, and the moment after the log's last event."""
    total = statistics.item_K == 0
    days, events = statistics.day_K[total], statistics.events_K[total]
    shares = np.arange(1, slices) / slices * float(events[-1] if len(events) else 0)
    cut = (days[np.searchsorted(events, shares)].astype(np.int64) + 1) * DAY_US if len(days) else np.empty(0, np.int64)
    return [*sorted({int(end) for end in cut if end <= log_end}), log_end + 1]


def _has_dislikes(source: FeatureSource) -> bool:
    types = source.vocabulary.types.values()
    return source.vocabulary.rated or any("negative" in t.roles for t in types)


def opinions_of(block: pa.Table, source: FeatureSource) -> pa.Table:
    """(user hash, item, time, surprise, choice) of every labelled event of whole users."""
    block = block.sort_by([("user_id", "ascending"), ("timestamp", "ascending"), ("event_id", "ascending")])
    columns: list[list[NDArray[Any]]] = [[], [], [], [], []]
    for user in users_of(block, source):
        history = user.history
        known = ~np.isnan(source.vocabulary.labels(history))
        mine: tuple[NDArray[Any], ...] = (
            np.full(len(history), hash_of(user.user_id)).astype(np.uint64),
            history.item_N,
            history.time_N,
            source.surprises(history),
            choices(history, vocabulary=source.vocabulary),
        )
        for column, values in zip(columns, mine, strict=True):
            column.append(values[known])
    kinds = (pa.uint64(), pa.int32(), pa.int64(), pa.float32(), pa.float32())
    arrays = [pa.array(np.concatenate(c) if c else np.empty(0), kind) for c, kind in zip(columns, kinds, strict=True)]
    return pa.table(arrays, names=["user", "item", "time", "surprise", "choice"])


@ray.remote
def _slice(relation: int, end: int, config: NeighboursConfig, *blocks: pa.Table) -> pa.Table:
    opinions = pa.concat_tables([block.filter(pc.less(block.column("time"), end)) for block in blocks])
    return similar_items(opinions, relation=relation, end=end, config=config)


@dataclass(frozen=True)
class _Matrix:
    """Opinions of users (rows) about items (columns); `item_I`: item row of each column."""

    value_UI: sparse.csr_matrix
    rated_UI: sparse.csr_matrix
    item_I: NDArray[np.int32]


def _matrix(opinions: pa.Table, *, relation: int, config: NeighboursConfig) -> _Matrix:
    name = RELATIONS[relation]
    pairs = opinions.group_by(["user", "item"]).aggregate([(name, "sum"), (name, "count")])
    total = pairs.column(f"{name}_sum").to_numpy().astype(np.float64)
    count = pairs.column(f"{name}_count").to_numpy()
    value = tastes(total) if name == "choice" else total / np.maximum(count, 1)
    item = pairs.column("item").to_numpy()
    raters = np.bincount(item)
    enough = raters[item] >= config.min_users
    user = np.unique(pairs.column("user").to_numpy()[enough], return_inverse=True)[1]
    items, column = np.unique(item[enough], return_inverse=True)
    shape = (int(user.max(initial=-1)) + 1, len(items))
    # In the order of rows and columns: sums of floats must not depend on the order of the blocks.
    cells = sparse.csr_matrix((value[enough], (user, column)), shape=shape)
    cells.sort_indices()
    rated = sparse.csr_matrix((np.ones(len(cells.data)), cells.indices, cells.indptr), shape=shape)
    return _Matrix(cells, rated, items.astype(np.int32))


def similar_items(opinions: pa.Table, *, relation: int, end: int, config: NeighboursConfig) -> pa.Table:
    """The `top` neighbours of each item by |similarity|: cosine over all users, times n / (n + shrinkage) for n users who know both.

    Norms are over all users of an item, not over the common ones alone: a similarity that rests on few of many users is small.
    """
    matrix = _matrix(opinions, relation=relation, config=config)
    items = len(matrix.item_I)
    norm = np.sqrt(np.asarray(matrix.value_UI.power(2).sum(axis=0)).ravel())
    scale = np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)
    value_UI = (matrix.value_UI @ sparse.diags(scale)).tocsc() if items else matrix.value_UI
    rated_UI = matrix.rated_UI.tocsc()
    size = max(1, _BLOCK_CELLS // max(items, 1))
    parts = []
    for first in range(0, items, size):
        block = slice(first, min(first + size, items))
        common_BI = (rated_UI[:, block].T @ rated_UI).toarray()
        similarity_BI = (value_UI[:, block].T @ value_UI).toarray()
        similarity_BI *= common_BI / (common_BI + config.shrinkage)
        similarity_BI[common_BI < config.min_users] = 0.0
        similarity_BI[np.arange(block.stop - block.start), np.arange(block.start, block.stop)] = 0.0
        parts.append(_top(similarity_BI, first=first, top=config.top))
    rows = [np.concatenate(part) for part in zip(*parts, strict=True)] if parts else [np.empty(0, np.int64)] * 3
    item, neighbour = (matrix.item_I[which.astype(np.int64)] for which in rows[:2])
    columns = [
        pa.array(np.full(len(item), relation, np.int8)),
        pa.array(np.full(len(item), end, np.int64)),
        pa.array(item),
        pa.array(neighbour),
        pa.array(rows[2].astype(np.float32)),
    ]
    return pa.Table.from_arrays(columns, schema=NEIGHBOURS)


def _top(
    similarity_BI: NDArray[np.float64], *, first: int, top: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """(item, neighbour, similarity) of the strongest of each row; of equal ones the first columns."""
    # Rounded: products of another number of users in another order differ in the last bits, and must not decide.
    strength = np.round(np.abs(similarity_BI), 7)
    top = min(top, strength.shape[1])
    best = np.sort(np.argsort(-strength, axis=1, kind="stable")[:, :top], axis=1)
    row = np.repeat(np.arange(len(best)), top)
    column = best.ravel()
    keep = strength[row, column] > 0
    return row[keep] + first, column[keep].astype(np.int64), similarity_BI[row, column][keep]
