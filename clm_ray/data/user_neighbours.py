"""User-to-user neighbours per slice of time, an option (`neighbours.users`): who shares the opinions of whom.

    opinions by block (data/neighbours.py) ─▶ one Ray task per bucket: its users against all, slice by slice ─▶ user_neighbours/part-B.parquet

The same relations, slices and similarity as those of the items, with users for items: cosine over all items of a user, shrunk by the items
that both know. Rows go to the part of the user's bucket, written by the task that found them: no process ever holds all of them.

Shape letters: E pairs, U users.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from numpy.typing import NDArray

from clm_ray.config.data import NeighboursConfig
from clm_ray.data.buckets import stable_hash64
from clm_ray.data.cosine import nearest_rows
from clm_ray.data.neighbours import SlicedOpinions, opinion_matrix, opinions_before
from clm_ray.schema import USER_NEIGHBOURS

_ENDS = b"ends"


@dataclass(frozen=True)
class UserIds:
    """Every user of the log. `hash_U`: stable hash, rising; `id_U`: the id of each."""

    hash_U: NDArray[np.uint64]
    id_U: pa.Array

    @staticmethod
    def of(ids: pa.Array) -> UserIds:
        """From the distinct ids in any order."""
        hash_U = stable_hash64(ids)
        order = np.argsort(hash_U)
        return UserIds(hash_U[order], ids.take(pa.array(order)))

    def named(self, hash_E: NDArray[np.uint64]) -> pa.Array:
        """The ids that hashes stand for."""
        return self.id_U.take(pa.array(np.searchsorted(self.hash_U, hash_E)))


def write_user_neighbours(
    paths: list[Path], events: ray.data.Dataset, opinions: SlicedOpinions, config: NeighboursConfig
) -> None:
    """Write schema.USER_NEIGHBOURS by bucket: `paths` are the parts of all buckets, in order. `events`: whole users in a block."""

    def distinct(block: pa.Table) -> pa.Table:
        return pa.table({"user_id": pc.unique(block.column("user_id"))})

    found = events.map_batches(distinct, batch_format="pyarrow", batch_size=None).to_arrow_refs()
    ids = pa.concat_tables(ray.get(found)).column("user_id").combine_chunks()
    users = ray.put(UserIds.of(ids.cast(pa.string())))
    asked = replace(opinions, blocks=[])
    ray.get([_write.remote(n, paths, asked, config, users, *opinions.blocks) for n in range(len(paths))])


@ray.remote
def _write(
    bucket: int, paths: list[Path], asked: SlicedOpinions, config: NeighboursConfig, users: UserIds, *blocks: pa.Table
) -> None:
    schema = USER_NEIGHBOURS.with_metadata({_ENDS: json.dumps(asked.ends).encode()})
    with pq.ParquetWriter(paths[bucket], schema, compression="zstd") as writer:
        for relation in asked.relations:
            for end in asked.ends:
                known = opinions_before(end, blocks)
                found = similar_users(
                    known, users, relation=relation, end=end, config=config, bucket=bucket, buckets=len(paths)
                )
                writer.write_table(found.replace_schema_metadata(schema.metadata))


def ends_of(path: Path) -> NDArray[np.int64]:
    """When the slices of a part end, those in which nobody of the bucket has a neighbour included."""
    return np.array(json.loads(pq.read_schema(path).metadata[_ENDS]), np.int64)


def similar_users(
    opinions: pa.Table,
    users: UserIds,
    *,
    relation: int,
    end: int,
    config: NeighboursConfig,
    bucket: int = 0,
    buckets: int = 1,
) -> pa.Table:
    """schema.USER_NEIGHBOURS of the users of one bucket: the `config.users` nearest of each, of equal ones those of the smaller hash.

    User-based collaborative filtering (Herlocker et al., "An algorithmic framework for performing collaborative filtering", 1999:
    neighbours, and significance weighting by what they have in common), over residuals or choices. Sorted by user, neighbour.
    """
    matrix = opinion_matrix(opinions, relation=relation, config=config)
    pairs = nearest_rows(
        matrix.value_UI,
        top=config.users,
        min_common=config.min_users,
        shrinkage=config.shrinkage,
        asked=np.flatnonzero(matrix.user_U % np.uint64(buckets) == bucket),
    )
    columns = [
        pa.array(np.full(len(pairs.row_E), relation, np.int8)),
        pa.array(np.full(len(pairs.row_E), end, np.int64)),
        users.named(matrix.user_U[pairs.row_E]),
        users.named(matrix.user_U[pairs.other_E]),
        pa.array(pairs.similarity_E.astype(np.float32)),
    ]
    table = pa.Table.from_arrays(columns, schema=USER_NEIGHBOURS)
    return table.sort_by([("user_id", "ascending"), ("neighbour_id", "ascending")])
