"""Items that were put or deleted over HTTP, in the catalogue of the next dataset: compaction writes them below ROOT/feedback/items.

The last change of an item counts, whichever store it came from. What was put stands in the place of the source's own row; what was deleted is on offer no
longer, but stays in the catalogue, because histories speak of it.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clm_ray.schema import CHANGED_ITEMS, ITEMS


def read_changed_items(folder: Path) -> pa.Table:
    """CHANGED_ITEMS, ids unique, by id; none where nothing was written."""
    parts = [pq.read_table(path, schema=CHANGED_ITEMS) for path in sorted(folder.glob("part-*.parquet"))]
    table = pa.concat_tables([CHANGED_ITEMS.empty_table(), *parts])
    order = [("item_id", "ascending"), ("changed_at", "descending"), ("deleted", "descending")]
    table = table.sort_by(order).combine_chunks()
    ids = table.column("item_id")
    if not len(ids):
        return table
    first = pa.chunked_array([pa.array([True]), *pc.not_equal(ids[1:], ids[:-1]).chunks])
    return table.filter(first)


def with_changed_items(items: pa.Table | None, changed: pa.Table) -> pa.Table | None:
    """The catalogue (ITEMS, ids unique) with what `read_changed_items` found; None where there is neither."""
    if not changed.num_rows:
        return items
    listed = ITEMS.empty_table() if items is None else items
    put = changed.filter(pc.invert(changed.column("deleted"))).select(ITEMS.names).cast(ITEMS)
    gone = changed.filter(changed.column("deleted"))
    stays = listed.filter(pc.invert(pc.is_in(listed.column("item_id"), value_set=put.column("item_id"))))
    # When each was deleted; null for the others.
    at = gone.column("changed_at").take(pc.index_in(stays.column("item_id"), value_set=gone.column("item_id")))
    until = stays.column("available_until")
    until = pc.if_else(pc.coalesce(pc.less(at, until), pc.is_valid(at)), at, until)
    place = ITEMS.get_field_index("available_until")
    return pa.concat_tables([stays.set_column(place, ITEMS.field(place), until), put])
