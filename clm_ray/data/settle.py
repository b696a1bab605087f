"""Every row to the bucket of its user, every event id made unique: the shuffle of `prepare`, as Ray tasks.

    rows in any order ─▶ split by bucket ─▶ one block per bucket ─┬────────────────────────────────▶ ids settled
                                                                  └ ids seen in several buckets ─▶ settled among themselves ─┘

Rows of one id are nearly always of one user, so ids are settled where the user's rows are; only the few that occur in several buckets are
brought together. Ray Data's own shuffle (`repartition` by keys) took nine times as long for a million rows on two cores, and would move every row twice.

Shape letters: N rows, B buckets, K keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from clm_ray.data.clean import CLEANED
from clm_ray.data.duplicates import id_keys, settle_ids
from clm_ray.data.kept import KeptTable

_PART_BYTES = 1 << 20
"""Blocks are split together until a bucket's part has about this size: Ray keeps small results in the driver's own memory."""


def by_bucket(tables: Sequence[tuple[ray.data.Dataset, KeptTable | None]], *, buckets: int) -> list[Any]:
    """References to one block (CLEANED) per bucket, from tables of rows in any order and what is kept of each from an earlier time.

    Runs whatever the datasets still have to do.
    """
    own: list[list[Any]] = [[] for _ in range(buckets)]
    for rows, kept in tables:
        parts = _split_all(rows, buckets=buckets)
        if kept is not None:
            kept.prepare()
        for bucket, found in enumerate(own):
            mine = [_of(part, bucket, buckets) for part in parts]
            found.append(_join.remote(*mine) if kept is None else _join_kept.remote(kept, bucket, *mine))
    return [parts[0] if len(parts) == 1 else _join.remote(*parts) for parts in own]


def _split_all(rows: ray.data.Dataset, *, buckets: int) -> list[Any]:
    held = rows.materialize()
    blocks = held.to_arrow_refs()
    mean_bytes = max((held.size_bytes() or 0) // max(len(blocks), 1), 1)
    together = max(1, buckets * _PART_BYTES // mean_bytes)
    split = _split.options(num_returns=buckets)
    return [split.remote(buckets, *blocks[first : first + together]) for first in range(0, len(blocks), together)]


def settle(blocks: list[Any], *, ids_given: bool) -> list[Any]:
    """The same blocks with every event id unique. ids_given: whether any row may have brought an id."""
    if not ids_given:
        return [_settled.remote(block) for block in blocks]
    buckets = len(blocks)
    keys = [_keys.options(num_returns=buckets).remote(buckets, block) for block in blocks]
    contested = [_contested.remote(*(_of(key, part, buckets) for key in keys)) for part in range(buckets)]
    found = np.sort(np.concatenate(ray.get(contested)))
    if not len(found):
        return [_settled.remote(block) for block in blocks]
    shared = ray.put(found)
    apart = [_apart.options(num_returns=1 + buckets).remote(buckets, shared, block) for block in blocks]
    own = [_settled.remote(parts[0]) for parts in apart]
    settled = [
        _settled_split.options(num_returns=buckets).remote(buckets, *(p[1 + k] for p in apart)) for k in range(buckets)
    ]
    return [_join.remote(own[b], *(_of(parts, b, buckets) for parts in settled)) for b in range(buckets)]


def _of(parts: Any, which: int, count: int) -> Any:
    """One of a task's results; a task with one result gives no list."""
    return parts[which] if count > 1 else parts


@ray.remote
def _split(buckets: int, *blocks: pa.Table) -> list[pa.Table] | pa.Table:
    return by_number(_whole(blocks), "bucket", buckets)


@ray.remote
def _join(*parts: pa.Table) -> pa.Table:
    return _whole(parts)


@ray.remote
def _join_kept(kept: KeptTable, bucket: int, *parts: pa.Table) -> pa.Table:
    return kept.joined(bucket, _whole(parts))


@ray.remote
def _settled(block: pa.Table) -> pa.Table:
    return settle_ids(block) if block.num_rows else CLEANED.empty_table()


@ray.remote
def _keys(parts: int, block: pa.Table) -> list[NDArray[np.uint64]] | NDArray[np.uint64]:
    """The distinct keys of a bucket's event ids, by key modulo `parts`."""
    key_K = np.unique(id_keys(block.filter(block.column("reason").is_null())))
    found = [key_K[key_K % np.uint64(parts) == part] for part in range(parts)]
    return found if parts > 1 else found[0]


@ray.remote
def _contested(*keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Keys that more than one bucket has."""
    distinct, count = np.unique(np.concatenate(keys), return_counts=True)
    return distinct[count > 1]


@ray.remote
def _apart(parts: int, contested: NDArray[np.uint64], block: pa.Table) -> list[pa.Table]:
    """[rows whose ids no other bucket has, rows with contested ids by key modulo `parts`]."""
    key_N = id_keys(block)
    at_N = np.minimum(np.searchsorted(contested, key_N), len(contested) - 1)
    clean_N = block.column("reason").is_null().to_numpy()
    mine_N = (contested[at_N] != key_N) | ~clean_N
    part_N = np.where(mine_N, 0, 1 + (key_N % np.uint64(parts)).astype(np.int64))
    return [block.filter(pa.array(part_N == part)) for part in range(1 + parts)]


@ray.remote
def _settled_split(buckets: int, *parts: pa.Table) -> list[pa.Table] | pa.Table:
    return by_number(settle_ids(_whole(parts)), "bucket", buckets)


def by_number(block: pa.Table, column: str, count: int) -> list[pa.Table] | pa.Table:
    """The rows with each of the numbers 0 to `count` - 1 in an integer column, as tables of their own (the one table, where `count` is 1)."""
    number_N = block.column(column).to_numpy()
    order = np.argsort(number_N, kind="stable")
    ends = np.searchsorted(number_N[order], np.arange(count + 1))
    parts = [block.take(pa.array(order[ends[n] : ends[n + 1]])) for n in range(count)]
    return parts if count > 1 else parts[0]


def _whole(parts: tuple[pa.Table, ...]) -> pa.Table:
    filled = [part.cast(CLEANED) for part in parts if part.num_rows]
    return pa.concat_tables([CLEANED.empty_table(), *filled]).combine_chunks()
