"""Item-to-item neighbours per slice of time, built with Ray: one task per slice and relation.

    log, whole users per block ─▶ opinions (user, item, time, surprise, choice) ─▶ cosine per slice ─▶ the top of each item

A slice holds every event before its end; ends lie at midnight, at equal shares of the labelled events or every so many days, the last one after
the log's end.

Shape letters: E pairs, N events of one user, U users, I items of a slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from numpy.typing import NDArray
from scipy import sparse

from clm_ray.config.data import NeighboursConfig
from clm_ray.data.buckets import hash_of
from clm_ray.data.cosine import nearest_rows
from clm_ray.data.user_events import users_of
from clm_ray.features.neighbours import RELATIONS, ItemNeighbours, choices, tastes
from clm_ray.features.spec import FeatureSource
from clm_ray.features.statistics import ItemStatistics
from clm_ray.schema import DAY_US, NEIGHBOURS

_OPINIONS = pa.schema(
    [
        ("user", pa.uint64()),
        ("item", pa.int32()),
        ("time", pa.int64()),
        ("surprise", pa.float32()),
        ("choice", pa.float32()),
    ]
)


@dataclass(frozen=True)
class SlicedOpinions:
    """What the whole log says, as `opinions_of` gives it: blocks in Ray's object store, in any order. `ends`: when the slices end, UTC
    microseconds; none where neighbours are switched off. `relations`: those that the log can tell, positions in RELATIONS."""

    blocks: list[Any]
    ends: list[int]
    relations: list[int]


def sliced_opinions(
    events: ray.data.Dataset, source: FeatureSource, config: NeighboursConfig, *, log_end: int
) -> SlicedOpinions:
    """`events`: schema.EVENTS plus `item`, whole users in a block; `log_end`: the log's last event."""
    if not config.slices:
        return SlicedOpinions([], [], [])
    shared = ray.put(source)

    def opinions(block: pa.Table) -> pa.Table:
        return opinions_of(block, ray.get(shared))

    blocks = events.map_batches(opinions, batch_format="pyarrow", batch_size=None).to_arrow_refs()
    ends = slice_ends(source.statistics, config, log_end=log_end)
    relations = [r for r, name in enumerate(RELATIONS) if name != "surprise" or _has_dislikes(source)]
    return SlicedOpinions(blocks, ends, relations)


def build_neighbours(opinions: SlicedOpinions, config: NeighboursConfig) -> pa.Table:
    """schema.NEIGHBOURS, sorted by relation, end, item, neighbour."""
    tasks = [
        _slice.remote(relation, end, config, *opinions.blocks)
        for relation in opinions.relations
        for end in opinions.ends
    ]
    parts = ray.get(tasks)
    return pa.concat_tables(parts) if parts else NEIGHBOURS.empty_table()


def neighbours_of(table: pa.Table) -> ItemNeighbours:
    """Item neighbours from their NEIGHBOURS table."""
    return ItemNeighbours.from_rows(*(table.column(name).to_numpy() for name in NEIGHBOURS.names))


def slice_ends(statistics: ItemStatistics, config: NeighboursConfig, *, log_end: int) -> list[int]:
    """Midnights that cut the labelled events into equal shares, or every `slice_days` after the first one; and the moment after the log's last
    event."""
    total = statistics.item_K == 0
    days, events = statistics.day_K[total].astype(np.int64), statistics.events_K[total]
    if not len(days):
        return [log_end + 1]
    if config.slice_days:
        step = config.slice_days
        cut = np.arange(days[0] // step + 1, log_end // DAY_US // step + 1) * step
    else:
        shares = np.arange(1, config.slices) / config.slices * float(events[-1])
        cut = days[np.searchsorted(events, shares)] + 1
    return [*sorted({int(day) * DAY_US for day in cut if day * DAY_US <= log_end}), log_end + 1]


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
    arrays = [
        pa.array(np.concatenate(c) if c else np.empty(0), f.type) for c, f in zip(columns, _OPINIONS, strict=True)
    ]
    return pa.table(arrays, schema=_OPINIONS)


@ray.remote
def _slice(relation: int, end: int, config: NeighboursConfig, *blocks: pa.Table) -> pa.Table:
    return similar_items(opinions_before(end, blocks), relation=relation, end=end, config=config)


def opinions_before(end: int, blocks: Sequence[pa.Table]) -> pa.Table:
    """The opinions of a slice: those strictly before its end. A bucket without users may come as a block without columns."""
    known = [block.filter(pc.less(block.column("time"), end)) for block in blocks if block.num_rows]
    return pa.concat_tables([_OPINIONS.empty_table(), *known])


@dataclass(frozen=True)
class OpinionMatrix:
    """Opinions of users (rows) about items (columns); a stored cell is an opinion, be it 0. `user_U`: stable hash of each row's user;
    `item_I`: item row of each column. Both rise."""

    value_UI: sparse.csr_matrix
    user_U: NDArray[np.uint64]
    item_I: NDArray[np.int32]


def opinion_matrix(opinions: pa.Table, *, relation: int, config: NeighboursConfig) -> OpinionMatrix:
    """One cell for each user and item, of the items with users enough."""
    name = RELATIONS[relation]
    pairs = opinions.group_by(["user", "item"]).aggregate([(name, "sum"), (name, "count")])
    total = pairs.column(f"{name}_sum").to_numpy().astype(np.float64)
    count = pairs.column(f"{name}_count").to_numpy()
    value = tastes(total) if name == "choice" else total / np.maximum(count, 1)
    item = pairs.column("item").to_numpy()
    raters = np.bincount(item)
    enough = raters[item] >= config.min_users
    users, row = np.unique(pairs.column("user").to_numpy()[enough], return_inverse=True)
    items, column = np.unique(item[enough], return_inverse=True)
    # In the order of rows and columns: sums of floats must not depend on the order of the blocks.
    cells = sparse.csr_matrix((value[enough], (row, column)), shape=(len(users), len(items)))
    cells.sort_indices()
    return OpinionMatrix(cells, users, items.astype(np.int32))


def similar_items(opinions: pa.Table, *, relation: int, end: int, config: NeighboursConfig) -> pa.Table:
    """The `top` neighbours of each item by |similarity|: cosine over all users, shrunk by the users who know both (data/cosine.py)."""
    matrix = opinion_matrix(opinions, relation=relation, config=config)
    pairs = nearest_rows(
        matrix.value_UI.T.tocsr(), top=config.top, min_common=config.min_users, shrinkage=config.shrinkage
    )
    columns = [
        pa.array(np.full(len(pairs.row_E), relation, np.int8)),
        pa.array(np.full(len(pairs.row_E), end, np.int64)),
        pa.array(matrix.item_I[pairs.row_E]),
        pa.array(matrix.item_I[pairs.other_E]),
        pa.array(pairs.similarity_E.astype(np.float32)),
    ]
    return pa.Table.from_arrays(columns, schema=NEIGHBOURS)
