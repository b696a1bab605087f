"""Items and users as numbers: identifier slots, shared texts, categories, user columns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clm_ray.features.catalogue import Catalogue
from clm_ray.model.items import ItemTable, UserTable, assign_slots, bucket_slot

IDS = ["", "a", "b", "c", "d"]
CATALOGUE = Catalogue.build(IDS, ["", "tea", "milk", "tea", "milk"], [[], ["x", "y"], [], ["y"], ["x"]])


def test_items_with_enough_events_have_a_slot_of_their_own() -> None:
    slot = assign_slots(CATALOGUE, np.array([99.0, 5.0, 4.0, 7.0, 0.0]), min_events=5, buckets=3)
    assert slot.tolist() == [0, 4, bucket_slot("b", 3), 5, bucket_slot("d", 3)]


def test_rare_items_share_slots_by_a_hash_that_never_changes() -> None:
    assert [bucket_slot(i, 1000) for i in ("a", "b", "ä", "1001")] == [929, 669, 505, 770]
    slots = [bucket_slot(f"i{n}", 7) for n in range(200)]
    assert set(slots) == set(range(1, 8))


def test_items_with_the_same_text_share_its_row() -> None:
    table = ItemTable.build(CATALOGUE, np.arange(5, dtype=np.int32))
    assert table.texts == ("", "tea", "milk")
    assert table.text_I.tolist() == [0, 1, 2, 1, 2]


def test_inputs_carry_the_categories_of_each_item() -> None:
    table = ItemTable.build(CATALOGUE, np.array([0, 4, 1, 5, 2], np.int32))
    inputs = table.inputs(np.array([3, 0, 1]), np.array([7, 8, 9]))
    assert inputs.text_U.tolist() == [7, 8, 9]
    assert inputs.slot_U.tolist() == [5, 0, 4]
    bag = torch.nn.EmbeddingBag(3, 3, mode="mean", _weight=torch.eye(3))
    assert bag(inputs.category, inputs.category_start_U).tolist() == [[0, 0, 1], [1, 0, 0], [0, 0.5, 0.5]]


def test_user_values_seen_often_enough_become_a_vocabulary() -> None:
    rows = [{"town": "x", "pet": "cat"}, {"town": "x"}, {"town": "x", "pet": "cat"}, {"town": "y"}]
    table = UserTable.fit(rows, [{}] * 4, min_users=3)
    assert table.categories == ("", "town=x")
    assert table.codes({"town": "x", "pet": "cat"}) == [1]
    assert table.codes({"town": "y"}) == table.codes({}) == [0]
    both = UserTable.fit(rows, [{}] * 4, min_users=1)
    assert [both.categories[c] for c in both.codes({"town": "y", "pet": "cat"})] == ["pet=cat", "town=y"]
    assert UserTable.fit([{"a": "bc"}], [{}], min_users=1).codes({"ab": "c"}) == [0]


def test_user_numbers_are_standardised_and_missing_ones_are_the_mean() -> None:
    table = UserTable.fit([{}] * 4, [{"age": 20.0}, {"age": 40.0, "size": 3.0}, {"age": float("nan"), "size": 3.0}, {}])
    assert table.numbers == ("age", "size")
    assert table.scaled({"age": 40.0, "size": 3.0}) == [1.0, 0.0]
    assert table.scaled({"size": 5.0}) == [0.0, 2.0]
    assert table.scaled({"age": float("inf")}) == [0.0, 0.0]


def test_users_without_columns_are_one_unknown_user() -> None:
    table = UserTable.fit([{}], [{}])
    assert (table.codes({}), table.scaled({})) == ([0], [0.0])
    assert UserTable.fit([], []).scaled({"age": pytest.approx(3)}) == [0.0]
