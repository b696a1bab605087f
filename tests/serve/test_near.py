"""Which categories lie next to which, and which items are adjacent to what a user chose."""

from __future__ import annotations

import numpy as np

from clm_ray.features.catalogue import Amendment, Catalogue
from clm_ray.serve.near import NearCategories

CATALOGUE = Catalogue.build(
    ["", "cola", "lemonade", "beer", "bread", "roll", "cake", "loose"],
    [""] * 8,
    [[], ["soft"], ["soft"], ["beer"], ["bread", "bakery"], ["bread", "bakery"], ["cake", "bakery"], []],
)
ANGLES = np.radians([0, 0, 4, 15, 80, 84, 100, 45])
VECTORS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1).astype(np.float32) * np.arange(1, 9)[:, None]


def near(most: int = 1) -> NearCategories:
    return NearCategories.of(CATALOGUE, lambda rows: VECTORS[rows].astype(np.float32), most=most)


def adjacent(*chosen: str, most: int = 1) -> list[str]:
    row_C = np.arange(1, 8, dtype=np.int32)
    found_C = near(most).adjacent(row_C, chosen_H=CATALOGUE.rows(list(chosen)), catalogue=CATALOGUE)
    return [CATALOGUE.ids[row] for row in row_C[found_C]]


def test_the_nearest_categories_are_those_whose_items_are_alike() -> None:
    code = {name: n for n, name in enumerate(CATALOGUE.categories)}
    near_GN = near(2).near_GN
    assert near_GN[code["soft"]].tolist() == [code["beer"], code["bread"]]
    assert near_GN[code["beer"], 0] == code["soft"]
    assert near_GN[code["cake"], 0] == code["bakery"]
    assert near_GN[0].tolist() == [-1, -1]


def test_there_may_be_fewer_categories_than_are_asked_for() -> None:
    assert (near(9).near_GN[1:] >= 0).sum(axis=1).tolist() == [4] * 5


def test_an_item_is_adjacent_by_a_category_that_the_user_does_not_have_yet() -> None:
    assert adjacent("cola") == ["beer"]
    assert adjacent("cola", "beer") == []
    # Bread and roll are all theirs; the cake is of a category that is not, and near.
    assert adjacent("roll", most=2) == ["cake"]


def test_nothing_is_adjacent_to_nothing() -> None:
    assert adjacent() == []
    assert adjacent("loose") == []


def test_categories_that_came_later_are_near_to_none() -> None:
    more = CATALOGUE.amended([Amendment(row=8, item_id="tofu", text="", categories=("tofu",))])
    row_C, chosen_H = np.array([3, 8], np.int32), more.rows(["cola", "tofu"])
    assert near().adjacent(row_C, chosen_H=chosen_H, catalogue=more).tolist() == [True, False]
