"""Loading a prepared dataset: every event once, old bases replaced, nothing that came in since is lost."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clm_ray.errors import StoreError
from clm_ray.schema import EVENTS
from clm_ray.store.load import load_dataset, loaded_dataset
from clm_ray.store.records import StoredEvent, Verdict
from clm_ray.store.store import Store

Row = tuple[str, str, int, str | None, float | None]


def write_dataset(folder: Path, *, dataset: str, parts: list[list[Row]]) -> Path:
    """Rows are (event id, user, time, item, value), given in the order in which they are written."""
    (folder / "events").mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"id": dataset}))
    for number, rows in enumerate(parts):
        columns = {
            "event_id": [row[0] for row in rows],
            "user_id": [row[1] for row in rows],
            "item_id": [row[3] for row in rows],
            "event_type": ["purchase" if row[3] else "campaign_received" for row in rows],
            "timestamp": [datetime.fromtimestamp(row[2] / 1e6, UTC) for row in rows],
            "value": [row[4] for row in rows],
            "decision_id": [None] * len(rows),
            "context": [[("page", "home")]] * len(rows),
        }
        table = pa.table(columns, schema=EVENTS).append_column("item", pa.array([1] * len(rows), pa.int32()))
        pq.write_table(table, folder / "events" / f"part-{number:05d}.parquet")
    return folder


FIRST: list[list[Row]] = [
    [("1", "a", 10, "x", 1.5), ("2", "a", 10, None, None), ("3", "a", 30, "y", 2.5), ("4", "c", 5, "x", 0.0)],
    [],
    [("5", "b", 20, "z", 9.0)],
]


def test_all_events_of_all_users(store: Store, tmp_path: Path) -> None:
    loaded = load_dataset(store, write_dataset(tmp_path / "d", dataset="d1", parts=FIRST))
    assert (loaded.dataset, loaded.users, loaded.events, loaded.last_event_us) == ("d1", 3, 5, 30)
    history = store.histories(["a", "b", "c"])["a"]
    assert history.time_N.tolist() == [10, 10, 30]
    assert [None if code < 0 else history.items[code] for code in history.item_code_N] == ["x", None, "y"]
    assert [history.types[code] for code in history.type_code_N] == ["purchase", "campaign_received", "purchase"]
    assert history.value_N.tolist()[::2] == [1.5, 2.5]
    assert history.items == ("x", "y")  # only what this user has
    assert store.append_events([StoredEvent("5", "b", "click", 99)], received_at=0) == [Verdict.DUPLICATE]


def test_a_second_time_does_nothing(store: Store, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d", dataset="d1", parts=FIRST)
    first = load_dataset(store, folder)
    for path in (folder / "events").iterdir():
        path.write_bytes(b"would fail if it were read")
    assert load_dataset(store, folder) == first == loaded_dataset(store)


def test_the_next_dataset_replaces_bases_and_keeps_new_events(store: Store, tmp_path: Path) -> None:
    load_dataset(store, write_dataset(tmp_path / "d1", dataset="d1", parts=FIRST))
    store.append_events([StoredEvent("6", "a", "click", 40), StoredEvent("7", "c", "click", 50)], received_at=60)
    second: list[list[Row]] = [[("1", "a", 10, "x", 1.5), ("3", "a", 30, "y", 2.5), ("6", "a", 40, None, None)]]
    load_dataset(store, write_dataset(tmp_path / "d2", dataset="d2", parts=second))
    histories = store.histories(["a", "b", "c"])
    assert {user: history.time_N.tolist() for user, history in histories.items()} == {
        "a": [10, 30, 40],
        "b": [],
        "c": [50],
    }


def test_an_interrupted_load_is_completed(store: Store, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d", dataset="d1", parts=FIRST)
    last = folder / "events" / "part-00002.parquet"
    whole = last.read_bytes()
    pq.write_table(pa.table({"event_id": ["5"]}), last)
    with pytest.raises(StoreError, match="cannot be read"):
        load_dataset(store, folder)
    assert loaded_dataset(store) is None
    last.write_bytes(whole)
    assert load_dataset(store, folder).users == 3
    assert len(store.histories(["b"])["b"]) == 1


def test_after_an_interrupted_load_the_dataset_before_it_is_loaded_again(store: Store, tmp_path: Path) -> None:
    first = write_dataset(tmp_path / "d1", dataset="d1", parts=FIRST)
    load_dataset(store, first)
    second = write_dataset(tmp_path / "d2", dataset="d2", parts=[[("9", "a", 99, "x", 1.0)], [("8", "d", 1, "x", 1.0)]])
    pq.write_table(pa.table({"event_id": ["8"]}), second / "events" / "part-00001.parquet")
    with pytest.raises(StoreError, match="cannot be read"):
        load_dataset(store, second)
    assert loaded_dataset(store) is None
    assert load_dataset(store, first).dataset == "d1"
    assert store.histories(["a"])["a"].time_N.tolist() == [10, 10, 30]


def test_what_is_not_a_dataset_is_told(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"prepare\.py"):
        load_dataset(store, tmp_path)
    with pytest.raises(StoreError, match="no events"):
        load_dataset(store, write_dataset(tmp_path / "empty", dataset="d", parts=[]))
    torn: list[list[Row]] = [[("1", "a", 10, "x", 1.0), ("2", "b", 10, "x", 1.0), ("3", "a", 20, "x", 1.0)]]
    with pytest.raises(StoreError, match="not together"):
        load_dataset(store, write_dataset(tmp_path / "torn", dataset="d", parts=torn))
