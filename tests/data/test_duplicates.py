"""Event ids: derived from content, unique, independent of order."""

import datetime as dt
import re

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from clm_ray.config.recipe import recipe_from
from clm_ray.data.clean import ROW, clean_rows, rules_of
from clm_ray.data.duplicates import CONFLICT, DUPLICATE, content_digest, id_keys, settle_ids

RECIPE = recipe_from(
    {
        "name": "t",
        "source": {"kind": "files", "events": {"paths": ["x"]}},
        "event_types": {"buy": {"roles": ["positive", "context", "activity"]}},
        "sequences": {"buckets": 8},
    }
)
RULES = rules_of(RECIPE, now_us=round(dt.datetime(2024, 6, 1, tzinfo=dt.UTC).timestamp() * 1e6))
START = 1_700_000_000


def cleaned(*records: dict[str, object]) -> pa.Table:
    """(user, item, second, id) rows → CLEANED."""
    full = [
        {"event_id": None, "item_id": "i", "event_type": "buy", "value": None, "context.slot": None, **record}
        for record in records
    ]
    table = pa.Table.from_pylist(full).append_column(ROW, pa.array(range(1, len(full) + 1), pa.int64()))
    return clean_rows(table, rules=RULES, file=0)


def buy(user: str = "u", second: int = 0, **more: object) -> dict[str, object]:
    return {"user_id": user, "timestamp": START + second, **more}


def digest(**record: object) -> tuple[int, ...]:
    return tuple(content_digest(cleaned(buy(**record)))[0].tolist())


def test_equal_rows_without_ids_are_repeats_and_all_stay():
    settled = settle_ids(cleaned(buy(), buy(), buy(second=1), buy()))
    ids = settled["event_id"].to_pylist()
    assert settled["reason"].null_count == 4
    assert len(set(ids)) == 4
    assert ids[1] == f"{ids[0]}.1"
    assert ids[3] == f"{ids[0]}.2"
    assert all(re.fullmatch(r"log-[0-9a-f]{32}(\.\d+)?", i) for i in ids)


def test_derived_ids_never_change():
    # Datasets, stores and compacted feedback refer to them.
    row = buy(value=2.5, **{"context.slot": "s"})
    assert settle_ids(cleaned(row))["event_id"].to_pylist() == ["log-c6e6aefc8f2ba30b38d60361a2d39662"]


def test_every_part_of_the_content_counts():
    other = [
        digest(user="v"),
        digest(item_id="j"),
        digest(item_id=None),
        digest(second=1),
        digest(value=0.0),
        digest(value=1.0),
        digest(decision_id="d"),
        digest(**{"context.slot": "s"}),
        digest(**{"context.other": "s"}),
        digest(user="i", item_id="u"),
    ]
    assert len({digest(), *other}) == 11


def test_content_that_is_the_same():
    assert digest(value=-0.0) == digest(value=0.0)
    assert digest(value="1") == digest(value=1.0)
    maps = [[("a", "1"), ("b", "2")], [("b", "2"), ("a", "1")]]
    one, two = (
        content_digest(cleaned(buy()).set_column(7, "context", pa.array([m], pa.map_(pa.string(), pa.string()))))
        for m in maps
    )
    assert one.tolist() == two.tolist()


def test_exact_duplicates_and_ids_used_twice():
    settled = settle_ids(
        cleaned(
            buy(event_id="a", second=5),
            buy(event_id="a", second=3),
            buy(event_id="a", second=3),
            buy(event_id="b"),
            buy(event_id="a", user="v", second=9),
        )
    )
    assert settled["reason"].to_pylist() == [CONFLICT, None, DUPLICATE, None, CONFLICT]
    assert '"event_id":"a"' in settled["detail"][2].as_py()


def test_a_given_id_that_equals_a_derived_one_is_noticed():
    (derived,) = settle_ids(cleaned(buy()))["event_id"].to_pylist()
    again = cleaned(buy(), buy(event_id=derived), buy(event_id=derived, second=-1))
    assert len(set(id_keys(again).tolist())) == 1
    reasons = settle_ids(again)["reason"].to_pylist()
    assert sorted(map(str, reasons)) == sorted([CONFLICT, CONFLICT, "None"])


def test_rejected_rows_take_no_part():
    settled = settle_ids(cleaned(buy(event_id="a", item_id=None), buy(event_id="a")))
    assert settled["reason"].to_pylist() == ["missing item_id", None]


def test_all_rows_of_an_id_have_one_key():
    block = cleaned(*(buy(event_id=f"e{i % 10}", user=f"u{i}", second=i) for i in range(100)))
    keys: dict[str, set[int]] = {}
    for event_id, key in zip(block["event_id"].to_pylist(), id_keys(block).tolist(), strict=True):
        keys.setdefault(event_id, set()).add(key)
    assert all(len(found) == 1 for found in keys.values())
    assert len({key for found in keys.values() for key in found}) == 10


EVENTS = st.builds(
    buy,
    user=st.sampled_from("uvw"),
    second=st.integers(0, 2),
    event_id=st.sampled_from([None, "a", "b", "c"]),
    value=st.sampled_from([None, 1.0]),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(EVENTS, max_size=25), st.randoms(use_true_random=False))
def test_the_result_does_not_depend_on_order_and_ids_are_unique(events, random):
    shuffled = random.sample(events, len(events))
    outcomes = []
    for some in (events, shuffled):
        settled = settle_ids(cleaned(*some)) if some else cleaned(buy()).slice(0, 0)
        kept = settled.filter(settled["reason"].is_null())
        assert len(set(kept["event_id"].to_pylist())) == len(kept)
        content = ("event_id", "user_id", "timestamp", "value")
        outcomes.append(sorted(map(str, kept.select(content).to_pylist())))
    assert outcomes[0] == outcomes[1]
    without = [event for event in events if event["event_id"] is None]
    given_ids = {event["event_id"] for event in events} - {None}
    assert len(outcomes[0]) == len(without) + len(given_ids)
