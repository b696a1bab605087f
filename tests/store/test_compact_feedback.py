"""Compaction: everything once, in the log's own contract, whatever interrupts it."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clm_ray.schema import AVAILABILITY, EVENTS
from clm_ray.store import compact as compaction
from clm_ray.store.compact import compact
from clm_ray.store.records import ServedSlate, StoredEvent
from clm_ray.store.store import Store, open_store


def event(event_id: str, **given: object) -> StoredEvent:
    return StoredEvent(event_id, "u", "click", 1_000_000, **given)  # type: ignore[arg-type]


def slate(decision_id: str, *, items: tuple[str, ...] = ("a", "b"), degraded: str = "") -> ServedSlate:
    probabilities = tuple(0.5 for _ in items)
    return ServedSlate(
        decision_id, "u", 2_000_000, "r1", items, probabilities, degraded=degraded, context={"page": "home"}
    )


def read(folder: Path, kind: str, schema: pa.Schema) -> pa.Table:
    parts = [pq.read_table(path, schema=schema) for path in sorted((folder / kind).glob("part-*.parquet"))]
    return pa.concat_tables(parts)


def ids(folder: Path) -> Counter[str]:
    return Counter(read(folder, "events", EVENTS)["event_id"].to_pylist())


def run(store: Store, folder: Path, **given: int) -> compaction.Compacted:
    return compact(store, folder, impression_event="impression", **given)


def test_events_and_impressions_follow_the_contract(store: Store, tmp_path: Path) -> None:
    store.append_events(
        [event("1", item_id="a", value=2.5, decision_id="s1", context={"k": "v"}), event("2")], received_at=0
    )
    store.log_slates([slate("s1"), slate("s2", degraded="no history"), slate("s3", items=())])
    done = run(store, tmp_path)
    assert (done.events, done.impressions, done.slate_items) == (2, 2, 4)
    events = read(tmp_path, "events", EVENTS)
    assert events.schema == EVENTS
    rows = {row["event_id"]: row for row in events.to_pylist()}
    assert list(rows) == ["1", "2", "impression:s1", "impression:s2"]
    assert rows["1"]["context"] == [("k", "v")]
    assert (rows["1"]["item_id"], rows["1"]["value"], rows["1"]["decision_id"]) == ("a", 2.5, "s1")
    assert (rows["2"]["item_id"], rows["2"]["value"], rows["2"]["decision_id"]) == (None, None, None)
    shown = rows["impression:s1"]
    assert (shown["event_type"], shown["item_id"], shown["decision_id"]) == ("impression", None, "s1")
    assert shown["timestamp"].timestamp() == 2
    assert dict(shown["context"]) == {"page": "home", "slot": "decision:s1"}
    assert dict(rows["impression:s2"]["context"])["degraded"] == "no history"
    offered = read(tmp_path, "availability", AVAILABILITY).to_pylist()
    assert offered == [{"slot": f"decision:{s}", "item_id": item} for s in ("s1", "s2") for item in ("a", "b")]


def test_running_again_writes_only_what_is_new(store: Store, tmp_path: Path) -> None:
    store.append_events([event("1")], received_at=0)
    assert len(run(store, tmp_path).parts) == 1
    assert run(store, tmp_path) == compaction.Compacted((), 0, 0, 0)
    store.append_events([event("1"), event("2")], received_at=0)
    store.log_slates([slate("s1")])
    assert len(run(store, tmp_path).parts) == 1
    store.log_slates([slate("s2")])
    assert len(run(store, tmp_path).parts) == 1
    assert ids(tmp_path) == Counter(["1", "2", "impression:s1", "impression:s2"])


def test_a_fresh_store_leaves_what_an_earlier_one_wrote(store: Store, tmp_path: Path) -> None:
    store.append_events([event("1")], received_at=0)
    store.log_slates([slate("s1")])
    run(store, tmp_path)
    with open_store(f"sqlite:///{tmp_path / 'fresh.db'}") as fresh:
        fresh.append_events([event("2")], received_at=0)
        fresh.log_slates([slate("s2")])
        run(fresh, tmp_path)
    assert ids(tmp_path) == Counter(["1", "2", "impression:s1", "impression:s2"])
    assert len(read(tmp_path, "availability", AVAILABILITY)) == 4


def test_much_is_written_in_parts(store: Store, tmp_path: Path) -> None:
    store.append_events([event(str(n)) for n in range(25)], received_at=0)
    store.log_slates([slate(f"s{n}") for n in range(5)])
    assert len(run(store, tmp_path, rows_per_part=10).parts) == 3
    assert ids(tmp_path) == Counter([*map(str, range(25)), *(f"impression:s{n}" for n in range(5))])


@pytest.mark.parametrize("broken", ["_write", "_finish"])
def test_a_crash_neither_loses_nor_doubles(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    store.append_events([event("1")], received_at=0)
    store.log_slates([slate("s1")])
    with monkeypatch.context() as patch:

        def crash(*_args: object) -> None:
            raise OSError("power cut")

        patch.setattr(compaction, broken, crash)
        with pytest.raises(OSError, match="power cut"):
            run(store, tmp_path)
    store.append_events([event("2")], received_at=0)  # comes in before the job is run again
    run(store, tmp_path)
    assert ids(tmp_path) == Counter(["1", "impression:s1", "2"])
    assert len(read(tmp_path, "availability", AVAILABILITY)) == 2


def test_two_runs_at_once_write_the_same_files(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run starts while the first has its part written but not finished."""
    store.append_events([event(str(n)) for n in range(6)], received_at=0)
    finish = compaction._finish
    others: list[int] = []

    def interrupted(target: Store, upto: compaction.Mark) -> None:
        if not others:
            others.append(1)
            run(store, tmp_path, rows_per_part=2)
        finish(target, upto)

    monkeypatch.setattr(compaction, "_finish", interrupted)
    run(store, tmp_path, rows_per_part=2)
    store.append_events([event("new")], received_at=0)
    run(store, tmp_path, rows_per_part=2)
    assert ids(tmp_path) == Counter([*map(str, range(6)), "new"])
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_events_that_are_committed_late_are_not_passed_by(store: Store, store_url: str, tmp_path: Path) -> None:
    """Somebody has a lower `seq` and commits later than somebody else: compaction waits for both."""
    from clm_ray.store import events

    with open_store(store_url) as other, ThreadPoolExecutor(1) as pool:
        with store.writing() as connection:
            events.append(connection, [event("slow")], known=set(), erased={}, received_at=0)
            other.append_events([event("fast")], received_at=0)
            done = pool.submit(run, other, tmp_path)
            with pytest.raises(TimeoutError):
                done.result(timeout=0.2)
        assert done.result().events == 2
    assert ids(tmp_path) == {"slow": 1, "fast": 1}
