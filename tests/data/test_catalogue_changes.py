"""What was put or deleted over HTTP is in the next dataset's catalogue."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clm_ray.data.changed_items import read_changed_items, with_changed_items
from clm_ray.schema import CHANGED_ITEMS, ITEMS
from clm_ray.store.compact import compact
from clm_ray.store.items import PutItem
from clm_ray.store.store import open_store

DAY = 86_400_000_000


def day(n: int) -> dt.datetime:
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(days=n)


def catalogue(**until: int | None) -> pa.Table:
    rows = [
        {"item_id": name, "text": f"old {name}", "categories": ["c"], "available_until": at}
        for name, at in until.items()
    ]
    return pa.Table.from_pylist(rows, schema=ITEMS)


def by_id(table: pa.Table | None) -> dict[str, dict[str, Any]]:
    assert table is not None
    assert table.schema == ITEMS
    return {row["item_id"]: row for row in table.to_pylist()}


def test_a_put_item_is_as_it_was_put_and_a_deleted_one_is_on_offer_no_longer(tmp_path: Path) -> None:
    new = PutItem("new", "a new one", ("c", "d"), {"price": 2.5}, (1.0, 2.0), 3 * DAY, 9 * DAY, ("fresh",))
    with open_store(f"sqlite:///{tmp_path}/store.db") as store:
        store.put_items([("new", new), ("a", PutItem("a", "now"))], now=DAY)
        store.put_items([("b", None), ("c", None), ("unknown", None)], now=2 * DAY)
        assert compact(store, tmp_path / "feedback", impression_event="impression").changed_items == 5
    changed = read_changed_items(tmp_path / "feedback" / "items")
    found = by_id(with_changed_items(catalogue(a=None, b=None, c=DAY, d=None), changed))
    assert sorted(found) == ["a", "b", "c", "d", "new"]
    assert found["new"] == {
        "item_id": "new",
        "text": "a new one",
        "categories": ["c", "d"],
        "numeric": [("price", 2.5)],
        "available_from": day(3),
        "available_until": day(9),
        "flags": ["fresh"],
        "vectors": [1.0, 2.0],
    }
    assert (found["a"]["text"], found["a"]["categories"], found["a"]["vectors"]) == ("now", [], None)
    assert [found[name]["available_until"] for name in "bcd"] == [day(2), day(1), None]
    assert found["b"]["text"] == "old b"


def test_of_several_stores_the_last_change_counts(tmp_path: Path) -> None:
    folder = tmp_path / "items"
    folder.mkdir()
    for store, at, text in (("x", 2, None), ("y", 3, "again"), ("z", 1, "first")):
        row = {
            "item_id": "a",
            "changed_at": at,
            "deleted": text is None,
            "text": text,
            "categories": [] if text else None,
        }
        pq.write_table(pa.Table.from_pylist([row], schema=CHANGED_ITEMS), folder / f"part-{store}.parquet")
    assert by_id(with_changed_items(None, read_changed_items(folder)))["a"]["text"] == "again"
    (folder / "part-y.parquet").unlink()
    assert by_id(with_changed_items(catalogue(a=None), read_changed_items(folder)))["a"]["available_until"] is not None


def test_without_changes_the_catalogue_is_as_it_was(tmp_path: Path) -> None:
    nothing = read_changed_items(tmp_path / "items")
    assert with_changed_items(None, nothing) is None
    items = catalogue(a=None)
    assert with_changed_items(items, nothing) is items
