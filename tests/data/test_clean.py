"""One block of raw rows: what a clean row looks like, and every reason to reject one."""

import datetime as dt
import json
from dataclasses import replace
from typing import get_args

import pyarrow as pa
import pytest

from clm_ray.config.recipe import Recipe, recipe_from
from clm_ray.config.source import Reason
from clm_ray.data import clean
from clm_ray.data.buckets import bucket_of
from clm_ray.data.clean import CLEANED, Rules, broken_rows, clean_rows, rules_of
from clm_ray.data.duplicates import CONFLICT
from clm_ray.errors import ConfigError, SchemaError
from clm_ray.schema import EVENTS, validate

NOW = dt.datetime(2024, 6, 1, tzinfo=dt.UTC)
NOW_US = round(NOW.timestamp() * 1e6)
GOOD = {"user_id": "u", "item_id": "i", "event_type": "buy", "timestamp": "2024-05-01T10:00:00Z", "value": "9.5"}


def recipe(**clean_section: object) -> Recipe:
    return recipe_from(
        {
            "name": "t",
            "source": {"kind": "files", "events": {"paths": ["x"]}},
            "event_types": {
                "buy": {"roles": ["positive", "context", "activity"], "value": "amount"},
                "shown": {"roles": ["negative"]},
                "rated": {"roles": ["context"], "value": "rating", "positive_from": 4},
                "mail": {"roles": ["context"]},
            },
            "clean": clean_section,
            "sequences": {"buckets": 4},
        }
    )


@pytest.fixture
def rules() -> Rules:
    return rules_of(recipe(), now_us=NOW_US)


def rows(*records: dict[str, object]) -> pa.Table:
    table = pa.Table.from_pylist([{**GOOD, **record} for record in records])
    return table.append_column(clean.ROW, pa.array(range(1, len(records) + 1), pa.int64()))


def test_a_clean_row(rules):
    raw = rows({"context.slot": "front", "context.device": None, "event_id": " e1 ", "decision_id": ""})
    cleaned = clean_rows(raw, rules=rules, file=3)
    assert cleaned.schema == CLEANED
    (row,) = cleaned.to_pylist()
    assert row["reason"] is None
    assert row["detail"] is None
    assert (row["file"], row["row"]) == (3, 1)
    assert row["bucket"] == bucket_of(["u"], 4)[0]
    events = validate(cleaned.select(EVENTS.names), EVENTS, name="events")
    assert events.to_pylist() == [
        {
            "event_id": "e1",
            "user_id": "u",
            "item_id": "i",
            "event_type": "buy",
            "timestamp": dt.datetime(2024, 5, 1, 10, tzinfo=dt.UTC),
            "value": 9.5,
            "decision_id": None,
            "context": [("slot", "front")],
        }
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"user_id": None}, clean.MISSING_USER),
        ({"user_id": "  "}, clean.MISSING_USER),
        ({"timestamp": None}, clean.UNPARSABLE_TIME),
        ({"timestamp": "soon"}, clean.UNPARSABLE_TIME),
        ({"timestamp": "1989-12-31T23:59:59Z"}, clean.TOO_EARLY),
        ({"timestamp": "2024-06-02T00:00:01Z"}, clean.IN_FUTURE),
        ({"event_type": "bought"}, clean.UNKNOWN_TYPE),
        ({"event_type": None}, clean.UNKNOWN_TYPE),
        ({"value": "NaN"}, clean.NO_NUMBER),
        ({"value": None}, clean.NO_NUMBER),
        ({"value": "-1e39"}, clean.NO_NUMBER),
        ({"value": "cheap", "event_type": "rated"}, clean.NO_NUMBER),
        ({"item_id": None}, clean.MISSING_ITEM),
        ({"item_id": "", "event_type": "shown"}, clean.MISSING_ITEM),
        ({"item_id": "", "event_type": "rated"}, clean.MISSING_ITEM),
    ],
)
def test_every_reason_with_its_content(rules, change, reason):
    cleaned = clean_rows(rows({}, change, {}), rules=rules, file=0)
    assert cleaned.column("reason").to_pylist() == [None, reason, None]
    details = cleaned.column("detail").to_pylist()
    assert json.loads(details[1]) == {**GOOD, **change}
    assert details[0] is None


@pytest.mark.parametrize(
    "change",
    [
        {"event_type": "mail", "item_id": None, "value": "n/a"},
        {"event_type": "shown", "value": None},
        {"timestamp": "1990-01-01"},
        {"timestamp": "2024-06-02T00:00:00Z"},
        {"value": "-3"},
    ],
)
def test_what_is_not_a_reason(rules, change):
    assert clean_rows(rows(change), rules=rules, file=0).column("reason").to_pylist() == [None]


def test_inexact_ids_are_rejected_rather_than_merged(rules):
    raw = rows({}).set_column(0, "user_id", pa.array([2.0**60]))
    assert clean_rows(raw, rules=rules, file=0).column("reason").to_pylist() == [clean.INEXACT_ID]


@pytest.mark.parametrize("name", ["event_id", "user_id", "item_id", "decision_id"])
def test_an_id_that_was_given_and_cannot_be_read_rejects_its_row(rules, name):
    good = rows(*[{"event_type": "mail"}] * 4)
    place = good.column_names.index(name) if name in good.column_names else None

    def reasons(values: pa.Array) -> list[str | None]:
        raw = good.append_column(name, values) if place is None else good.set_column(place, name, values)
        return clean_rows(raw, rules=rules, file=0).column("reason").to_pylist()

    none = clean.MISSING_USER if name == "user_id" else None
    assert reasons(pa.array([b"x", b"\xff", b" ", None])) == [None, clean.UNREADABLE_ID, none, none]
    assert reasons(pa.array(["x", "1.5e+18", "", None])) == [None, clean.INEXACT_ID, none, none]
    assert reasons(pa.array([1.0, 1.5e18, float("nan"), None])) == [None, clean.INEXACT_ID, none, none]


def test_ids_may_be_uuids(rules):
    text = "123e4567-e89b-12d3-a456-426614174000"
    column = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes.fromhex(text.replace("-", ""))], pa.binary(16)))
    raw = rows({}).drop_columns(["user_id", "item_id"])
    for name in ("event_id", "user_id", "item_id", "decision_id"):
        raw = raw.append_column(name, column)
    (row,) = clean_rows(raw, rules=rules, file=0).to_pylist()
    assert [row[name] for name in ("event_id", "user_id", "item_id", "decision_id", "reason")] == [text] * 4 + [None]
    wrong = clean_rows(raw.set_column(raw.column_names.index("timestamp"), "timestamp", [["x"]]), rules=rules, file=0)
    assert json.loads(wrong["detail"][0].as_py())["user_id"] == text


def test_bounds_come_from_the_recipe():
    rules = rules_of(recipe(earliest="2024-05-02", future_days=0), now_us=NOW_US)
    times = ["2024-05-01T23:59:59Z", "2024-05-02", "2024-06-01", "2024-06-01T00:00:00.000001Z"]
    cleaned = clean_rows(rows(*({"timestamp": t} for t in times)), rules=rules, file=0)
    assert cleaned.column("reason").to_pylist() == [clean.TOO_EARLY, None, None, clean.IN_FUTURE]


def test_earliest_must_be_a_date():
    with pytest.raises(ConfigError, match=r"clean\.earliest"):
        rules_of(recipe(earliest="long ago"), now_us=NOW_US)


def test_event_types_are_mapped_or_constant(rules):
    mapped = replace(rules, type_map={"order_completed": "buy", "buy": "mail"})
    kinds = clean_rows(rows({"event_type": "order_completed"}, {"event_type": " buy "}), rules=mapped, file=0)
    assert kinds.column("event_type").to_pylist() == ["buy", "mail"]
    constant = replace(rules, constant_type="mail")
    assert clean_rows(rows({}).drop_columns(["event_type"]), rules=constant, file=0)["event_type"].to_pylist() == [
        "mail"
    ]


def test_details_show_the_names_of_the_file(rules):
    named = replace(rules, names={"user_id": "customer", "context.slot": "page"})
    detail = clean_rows(rows({"user_id": None, "context.slot": "x"}), rules=named, file=0)["detail"][0].as_py()
    assert json.loads(detail)["customer"] is None
    assert json.loads(detail)["page"] == "x"


def test_details_of_wild_values_are_json(rules):
    raw = pa.table(
        {
            "user_id": pa.array([None], pa.string()),
            "event_type": pa.array([b"\xff"]),
            "timestamp": pa.array([2**62], pa.timestamp("s")),
            "value": pa.array([float("nan")]),
            clean.ROW: [1],
        }
    )
    assert json.loads(clean_rows(raw, rules=rules, file=0)["detail"][0].as_py())["value"] is None


def test_columns_that_are_not_there_read_as_null(rules):
    raw = rows({"event_type": "mail"}).select(["user_id", "event_type", "timestamp", clean.ROW])
    (row,) = clean_rows(raw, rules=rules, file=0).to_pylist()
    assert row["reason"] is None
    assert (row["item_id"], row["value"], row["event_id"], row["context"]) == (None, None, None, [])


def test_a_context_map_is_taken_as_it_is(rules):
    context = pa.array([[("slot", "s"), ("a", "b")]], pa.map_(pa.string(), pa.string()))
    raw = rows({}).append_column("context", context)
    assert clean_rows(raw, rules=rules, file=0)["context"].to_pylist() == [[("slot", "s"), ("a", "b")]]


@pytest.mark.parametrize(
    "context",
    [
        pa.array([[("a", ["b"])]], pa.map_(pa.string(), pa.list_(pa.string()))),
        pa.array([{"a": "b"}]),
        pa.array(["checkout"]),
        pa.array([[("a", b"\xff")]], pa.map_(pa.string(), pa.binary())),
    ],
    ids=["a map of lists", "a struct", "text", "a map of bytes"],
)
def test_a_context_that_is_no_map_of_texts_is_an_error_that_names_its_column(rules, context):
    raw = rows({}).append_column("context", context)
    with pytest.raises(SchemaError, match="a map from names to single values") as caught:
        clean_rows(raw, rules=replace(rules, names={"context": "attributes"}), file=0)
    assert (caught.value.field, caught.value.value) == ("attributes", str(context.type))
    assert "context_columns" in caught.value.fix


def test_a_column_of_an_impossible_type_is_named(rules):
    raw = rows({}).set_column(0, "user_id", pa.array([[1, 2]]))
    with pytest.raises(SchemaError, match="user_id"):
        clean_rows(raw, rules=rules, file=0)


def test_broken_lines(rules):
    broken = broken_rows([(7, "a,b,\ud800"), (9, "")], rules=rules, file=1)
    assert broken.schema == CLEANED
    assert broken.select(["file", "row", "reason"]).to_pylist() == [
        {"file": 1, "row": 7, "reason": clean.BROKEN_LINE},
        {"file": 1, "row": 9, "reason": clean.BROKEN_LINE},
    ]
    assert json.loads(broken["detail"][0].as_py())["line"].startswith("a,b,")


def test_no_rows(rules):
    assert clean_rows(rows({}).slice(0, 0), rules=rules, file=0).equals(CLEANED.empty_table())
    assert broken_rows([], rules=rules, file=0).equals(CLEANED.empty_table())


def test_a_row_is_judged_alone(rules):
    raw = rows({}, {"user_id": None}, {"timestamp": "soon"}, {"value": "x"}, {"user_id": "5.0"})
    whole = clean_rows(raw, rules=rules, file=0)
    assert whole.equals(pa.concat_tables([clean_rows(raw.slice(i, 1), rules=rules, file=0) for i in range(5)]))


def test_the_earliest_day_is_not_before_the_epoch():
    with pytest.raises(ConfigError, match="1970-01-01") as caught:
        rules_of(recipe(earliest="1969-12-31"), now_us=NOW_US)
    assert (caught.value.field, caught.value.value) == ("clean.earliest", "1969-12-31")
    assert rules_of(recipe(earliest="1970-01-01"), now_us=NOW_US).earliest_us == 0


def test_a_rejected_row_shows_a_context_whose_keys_are_numbers(rules):
    raw = rows({"user_id": ""}).append_column("context", pa.array([[(1, 2)]], pa.map_(pa.int32(), pa.int32())))
    (row,) = clean_rows(raw, rules=rules, file=0).to_pylist()
    assert row["reason"] == clean.MISSING_USER
    assert json.loads(row["detail"])["context"] == {"1": 2}


def test_the_recipe_can_bound_every_reason_there_is():
    reasons = {
        clean.BROKEN_LINE,
        clean.MISSING_USER,
        clean.INEXACT_ID,
        clean.UNREADABLE_ID,
        clean.UNPARSABLE_TIME,
        clean.TOO_EARLY,
        clean.IN_FUTURE,
        clean.UNKNOWN_TYPE,
        clean.NO_NUMBER,
        clean.MISSING_ITEM,
        CONFLICT,
    }
    assert set(get_args(Reason)) == reasons
