"""Everything that is made of whole users, bucket by bucket: the second pass of the build.

Buckets for which nothing changed since the last build are taken as they are (`kept_buckets.py`); the others are built and kept.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from clm_ray.data.assets import file_digest
from clm_ray.data.bucket import BucketBuilder
from clm_ray.data.bucket_figures import Frame, bucket_figures
from clm_ray.data.bucket_files import BucketFiles
from clm_ray.data.bucket_result import BucketResult
from clm_ray.data.buckets import part
from clm_ray.data.columns import rows_to_table
from clm_ray.data.feature_sample import FeatureSample
from clm_ray.data.kept_buckets import PARTS, Dependencies, KeptBuckets
from clm_ray.data.span_tasks import in_tasks, shared_by_all
from clm_ray.schema import EVENTS, REFERENCES

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
        out = []
        for bucket in pc.unique(block.column("bucket")).to_pylist():
            whole = block.filter(pc.equal(block.column("bucket"), bucket)).drop_columns(["bucket"])
            whole = whole.sort_by([("user_id", "ascending"), ("timestamp", "ascending"), ("event_id", "ascending")])
            out.append(pickle.dumps((bucket, *_bucket(whole, bucket, shared, building, kept))))
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
            with BucketFiles(building, bucket) as files:
                files.write_interactions(BucketResult())
            _write_references(building, bucket, BucketResult())
    results = [done[bucket][0] for bucket in sorted(done)]
    keys = {bucket: done[bucket][1] for bucket in sorted(done)}
    return BuiltBuckets(results, sample, keys, sum(taken for *_, taken in done.values()))


def _bucket(
    events: pa.Table, bucket: int, shared: ray.ObjectRef, building: Path, kept: KeptBuckets
) -> tuple[BucketResult, str, bool]:
    """(result, key, whether it was kept) of one bucket, whose files are written."""
    dependencies, frame = shared_by_all(shared)
    builder, parts = dependencies.builder, [building / name / part(bucket) for name in PARTS]
    key = dependencies.key(events, digest=file_digest(_write_events(building, bucket, events)))
    if (found := kept.find(key)) is not None:
        found.put(parts)
        result = found.result()
        result.references = builder.test_references(events)
    else:
        result = _built(events, bucket, shared, building)
        references, result.references = result.references, []
        kept.keep(key, result, bucket=bucket, buckets=builder.recipe.sequences.buckets, parts=parts)
        result.references = references
    _write_references(building, bucket, result)
    result.figures = bucket_figures(events, result.figures, frame=frame)
    result.references = []
    return result, key, found is not None


def _built(events: pa.Table, bucket: int, shared: ray.ObjectRef, building: Path) -> BucketResult:
    """What the bucket gives beside its rows, which are written."""
    builder = shared_by_all(shared)[0].builder
    with BucketFiles(building, bucket) as files:
        result = builder.build(events, take=files.take, run=in_tasks(shared, files))
        files.write_interactions(result)
    result.interactions, result.figures = [], files.figures.figures()
    return result


def _write_events(building: Path, bucket: int, events: pa.Table) -> Path:
    path = building / "events" / part(bucket)
    pq.write_table(events.cast(_EVENTS), path, compression="zstd", row_group_size=EVENTS_ROW_GROUP)
    return path


def _write_references(building: Path, bucket: int, result: BucketResult) -> None:
    table = rows_to_table(result.references, REFERENCES)
    pq.write_table(table, building / "references" / part(bucket), compression="zstd")
