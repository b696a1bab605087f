"""From a clean log to a dataset folder: the second half of `prepare`.

    log, whole buckets per block ─ item rows ─┬─ daily item sums ─▶ dated statistics, split cuts   (pass 1)
                                              └─ whole users ─▶ sequences, impressions, ...         (pass 2)

Everything is written to a hidden folder, the manifest last; then the folder gets its name and CURRENT points to it.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from numpy.typing import NDArray

from clm_ray.config.recipe import Recipe
from clm_ray.config.workspace import Workspace
from clm_ray.data.bucket import BucketBuilder, BucketResult, TestOccasion, impression_row, reference_times
from clm_ray.data.buckets import bucket_of
from clm_ray.data.columns import rows_to_table
from clm_ray.data.log import Log
from clm_ray.data.manifest import MANIFEST, write_manifest
from clm_ray.data.occasions import Occasion, OccasionSource
from clm_ray.data.report import DataReport, make_report
from clm_ray.data.slots import SlotTable
from clm_ray.data.splits import plan_splits
from clm_ray.errors import DataError
from clm_ray.features.catalogue import Catalogue
from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History
from clm_ray.features.selection import select
from clm_ray.features.spec import FeatureSource, FeatureSpec, click_feature_names, retention_feature_names
from clm_ray.features.statistics import ItemStatistics
from clm_ray.lifecycle.stages import learn_thresholds
from clm_ray.schema import DAY_US, EVENTS, IMPRESSIONS, INTERACTIONS, ITEM_STATISTICS, REFERENCES, SEQUENCES

Say = Callable[[str], None]
EVENTS_ROW_GROUP = 64_000
_EVENTS = pa.schema([*EVENTS, pa.field("item", pa.int32(), nullable=False)])


@dataclass(frozen=True)
class Built:
    """A finished dataset: its folder, manifest and report."""

    folder: Path
    manifest: dict[str, Any]
    report: DataReport


def build_dataset(log: Log, recipe: Recipe, workspace: Workspace, *, say: Say = lambda _: None) -> Built:
    """Build, name and publish the dataset of `log`. Raises DataError where there is nothing to learn from."""
    building = workspace.datasets / f".building-{os.getpid()}"
    shutil.rmtree(building, ignore_errors=True)
    for name in ("events", "sequences", "impressions", "references", "interactions"):
        (building / name).mkdir(parents=True)
    events = _with_rows(log)
    vocabulary = EventVocabulary(recipe.event_types)
    say("item statistics and split cuts")
    catalogue = catalogue_of(log.items)
    first_pass = _first_pass(events, vocabulary)
    plan = plan_splits(recipe.split, first_pass.labelled, log_end=first_pass.log_end + 1)
    source = FeatureSource(recipe, vocabulary, catalogue, first_pass.statistics)
    occasions = OccasionSource(
        recipe.impressions,
        vocabulary,
        SlotTable.build(log.availability, log.items),
        first_pass.statistics,
        vocabulary.index.get(recipe.serve.impression_event),
        recipe.sequences.seed,
    )
    grid = reference_times(recipe, first_pass.first_activity, first_pass.log_end)
    say("user sequences, impressions, retention references")
    results = _second_pass(
        events, BucketBuilder(recipe, source, occasions, plan, grid), building, buckets=recipe.sequences.buckets
    )
    spec = _select(results, recipe)
    sample = _test_sample(results, recipe, occasions)
    _write_impressions(building, results, sample, recipe)
    _write_tables(building, log, first_pass.statistics, recipe, spec)
    thresholds = learn_thresholds(
        np.concatenate([np.empty(0, np.float32), *(g for r in results for g in r.gaps)]), config=recipe.lifecycle
    )
    content = {
        "log_end_us": first_pass.log_end,
        "train_end_us": plan.train_end,
        "valid_end_us": plan.valid_end,
        "thresholds": asdict(thresholds),
        "test_occasions": {"count": len(sample), "digest": _digest_of(sample)},
        "base_rates": _rates(results, sample),
        "features": {name: dict(getattr(spec, name).dropped) for name in ("click", "retention")},
        "probability_correction": _correction(recipe),
    }
    return _finish(building, log, recipe, workspace, content)


def catalogue_of(items: pa.Table) -> Catalogue:
    """The catalogue of an ITEMS table; row numbers are those of the table."""
    return Catalogue.build(
        items.column("item_id").to_pylist(), items.column("text").to_pylist(), items.column("categories").to_pylist()
    )


def statistics_of(table: pa.Table) -> ItemStatistics:
    """Item statistics from their ITEM_STATISTICS table."""
    return ItemStatistics(*(table.column(name).to_numpy() for name in ("item", "day", "events", "positives", "total")))


def _with_rows(log: Log) -> ray.data.Dataset:
    """Events with their item row; `read_log` has left every bucket whole in one block."""
    ids = ray.put(log.items.column("item_id").combine_chunks())

    def add_item(block: pa.Table) -> pa.Table:
        row = pc.index_in(block.column("item_id"), value_set=ray.get(ids)).fill_null(0)
        return block.append_column("item", row.cast(pa.int32()))

    return log.events.map_batches(add_item, batch_format="pyarrow", batch_size=None).materialize()


@dataclass(frozen=True)
class _FirstPass:
    statistics: ItemStatistics
    labelled: pa.Table
    first_activity: int
    log_end: int


def _first_pass(events: ray.data.Dataset, vocabulary: EventVocabulary) -> _FirstPass:
    def summarise(block: pa.Table) -> pa.Table:
        return pa.table({"summary": pa.array([pickle.dumps(_summarise(block, vocabulary))], pa.binary())})

    rows = events.map_batches(summarise, batch_format="pyarrow", batch_size=None).take_all()
    parts = [pickle.loads(row["summary"]) for row in rows]
    parts = [p for p in parts if p["rows"]]
    if not parts:
        raise DataError("no event is left after cleaning", field="source", fix="look into the quarantine folder")
    daily = (
        pa.concat_tables([p["daily"] for p in parts])
        .group_by(["item", "day"])
        .aggregate([("events", "sum"), ("positives", "sum"), ("total", "sum")])
    )
    statistics = ItemStatistics.from_daily(
        daily.column("item").to_numpy(),
        daily.column("day").to_numpy(),
        *(daily.column(f"{name}_sum").to_numpy() for name in ("events", "positives", "total")),
    )
    labelled = pa.concat_tables([p["labelled"] for p in parts])
    if not labelled.num_rows:
        raise DataError(
            "no event carries a label", field="event_types", fix="give a type the role positive, or positive_from"
        )
    first = [p["first_activity"] for p in parts if p["first_activity"] is not None]
    return _FirstPass(statistics, labelled, min(first) if first else 0, max(p["last"] for p in parts))


def _summarise(block: pa.Table, vocabulary: EventVocabulary) -> dict[str, Any]:
    """Daily sums per item, labelled rows, first activity and last event of one block."""
    if not block.num_rows:
        return {"rows": 0}
    code = pc.index_in(block.column("event_type"), value_set=pa.array(vocabulary.names)).to_numpy().astype(np.int16)
    time = block.column("timestamp").cast(pa.int64()).to_numpy()
    value = block.column("value").to_numpy(zero_copy_only=False).astype(np.float32)
    rows = History(block.column("item").to_numpy().astype(np.int32), code, value, time)
    label = vocabulary.labels(rows)
    known = ~np.isnan(label)
    daily = pa.table(
        {
            "item": rows.item_N[known],
            "day": (time[known] // DAY_US).astype(np.int32),
            "events": np.ones(int(known.sum())),
            "positives": label[known].astype(np.float64),
            "total": np.nan_to_num(value[known]).astype(np.float64),
        }
    ).group_by(["item", "day"])
    sums = daily.aggregate([("events", "sum"), ("positives", "sum"), ("total", "sum")])
    active = time[vocabulary.is_activity(rows)]
    return {
        "rows": block.num_rows,
        "daily": sums.rename_columns([n.removesuffix("_sum") for n in sums.column_names]),
        "labelled": block.filter(pa.array(known)).select(["timestamp", "user_id", "item_id"]),
        "first_activity": int(active.min()) if len(active) else None,
        "last": int(time.max()),
    }


def _second_pass(
    events: ray.data.Dataset, builder: BucketBuilder, building: Path, *, buckets: int
) -> list[BucketResult]:
    shared = ray.put(builder)

    def build(block: pa.Table) -> pa.Table:
        mine: BucketBuilder = ray.get(shared)
        out = []
        for bucket in pc.unique(block.column("bucket")).to_pylist():
            whole = block.filter(pc.equal(block.column("bucket"), bucket)).drop_columns(["bucket"])
            whole = whole.sort_by([("user_id", "ascending"), ("timestamp", "ascending"), ("event_id", "ascending")])
            result = mine.build(whole)
            _write_bucket(building, bucket, whole, result)
            result.windows, result.references, result.interactions = [], [], []
            out.append(pickle.dumps((bucket, result)))
        return pa.table({"result": pa.array(out, pa.binary())})

    rows = events.map_batches(build, batch_format="pyarrow", batch_size=None).take_all()
    done = dict(pickle.loads(row["result"]) for row in rows)
    for bucket in range(buckets):
        if bucket not in done:
            _write_bucket(building, bucket, _EVENTS.empty_table(), BucketResult())
    return [done[bucket] for bucket in sorted(done)]


def part(bucket: int) -> str:
    """File name of a bucket's part."""
    return f"part-{bucket:05d}.parquet"


def _write_bucket(building: Path, bucket: int, events: pa.Table, result: BucketResult) -> None:
    events = events.cast(_EVENTS)
    pq.write_table(events, building / "events" / part(bucket), compression="zstd", row_group_size=EVENTS_ROW_GROUP)
    windows = rows_to_table(result.windows, SEQUENCES)
    pq.write_table(
        windows, building / "sequences" / part(bucket), compression="zstd", row_group_size=256, use_dictionary=False
    )
    pq.write_table(
        rows_to_table(result.references, REFERENCES), building / "references" / part(bucket), compression="zstd"
    )
    pq.write_table(_interactions(result), building / "interactions" / part(bucket), compression="zstd")


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


def _select(results: list[BucketResult], recipe: Recipe) -> FeatureSpec:
    def block(name: str, names: tuple[str, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        parts = [p for r in results for p in getattr(r, name) if len(p[1])]
        if not parts:
            return np.empty((0, len(names)), np.float32), np.empty(0, np.float32)
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    click_names, retention_names = click_feature_names(recipe), retention_feature_names(recipe)
    click = block("click_sample", click_names)
    if not len(click[0]):
        raise DataError(
            "the train split has no targets", field="split", fix="move train_end later, or bring more events"
        )
    retention = block("retention_sample", retention_names)
    return FeatureSpec(
        click=select(*click, names=click_names, config=recipe.features),
        retention=select(*retention, names=retention_names, config=recipe.features),
    )


def _test_sample(results: list[BucketResult], recipe: Recipe, occasions: OccasionSource) -> list[TestOccasion]:
    """The fixed sample of test occasions: those with the smallest stable hash."""
    found = sorted((t for r in results for t in r.test_occasions), key=lambda t: (t.rank, t.user_id, t.occasion.time))
    chosen = found[: max(recipe.impressions.test_occasions, recipe.impressions.catalogue_occasions)]
    if recipe.impressions.negatives == "explicit":
        return chosen
    return [TestOccasion(t.rank, t.user_id, _with_candidates(t, recipe, occasions)) for t in chosen]


def _with_candidates(test: TestOccasion, recipe: Recipe, occasions: OccasionSource) -> Occasion:
    """The occasion with everything that was on offer, or with popular items drawn where the log does not say."""
    o = test.occasion
    if o.slot is not None:
        return replace(o, shown_C=occasions.slots.items(o.slot))
    rng = np.random.default_rng([recipe.sequences.seed, test.rank])
    others = occasions.draw_popular(o, count=recipe.impressions.test_negatives, rng=rng)
    return replace(o, shown_C=np.concatenate([o.taken, others]))


def _write_impressions(building: Path, results: list[BucketResult], sample: list[TestOccasion], recipe: Recipe) -> None:
    rows: list[dict[str, Any]] = [row for r in results for row in r.impressions]
    for test in sample[: recipe.impressions.test_occasions]:
        o = test.occasion
        if o.labels_C is None and o.shown_C is not None:
            rows.append(
                impression_row(test.user_id, o, o.shown_C, np.isin(o.shown_C, o.taken).astype(np.float32), kind="shown")
            )
    for test in sample[: recipe.impressions.catalogue_occasions]:
        o = test.occasion
        if len(o.chosen):
            labels = np.ones(len(o.chosen), np.float32)
            rows.append(impression_row(test.user_id, o, o.chosen, labels, kind="catalogue"))
    bucket = bucket_of([row["user_id"] for row in rows], recipe.sequences.buckets) if rows else np.empty(0, np.int32)
    rows_by = sorted(zip(bucket, rows, strict=True), key=lambda p: (p[0], p[1]["user_id"], p[1]["time"], p[1]["kind"]))
    for b in range(recipe.sequences.buckets):
        table = rows_to_table([row for owner, row in rows_by if owner == b], IMPRESSIONS)
        pq.write_table(table, building / "impressions" / part(b), compression="zstd")


def _write_tables(building: Path, log: Log, statistics: ItemStatistics, recipe: Recipe, spec: FeatureSpec) -> None:
    pq.write_table(log.items, building / "items.parquet", compression="zstd")
    pq.write_table(log.users, building / "users.parquet", compression="zstd")
    pq.write_table(log.quarantine, building / "quarantine.parquet", compression="zstd")
    arrays = [statistics.item_K, statistics.day_K, statistics.events_K, statistics.positives_K, statistics.total_K]
    pq.write_table(
        pa.Table.from_arrays([pa.array(a) for a in arrays], schema=ITEM_STATISTICS),
        building / "item_statistics.parquet",
        compression="zstd",
    )
    (building / "features.json").write_text(json.dumps(spec.to_dict(), indent=1), encoding="utf-8")
    (building / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")


def _rates(results: list[BucketResult], sample: list[TestOccasion]) -> dict[str, Any]:
    rates: dict[str, Any] = {}
    for split in ("train", "valid"):
        sums = np.sum([r.rates.get(split, [0.0, 0.0, 0.0]) for r in results], axis=0)
        rows, positives, offsets = (float(x) for x in sums)
        rates[split] = {
            "targets": int(rows),
            "positives": int(positives),
            "rate": positives / rows if rows else None,
            "mean_offset": offsets / rows if rows else 0.0,
        }
    explicit = [row for r in results for row in r.impressions]
    shown = [o.occasion for o in sample if o.occasion.shown_C is not None] if not explicit else []
    rows = sum(len(row["item"]) for row in explicit) + sum(len(o.shown_C) for o in shown if o.shown_C is not None)
    positives = sum(float(row["label"].sum()) for row in explicit) + sum(len(o.taken) for o in shown)
    rates["test"] = {"targets": int(rows), "positives": int(positives), "rate": positives / rows if rows else None}
    return rates


def _digest_of(sample: list[TestOccasion]) -> str:
    text = "\n".join(f"{t.user_id}\t{t.occasion.time}\t{t.occasion.kind}" for t in sample)
    return hashlib.sha256(text.encode()).hexdigest()


def _correction(recipe: Recipe) -> str:
    if recipe.impressions.negatives == "explicit":
        return "none needed: negatives are logged"
    if recipe.impressions.negatives == "availability":
        return "logit offset -log(kept share of the negatives), in training only; probabilities are per item on offer"
    return (
        f"none possible: probabilities are relative to {recipe.impressions.per_occasion} popular negatives per occasion"
    )


def _finish(building: Path, log: Log, recipe: Recipe, workspace: Workspace, content: dict[str, Any]) -> Built:
    report = make_report(recipe, log, base_rates=content["base_rates"])
    (building / "report.json").write_text(report.to_json(), encoding="utf-8")
    (building / "report.md").write_text(report.to_markdown(), encoding="utf-8")
    manifest = write_manifest(building, recipe=recipe, log=log, content=content)
    folder = workspace.datasets / str(manifest["id"])
    if (folder / MANIFEST).is_file():
        shutil.rmtree(building)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)
    workspace.point("datasets", str(manifest["id"]))
    return Built(folder, manifest, report)
