"""What a deduplicated log holds, counted block by block and added up: reasons, types, users, items, time range, pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clm_ray.data.columns import map_value
from clm_ray.data.duplicates import DERIVED

SUMMARY = pa.schema(
    [
        pa.field("kind", pa.string()),
        pa.field("key", pa.string()),
        pa.field("count", pa.int64()),
        pa.field("first", pa.int64()),
        pa.field("last", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Summary:
    """Sums over all blocks. Times in UTC µs, None without a clean row. users, items: distinct ids, sorted. pairs: distinct
    (user, item). files: clean rows by position of the file. filled: clean rows with a value, by the columns that were asked about."""

    rows: int
    reasons: dict[str, int]
    types: dict[str, int]
    files: dict[int, int]
    filled: dict[str, int]
    users: pa.Array
    items: pa.Array
    pairs: int
    first_us: int | None
    last_us: int | None


def summarise_block(block: pa.Table, *, columns: Sequence[str] = ()) -> pa.Table:
    """One block (CLEANED, ids settled, users whole) → SUMMARY rows. `columns`, `context.NAME` among them: whose values to count."""
    clean = block.filter(block.column("reason").is_null())
    with_item = clean.filter(clean.column("item_id").is_valid())
    pairs = with_item.group_by(["user_id", "item_id"]).aggregate([]).num_rows
    parts = [
        _counts("reason", block.column("reason"), block),
        _counts("type", clean.column("event_type"), clean),
        _counts("file", clean.column("file").cast(pa.string()), clean),
        _counts("user", clean.column("user_id"), clean),
        _counts("item", with_item.column("item_id"), with_item),
    ]
    plain = [("rows", "", block.num_rows), ("pairs", "", pairs)]
    plain += [("filled", name, _filled(clean, name)) for name in columns]
    rows = [dict(zip(SUMMARY.names, (*row, None, None), strict=True)) for row in plain]
    return pa.concat_tables([*parts, pa.Table.from_pylist(rows, schema=SUMMARY)])


def summarise(blocks: Sequence[pa.Table]) -> Summary:
    """Add up the SUMMARY rows of all blocks."""
    total = pa.concat_tables([SUMMARY.empty_table(), *blocks]).group_by(["kind", "key"])
    rows = total.aggregate([("count", "sum"), ("first", "min"), ("last", "max")])

    def of(kind: str) -> pa.Table:
        return rows.filter(pc.equal(rows.column("kind"), kind)).sort_by("key")

    def counts(kind: str) -> dict[str, int]:
        found = of(kind)
        return dict(zip(found.column("key").to_pylist(), found.column("count_sum").to_pylist(), strict=True))

    times = of("type")
    return Summary(
        rows=counts("rows").get("", 0),
        reasons=counts("reason"),
        types=counts("type"),
        filled=counts("filled"),
        files={int(key): count for key, count in counts("file").items()},
        users=of("user").column("key").combine_chunks(),
        items=of("item").column("key").combine_chunks(),
        pairs=counts("pairs").get("", 0),
        first_us=pc.min(times.column("first_min")).as_py(),
        last_us=pc.max(times.column("last_max")).as_py(),
    )


def _filled(clean: pa.Table, name: str) -> int:
    """Rows with a value in a column, or under an entry of the context; of event ids, those that the source gave."""
    column, _, entry = name.partition(".")
    if entry:
        return sum(value is not None for value in map_value(clean.column(column), entry))
    known = clean.column(name).is_valid()
    if name == "event_id":
        known = pc.and_(known, pc.invert(pc.starts_with(clean.column(name), DERIVED)))
    return pc.sum(known).as_py() or 0


def _counts(kind: str, keys: pa.ChunkedArray, block: pa.Table) -> pa.Table:
    """How often each key occurs, and when first and last; null keys are left out."""
    table = pa.table({"key": keys, "time": block.column("timestamp").cast(pa.int64())})
    groups = table.filter(table.column("key").is_valid()).group_by("key")
    found = groups.aggregate([([], "count_all"), ("time", "min"), ("time", "max")])
    columns = [pa.array(np.full(len(found), kind, object), pa.string())]
    columns += [found.column(name) for name in ("key", "count_all", "time_min", "time_max")]
    return pa.table(columns, schema=SUMMARY)
