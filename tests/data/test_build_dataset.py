"""The build on Ray Data: from the tiny shop's files to a finished dataset folder."""

from __future__ import annotations

import copy
import datetime as dt
import json
import re
import shutil
import socket
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import ray
from shop import START, write_shop

from clm_ray.config.recipe import Recipe, load_recipe, recipe_from
from clm_ray.config.workspace import Workspace
from clm_ray.data import build
from clm_ray.data.assets import file_digest
from clm_ray.data.bucket import BucketBuilder
from clm_ray.data.buckets import bucket_of
from clm_ray.data.build import Built, build_dataset
from clm_ray.data.columns import ragged
from clm_ray.data.feature_sample import FeatureSample, SampledUser
from clm_ray.data.log import Log, read_log
from clm_ray.data.manifest import MANIFEST, read_manifest
from clm_ray.data.neighbours import neighbours_of
from clm_ray.data.spans import cuts_of
from clm_ray.data.user_neighbours import ends_of
from clm_ray.errors import DataError
from clm_ray.features.events import EventVocabulary
from clm_ray.features.spec import FeatureSource, click_feature_names, retention_feature_names
from clm_ray.schema import (
    AVAILABILITY,
    DAY_US,
    EVENTS,
    IMPRESSIONS,
    INTERACTIONS,
    ITEM_STATISTICS,
    ITEMS,
    NEIGHBOURS,
    REFERENCES,
    SEQUENCES,
    TEST,
    TRAIN,
    USER_NEIGHBOURS,
    USERS,
    VALID,
)

pytestmark = pytest.mark.ray
NOW_US = round(dt.datetime(2024, 9, 1, tzinfo=dt.UTC).timestamp() * 1e6)
SERVED = START + dt.timedelta(days=40, hours=21)
SLATE = ("1000", "1001", "1002", "1003")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_shop(tmp_path_factory.mktemp("files"), users=20, items=25, days=80)


def write_feedback(workspace: Workspace) -> None:
    """One slate served to a customer on day 40, answered by a click an hour later."""
    shown = {"event_id": "served-1", "user_id": "c001", "event_type": "impression", "timestamp": SERVED}
    click = {"event_id": "click-1", "user_id": "c001", "item_id": "1002", "event_type": "click"}
    later = {"timestamp": SERVED + dt.timedelta(hours=1)}
    events = [shown | {"context": [("slot", "decision:d1")]}, click | later | {"context": []}]
    tables = {
        "events": pa.Table.from_pylist([row | {"decision_id": "d1"} for row in events], EVENTS),
        "availability": pa.Table.from_pylist(
            [{"slot": "decision:d1", "item_id": item} for item in SLATE], AVAILABILITY
        ),
    }
    for name, table in tables.items():
        (workspace.feedback / name).mkdir(parents=True)
        pq.write_table(table, workspace.feedback / name / "part-1.parquet")


def read_shop(raw: dict[str, Any], root: Path) -> Log:
    workspace = Workspace(root)
    write_feedback(workspace)
    return read_log(recipe_from(raw), workspace=workspace, now_us=NOW_US)


@pytest.fixture(scope="module")
def log(ray_session: None, raw: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Log:
    return read_shop(raw, tmp_path_factory.mktemp("read"))


@pytest.fixture(scope="module")
def built(log: Log, raw: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build_dataset(log, recipe_from(raw), Workspace(tmp_path_factory.mktemp("workspace")))


def read(built: Built, name: str) -> pa.Table:
    parts = sorted((built.folder / name).glob("part-*.parquet"))
    assert [path.name for path in parts] == ["part-00000.parquet", "part-00001.parquet"]
    return pa.concat_tables([pq.read_table(path) for path in parts])


def recipe_in(built: Built) -> Recipe:
    return load_recipe(str(built.folder / "recipe.yaml"))


def source_in(built: Built) -> FeatureSource:
    recipe = recipe_in(built)
    return FeatureSource(
        recipe,
        EventVocabulary(recipe.event_types),
        build.catalogue_of(pq.read_table(built.folder / "items.parquet")),
        build.statistics_of(pq.read_table(built.folder / "item_statistics.parquet")),
        neighbours_of(pq.read_table(built.folder / "neighbours.parquet")),
    )


def test_every_table_has_its_contract(built: Built) -> None:
    events = read(built, "events")
    assert events.schema.equals(pa.schema([*EVENTS, pa.field("item", pa.int32(), nullable=False)]))
    for name, schema in {
        "sequences": SEQUENCES,
        "impressions": IMPRESSIONS,
        "references": REFERENCES,
        "interactions": INTERACTIONS,
    }.items():
        table = read(built, name)
        assert table.schema.equals(schema), name
        assert table.num_rows, name
    for name, schema in {
        "items": ITEMS,
        "users": USERS,
        "item_statistics": ITEM_STATISTICS,
        "neighbours": NEIGHBOURS,
    }.items():
        assert pq.read_table(built.folder / f"{name}.parquet").schema.equals(schema)


def test_a_user_stands_in_the_part_that_the_hash_says(built: Built) -> None:
    for name in ("events", "sequences", "impressions", "references", "interactions"):
        for bucket in (0, 1):
            users = pq.read_table(built.folder / name / f"part-{bucket:05d}.parquet", columns=["user_id"])
            assert set(bucket_of(users.column("user_id"), 2).tolist()) <= {bucket}


def test_events_are_sorted_and_know_their_item(built: Built) -> None:
    ids = pq.read_table(built.folder / "items.parquet").column("item_id").to_pylist()
    assert ids == ["", *sorted(ids[1:])]
    for bucket in (0, 1):
        rows = pq.read_table(built.folder / "events" / f"part-{bucket:05d}.parquet").to_pylist()
        keys = [(row["user_id"], row["timestamp"], row["event_id"]) for row in rows]
        assert keys == sorted(keys)
        assert [ids[row["item"]] or None for row in rows] == [row["item_id"] for row in rows]


def test_item_statistics_are_those_of_the_events(built: Built) -> None:
    events = read(built, "events").to_pylist()
    statistics = source_in(built).statistics
    bought = [row for row in events if row["event_type"] in {"purchase", "click"}]
    day = (START.timestamp() + 50 * 86_400) // 86_400
    items = np.arange(len(pq.read_table(built.folder / "items.parquet")), dtype=np.int32)
    for item, count, mean in zip(
        items,
        statistics.events(items, np.full(len(items), int(day))),
        statistics.mean_total(items, np.full(len(items), int(day))),
        strict=True,
    ):
        known = [
            row["value"] or 0.0
            for row in bought
            if item in (row["item"], 0) and row["timestamp"] < START + dt.timedelta(days=50)
        ]
        assert count == len(known)
        np.testing.assert_allclose(mean, np.mean(known) if known else 0.0, rtol=1e-5)


def test_each_target_finds_the_events_before_it_and_has_its_split(built: Built) -> None:
    recipe, source = recipe_in(built), source_in(built)
    users = {
        user.user_id: user.history
        for bucket in (0, 1)
        for user in build_users(pq.read_table(built.folder / "events" / f"part-{bucket:05d}.parquet"), source)
    }
    cuts = np.array([built.manifest["train_end_us"], built.manifest["valid_end_us"]])
    seen = 0
    for window in read(built, "sequences").to_pylist():
        history = users[window["user_id"]]
        context = history.select(source.vocabulary.is_context(history))
        for time, position, split in zip(window["tgt_time"], window["tgt_pos"], window["tgt_split"], strict=True):
            expected = context.before(time).tail(recipe.sequences.max_context).time_N.tolist()
            assert window["ctx_time"][:position][-recipe.sequences.max_context :] == expected
            assert split == np.searchsorted(cuts, time, side="right")
            seen += 1
        assert np.all(np.array(window["tgt_split"]) != TEST)
        expected_dense = source.click(history, np.array(window["tgt_item"], np.int32), np.array(window["tgt_time"]))
        np.testing.assert_allclose(
            np.array(window["tgt_dense"]).reshape(expected_dense.shape), expected_dense, rtol=1e-5, atol=1e-6
        )
    assert seen == sum(built.manifest["base_rates"][name]["targets"] for name in ("train", "valid"))


def build_users(events: pa.Table, source: FeatureSource) -> Any:
    from clm_ray.data.user_events import users_of

    return users_of(events, source)


def test_the_fed_back_slate_is_an_occasion_as_of_its_moment(built: Built) -> None:
    ids = pq.read_table(built.folder / "items.parquet").column("item_id").to_pylist()
    served = round(SERVED.timestamp() * 1e6)
    found = [
        (ids[item], label, offset, split)
        for window in read(built, "sequences").to_pylist()
        if window["user_id"] == "c001"
        for time, item, label, offset, split in zip(
            *(window[f"tgt_{name}"] for name in ("time", "item", "label", "offset", "split")), strict=True
        )
        if time == served
    ]
    assert sorted(found) == [(item, float(item == "1002"), 0.0, TRAIN) for item in SLATE]
    answer = served + 3_600_000_000
    assert answer not in ragged(read(built, "sequences").column("tgt_time"))[0].tolist()


def test_test_occasions_rank_everything_on_offer(built: Built) -> None:
    """The sample is the manifest's; every item of the slot is a candidate, and the catalogue rows are the baskets."""
    impressions = read(built, "impressions").to_pylist()
    ids = pq.read_table(built.folder / "items.parquet").column("item_id").to_pylist()
    offers = {"": set()} | {
        slot: {str(row["sku"]) for row in rows}
        for slot, rows in _by(pq.read_table(recipe_in(built).source.availability.paths[0]).to_pylist(), "place").items()
    }
    baskets = {
        key: {row["item_id"] for row in rows}
        for key, rows in _by(
            read(built, "events").filter(pc.field("event_type") == "purchase").to_pylist(), "user_id", "timestamp"
        ).items()
    }
    slot_of = {
        (row["user_id"], row["timestamp"]): dict(row["context"])["slot"]
        for row in read(built, "events").to_pylist()
        if row["event_type"] == "purchase"
    }
    shown = [row for row in impressions if row["kind"] == "shown"]
    for row in impressions:
        key = row["user_id"], dt.datetime.fromtimestamp(row["time"] / 1e6, dt.UTC)
        items = {ids[item] for item in row["item"]}
        taken = {ids[item] for item, label in zip(row["item"], row["label"], strict=True) if label}
        assert row["split"] == TEST
        assert row["time"] >= built.manifest["valid_end_us"]
        if row["kind"] == "catalogue":
            assert items == taken == baskets[key]
        else:
            assert items == offers[slot_of[key]]
            assert taken == baskets[key] & items
    recipe = recipe_in(built)
    assert len(shown) == built.manifest["test_occasions"]["count"] <= recipe.impressions.test_occasions
    assert sum(row["kind"] == "catalogue" for row in impressions) <= recipe.impressions.catalogue_occasions
    assert built.manifest["base_rates"]["test"]["targets"] == sum(len(row["item"]) for row in shown)


def _by(rows: list[dict[str, Any]], *keys: str) -> dict[Any, list[dict[str, Any]]]:
    found: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        key = tuple(row[name] for name in keys)
        found.setdefault(key if len(keys) > 1 else key[0], []).append(row)
    return found


def test_references_are_in_both_places_with_their_splits(built: Built) -> None:
    references = read(built, "references")
    assert set(references.column("split").to_pylist()) == {TEST}
    assert min(references.column("time").to_pylist()) >= built.manifest["valid_end_us"]
    times, splits = (ragged(read(built, "sequences").column(f"ref_{name}"))[0] for name in ("time", "split"))
    assert set(splits.tolist()) <= {TRAIN, VALID}
    assert (times % DAY_US == 0).all()
    assert (np.searchsorted([built.manifest["train_end_us"]], times, side="right") == splits).all()


def test_the_manifest_is_written_last_and_names_every_file(built: Built) -> None:
    manifest = read_manifest(built.folder)
    assert manifest == built.manifest
    assert built.folder.name == manifest["id"]
    files = {str(p.relative_to(built.folder)): file_digest(p) for p in built.folder.rglob("*") if p.is_file()}
    del files[MANIFEST]
    assert manifest["files"] == files
    assert manifest["log_end_us"] == max(
        round(row["timestamp"].timestamp() * 1e6) for row in read(built, "events").to_pylist()
    )
    assert [path.name for path in built.folder.parent.iterdir() if path.name.startswith(".building")] == []
    assert json.loads((built.folder / "report.json").read_text())["counts"]["from_feedback"] == 2


def test_the_report_shows_the_log_on_one_page(built: Built) -> None:
    """The figures are the log's, counted anew; the page needs nothing but itself and names no user."""
    page = (built.folder / "report.html").read_text(encoding="utf-8")
    figures = json.loads((built.folder / "report_figures.json").read_text(encoding="utf-8"))
    events, counts = read(built, "events").to_pylist(), built.manifest["counts"]
    types = {name: sum(per_day) for name, per_day in figures["daily"]["events"].items()}
    assert types == {"impression": 0} | counts["types"]
    assert figures["daily"]["first"] == min(row["timestamp"] for row in events).date().isoformat()
    assert figures["popularity"]["events"] == sum(row["item_id"] is not None for row in events)
    assert sum(figures["lengths"]["users"]["counts"]) == counts["users"]
    assert sum(figures["lengths"]["windows"]["counts"]) == read(built, "sequences").num_rows
    active = [row for row in events if row["event_type"] in {"purchase", "click"}]
    users = {row["user_id"] for row in active}
    assert sum(figures["gaps"]["counts"]) == len(active) - len(users)
    assert sum(figures["cohorts"]["users"]) == len(users)
    assert figures["survival"]["users"] + figures["survival"]["too_new"] == len(users)
    assert sum(split["events"] for split in figures["drift"]["splits"]) == counts["kept"]
    chosen = json.loads((built.folder / "features.json").read_text())
    named = {(f["block"], f["feature"]) for f in figures["drift"]["features"]}
    assert named == {(block, name) for block in ("click", "retention") for name in chosen[block]["chosen"]}
    assert figures["absent"] == {}
    assert page.count('src="data:image/png;base64,') >= 8
    assert page.count("src=") == page.count('src="data:image/png;base64,')
    assert not re.search("https?://", page)
    visible = re.sub('base64,[^"]*', "", page) + json.dumps(figures)
    assert [user for user in {row["user_id"] for row in events} if user in visible] == []


def shuffled(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same log in three files and another order, offers and catalogue in another order too."""
    again = copy.deepcopy(raw)
    random = np.random.default_rng(1)
    folder.mkdir()
    for name in ("events", "availability", "items", "users"):
        table = pq.read_table(raw["source"][name]["paths"][0])
        table = table.take(pa.array(random.permutation(table.num_rows)))
        cuts = [0, table.num_rows // 3, table.num_rows // 2, table.num_rows]
        paths = [folder / f"{name}-{n}.parquet" for n in (2, 0, 1)]
        for path, start, stop in zip(paths, cuts, cuts[1:], strict=False):
            pq.write_table(table[start:stop], path, row_group_size=7 if name == "users" else 400)
        again["source"][name]["paths"] = [str(path) for path in paths]
    return again


def reversed_blocks(log: Log) -> Log:
    """The buckets in another order, and each cut into no other blocks but with its rows turned round."""
    blocks = [block for block in ray.get(log.events.to_arrow_refs()) if block.num_rows]
    assert len(blocks) == 2
    turned = [block.take(pa.array(np.arange(len(block))[::-1])) for block in reversed(blocks)]
    return replace(log, events=ray.data.from_arrow(turned))


def test_order_of_files_rows_blocks_and_buckets_does_not_matter(
    built: Built, raw: dict[str, Any], tmp_path: Path
) -> None:
    def changed(other: Built) -> list[str]:
        return [name for name, digest in other.manifest["files"].items() if built.manifest["files"].get(name) != digest]

    again = shuffled(raw, tmp_path / "shuffled")
    log = reversed_blocks(read_shop(again, tmp_path))
    other = build_dataset(log, recipe_from(again), Workspace(tmp_path))
    assert changed(other) == ["recipe.yaml"]
    assert other.manifest["id"] == built.manifest["id"]


def test_a_rebuild_is_the_same_dataset_and_a_broken_one_changes_nothing(
    built: Built, log: Log, raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    workspace = Workspace(built.folder.parent.parent)
    before = file_digest(built.folder / MANIFEST)
    written = (built.folder / MANIFEST).stat().st_mtime_ns

    def cut_off(*_: object, **__: object) -> dict[str, Any]:
        raise KeyboardInterrupt

    other = recipe_from(raw, overrides=["sequences.seed=5"])
    left = workspace.datasets / f".building-{socket.gethostname()}-999999999"  # of a process that was killed
    left.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(build, "write_manifest", cut_off)
        with pytest.raises(KeyboardInterrupt):
            build_dataset(log, other, workspace)
    assert workspace.current("datasets") == built.folder
    said: list[str] = []
    resumed = build_dataset(log, other, Workspace(workspace.root), say=said.append)
    assert "2 of 2 buckets are as they were" in said, "the buckets that were finished are taken"
    assert resumed.manifest["id"] == build_dataset(log, other, Workspace(tmp_path)).manifest["id"]
    shutil.rmtree(resumed.folder)
    again = build_dataset(log, recipe_from(raw), workspace)
    assert again.manifest["id"] == built.manifest["id"]
    assert (file_digest(built.folder / MANIFEST), (built.folder / MANIFEST).stat().st_mtime_ns) == (before, written)
    assert workspace.current("datasets") == built.folder
    assert sorted(path.name for path in workspace.datasets.iterdir()) == sorted(["CURRENT", built.folder.name])


def test_spans_made_by_other_workers_give_the_same_files(
    built: Built, log: Log, raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every user in as many spans as go, made by whoever is free; the next build takes the buckets as they are."""
    recipe, source = recipe_in(built), source_in(built)
    spans = [
        len(cuts_of(history.time_N, history.time_N[context_N], body=recipe.sequences.body, events=1)) - 1
        for bucket in (0, 1)
        for user in build_users(pq.read_table(built.folder / "events" / f"part-{bucket:05d}.parquet"), source)
        for history in [user.history]
        for context_N in [source.vocabulary.is_context(history)]
    ]
    assert sum(spans) > 2 * len(spans)
    monkeypatch.setattr(build, "BucketBuilder", partial(BucketBuilder, span_events=1))
    workspace = Workspace(tmp_path)
    other = build_dataset(log, recipe_from(raw), workspace)
    assert other.manifest == built.manifest
    assert {"sequences/part-00000.parquet", "report_figures.json"} <= built.manifest["files"].keys()
    said: list[str] = []
    assert build_dataset(log, recipe_from(raw), workspace, say=said.append).manifest == built.manifest
    assert "2 of 2 buckets are as they were" in said


def test_a_bucket_without_users_has_empty_parts_like_any_other(log: Log, raw: dict[str, Any], tmp_path: Path) -> None:
    blocks = [block for block in ray.get(log.events.to_arrow_refs()) if block.column("bucket")[0].as_py() == 0]
    half = build_dataset(replace(log, events=ray.data.from_arrow(blocks)), recipe_from(raw), Workspace(tmp_path))
    for name in ("events", "sequences", "impressions", "references", "interactions"):
        full, empty = (pq.read_table(half.folder / name / f"part-{bucket:05d}.parquet") for bucket in (0, 1))
        assert (full.num_rows > 0, empty.num_rows) == (True, 0)
        assert full.schema.equals(empty.schema)


def test_user_neighbours_are_written_by_bucket_where_they_are_asked_for(
    log: Log, raw: dict[str, Any], built: Built, tmp_path: Path
) -> None:
    config = ["neighbours.users=3", "neighbours.min_users=1"]
    asked = build_dataset(log, recipe_from(raw, overrides=config), Workspace(tmp_path))
    table = read(asked, "user_neighbours")
    assert table.schema.equals(USER_NEIGHBOURS)
    rows = table.to_pylist()
    assert rows
    key = [(row["relation"], row["end"], row["user_id"], row["neighbour_id"]) for row in rows]
    assert len(set(key)) == len(key)
    assert max(Counter(k[:3] for k in key).values()) == 3
    for bucket in (0, 1):
        path = asked.folder / "user_neighbours" / f"part-{bucket:05d}.parquet"
        users = pq.read_table(path, columns=["user_id"]).column("user_id")
        assert set(bucket_of(users, 2).tolist()) <= {bucket}
        assert set(ends_of(path).tolist()) >= {row["end"] for row in rows}
    # The blocks of the log in another order: the same dataset.
    turned = ray.data.from_arrow(list(reversed(ray.get(log.events.to_arrow_refs()))))
    again = build_dataset(
        replace(log, events=turned), recipe_from(raw, overrides=config), Workspace(tmp_path / "again")
    )
    assert again.manifest["id"] == asked.manifest["id"] != built.manifest["id"]
    assert not (built.folder / "user_neighbours").exists()


def test_nothing_to_learn_from_is_told(log: Log, raw: dict[str, Any], tmp_path: Path) -> None:
    early = recipe_from(raw, overrides=["split.train_end=2024-01-01T00:00:01"])
    with pytest.raises(DataError, match="train split has no targets") as caught:
        build_dataset(log, early, Workspace(tmp_path))
    assert caught.value.field == "split"
    assert caught.value.fix
    assert not (tmp_path / "datasets" / "CURRENT").exists()


def test_retention_features_are_selected_by_the_longest_horizon_that_has_rows() -> None:
    recipe = load_recipe("complete_journey")
    names = click_feature_names(recipe), retention_feature_names(recipe)
    random = np.random.default_rng(0)

    def sampled(columns: int) -> SampledUser:
        label = random.integers(0, 2, 400).astype(np.float32)
        dense = random.normal(size=(400, columns)).astype(np.float32)
        dense[:, 3] += 2 * label
        return SampledUser(1, dense, label)

    sample = FeatureSample([sampled(len(names[0]))], {7: [sampled(len(names[1]))], 28: []})
    spec = build._select(sample, recipe, {"positives": 1, "asked_about": 1})
    assert names[1][3] in spec.retention.chosen
    sample.retention = {}
    assert build._select(sample, recipe, {"positives": 1, "asked_about": 1}).retention.chosen == ()


def grown(raw: dict[str, Any], folder: Path) -> tuple[Recipe, pa.Table]:
    """A recipe whose log are the files of `folder`, for which neighbours do not hang on the end of the log; and the shop's log."""
    [receipts] = raw["source"]["events"]["paths"]
    other = copy.deepcopy(raw)
    other["source"]["events"]["paths"] = [str(folder)]
    other["source"]["feedback"] = False
    other["sequences"] = {**other.get("sequences", {}), "buckets": 6}
    other["neighbours"] = {"slices": 1, "slice_days": 20, "min_users": 2}
    folder.mkdir()
    return recipe_from(other), pq.read_table(receipts)


def prepared(recipe: Recipe, root: Path) -> tuple[Built, str]:
    """The dataset, and what was said of its buckets."""
    said: list[str] = []
    workspace = Workspace(root)
    log = read_log(recipe, workspace=workspace, now_us=NOW_US)
    built = build_dataset(log, recipe, workspace, say=said.append)
    return built, next((text for text in said if text.endswith("are as they were")), "none")


def lives_kept(root: Path) -> dict[str, int]:
    """Key → when the lives of the bucket were written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in (root / "log" / "buckets").glob("*/lives.pickle")}


def test_a_new_day_gives_the_dataset_of_the_whole_log_and_builds_the_buckets_of_its_users(
    ray_session: None, raw: dict[str, Any], tmp_path: Path
) -> None:
    """A log that grew by a file: what was read before is kept, untouched buckets too, and the dataset is that of a workspace that reads all."""
    folder = tmp_path / "receipts"
    recipe, table = grown(raw, folder)
    at = table.schema.field("at").type
    early = pc.less(table.column("at"), pa.scalar(START + dt.timedelta(days=70), at))
    users = table.filter(early).column("customer").unique().to_pylist()
    bucket = bucket_of(users, 6).tolist()
    few = [user for user, b in zip(users, bucket, strict=True) if b == bucket[0]]
    later = table.filter(pc.and_(pc.invert(early), pc.is_in(table.column("customer"), pa.array(few))))
    late = table.filter(early).slice(3, 1)
    place = late.column_names.index("at")
    late = late.set_column(place, "at", pa.array([START + dt.timedelta(days=30, hours=2)], at))

    pq.write_table(table.filter(early), folder / "until-day-70.parquet")
    first, said = prepared(recipe, tmp_path / "daily")
    assert said == "none"
    steps = {
        "a day of few users": (later, f"{len(set(bucket)) - 1} of 6"),
        "a late event": (late, "none"),
        "a column more": (
            later.slice(0, 2).append_column("till", pa.array(["a", "b"])),
            f"{len(set(bucket)) - 1} of 6",
        ),
    }
    ids = {first.manifest["id"]}
    lives = lives_kept(tmp_path / "daily")
    for number, (name, (rows, taken)) in enumerate(steps.items()):
        pq.write_table(rows, folder / f"later-{number}.parquet")
        built, said = prepared(recipe, tmp_path / "daily")
        before, lives = lives, lives_kept(tmp_path / "daily")
        replayed = len(lives.items() - before.items())
        assert replayed == (1 if "of 6" in taken else len(set(bucket))), f"{name}: the lives of a bucket that is built"
        assert said.startswith(taken), name
        assert built.manifest["id"] not in ids, name
        ids.add(built.manifest["id"])
    whole, _ = prepared(recipe, tmp_path / "at-once")
    assert built.manifest["files"] == whole.manifest["files"]
    assert (built.folder / "report_figures.json").read_bytes() == (whole.folder / "report_figures.json").read_bytes()
    assert len(list((tmp_path / "daily" / "log" / "events").iterdir())) == 4
    assert len(list((tmp_path / "daily" / "log" / "buckets").iterdir())) == len(set(bucket)), "older ones are gone"
