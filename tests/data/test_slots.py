"""Availability slots: what was on offer, as item rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clm_ray.data.slots import SlotTable, members

IDS = ["", "a", "b", "c", "d"]
ITEMS = pa.table({"item_id": IDS})
OFFERS = st.lists(st.tuples(st.sampled_from(["front", "back", "decision:1"]), st.sampled_from([*IDS[1:], "gone"])))


@settings(max_examples=50)
@given(OFFERS, st.booleans(), st.integers(0, 5))
def test_slots_hold_the_distinct_known_items_in_row_order(
    offers: list[tuple[str, str]], encoded: bool, cut: int
) -> None:
    table = pa.table({"slot": [s for s, _ in offers], "item_id": [i for _, i in offers]}, schema=SCHEMA)
    table = pa.concat_tables([table[:cut], table[cut:]])
    if encoded:
        table = pa.table({name: table.column(name).dictionary_encode() for name in table.column_names})
    slots = SlotTable.build(table, ITEMS)
    for slot in {slot for slot, _ in offers}:
        found = slots.items(slot)
        assert found is not None
        assert found.tolist() == sorted({IDS.index(item) for s, item in offers if s == slot and item in IDS})
        assert found.dtype == np.int32
    assert slots.items("nowhere") is None
    assert slots.items(None) is None


SCHEMA = pa.schema([("slot", pa.string()), ("item_id", pa.string())])


@pytest.mark.parametrize("table", [None, SCHEMA.empty_table()])
def test_without_availability_there_are_no_slots(table: pa.Table | None) -> None:
    assert SlotTable.build(table, ITEMS).items("front") is None


@given(st.lists(st.integers(0, 9)), st.sets(st.integers(0, 9), min_size=1))
def test_members(items: list[int], among: set[int]) -> None:
    found = members(np.array(items, np.int32), np.array(sorted(among), np.int32))
    assert found.tolist() == [item in among for item in items]
