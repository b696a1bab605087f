"""From a clean log to a dataset folder: the second half of `prepare`.

    log, whole buckets per block ─ item rows ─┬─ daily item sums ─▶ dated statistics, split cuts   (pass 1)
                                              └─ whole users ─▶ sequences, impressions, ...         (pass 2)

Everything is written to a hidden folder, the manifest last; then the folder gets its name and CURRENT points to it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Sequence
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
from clm_ray.data.bucket import BucketBuilder
from clm_ray.data.bucket_figures import add_up, frame_of
from clm_ray.data.bucket_files import write_impressions
from clm_ray.data.bucket_sums import base_rates, probability_correction, scales
from clm_ray.data.buckets import bucket_of, part
from clm_ray.data.columns import rows_to_table
from clm_ray.data.evaluation_sample import drawn, impression_rows, sample_digest, with_candidates
from clm_ray.data.feature_sample import FeatureSample, SampledUser
from clm_ray.data.first_pass import summarise_log
from clm_ray.data.kept_buckets import KeptBuckets
from clm_ray.data.life_counts import count_lives
from clm_ray.data.log import Log
from clm_ray.data.manifest import MANIFEST, write_manifest
from clm_ray.data.neighbours import build_neighbours, neighbours_of, sliced_opinions
from clm_ray.data.occasions import OccasionSource
from clm_ray.data.popularity import PopularityDraw
from clm_ray.data.references import reference_times
from clm_ray.data.report.figures import Figures, make_figures
from clm_ray.data.report.short import DataReport, make_report
from clm_ray.data.second_pass import build_buckets
from clm_ray.data.slots import SlotTable
from clm_ray.data.splits import plan_splits
from clm_ray.data.tally import Tally
from clm_ray.data.user_neighbours import write_user_neighbours
from clm_ray.errors import DataError
from clm_ray.features.catalogue import Catalogue
from clm_ray.features.events import EventVocabulary
from clm_ray.features.selection import select
from clm_ray.features.spec import FeatureSource, FeatureSpec, click_feature_names, retention_feature_names
from clm_ray.features.statistics import STATISTICS, ItemStatistics
from clm_ray.lifecycle.stages import learn_thresholds
from clm_ray.privacy import open_pseudonyms
from clm_ray.schema import IMPRESSIONS, ITEM_STATISTICS

Say = Callable[[str], None]
_BUILDING = ".building-"


@dataclass(frozen=True)
class Built:
    """A finished dataset: its folder, manifest and report."""

    folder: Path
    manifest: dict[str, Any]
    report: DataReport


def build_dataset(log: Log, recipe: Recipe, workspace: Workspace, *, say: Say = lambda _: None) -> Built:
    """Build, name and publish the dataset of `log`. Raises DataError where there is nothing to learn from."""
    _remove_leftovers(workspace.datasets)
    building = workspace.datasets / f"{_BUILDING}{socket.gethostname()}-{os.getpid()}"
    shutil.rmtree(building, ignore_errors=True)
    try:
        return _build(log, recipe, workspace, building, say=say)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _remove_leftovers(datasets: Path) -> None:
    """Remove what builds on this machine left behind that were killed."""
    for path in datasets.glob(f"{_BUILDING}*"):
        host, _, process = path.name.removeprefix(_BUILDING).rpartition("-")
        if host == socket.gethostname() and not Path(f"/proc/{process}").exists():
            shutil.rmtree(path, ignore_errors=True)


def _build(log: Log, recipe: Recipe, workspace: Workspace, building: Path, *, say: Say) -> Built:
    for name in ("events", "sequences", "impressions", "references", "interactions"):
        (building / name).mkdir(parents=True)
    events = _with_rows(log)
    vocabulary = EventVocabulary(recipe.event_types)
    say("item statistics and split cuts")
    catalogue = catalogue_of(log.items)
    first_pass = summarise_log(events, vocabulary, rows=recipe.split.protocol != "time")
    plan = plan_splits(
        recipe.split,
        first_pass.labelled,
        log_end=first_pass.log_end + 1,
        activity_end=first_pass.last_activity + 1,
    )
    source = FeatureSource(recipe, vocabulary, catalogue, first_pass.statistics)
    say("item neighbours")
    opinions = sliced_opinions(events, source, recipe.neighbours, log_end=first_pass.log_end)
    neighbours = build_neighbours(opinions, recipe.neighbours)
    if recipe.neighbours.users:
        say("user neighbours")
        parts = [building / "user_neighbours" / part(bucket) for bucket in range(recipe.sequences.buckets)]
        parts[0].parent.mkdir()
        write_user_neighbours(parts, events, opinions, recipe.neighbours)
    source = replace(source, neighbours=neighbours_of(neighbours))
    occasions = OccasionSource(
        recipe.impressions,
        vocabulary,
        SlotTable.build(log.availability, log.items),
        PopularityDraw(first_pass.statistics, recipe.impressions.alpha, recipe.impressions.per_occasion),
        vocabulary.index.get(recipe.serve.impression_event),
        recipe.sequences.seed,
    )
    grid = reference_times(recipe, first_pass.first_activity, first_pass.log_end)
    frame = frame_of(
        vocabulary,
        plan,
        first_us=log.counts.first_us,
        last_us=log.counts.last_us,
        last_activity_us=first_pass.last_activity or None,
        max_context=recipe.sequences.max_context,
    )
    say("user sequences, impressions, retention references")
    builder = BucketBuilder(recipe, source, occasions, plan, grid)
    kept = KeptBuckets(workspace.log / "buckets")
    buckets = build_buckets(events, builder, building, kept, frame=frame)
    results = buckets.results
    if buckets.taken:
        say(f"{buckets.taken} of {recipe.sequences.buckets} buckets are as they were")
    asked = {"positives": sum(r.positives for r in results), "asked_about": sum(r.asked for r in results)}
    spec = _select(buckets.sample, recipe, asked)
    sample = drawn([t for r in results for t in r.test_occasions], recipe.impressions)
    sample = with_candidates(sample, recipe, occasions)
    rows = impression_rows(sample)
    _add_impressions(building, rows, recipe)
    _write_tables(building, log, first_pass.statistics, recipe, spec)
    pq.write_table(neighbours, building / "neighbours.parquet", compression="zstd")
    gaps = Tally.total([r.gaps for r in results])
    thresholds = learn_thresholds(gaps.key_N, gaps.count_N, config=recipe.lifecycle)
    pseudonyms = open_pseudonyms(recipe.privacy)
    content = {
        "pseudonyms": pseudonyms.fingerprint() if pseudonyms else None,
        "log_end_us": first_pass.log_end,
        "train_end_us": plan.train_end,
        "valid_end_us": plan.valid_end,
        "thresholds": asdict(thresholds),
        "test_occasions": sample_digest(sample.shown),
        "catalogue_occasions": sample_digest(sample.catalogue),
        "positives": asked if recipe.impressions.negatives != "explicit" else None,
        "left_out": sum(r.left_out for r in results),
        "base_rates": base_rates(results, rows),
        "scales": scales(results),
        "features": {name: dict(getattr(spec, name).dropped) for name in ("click", "retention")},
        "probability_correction": probability_correction(recipe),
    }
    say("the data report")
    lives = count_lives(building, buckets.keys, kept, vocabulary, thresholds, frame=frame)
    totals = add_up([r.figures for r in results])
    figures = make_figures(
        totals,
        recipe,
        spec,
        thresholds,
        lives,
        frame=frame,
        catalogue=log.items.num_rows - 1,
        min_users=recipe.privacy.min_group,
    )
    built = _finish(building, log, recipe, workspace, content, figures)
    kept.forget(but=buckets.keys.values())
    return built


def catalogue_of(items: pa.Table) -> Catalogue:
    """The catalogue of an ITEMS table; row numbers are those of the table."""
    return Catalogue.build(
        items.column("item_id").to_pylist(), items.column("text").to_pylist(), items.column("categories").to_pylist()
    )


def statistics_of(table: pa.Table) -> ItemStatistics:
    """Item statistics from their ITEM_STATISTICS table."""
    return ItemStatistics(*(table.column(name).to_numpy() for name in STATISTICS))


def _with_rows(log: Log) -> ray.data.Dataset:
    """Events with their item row; `read_log` has left every bucket whole in one block."""
    ids = ray.put(log.items.column("item_id").combine_chunks())

    def add_item(block: pa.Table) -> pa.Table:
        row = pc.index_in(block.column("item_id"), value_set=ray.get(ids)).fill_null(0)
        return block.append_column("item", row.cast(pa.int32()))

    return log.events.map_batches(add_item, batch_format="pyarrow", batch_size=None).materialize()


def _select(sample: FeatureSample, recipe: Recipe, asked: dict[str, int]) -> FeatureSpec:
    def block(users: Sequence[SampledUser], names: tuple[str, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if not users:
            return np.empty((0, len(names)), np.float32), np.empty(0, np.float32)
        return np.concatenate([u.dense_NF for u in users]), np.concatenate([u.label_N for u in users])

    click_names, retention_names = click_feature_names(recipe), retention_feature_names(recipe)
    click = block(sample.click, click_names)
    if asked["positives"] and not asked["asked_about"]:
        raise _nothing_asked(recipe, asked["positives"])
    if not len(click[0]):
        raise DataError(
            "the train split has no targets", field="split", fix="move train_end later, or bring more events"
        )
    for days in sorted(recipe.retention.report_days, reverse=True):
        retention = block(sample.retention.get(days, []), retention_names)
        if len(retention[0]):  # else the train period is shorter than the horizon: a shorter one has to do
            break
    return FeatureSpec(
        click=select(*click, names=click_names, config=recipe.features),
        retention=select(*retention, names=retention_names, config=recipe.features),
    )


def _nothing_asked(recipe: Recipe, positives: int) -> DataError:
    if recipe.impressions.negatives == "availability":
        return DataError(
            f"none of {positives:,} positive events names a known slot in which its item was on offer",
            field="impressions.negatives",
            value="availability",
            fix="map the events' slot and give source.availability, or choose popularity",
        )
    return DataError(
        f"none of {positives:,} positive events has an item with an event on a day before",
        field="impressions.negatives",
        value=recipe.impressions.negatives,
        fix="bring a log of more than one day, or one with explicit negatives",
    )


def _add_impressions(building: Path, rows: list[dict[str, Any]], recipe: Recipe) -> None:
    """Rows of the drawn sample join those of the log in the part of their user."""
    owner = bucket_of([row["user_id"] for row in rows], recipe.sequences.buckets) if rows else np.empty(0, np.int32)
    for bucket in np.unique(owner).tolist():
        path = building / "impressions" / part(bucket)
        mine = rows_to_table([rows[n] for n in np.flatnonzero(owner == bucket)], IMPRESSIONS)
        write_impressions(path, pa.concat_tables([pq.read_table(path, schema=IMPRESSIONS), mine]))


def _write_tables(building: Path, log: Log, statistics: ItemStatistics, recipe: Recipe, spec: FeatureSpec) -> None:
    pq.write_table(log.items, building / "items.parquet", compression="zstd")
    pq.write_table(log.users, building / "users.parquet", compression="zstd")
    pq.write_table(log.quarantine, building / "quarantine.parquet", compression="zstd")
    pq.write_table(
        pa.table(statistics.columns(), schema=ITEM_STATISTICS),
        building / "item_statistics.parquet",
        compression="zstd",
    )
    (building / "features.json").write_text(json.dumps(spec.to_dict(), indent=1), encoding="utf-8")
    (building / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")


def _finish(
    building: Path, log: Log, recipe: Recipe, workspace: Workspace, content: dict[str, Any], figures: Figures
) -> Built:
    report = make_report(
        recipe,
        log,
        base_rates=content["base_rates"],
        positives=content["positives"],
        left_out=content["left_out"],
    )
    _write_report(building, report, figures)
    content = content | {
        "items": log.items.num_rows - 1,
        "users": log.users.num_rows,
        "counts": log.counts.to_dict(),
    }
    manifest = write_manifest(building, recipe=recipe, thresholds=content.pop("thresholds"), content=content)
    folder = workspace.datasets / str(manifest["id"])
    if (folder / MANIFEST).is_file():
        shutil.rmtree(building)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)
    workspace.point("datasets", str(manifest["id"]))
    return Built(folder, manifest, report)


def _write_report(building: Path, report: DataReport, figures: Figures) -> None:
    # matplotlib is loaded where it draws: the tasks of both passes, which import this module, do without.
    from clm_ray.data.report.page import PAGE, render

    (building / "report.json").write_text(report.to_json(), encoding="utf-8")
    (building / "report.md").write_text(report.to_markdown(), encoding="utf-8")
    (building / "report_figures.json").write_text(figures.to_json(), encoding="utf-8")
    (building / PAGE).write_text(render(report, figures), encoding="utf-8")
