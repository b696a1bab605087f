"""A bucket is taken as it was exactly where building it would give the same; damage and other users' erasure are noticed."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_bucket import OFFERS, builder_of
from made_figures import THRESHOLDS, frame_for
from made_logs import DAYS, ITEMS, START, USERS, VOCABULARY, Row, moments, numbered, ordered, recipe, rows, table_of

from clm_ray.config.recipe import Recipe
from clm_ray.data.bucket import BucketBuilder
from clm_ray.data.bucket_files import write_impressions
from clm_ray.data.bucket_lives import bucket_lives
from clm_ray.data.bucket_result import BucketResult
from clm_ray.data.buckets import bucket_of, part
from clm_ray.data.columns import rows_to_table
from clm_ray.data.kept_buckets import PARTS, Dependencies, KeptBuckets
from clm_ray.data.life_counts import LifeCounts, count_lives
from clm_ray.data.neighbours import neighbours_of, opinions_before, opinions_of, similar_items, slice_ends
from clm_ray.data.slots import SlotTable
from clm_ray.lifecycle.stages import Thresholds
from clm_ray.schema import DAY_US, IMPRESSIONS, NEIGHBOURS, SEQUENCES

RETENTION = {"every_days": 3, "active_within_days": 5, "bin_ends": [1, 3], "report_days": [3]}
RECIPES: dict[str, dict[str, Any]] = {
    "explicit": {"impressions": {"negatives": "explicit", "attribution_hours": 30}, "retention": RETENTION},
    "availability": {"impressions": {"negatives": "availability", "per_occasion": 2}, "retention": RETENTION},
    "popularity": {"impressions": {"negatives": "popularity", "per_occasion": 2}, "retention": RETENTION},
    "refit": {
        "split": {"protocol": "time", "train_end": "2022-01-23", "valid_end": "2022-01-28", "refit": True},
        "retention": RETENTION,
    },
    "per user": {"split": {"protocol": "per_user", "valid_share": 0.2, "test_share": 0.2}, "retention": RETENTION},
    "embargo": {
        "split": {"protocol": "row_share", "valid_share": 0.2, "test_share": 0.2, "embargo_days": 2},
        "retention": RETENTION,
    },
}
NEAR = {"slices": 1, "slice_days": 9, "min_users": 1, "shrinkage": 1.0}


def known(log: Sequence[Row], made: Recipe, offers: Mapping[str, Sequence[int]]) -> BucketBuilder:
    """A builder with neighbours, that knows the whole log."""
    last = max(row.time for row in log)
    active = [row.time for row in log if row.type not in ("skip", "mail", "impression")]
    builder = builder_of(log, made, log_end=last + 1, activity_end=max(active, default=0) + 1)
    opinions = opinions_of(table_of(log), builder.source)
    parts = [
        similar_items(opinions_before(end, [opinions]), relation=relation, end=end, config=made.neighbours)
        for relation in (0, 1)
        for end in slice_ends(builder.source.statistics, made.neighbours, log_end=last)
    ]
    neighbours = neighbours_of(pa.concat_tables([NEIGHBOURS.empty_table(), *parts]))
    named = [(slot, ITEMS[item]) for slot, items in offers.items() for item in items]
    slots = SlotTable.build(
        pa.table({"slot": [s for s, _ in named], "item_id": [i for _, i in named]}), pa.table({"item_id": ITEMS})
    )
    return replace(
        builder,
        source=replace(builder.source, neighbours=neighbours),
        occasions=replace(builder.occasions, slots=slots),
    )


def content(result: BucketResult) -> str:
    """Everything that is kept of a result."""
    found = replace(result, windows=[], references=[])
    return rows_to_table(result.windows, SEQUENCES).to_pylist().__repr__() + repr(found)


def bucket(log: Sequence[Row], user: str) -> tuple[pa.Table, str]:
    mine = ordered(row for row in log if row.user == user)
    return table_of(mine), repr(mine)


BASE = [
    Row("u3", START + day * DAY_US, "purchase", 1 + day % 4, 1.0, slot="front", number=day + 1)
    for day in range(0, 25, 2)
]
"""Enough to be split by every protocol."""
GROWTH = st.tuples(
    rows(moments(0, 24 * 24), slots=("front", "back", None), max_size=16),
    st.sampled_from([24 * 10, 24 * 24]).flatmap(
        lambda first: rows(moments(first, 24 * DAYS), slots=("front", "back", "new"), max_size=6)
    ),
)


@pytest.mark.parametrize("name", RECIPES)
@settings(max_examples=8)
@given(GROWTH)
def test_equal_keys_mean_equal_results(name: str, logs: tuple[list[Row], list[Row]]) -> None:
    past = [*BASE, *(row._replace(number=100 + n) for n, row in enumerate(logs[0]))]
    late = [row._replace(number=500 + n) for n, row in enumerate(logs[1])]
    made = recipe(**RECIPES[name], neighbours=NEAR)
    before = known(past, made, OFFERS)
    after = known([*past, *late], made, {**OFFERS, "new": (1, 2)})
    one, two = Dependencies.of(before), Dependencies.of(after)
    for user in USERS:
        events, digest = bucket(past, user)
        if not events.num_rows:
            continue
        grown, later = bucket([*past, *late], user)
        same = one.key(events, digest=digest) == two.key(grown, digest=later)
        assert not same or content(before.build(events)) == content(after.build(grown))
        assert repr(after.build(grown).references) == repr(after.test_references(grown))


def log_of(days: int) -> list[Row]:
    """u1 and u2 for twelve days, then u2 alone; the last day after the validation split."""
    first = [
        Row(user, START + day * DAY_US + hour, kind, item, 1.0)
        for day in range(12)
        for hour, (user, kind, item) in enumerate((("u1", "purchase", 1), ("u1", "skip", 2), ("u2", "purchase", 3)))
    ]
    return numbered([*first, *(Row("u2", START + day * DAY_US, "purchase", 3, 1.0) for day in range(12, days))])


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in ("per user", "embargo")])
def test_a_new_day_changes_nobody_who_has_no_part_in_it(name: str) -> None:
    made = recipe(**RECIPES[name], neighbours=NEAR)
    keys = []
    for days in (30, 31):
        dependencies = Dependencies.of(known(log_of(days), made, OFFERS))
        keys.append([dependencies.key(table, digest=d) for table, d in (bucket(log_of(days), u) for u in ("u1", "u2"))])
    assert keys[0][0] == keys[1][0], "u1 has no new events"
    assert keys[0][1] != keys[1][1]


def test_what_matters_changes_the_key() -> None:
    # One slice, which ends after the log: what an earlier user sees of the others are item statistics alone.
    made = recipe(**RECIPES["availability"], neighbours={"slices": 1})
    log = [row._replace(slot="front") for row in log_of(30)]
    table, digest = bucket(log, "u1")

    def key(log: Sequence[Row], made: Recipe = made, offers: Mapping[str, Sequence[int]] = OFFERS) -> str:
        return Dependencies.of(known(log, made, offers)).key(table, digest=digest)

    same = key(log)
    assert key([*log, Row("u2", START + 3 * DAY_US, "purchase", 4, 1.0, number=900)]) != same, "a late event"
    assert key(log, made.model_copy(update={"sequences": made.sequences.model_copy(update={"seed": 1})})) != same
    assert key(log, offers={**OFFERS, "front": (1, 2)}) != same
    assert key(log, offers={**OFFERS, "back": (1, 2)}) == same, "a slot that the user never saw"
    assert Dependencies.of(known(log, made, OFFERS)).key(table, digest="other") != same


def kept(folder: Path, key: str, *, bucket: int, buckets: int = 4) -> KeptBuckets:
    parts = []
    for name in PARTS:
        pq.write_table(pa.table({"user_id": ["u1"]}), folder / f"{name}.parquet")
        parts.append(folder / f"{name}.parquet")
    found = KeptBuckets(folder / "buckets")
    found.keep(key, BucketResult(positives=3), bucket=bucket, buckets=buckets, parts=parts)
    return found


def test_what_is_kept_comes_back_and_damage_is_noticed(tmp_path: Path) -> None:
    buckets = kept(tmp_path, "k", bucket=1)
    found = buckets.find("k")
    assert found is not None
    assert found.result().positives == 3
    targets = [tmp_path / f"again-{name}.parquet" for name in PARTS]
    found.put(targets)
    assert [pc.sum(pc.equal(pq.read_table(t).column("user_id"), "u1")).as_py() for t in targets] == [1] * len(PARTS)
    assert buckets.find("other") is None
    path = tmp_path / "buckets" / "k" / "result.pickle"
    path.write_bytes(pickle.dumps(BucketResult(positives=4)))
    assert buckets.find("k") is None
    path.unlink()
    assert buckets.find("k") is None


def test_lives_are_kept_under_their_thresholds(tmp_path: Path) -> None:
    buckets, more = kept(tmp_path, "k", bucket=1), replace(THRESHOLDS, churned_days=8)
    frame = frame_for(log_of(30), recipe())
    assert buckets.lives("k", THRESHOLDS) is None
    for thresholds in (THRESHOLDS, more):
        lives = bucket_lives(table_of(log_of(12)), VOCABULARY, thresholds)
        buckets.keep_lives("k", lives, thresholds)
        found = buckets.lives("k", thresholds)
        assert found is not None
        assert figures(LifeCounts.of([found], frame)) == figures(LifeCounts.of([lives], frame))
    assert buckets.lives("k", THRESHOLDS) is None, "others took their place"
    assert buckets.find("k") is not None
    path = tmp_path / "buckets" / "k" / "lives.pickle"
    path.write_bytes(path.read_bytes()[:-9])
    assert buckets.lives("k", more) is None, "damaged"
    path.write_bytes(b"")
    assert buckets.lives("k", more) is None


def figures(counts: LifeCounts) -> list[Any]:
    return [values.tolist() for values in (counts.flows.count_DSS, counts.users_SS, counts.rfm_U3)]


@pytest.mark.ray
def test_lives_of_kept_buckets_are_not_replayed_again(ray_session: None, tmp_path: Path) -> None:
    """The event files of buckets whose lives are kept may even be gone; other thresholds, or another key, ask for them."""
    log, users = log_of(30), ("u1", "u2")
    frame, keys = frame_for(log, recipe()), {0: "a", 3: "b"}
    buckets = kept(tmp_path, "a", bucket=0)
    kept(tmp_path, "b", bucket=3)
    (tmp_path / "events").mkdir()
    paths = [tmp_path / "events" / part(number) for number in keys]

    def counted(thresholds: Thresholds, keys: Mapping[int, str] = keys) -> list[Any]:
        return figures(count_lives(tmp_path, keys, buckets, VOCABULARY, thresholds, frame=frame))

    for path, user in zip(paths, users, strict=True):
        pq.write_table(bucket(log, user)[0], path)
    expected = figures(LifeCounts.of([bucket_lives(table_of(log), VOCABULARY, THRESHOLDS)], frame))
    assert counted(THRESHOLDS) == expected
    paths[0].unlink()
    kept(tmp_path, "c", bucket=3)
    assert counted(THRESHOLDS, {0: "a", 3: "c"}) == expected, "one of two is read"
    assert counted(THRESHOLDS) == expected, "none is read"
    pq.write_table(bucket(log, "u1")[0], paths[0])
    other = replace(THRESHOLDS, at_risk_days=2)
    anew = figures(LifeCounts.of([bucket_lives(table_of(log), VOCABULARY, other)], frame))
    assert counted(other) == anew != expected


def test_a_part_that_is_written_anew_leaves_the_kept_one_as_it_was(tmp_path: Path) -> None:
    buckets = kept(tmp_path, "k", bucket=1)
    row = {"user_id": "u1", "time": 2, "kind": "shown", "offset": 0.0, "split": 2}
    lists = {"item": np.array([1]), "label": np.ones(1), "weight": np.ones(1)}
    later, earlier = row | lists, row | lists | {"time": 1}
    write_impressions(tmp_path / "impressions.parquet", rows_to_table([later, earlier], IMPRESSIONS))
    assert pq.read_table(tmp_path / "impressions.parquet").column("time").to_pylist() == [1, 2]
    assert buckets.find("k") is not None


def test_buckets_of_erased_users_go_and_others_stay(tmp_path: Path) -> None:
    mine = int(bucket_of(["u1"], 4)[0])
    buckets = kept(tmp_path, "mine", bucket=mine)
    kept(tmp_path, "other", bucket=(mine + 1) % 4)
    (tmp_path / "buckets" / ".half").mkdir()
    (tmp_path / "buckets" / ".half" / "result.pickle").write_bytes(b"u1")
    gone = {path.parent.name for path in buckets.erase(["u1"])}
    assert gone == {"mine", ".half"}
    assert [path.name for path in (tmp_path / "buckets").iterdir()] == ["other"]
    buckets.forget(but={"third"})
    assert list((tmp_path / "buckets").iterdir()) == []
