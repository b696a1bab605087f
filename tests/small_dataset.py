"""A dataset folder of the small shop, as `prepare` would leave it: what a training worker opens, without Ray."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from small_shop import DAYS, START, SmallShop

from clm_ray.data.buckets import bucket_of, part
from clm_ray.schema import DAY_US, ITEM_STATISTICS, NEIGHBOURS


def write_dataset(folder: Path, shop: SmallShop) -> Path:
    """Tables, windows, recipe and manifest."""
    write_tables(folder, shop)
    shop.write(folder)
    write_events(folder / "events", shop)
    (folder / "recipe.yaml").write_text(shop.recipe.to_yaml(), encoding="utf-8")
    manifest = {
        "id": "small",
        "train_end_us": shop.train_end,
        "thresholds": {"new_days": 7, "at_risk_days": 5, "churned_days": 14, "reactivated_days": 7, "settled_days": 2},
        "log_end_us": START + DAYS * DAY_US,
        "scales": {"rating": None, "log_value": {"mean": 3.0, "spread": 0.8}},
        "base_rates": {"train": {"rate": 0.3, "mean_offset": -0.5}},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def write_events(folder: Path, shop: SmallShop) -> None:
    """Each user's events in the file of the user's bucket."""
    folder.mkdir()
    bucket_N = bucket_of(shop.events.column("user_id"), shop.recipe.sequences.buckets)
    for bucket in range(shop.recipe.sequences.buckets):
        pq.write_table(shop.events.filter(pa.array(bucket_N == bucket)), folder / part(bucket))


def write_tables(folder: Path, shop: SmallShop) -> None:
    """The small tables: items, users, dated statistics, features."""
    folder.mkdir()
    catalogue, statistics = shop.source.catalogue, shop.source.statistics
    categories = [list(catalogue.categories_of(row)) for row in range(len(catalogue))]
    items = {"item_id": list(catalogue.ids), "text": list(catalogue.texts), "categories": categories}
    pq.write_table(pa.table(items), folder / "items.parquet")
    users = {
        "user_id": list(shop.columns),
        "categorical": pa.array([list(c.items()) for c, _ in shop.columns.values()], pa.map_(pa.string(), pa.string())),
        "numeric": pa.array([list(n.items()) for _, n in shop.columns.values()], pa.map_(pa.string(), pa.float64())),
    }
    pq.write_table(pa.table(users), folder / "users.parquet")
    pq.write_table(pa.table(statistics.columns(), schema=ITEM_STATISTICS), folder / "item_statistics.parquet")
    pq.write_table(NEIGHBOURS.empty_table(), folder / "neighbours.parquet")
    (folder / "features.json").write_text(json.dumps(shop.spec.to_dict()), encoding="utf-8")
