"""Events in Parquet files → one row per user with lists in order of time: on Ray, or with Polars. Run by `benchmarks.data`.

python benchmarks/sequences.py ours|polars PARTITIONS FILE ...     prints seconds and the number of users
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence

COLUMNS = ["user_id", "item_id", "event_type", "timestamp", "value"]
TEXTS = COLUMNS[:3]


def polars_sequences(files: Sequence[str]) -> tuple[float, int]:
    """Sort, group, collect, in one process with all its threads."""
    import polars as pl

    began = time.perf_counter()
    frame = pl.scan_parquet(list(files)).select(COLUMNS).sort("timestamp").group_by("user_id", maintain_order=True)
    found = frame.agg(pl.col(COLUMNS).exclude("user_id")).collect()
    return time.perf_counter() - began, len(found)


def ray_sequences(files: Sequence[str], partitions: int) -> tuple[float, int]:
    """Read and split by the user's bucket, then sort and cut each bucket; the lists stay in Ray's object store."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import ray

    from clm_ray.data.buckets import bucket_of
    from clm_ray.data.settle import by_number

    @ray.remote(num_returns=partitions)
    def split(path: str) -> list[pa.Table]:
        table = pq.read_table(path, columns=COLUMNS, read_dictionary=TEXTS, partitioning=None, use_threads=False)
        table = table.combine_chunks()
        table = table.append_column("bucket", pa.array(bucket_of(table.column("user_id"), partitions)))
        return by_number(table, "bucket", partitions)

    @ray.remote
    def sequences(*parts: pa.Table) -> pa.Table:
        table = pa.concat_tables(parts).unify_dictionaries().combine_chunks()
        users = table.column("user_id").chunk(0)
        user_N = users.indices.to_numpy()
        order = np.lexsort((table.column("timestamp").cast(pa.int64()).to_numpy(), user_N))
        table = table.take(pa.array(order))
        first_N = np.flatnonzero(np.diff(user_N[order], prepend=-1))
        offsets = pa.array([*first_N.tolist(), len(order)], pa.int32())
        columns = {name: table.column(name).chunk(0) for name in COLUMNS[1:]}
        plain = {name: column.cast(pa.string()) if name in TEXTS else column for name, column in columns.items()}
        lists = {name: pa.ListArray.from_arrays(offsets, column) for name, column in plain.items()}
        return pa.table({"user_id": users.take(pa.array(order[first_N])).cast(pa.string()), **lists})

    @ray.remote
    def ready() -> None:
        time.sleep(0.2)

    ray.init(address="local", logging_level=logging.ERROR, log_to_driver=False)
    # Workers that have imported Arrow, as Polars has its threads: neither's start is measured.
    ray.get([split.remote(files[0])[0] for _ in range(2)] + [ready.remote() for _ in range(4)])
    began = time.perf_counter()
    parts = [split.remote(path) for path in files]
    found = [sequences.remote(*(part[b] for part in parts)) for b in range(partitions)]
    ray.wait(found, num_returns=len(found), fetch_local=False)
    taken = time.perf_counter() - began
    return taken, sum(len(table) for table in ray.get(found))


if __name__ == "__main__":
    which, count, *paths = sys.argv[1:]
    print(*(polars_sequences(paths) if which == "polars" else ray_sequences(paths, int(count))))
