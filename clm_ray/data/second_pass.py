"""Everything that is made of whole users, bucket by bucket: the second pass of the build.

Buckets for which nothing changed since the last build are taken as they are (`kept_buckets.py`); the others are built and kept.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from clm_ray.data.assets import file_digest
from clm_ray.data.bucket import BucketBuilder, BucketResult
from clm_ray.data.bucket_figures import Frame, bucket_figures, window_figures
from clm_ray.data.buckets import part
from clm_ray.data.columns import rows_to_table
from clm_ray.data.feature_sample import FeatureSample
from clm_ray.data.kept_buckets import PARTS, Dependencies, KeptBuckets
from clm_ray.schema import EVENTS, IMPRESSIONS, INTERACTIONS, REFERENCES, SEQUENCES

EVENTS_ROW_GROUP = 64_000
_EVENTS = pa.schema([*EVENTS, pa.field("item", pa.int32(), nullable=False)])


@dataclass(frozen=True)
class BuiltBuckets:
    """Results by bucket, without what stands in files, and the sample of all of them. `keys`: bucket → the key under which it is kept, of buckets
    with events. `taken`: how many were taken as they were."""

    results: list[BucketResult]
    sample: FeatureSample
    keys: dict[int, str]
    taken: int


def build_buckets(
    events: ray.data.Dataset, builder: BucketBuilder, building: Path, kept: KeptBuckets, *, frame: Frame
) -> BuiltBuckets:
    """Write the parts of every bucket below `building`. `events`: whole buckets in a block."""
    shared = ray.put((Dependencies.of(builder), frame))

    def build(block: pa.Table) -> pa.Table:
        dependencies, frame = _shared(shared)
        out = []
        for bucket in pc.unique(block.column("bucket")).to_pylist():
            whole = block.filter(pc.equal(block.column("bucket"), bucket)).drop_columns(["bucket"])
            whole = whole.sort_by([("user_id", "ascending"), ("timestamp", "ascending"), ("event_id", "ascending")])
            out.append(pickle.dumps((bucket, *_bucket(whole, bucket, dependencies, building, kept, frame))))
        return pa.table({"result": pa.array(out, pa.binary())})

    done: dict[int, tuple[BucketResult, str, bool]] = {}
    sample = FeatureSample()
    # One after the other: a bucket brings as many rows to choose features by as all buckets keep in the end.
    for row in events.map_batches(build, batch_format="pyarrow", batch_size=None).iter_rows():
        bucket, result, key, taken = pickle.loads(row["result"])
        sample, result.sample = sample.joined(result.sample), FeatureSample()
        done[bucket] = result, key, taken
    for bucket in range(builder.recipe.sequences.buckets):
        if bucket not in done:
            _write_events(building, bucket, _EVENTS.empty_table())
            _write_rows(building, bucket, BucketResult())
            _write_references(building, bucket, BucketResult())
    results = [done[bucket][0] for bucket in sorted(done)]
    keys = {bucket: done[bucket][1] for bucket in sorted(done)}
    return BuiltBuckets(results, sample, keys, sum(taken for *_, taken in done.values()))


@lru_cache(maxsize=1)
def _shared(reference: ray.ObjectRef) -> tuple[Dependencies, Frame]:
    """Fetched once per process: what it remembers of each day serves the buckets that come after."""
    found: tuple[Dependencies, Frame] = ray.get(reference)
    return found


def _bucket(
    events: pa.Table, bucket: int, dependencies: Dependencies, building: Path, kept: KeptBuckets, frame: Frame
) -> tuple[BucketResult, str, bool]:
    """(result, key, whether it was kept) of one bucket, whose files are written."""
    builder, parts = dependencies.builder, [building / name / part(bucket) for name in PARTS]
    key = dependencies.key(events, digest=file_digest(_write_events(building, bucket, events)))
    if (found := kept.find(key)) is not None:
        found.put(parts)
        result = found.result()
        result.references = builder.test_references(events)
    else:
        result = builder.build(events)
        _write_rows(building, bucket, result)
        result.figures = window_figures(result.windows)
        result.windows, result.interactions, result.impressions = [], [], []
        references, result.references = result.references, []
        kept.keep(key, result, bucket=bucket, buckets=builder.recipe.sequences.buckets, parts=parts)
        result.references = references
    _write_references(building, bucket, result)
    result.figures = bucket_figures(events, result.figures, frame=frame)
    result.references = []
    return result, key, found is not None


def _write_events(building: Path, bucket: int, events: pa.Table) -> Path:
    path = building / "events" / part(bucket)
    pq.write_table(events.cast(_EVENTS), path, compression="zstd", row_group_size=EVENTS_ROW_GROUP)
    return path


def _write_rows(building: Path, bucket: int, result: BucketResult) -> None:
    windows = rows_to_table(result.windows, SEQUENCES)
    pq.write_table(
        windows, building / "sequences" / part(bucket), compression="zstd", row_group_size=256, use_dictionary=False
    )
    pq.write_table(_interactions(result), building / "interactions" / part(bucket), compression="zstd")
    write_impressions(building / "impressions" / part(bucket), rows_to_table(result.impressions, IMPRESSIONS))


def write_impressions(path: Path, rows: pa.Table) -> None:
    """Write a part of impressions (schema.IMPRESSIONS, in any order) anew: a file that stands there may be kept under another name too."""
    ordered = rows.sort_by([("user_id", "ascending"), ("time", "ascending"), ("kind", "ascending")])
    path.unlink(missing_ok=True)
    pq.write_table(ordered.combine_chunks(), path, compression="zstd")


def _write_references(building: Path, bucket: int, result: BucketResult) -> None:
    table = rows_to_table(result.references, REFERENCES)
    pq.write_table(table, building / "references" / part(bucket), compression="zstd")


def _interactions(result: BucketResult) -> pa.Table:
    users = np.repeat(
        np.array([u for u, *_ in result.interactions], object), [len(items) for _, items, _, _ in result.interactions]
    )
    columns = [
        np.concatenate([row[n] for row in result.interactions]) if result.interactions else np.empty(0)
        for n in (1, 2, 3)
    ]
    return pa.table([pa.array(users, pa.string()), *(pa.array(c) for c in columns)], names=INTERACTIONS.names).cast(
        INTERACTIONS
    )
