"""Both protocols of MovieLens-100K through the build of a bucket, row for row as the peers' figures were made.

The rule: sort by time, user, item (as numbers). `row_share`: the first 80 % of the rows train, the next 10 % valid, the rest
test. `per_user`: each user's last max(1, 10 %) rows test, as many before them valid. The digests are those of the peers' files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from clm_ray.config.recipe import Recipe, load_recipe
from clm_ray.data.bucket import BucketBuilder
from clm_ray.data.bucket_result import BucketResult
from clm_ray.data.evaluation_sample import drawn, impression_rows
from clm_ray.data.occasions import OccasionSource
from clm_ray.data.popularity import PopularityDraw
from clm_ray.data.slots import SlotTable
from clm_ray.data.splits import plan_splits
from clm_ray.features.catalogue import Catalogue
from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History
from clm_ray.features.spec import FeatureSource
from clm_ray.features.statistics import ItemStatistics
from clm_ray.schema import EVENTS, TIMESTAMP

Row = tuple[int, int, int]
"""(seconds, user, item)"""
PARTS = ("train", "valid", "test")
PEERS = {
    "row_share": ("575df3a519462787", "5def042e7627649a", "3ea05108558abc10"),
    "per_user": ("9f9a11bae5108392", "311847fbb5845806", "d4fd94614e097454"),
}
"""First half of the SHA-256 over "user, item, seconds" of each part, in the order of the rule."""


class WithoutFeatures(FeatureSource):
    """Splits do not need the features, which take most of the time."""

    def click(self, history: History, item_Q: NDArray[np.int32], time_Q: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.zeros((len(time_Q), 1), np.float32)

    def retention(self, history: History, time_Q: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.zeros((len(time_Q), 1), np.float32)


def built_of(rows: Sequence[Row], recipe: Recipe) -> tuple[BucketResult, list[str]]:
    """What the build makes of the ratings, and the ids of its items."""
    ids = ["", *sorted({str(item) for _, _, item in rows})]
    row_of = {name: n for n, name in enumerate(ids)}
    ordered = sorted(rows, key=lambda row: (str(row[1]), row[0], row[2]))
    count = len(ordered)
    events = pa.table(
        {
            "event_id": [f"{n:06d}" for n in range(count)],
            "user_id": [str(user) for _, user, _ in ordered],
            "item_id": [str(item) for _, _, item in ordered],
            "event_type": ["rating"] * count,
            "timestamp": pa.array([seconds * 1_000_000 for seconds, *_ in ordered], TIMESTAMP),
            "value": [float(item % 5 + 1) for _, _, item in ordered],
            "decision_id": pa.nulls(count, pa.string()),
            "context": pa.nulls(count, EVENTS.field("context").type),
        },
        schema=EVENTS,
    ).append_column("item", pa.array([row_of[str(item)] for _, _, item in ordered], pa.int32()))
    nothing = np.empty(0)
    statistics = ItemStatistics.from_daily(nothing.astype("i4"), nothing.astype("i4"), nothing, nothing, nothing)
    vocabulary = EventVocabulary(recipe.event_types)
    log_end = max(seconds for seconds, *_ in rows) * 1_000_000 + 1
    builder = BucketBuilder(
        recipe,
        WithoutFeatures(recipe, vocabulary, Catalogue.build(ids, ids, [[]] * len(ids)), statistics),
        OccasionSource(recipe.impressions, vocabulary, SlotTable.empty(), PopularityDraw(statistics, 0.5, 8), None, 0),
        plan_splits(recipe.split, events, log_end=log_end, activity_end=log_end),
        np.empty(0, np.int64),
    )
    return builder.build(events), ids


def split_by_build(rows: Sequence[Row], recipe: Recipe) -> dict[str, list[Row]]:
    """The parts as the dataset has them: train and valid in the windows, test in the impressions."""
    result, ids = built_of(rows, recipe)
    found: dict[str, list[Row]] = {name: [] for name in PARTS}
    for window in result.windows:
        for time, item, split in zip(window["tgt_time"], window["tgt_item"], window["tgt_split"], strict=True):
            found[PARTS[split]].append((int(time) // 1_000_000, int(window["user_id"]), int(ids[item])))
    for row in result.impressions:
        found["test"] += [(row["time"] // 1_000_000, int(row["user_id"]), int(ids[item])) for item in row["item"]]
    return {name: sorted(part) for name, part in found.items()}


def chosen_by_build(rows: Sequence[Row], recipe: Recipe) -> list[Row]:
    """What is to be found among all items of the catalogue."""
    result, ids = built_of(rows, recipe)
    sample = drawn(result.test_occasions, recipe.impressions)
    return sorted(
        (row["time"] // 1_000_000, int(row["user_id"]), int(ids[item]))
        for row in impression_rows(sample)
        for item in row["item"]
        if row["kind"] == "catalogue"
    )


def liked(rows: Sequence[Row]) -> list[Row]:
    """The rows that `built_of` gives a rating of at least four."""
    return [row for row in rows if row[2] % 5 + 1 >= 4]


def recipe_of(protocol: str) -> Recipe:
    every = "impressions.catalogue_occasions=100000"
    return load_recipe("movielens_100k", overrides=[f"split.protocol={protocol}", every])


def split_by_rule(rows: Sequence[Row], protocol: str) -> dict[str, list[Row]]:
    ordered = sorted(rows)
    if protocol == "row_share":
        first, second = int(len(ordered) * 0.8), int(len(ordered) * 0.9)
        return dict(zip(PARTS, (ordered[:first], ordered[first:second], ordered[second:]), strict=True))
    found: dict[str, list[Row]] = {name: [] for name in PARTS}
    for user in {user for _, user, _ in rows}:
        mine = [row for row in ordered if row[1] == user]
        last = max(1, int(len(mine) * 0.1))
        for name, part in zip(PARTS, (mine[: -2 * last], mine[-2 * last : -last], mine[-last:]), strict=True):
            found[name] += part
    return {name: sorted(part) for name, part in found.items()}


# Ids around powers of ten and few distinct times: as text they would sort otherwise, and the cuts fall into ties.
ROWS = st.lists(
    st.tuples(st.integers(10**9, 10**9 + 4), st.sampled_from([9, 10, 101]), st.integers(95, 105)),
    min_size=12,
    max_size=60,
    unique=True,
)


@pytest.mark.parametrize("protocol", PEERS)
@settings(max_examples=30)
@given(rows=ROWS)
def test_the_protocols_follow_the_rule(protocol: str, rows: list[Row]) -> None:
    assert split_by_build(rows, recipe_of(protocol)) == split_by_rule(rows, protocol)


@pytest.mark.parametrize("protocol", PEERS)
@settings(max_examples=30)
@given(rows=ROWS)
def test_what_is_to_be_found_in_the_catalogue_was_chosen_in_test_rows(protocol: str, rows: list[Row]) -> None:
    """Where a cut falls inside a moment of a user, its other rows were trained on."""
    assert chosen_by_build(rows, recipe_of(protocol)) == liked(split_by_rule(rows, protocol)["test"])


@pytest.fixture(scope="module")
def ratings() -> list[Row]:
    folders = [Path(os.environ[name]) for name in ("CLM_DOWNLOADS",) if name in os.environ] or [Path("downloads")]
    file = folders[0].expanduser() / "ml-100k" / "ml-100k.inter"
    if not file.is_file():
        pytest.skip(f"MovieLens-100K is not at {file}: run `make movielens` (or set CLM_DOWNLOADS)")
    table = pyarrow.csv.read_csv(file, parse_options=pyarrow.csv.ParseOptions(delimiter="\t"))
    columns = ("timestamp:float", "user_id:token", "item_id:token")
    return list(zip(*(table.column(name).cast(pa.int64()).to_pylist() for name in columns), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PEERS)
def test_movielens_is_split_as_the_peers_split_it(protocol: str, ratings: list[Row]) -> None:
    parts = split_by_build(ratings, recipe_of(protocol))
    assert sum(map(len, parts.values())) == 100_000
    texts = ("".join(f"{user}\t{item}\t{time}\n" for time, user, item in parts[name]) for name in PARTS)
    assert tuple(hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts) == PEERS[protocol]
    assert chosen_by_build(ratings, recipe_of(protocol)) == liked(parts["test"])
