"""What a deduplicated log holds, counted block by block and added up: reasons, types, users, items, time range, pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clm_ray.data.duplicates import DERIVED

_COLUMNS = ("event_id", "user_id", "item_id", "event_type", "timestamp", "value", "decision_id")

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
    (user, item). files: clean rows by position of the file. filled: clean rows with a value, by column (of event ids those that
    the source gave) and by `context.NAME`."""

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


def summarise_block(block: pa.Table) -> pa.Table:
    """One block (CLEANED, ids settled, users whole) → SUMMARY rows."""
    clean = block.filter(block.column("reason").is_null())
    with_item = clean.filter(clean.column("item_id").is_valid())
    pairs = with_item.group_by(["user_id", "item_id"]).aggregate([]).num_rows
    parts = [
        _counts("reason", block.column("reason"), block),
        _counts("type", clean.column("event_type"), clean),
        _counts("file", clean.column("file").cast(pa.string()), clean),
        _counts("user", clean.column("user_id"), clean),
        _counts("item", with_item.column("item_id"), with_item),
        *(_counts("filled", keys, rows) for keys, rows in _filled(clean)),
        pa.table([["rows", "pairs"], ["", ""], [block.num_rows, pairs], [None, None], [None, None]], schema=SUMMARY),
    ]
    return pa.concat_tables(parts)


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


def _filled(clean: pa.Table) -> Iterator[tuple[pa.ChunkedArray, pa.Table]]:
    """(name of the column, or null where the row has no value in it; the rows), column by column."""
    for name in _COLUMNS:
        known = clean.column(name).is_valid()
        if name == "event_id":
            known = pc.and_(known, pc.invert(pc.starts_with(clean.column(name), DERIVED)))
        yield pc.if_else(known, name, pa.scalar(None, pa.string())), clean
    context = clean.column("context").combine_chunks()
    if isinstance(context, pa.ChunkedArray):
        context = context.chunk(0) if context.num_chunks else pa.nulls(0, context.type)
    lengths = np.diff(context.offsets.to_numpy())
    row = pa.array(np.repeat(np.arange(len(context)), lengths))
    keys = context.keys.slice(context.offsets[0].as_py(), int(lengths.sum()))
    yield pc.binary_join_element_wise("context", keys, "."), clean.select(["timestamp"]).take(row)


def _counts(kind: str, keys: pa.ChunkedArray, block: pa.Table) -> pa.Table:
    """How often each key occurs, and when first and last; null keys are left out."""
    table = pa.table({"key": keys, "time": block.column("timestamp").cast(pa.int64())})
    groups = table.filter(table.column("key").is_valid()).group_by("key")
    found = groups.aggregate([([], "count_all"), ("time", "min"), ("time", "max")])
    columns = [pa.array(np.full(len(found), kind, object), pa.string())]
    columns += [found.column(name) for name in ("key", "count_all", "time_min", "time_max")]
    return pa.table(columns, schema=SUMMARY)
