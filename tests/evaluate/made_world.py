"""A small made dataset in the contract's schemas, and a scorer that knows the rule by which it was made.

Every user has a favourite category and takes its items four times in five; each visit shows every item of the catalogue's first half.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clm_ray.config.recipe import Recipe, recipe_from
from clm_ray.data.buckets import bucket_of, part
from clm_ray.data.columns import rows_to_table
from clm_ray.features.history import History
from clm_ray.features.statistics import ItemStatistics
from clm_ray.lifecycle.windows import next_activity_bins, on_grid
from clm_ray.model.inference import UserRequest, UserState
from clm_ray.schema import (
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
    TIMESTAMP,
    TRAIN,
)

ITEMS_COUNT = 41
CATEGORIES = 4
USERS_COUNT = 60
BUCKETS = 2
DAYS, TRAIN_DAYS = 140, 80
NEGATIVES = 4
START = 1_483_228_800_000_000
"""2017-01-01 UTC."""


def recipe(**retention: object) -> Recipe:
    """The recipe of the made world."""
    return recipe_from(
        {
            "name": "made",
            "source": {"kind": "files", "events": {"paths": ["made.parquet"]}},
            "event_types": {
                "purchase": {"roles": ["positive", "context", "activity"], "value": "amount"},
                "mail": {"roles": ["context"]},
                "impression": {"roles": []},
            },
            "impressions": {"negatives": "availability", "per_occasion": NEGATIVES},
            "retention": {"bin_ends": [1, 3, 7, 14], "report_days": [7, 14], **retention},
            "sequences": {"buckets": BUCKETS, "max_context": 8},
            "evaluate": {"ks": [3, 5], "retrieve": 10, "baseline_rows": 2000, "cold_user_events": 3},
        }
    )


@dataclass(frozen=True)
class Visit:
    """One purchase moment of one user."""

    user: int
    time: int
    taken: NDArray[np.int32]


def category(item: NDArray[np.int32]) -> NDArray[np.int32]:
    """Category of an item row."""
    return item % CATEGORIES


def shown() -> NDArray[np.int32]:
    """Rows shown at every visit."""
    return np.arange(1, ITEMS_COUNT // 2 + 1, dtype=np.int32)


def _visits(random: np.random.Generator) -> list[Visit]:
    visits = []
    for user in range(USERS_COUNT):
        favourite, gap = user % CATEGORIES, float(random.choice([2.0, 5.0, 20.0]))
        day = float(random.uniform(0, 30))
        while day < DAYS:
            liked = [i for i in shown() if category(i) == favourite]
            pool = liked if random.uniform() < 0.8 else list(shown())
            taken = np.unique(random.choice(pool, size=2)).astype(np.int32)
            visits.append(Visit(user, START + int(day * DAY_US), taken))
            day += 0.2 + float(random.exponential(gap))
    return visits


def write(folder: Path, *, made: Recipe, seed: int = 0, visits: Sequence[Visit] | None = None) -> None:
    """Write the dataset folder, of the given visits or of those that the made users make."""
    random = np.random.default_rng(seed)
    visits = _visits(random) if visits is None else visits
    train_end, end = START + TRAIN_DAYS * DAY_US, START + DAYS * DAY_US
    for name in ("events", "sequences", "impressions", "references", "interactions"):
        (folder / name).mkdir(parents=True)
    bucket_U = bucket_of([f"u{u:03d}" for u in range(USERS_COUNT)], BUCKETS)
    for bucket in range(BUCKETS):
        mine = [v for v in visits if bucket_U[v.user] == bucket]
        pq.write_table(_events(mine), folder / "events" / part(bucket))
        references = _references(mine, made, train_end, end)
        early = [r for r in references if r["split"] == TRAIN]
        late = [r for r in references if r["split"] == TEST]
        pq.write_table(
            rows_to_table(_windows(mine, early, train_end, random), SEQUENCES), folder / "sequences" / part(bucket)
        )
        pq.write_table(rows_to_table(_impressions(mine, train_end), IMPRESSIONS), folder / "impressions" / part(bucket))
        pq.write_table(rows_to_table(late, REFERENCES), folder / "references" / part(bucket))
        pq.write_table(_interactions(mine, train_end), folder / "interactions" / part(bucket))
    pq.write_table(items(), folder / "items.parquet")
    pq.write_table(_statistics(visits), folder / "item_statistics.parquet")
    pq.write_table(NEIGHBOURS.empty_table(), folder / "neighbours.parquet")
    (folder / "recipe.yaml").write_text(made.to_yaml(), encoding="utf-8")
    thresholds = {"new_days": 28.0, "at_risk_days": 20.0, "churned_days": 40.0, "reactivated_days": 14.0}
    manifest = {"id": folder.name, "thresholds": thresholds, "probability_correction": "logit offset, in training only"}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def items() -> pa.Table:
    """The catalogue; items of one category share one of two texts."""
    rows = [
        {
            "item_id": f"i{i:03d}" if i else "",
            "text": f"category {i % CATEGORIES} kind {i % 2}" if i else "",
            "categories": [f"c{i % CATEGORIES}"] if i else [],
        }
        for i in range(ITEMS_COUNT)
    ]
    return pa.Table.from_pylist([{**row, "numeric": None, "flags": []} for row in rows], schema=ITEMS)


def _events(visits: Sequence[Visit]) -> pa.Table:
    rows = []
    for v in visits:
        for item in v.taken:
            rows.append(
                {
                    "event_type": "purchase",
                    "item": int(item),
                    "value": 2.0 + item,
                    "timestamp": v.time,
                    "user_id": f"u{v.user:03d}",
                }
            )
        rows.append(
            {
                "event_type": "mail",
                "item": 0,
                "value": None,
                "timestamp": v.time + DAY_US // 2,
                "user_id": f"u{v.user:03d}",
            }
        )
    rows.sort(key=lambda r: (r["user_id"], r["timestamp"], r["item"]))
    for n, row in enumerate(rows):
        row |= {
            "event_id": f"e{n}",
            "item_id": f"i{row['item']:03d}" if row["item"] else None,
            "decision_id": None,
            "context": [],
        }
    return pa.Table.from_pylist(rows, schema=EVENTS.append(pa.field("item", pa.int32())))


def _windows(
    visits: Sequence[Visit], references: list[dict], train_end: int, random: np.random.Generator
) -> list[dict]:
    nothing = np.empty(0, np.float32)
    rows = []
    for user in sorted({v.user for v in visits}):
        parts = []
        for v in (v for v in visits if v.user == user and v.time < train_end):
            others = np.setdiff1d(shown(), v.taken)
            drawn = random.choice(others, NEGATIVES, replace=False)
            item = np.concatenate([v.taken, drawn]).astype(np.int32)
            offset = np.full(len(item), -np.log(NEGATIVES / len(others)), np.float32)
            label = np.isin(item, v.taken).astype(np.float32)
            parts.append((item, label, offset, np.full(len(item), v.time, np.int64)))
        mine = [r for r in references if r["user_id"] == f"u{user:03d}"]
        joined = [np.concatenate(column) for column in zip(*parts, strict=True)] or [nothing] * 4
        rows.append(
            {
                **{f.name: nothing for f in SEQUENCES},
                **{f.name: np.empty((0, 1), np.float32) for f in SEQUENCES if f.name.endswith("dense")},
                "user_id": f"u{user:03d}",
                "window": 0,
                "tgt_item": joined[0],
                "tgt_label": joined[1],
                "tgt_weight": np.ones(len(joined[0]), np.float32),
                "tgt_offset": joined[2],
                "tgt_rating": np.full(len(joined[0]), np.nan, np.float32),
                "tgt_time": joined[3],
                "tgt_split": np.full(len(joined[0]), TRAIN),
                "ref_time": np.array([r["time"] for r in mine], np.int64),
                "ref_bin": np.array([r["bin"] for r in mine], np.int32),
                "ref_censored": np.array([r["censored"] for r in mine], np.int32),
                "ref_value": np.full(len(mine), np.nan, np.float32),
                "ref_split": np.full(len(mine), TRAIN),
            }
        )
    return rows


def _impressions(visits: Sequence[Visit], train_end: int) -> list[dict]:
    rows = []
    for v in (v for v in visits if v.time >= train_end):
        for kind, item in (("catalogue", v.taken), ("shown", shown())):
            label = np.isin(item, v.taken).astype(np.float32)
            row = {"user_id": f"u{v.user:03d}", "time": v.time, "kind": kind, "item": item, "label": label}
            rows.append({**row, "weight": np.ones(len(item), np.float32), "offset": 0.0, "split": TEST})
    return rows


def _references(visits: Sequence[Visit], made: Recipe, train_end: int, end: int) -> list[dict]:
    rows = []
    for user in sorted({v.user for v in visits}):
        active = np.array([v.time for v in visits if v.user == user], np.int64)
        grid = START + np.arange(0, DAYS, 7) * DAY_US
        grid = grid[on_grid(active, grid, 60)]
        for split, mine, stop in ((TRAIN, grid[grid < train_end], train_end), (TEST, grid[grid >= train_end], end)):
            back, seen = next_activity_bins(active, mine, bin_ends=made.retention.bin_ends, log_end_us=stop)
            for time, b, s in zip(mine, back, seen, strict=True):
                if s > 0:
                    row = {"user_id": f"u{user:03d}", "time": int(time), "bin": int(b), "censored": int(s)}
                    rows.append({**row, "value": float("nan"), "split": split})
    return rows


def _interactions(visits: Sequence[Visit], train_end: int) -> pa.Table:
    rows = [
        {"user_id": f"u{v.user:03d}", "item": int(i), "weight": 1.0, "events": 1}
        for v in visits
        if v.time < train_end
        for i in v.taken
    ]
    return pa.Table.from_pylist(rows, schema=INTERACTIONS)


def _statistics(visits: Sequence[Visit]) -> pa.Table:
    item = np.concatenate([v.taken for v in visits])
    day = np.concatenate([np.full(len(v.taken), v.time // DAY_US) for v in visits]).astype(np.int32)
    one = np.ones(len(item))
    daily = (
        pa.table({"item": item, "day": day, "n": one, "spend": 2.0 + item})
        .group_by(["item", "day"])
        .aggregate([("n", "sum"), ("spend", "sum")])
    )
    n = daily.column("n_sum").to_numpy()
    statistics = ItemStatistics.from_daily(
        daily.column("item").to_numpy(), daily.column("day").to_numpy(), n, n, daily.column("spend_sum").to_numpy()
    )
    return pa.table(statistics.columns(), schema=ITEM_STATISTICS)


def write_model(folder: Path) -> None:
    """As much of a model folder as evaluation reads beside the scorer."""
    folder.mkdir(parents=True)
    table = items()
    pq.write_table(table, folder / "items.parquet")
    row: dict[str, int] = {}
    text_I = np.array([row.setdefault(t, len(row)) for t in table.column("text").to_pylist()])
    np.save(folder / "item_text.npy", text_I)
    np.save(folder / "frozen_text_vectors.npy", np.random.default_rng(0).normal(size=(len(row), 6)).astype(np.float32))
    epochs = [
        {
            "epoch": e,
            "train_click_loss": 1 / (e + 1),
            "click_auc": 0.6 + e / 10,
            "click_log_loss": 0.5,
            "retention_auc": None,
        }
        for e in range(3)
    ]
    (folder / "training.json").write_text(json.dumps({"epochs": epochs, "dataset": "made"}), encoding="utf-8")


@dataclass(frozen=True)
class KnowingScorer:
    """Knows the rule of the made world, but the user's taste only from events strictly before the moment."""

    recipe: Recipe

    @staticmethod
    def open(folder: Path) -> KnowingScorer:
        """Ignore the folder: there are no weights."""
        assert folder.is_dir()
        return KnowingScorer(recipe())

    def states(self, requests: Sequence[UserRequest]) -> list[UserState]:
        """The history before each moment."""
        nothing = np.empty(0, np.float32)
        return [UserState(r.user_id, r.time, r.history.before(r.time), nothing, nothing) for r in requests]

    def click(self, states: Sequence[UserState], rows: Sequence[NDArray[np.int32]]) -> list[NDArray[np.float32]]:
        """Items of the category taken most often so far have eight times the chance of the others."""
        return [
            np.where(category(row) == _taste(s.history), 0.3, 0.04).astype(np.float32)
            for s, row in zip(states, rows, strict=True)
        ]

    def ratings(self, states: Sequence[UserState], rows: Sequence[NDArray[np.int32]]) -> None:
        """No such output."""

    def values(self, states: Sequence[UserState]) -> None:
        """No such output."""

    def survival(self, states: Sequence[UserState], *, stage_B: NDArray[np.int8]) -> NDArray[np.float32]:
        """From the mean gap between visits so far."""
        ends = np.array(self.recipe.retention.bin_ends)
        gaps = [np.diff(np.unique(s.history.time_N // DAY_US)).mean() if len(s.history) > 3 else 5.0 for s in states]
        return np.array([1 - np.exp(-ends / max(gap, 0.5)) for gap in gaps], np.float32)

    def retrieve(self, states: Sequence[UserState], *, count: int) -> list[NDArray[np.int32]]:
        """The first items of the favourite category, then the others."""
        every = np.arange(1, ITEMS_COUNT, dtype=np.int32)
        return [every[np.lexsort((every, category(every) != _taste(s.history)))][:count] for s in states]


def _taste(history: History) -> int:
    bought = history.item_N[history.item_N > 0]
    return int(np.bincount(category(bought), minlength=CATEGORIES).argmax()) if len(bought) else -1


def timestamps(values: NDArray[np.int64]) -> pa.Array:
    """µs as the contract's timestamps."""
    return pa.array(values, TIMESTAMP)
