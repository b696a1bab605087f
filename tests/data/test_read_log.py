"""The whole intake: from files and feedback to a clean, counted log."""

import datetime as dt
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from shop import write_shop

from clm_ray.config.recipe import recipe_from
from clm_ray.config.workspace import Workspace
from clm_ray.data.log import Log, read_log
from clm_ray.data.rejected import REJECTED_FILE
from clm_ray.errors import ConfigError, DataError, QuarantineError, SchemaError
from clm_ray.schema import AVAILABILITY, CHANGED_ITEMS, EVENTS, ITEMS, QUARANTINE, USERS, validate

NOW_US = round(dt.datetime(2024, 6, 1, tzinfo=dt.UTC).timestamp() * 1e6)
CSV_HEADER = "event_id,user_id,item_id,event_type,timestamp,value"
Reader = Callable[..., Log]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(root=tmp_path / "workspace")


@pytest.fixture
def read(workspace: Workspace) -> Reader:
    """Read a log of files: `read(paths, format=...)`; further sections of the recipe by keyword."""

    def reader(*paths: Path, format: str = "csv", events: dict[str, Any] | None = None, **sections: Any) -> Log:
        table = {"paths": [str(path) for path in paths], "format": format, **(events or {})}
        raw = {
            "name": "t",
            "source": {"kind": "files", "events": table, **sections.pop("source", {})},
            "event_types": {
                "buy": {"roles": ["positive", "context", "activity"], "value": "amount"},
                "mail": {"roles": ["context"]},
                "impression": {"roles": []},
            },
            "sequences": {"buckets": 3},
            **sections,
        }
        return read_log(recipe_from(raw), workspace=workspace, now_us=NOW_US)

    return reader


def write(path: Path, *lines: str, header: str = CSV_HEADER) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join((header, *lines)) + "\n", encoding="utf-8")
    return path


def kept(log: Log) -> pa.Table:
    table = pa.concat_tables(block for block in ray.get(log.events.to_arrow_refs()) if block.num_rows)
    return validate(table, EVENTS, name="events").sort_by("event_id")


def good(count: int, *, start: int = 0) -> list[str]:
    return [f"e{i},u{i % 5},i{i % 3},buy,2024-05-01T10:00:{i % 60:02d},1.5" for i in range(start, start + count)]


def test_missing_columns_and_paths_are_told_before_anything_runs(read, tmp_path):
    path = write(tmp_path / "log.csv", header="who,item_id,event_type,timestamp,value")
    with pytest.raises(SchemaError, match=r"'user_id' is not in log\.csv, which has: who, item_id") as caught:
        read(path)
    assert caught.value.field == "source.events.columns.user_id"
    for column, header in (
        ("item_id", "user_id,event_type,timestamp,value"),
        ("value", "user_id,item_id,event_type,timestamp"),
    ):
        with pytest.raises(SchemaError, match=f"'{column}' is not in"):
            read(write(tmp_path / "log.csv", header=header))
    path = write(tmp_path / "log.csv")
    with pytest.raises(SchemaError, match="'device'"):
        read(path, events={"context_columns": ["device"]})
    with pytest.raises(ConfigError, match=r"event_type_map\.bought"):
        read(path, events={"event_type_map": {"bought": "bye"}})
    with pytest.raises(ConfigError, match=r"source\.events\.event_type:"):
        read(path, events={"event_type": "bye"})
    with pytest.raises(ConfigError, match="time zone"):
        read(path, events={"timezone": "Mars"})
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "other")


@pytest.mark.ray
def test_a_shop_reads_the_same_from_every_format(ray_session, workspace, tmp_path):
    logs = []
    for format in ("parquet", "csv", "jsonl"):
        raw = write_shop(tmp_path / format, users=12, items=20, days=40, format=format)
        logs.append(read_log(recipe_from(raw), workspace=workspace, now_us=NOW_US))
    first = logs[0]
    for log in logs[1:]:
        assert kept(log).equals(kept(first))
        assert log.items.equals(first.items)
        assert log.users.equals(first.users)
        assert log.counts == first.counts
        assert log.availability.cast(AVAILABILITY).equals(first.availability.cast(AVAILABILITY))
    validate(first.items, ITEMS, name="items")
    validate(first.users, USERS, name="users")
    counts = first.counts
    assert counts.read == counts.kept == sum(counts.types.values()) > 100
    assert first.items["item_id"].to_pylist() == ["", *(str(1000 + i) for i in range(20))]
    assert first.items["text"][1].as_py() == "red bread 0, bread"
    assert (counts.users, first.users.num_rows) == (12, 12)
    events = kept(first)
    assert counts.pairs == len(
        set(zip(events["user_id"].to_pylist(), events["item_id"].to_pylist(), strict=True))
        - {(user, None) for user in events["user_id"].to_pylist()}
    )
    slots = {dict(entries).get("slot") for entries in events["context"].to_pylist()} - {None}
    assert slots <= set(first.availability["slot"].cast(pa.string()).to_pylist())


@pytest.mark.ray
def test_each_bucket_lies_whole_in_one_block(ray_session, read, tmp_path):
    paths = [write(tmp_path / f"{n}.csv", *good(40, start=40 * n)) for n in range(3)]
    blocks = ray.get(read(*paths).events.to_arrow_refs())
    owners: dict[int, set[int]] = {}
    for number, block in enumerate(blocks):
        for bucket in block["bucket"].to_pylist() if block.num_rows else []:
            owners.setdefault(bucket, set()).add(number)
    assert owners
    assert all(len(found) == 1 for found in owners.values())


@pytest.mark.ray
def test_rows_rejected_repeated_and_drifting(ray_session, read, tmp_path):
    write(
        tmp_path / "log" / "a.csv",
        *good(200),
        "e1,u1,i1,buy,2024-05-01T10:00:01,1.5",
        "e2,u2,i2,buy,2024-05-01T10:00:03,1.5",
    )
    lines = ["e900,,i1,buy,2024-05-01,1", "e901,u,i1,buy,later,1", "e902,u,i1,stolen,2024-05-01,1", '"e903,u']
    packed = "\n".join((CSV_HEADER + ",extra", *(line + ",x" for line in [*lines[:3], *good(3, start=300)]), lines[3]))
    (tmp_path / "log" / "b.csv.gz").write_bytes(gzip.compress(packed.encode()))
    log = read(tmp_path / "log", clean={"max_rejected_share": 5 / 209})
    assert log.counts.read == 202 + 7
    assert log.counts.rejected_share == 5 / 209
    assert log.counts.kept == 203
    assert log.counts.duplicates == 1
    assert log.counts.rejected == {
        "broken line": 1,
        "event_id used twice": 1,
        "missing user_id": 1,
        "unknown event type": 1,
        "unparsable time": 1,
    }
    rejected = validate(log.quarantine, QUARANTINE, name="quarantine").to_pylist()
    assert [(r["source"], r["row"], r["reason"]) for r in rejected] == [
        ("a.csv", 202, "duplicate"),
        ("a.csv", 203, "event_id used twice"),
        ("b.csv.gz", 2, "missing user_id"),
        ("b.csv.gz", 3, "unparsable time"),
        ("b.csv.gz", 4, "unknown event type"),
        ("b.csv.gz", 8, "broken line"),
    ]
    assert json.loads(rejected[3]["detail"])["timestamp"] == "later"
    events = kept(log)
    assert len(set(events["event_id"].to_pylist())) == 203
    assert log.items["item_id"].to_pylist() == ["", "i0", "i1", "i2"]
    assert log.users["user_id"].to_pylist() == [f"u{i}" for i in range(5)]
    assert log.users["consent"].to_pylist() == [True] * 5


@pytest.mark.ray
def test_the_result_does_not_depend_on_how_the_rows_lie_in_files(ray_session, read, tmp_path):
    records = [
        {
            "user_id": i % 7,
            "item_id": i % 5,
            "event_type": "buy",
            "timestamp": 1_714_000_000 + i // 3,
            "value": float(i % 2),
        }
        for i in range(300)
    ]
    whole = pa.Table.from_pylist([*records, *records[:20]])
    pq.write_table(whole, tmp_path / "one.parquet")
    text = whole.set_column(0, "user_id", whole["user_id"].cast(pa.float64()))
    text = text.set_column(1, "item_id", text["item_id"].cast(pa.string()))
    (tmp_path / "many").mkdir()
    for number, (start, stop) in enumerate(((200, 320), (0, 7), (7, 200))):
        part = (whole if number else text).slice(start, stop - start)
        pq.write_table(part, tmp_path / "many" / f"{number}.parquet", row_group_size=11)
    one, many = read(tmp_path / "one.parquet", format="parquet"), read(tmp_path / "many", format="parquet")
    assert one.counts.kept == 320  # rows without ids are true repeats
    assert kept(one).equals(kept(many))
    assert one.counts == many.counts


@pytest.mark.ray
def test_too_many_rejected_rows(ray_session, read, workspace, tmp_path):
    bad = ["e900,u,i,buy,never,1", "e901,u,i,buy,never,2", "e902,u,i,buy,2024-05-01,much"]
    path = write(tmp_path / "log.csv", *good(20), *bad)
    with pytest.raises(QuarantineError) as caught:
        read(path)
    for told in (
        "3 of 23",
        "13.0%",
        "5.0%",
        "unparsable time: 2",
        "value is not a number: 1",
        "log.csv row 22",
        "never",
    ):
        assert told in str(caught.value)
    examples = pq.read_table(workspace.datasets / REJECTED_FILE)
    assert validate(examples, QUARANTINE, name="quarantine").num_rows == 3
    bounds = {"max_rejected_share": 0.5, "max_rejected": {"unparsable time": 0.5, "value is not a number": 0.0}}
    with pytest.raises(
        QuarantineError, match=r"allowed are 0\.0% of this reason\. Mostly: value is not a number"
    ) as caught:
        read(path, clean=bounds)
    assert caught.value.field == "clean.max_rejected.value is not a number"
    assert read(path, clean={**bounds, "max_rejected": {"unparsable time": 0.5}}).counts.kept == 20


@pytest.mark.ray
@pytest.mark.parametrize(
    ("events", "column", "key"),
    [
        ({"columns": {"value": "amount", "decision_id": "slate"}}, "decision_id", "slate"),
        ({"columns": {"value": "amount", "event_id": "id"}}, "event_id", "id"),
        ({"columns": {"value": "amount"}, "context_columns": ["device"]}, "context.device", "device"),
    ],
)
def test_a_key_that_no_record_has_is_told(ray_session, read, tmp_path, events, column, key):
    """One line may lack a key of JSON lines; all of them cannot."""
    path = tmp_path / "log.jsonl"
    record = {"user_id": "u1", "item_id": "i1", "event_type": "buy", "timestamp": "2024-05-01T10:00:00Z"}
    rare = {"amount": 2.5, "key": "e7", "browser": "x"}
    lines = [record | {"event_type": "mail"}] * 3 + [record | rare]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    correct = {"columns": {"value": "amount", "event_id": "key"}, "context_columns": ["browser"]}
    assert read(path, format="jsonl", events=correct).counts.kept == 4
    with pytest.raises(SchemaError, match=f"has a value for {column}") as caught:
        read(path, format="jsonl", events=events)
    assert caught.value.value == key


@pytest.mark.ray
def test_an_empty_log(ray_session, read, tmp_path):
    paths = write(tmp_path / "no-rows.csv"), tmp_path / "no-bytes.csv"
    paths[1].write_text("")
    with pytest.raises(DataError, match="the log is empty"):
        read(*paths)
    with pytest.raises(DataError, match="the log is empty"):
        read(paths[1])


@pytest.mark.ray
def test_nothing_left(ray_session, read, tmp_path):
    path = write(tmp_path / "log.csv", "e,u,i,buy,never,1")
    with pytest.raises(QuarantineError, match="1 of 1 rows"):
        read(path, clean={"max_rejected_share": 1.0})


@pytest.mark.ray
def test_errors_inside_a_task_come_out_as_themselves(ray_session, read, tmp_path):
    pq.write_table(
        pa.table(
            {"user_id": [["a"]], "item_id": ["i"], "event_type": ["buy"], "timestamp": [1_714_000_000], "value": [1.0]}
        ),
        tmp_path / "log.parquet",
    )
    with pytest.raises(SchemaError, match="user_id: a single value per row is needed"):
        read(tmp_path / "log.parquet", format="parquet")


def write_feedback(workspace: Workspace) -> None:
    moment = dt.datetime(2024, 5, 2, tzinfo=dt.UTC)
    answer = {
        "user_id": "u1",
        "item_id": "new",
        "event_type": "buy",
        "timestamp": moment,
        "value": 2.0,
        "decision_id": "d1",
    }
    shown = {"user_id": "u1", "item_id": None, "event_type": "impression", "timestamp": moment, "value": None}
    from_log = {"user_id": "u1", "item_id": "i1", "event_type": "buy", "value": 1.5, "decision_id": None}
    rows = [
        {"event_id": "f1", "context": [], **answer},
        {"event_id": "f2", "context": [("slot", "decision:d1")], "decision_id": "d1", **shown},
        {"event_id": "e1", "context": [], "timestamp": dt.datetime(2024, 5, 1, 10, 0, 1, tzinfo=dt.UTC), **from_log},
    ]
    put = [
        {"item_id": name, "changed_at": moment, "deleted": False, "text": f"put {name}", "categories": ["fresh"]}
        for name in ("new", "unasked")
    ]
    for name, table in (
        ("events", pa.Table.from_pylist(rows, EVENTS)),
        ("items", pa.Table.from_pylist(put, CHANGED_ITEMS)),
        (
            "availability",
            pa.Table.from_pylist([{"slot": "decision:d1", "item_id": i} for i in ("new", "i1")], AVAILABILITY),
        ),
    ):
        folder = workspace.feedback / name
        folder.mkdir(parents=True)
        pq.write_table(table, folder / "part-1.parquet")


@pytest.mark.ray
def test_feedback_joins_the_log(ray_session, read, workspace, tmp_path):
    write_feedback(workspace)
    path = write(tmp_path / "log.csv", *good(10))
    log = read(path)
    assert (log.counts.read, log.counts.kept, log.counts.from_feedback, log.counts.duplicates) == (13, 12, 2, 1)
    events = {row["event_id"]: row for row in kept(log).to_pylist()}
    assert events["f1"]["decision_id"] == "d1"
    assert events["f2"]["context"] == [("slot", "decision:d1")]
    assert log.availability.cast(AVAILABILITY).to_pylist() == [
        {"slot": "decision:d1", "item_id": "new"},
        {"slot": "decision:d1", "item_id": "i1"},
    ]
    texts = dict(zip(log.items["item_id"].to_pylist(), log.items["text"].to_pylist(), strict=True))
    assert (texts["new"], texts["unasked"], texts["i1"]) == ("put new", "put unasked", "i1")
    without = read(path, source={"feedback": False})
    assert (without.counts.kept, without.availability) == (10, None)
    assert "unasked" not in without.items["item_id"].to_pylist()


@pytest.mark.ray
def test_a_user_who_is_not_in_a_table_with_consent_did_not_consent(ray_session, read, tmp_path):
    path = write(tmp_path / "log.csv", *good(5))
    users = {
        "paths": [str(write(tmp_path / "m.csv", "u1,yes", "u9,yes", header="user_id,ok"))],
        "format": "csv",
        "consent": "ok",
    }
    items = {
        "paths": [str(write(tmp_path / "i.csv", "i1,One", ",none", header="item_id,name"))],
        "format": "csv",
        "text": "{name}",
    }
    log = read(path, source={"users": users, "items": items}, clean={"max_rejected_share": 0.5})
    consent = dict(zip(log.users["user_id"].to_pylist(), log.users["consent"].to_pylist(), strict=True))
    assert consent == {"u0": False, "u1": True, "u2": False, "u3": False, "u4": False, "u9": True}
    assert log.items["text"].to_pylist() == ["", "i0", "One", "i2"]
    assert log.counts.unlisted_items == 2
    assert log.counts.tables == {"missing item_id": 1}
    assert log.quarantine["source"].to_pylist() == ["i.csv"]


@pytest.mark.ray
def test_availability_negatives_need_an_availability_table(ray_session, read, tmp_path):
    path = write(tmp_path / "log.csv", *good(5))
    with pytest.raises(ConfigError, match=r"impressions\.negatives"):
        read(path, impressions={"negatives": "availability"})


@pytest.mark.ray
def test_the_tables_beside_the_log_are_held_to_the_same_bound(ray_session, read, workspace, tmp_path):
    path = write(tmp_path / "log.csv", *good(20))
    rows = [f"i{i},front" for i in range(19)]
    written = {
        "items": write(tmp_path / "items.csv", *rows, "1e+16,front", header="item_id,slot"),
        "users": write(tmp_path / "users.csv", *rows, ",front", header="user_id,slot"),
        "availability": write(tmp_path / "slots.csv", *rows, "i1", header="item_id,slot"),
    }
    reasons = {"items": "inexact id", "users": "missing user_id", "availability": "broken line"}
    for name, file in written.items():
        source = {name: {"paths": [str(file)], "format": "csv"}}
        assert read(path, source=source).counts.tables == {reasons[name]: 1}
        with pytest.raises(QuarantineError, match=rf"1 of 20 rows \(5\.0%\).*Mostly: {reasons[name]}") as caught:
            read(path, source=source, clean={"max_rejected_share": 0.04})
        assert caught.value.field == f"source.{name}"
        assert f"{file.name} row 21" in str(caught.value.value)
        assert "raise clean.max_rejected_share" in caught.value.fix
        examples = pq.read_table(workspace.datasets / REJECTED_FILE)
        assert validate(examples, QUARANTINE, name="quarantine")["reason"].to_pylist() == [reasons[name]]


@pytest.mark.ray
def test_repeats_of_an_id_are_no_fault_of_a_table(ray_session, read, tmp_path):
    path = write(tmp_path / "log.csv", *good(5))
    items = {"paths": [str(write(tmp_path / "i.csv", *["i1,One"] * 9, header="item_id,name"))], "format": "csv"}
    assert read(path, source={"items": items}, clean={"max_rejected_share": 0}).counts.tables == {
        "item_id used twice": 8
    }


@pytest.mark.ray
def test_what_a_table_rejects_is_not_shown_where_users_have_pseudonyms(ray_session, read, tmp_path, monkeypatch):
    monkeypatch.setenv("CLM_PSEUDONYM_KEY", "00112233445566778899aabbccddeeff")
    path = write(tmp_path / "log.csv", *good(5))
    users = {"paths": [str(write(tmp_path / "m.csv", ",ann@example.org", header="user_id,mail"))], "format": "csv"}
    with pytest.raises(QuarantineError) as caught:
        read(path, source={"users": users}, privacy={"pseudonyms": True})
    assert caught.value.field == "source.users"
    assert "ann" not in str(caught.value)


@pytest.mark.ray
def test_a_column_called_context_is_one_like_others(ray_session, read, workspace, tmp_path):
    maps = pa.array([[("page", "front")]] * 3, pa.map_(pa.string(), pa.string()))
    wild = pa.array([[("page", ["front"])]] * 3, pa.map_(pa.string(), pa.list_(pa.string())))
    table = pa.table(
        {"user_id": ["u"] * 3, "item_id": ["i"] * 3, "event_type": ["buy"] * 3, "timestamp": [1_714_000_000] * 3}
    ).append_column("value", [[1.0] * 3])
    for number, context in enumerate((maps, wild, pa.array(["checkout"] * 3))):
        pq.write_table(table.append_column("context", context), tmp_path / f"{number}.parquet")

    def contexts(number: int, **events: Any) -> list[Any]:
        log = read(tmp_path / f"{number}.parquet", format="parquet", events=events)
        return kept(log)["context"].to_pylist()

    for number in range(3):
        assert contexts(number) == [[]] * 3
    assert contexts(0, columns={"context": "context"}) == [[("page", "front")]] * 3
    assert contexts(2, context_columns=["context"]) == [[("context", "checkout")]] * 3
    for number in (1, 2):
        with pytest.raises(SchemaError, match="context: a map from names to single values is needed"):
            contexts(number, columns={"context": "context"})
    with pytest.raises(ConfigError, match="whole or by columns") as caught:
        contexts(0, columns={"context": "context"}, context_columns=["value"])
    assert caught.value.field == "source.events.columns.context"


@pytest.mark.ray
def test_the_type_of_served_slates_is_unknown_to_a_recipe_that_does_not_name_it(ray_session, read, workspace, tmp_path):
    write_feedback(workspace)
    path = write(tmp_path / "log.csv", *good(10), "e90,u1,,impression,2024-05-01,")
    types = {"buy": {"roles": ["positive", "context", "activity"], "value": "amount"}}
    clean = {"max_rejected_share": 0.2}
    log = read(path, event_types=types, clean=clean)
    assert log.counts.rejected == {"unknown event type": 1}
    assert log.counts.types == {"buy": 11, "impression": 1}, "what the endpoint served comes back all the same"
    named = read(path, event_types={**types, "impression": {"roles": []}}, clean=clean)
    assert (named.counts.rejected, named.counts.types) == ({}, {"buy": 11, "impression": 2})
    with pytest.raises(ConfigError, match=r"event_type_map\.shown") as caught:
        read(path, event_types=types, events={"event_type_map": {"shown": "impression"}})
    assert caught.value.value == "impression"


@pytest.mark.ray
def test_a_file_and_a_link_to_it_are_read_once(ray_session, read, tmp_path):
    path = write(tmp_path / "log" / "a.csv", *(line.partition(",")[2] for line in good(5)), header=CSV_HEADER[9:])
    (path.parent / "latest.csv").symlink_to(path)
    assert read(path.parent, tmp_path / "log" / ".." / "log" / "a.csv").counts.kept == 5


@pytest.mark.ray
def test_values_that_are_no_numbers_of_use_are_in_the_counts(ray_session, read, tmp_path):
    path = write(tmp_path / "log.csv", *good(5))
    users = {"paths": [str(write(tmp_path / "m.csv", "u1,1e99", "u2,30", header="user_id,age"))], "format": "csv"}
    assert read(path, source={"users": {**users, "numeric": ["age"]}}).counts.unread == {"users.age": 1}
