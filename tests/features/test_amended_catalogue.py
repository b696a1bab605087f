"""A catalogue whose rows are changed or added to: what is not touched keeps its meaning."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clm_ray.features.catalogue import Amendment, Catalogue

BASE = Catalogue.build(
    ["", "a", "b", "c"], ["", "text a", "text b", "text c"], [[], ["fruit"], ["bread", "fruit"], ["tea"]]
)


def test_rows_are_changed_added_and_taken_out() -> None:
    amended = BASE.amended(
        [
            Amendment(2, "b", "new text b", ("tea", "cake")),
            Amendment(5, "e", "text e", ("fruit",)),
            Amendment(3, "c", "text c", ("tea",), gone=True),
        ]
    )
    assert amended.ids[:4] == BASE.ids
    assert (len(amended), amended.ids[5]) == (6, "e")
    assert [amended.categories_of(row) for row in range(6)] == [
        (),
        ("fruit",),
        ("tea", "cake"),
        ("tea",),
        (),
        ("fruit",),
    ]
    assert amended.categories == (*BASE.categories, "cake"), "codes of before stay"
    assert amended.offered(["a", "b", "c", "e", "nope"]).tolist() == [1, 2, 0, 5, 0]
    assert amended.rows(["c"]).tolist() == [3], "histories still speak of it"
    assert amended.gone_G.tolist() == [3, 4], "a row that nobody gave is no item"
    assert [amended.item(row) for row in (0, 2, 3, 4, 5, 6)] == [None, "b", "c", None, "e", None]
    assert BASE.texts[2] == "text b"


def test_what_was_gone_may_come_back() -> None:
    gone = BASE.amended([Amendment(1, "a", "text a", ("fruit",), gone=True)])
    back = gone.amended([Amendment(1, "a", "text a", ("fruit",))])
    assert (gone.offered(["a"])[0], back.offered(["a"])[0]) == (0, 1)


_NAMES = st.lists(st.sampled_from(["fruit", "bread", "tea", "cake", "jam"]), max_size=4)


@given(st.dictionaries(st.integers(1, 8), _NAMES, max_size=6))
def test_an_amended_catalogue_is_what_building_it_anew_would_give(changes: dict[int, list[str]]) -> None:
    amended = BASE.amended([Amendment(row, f"i{row}", f"t{row}", tuple(names)) for row, names in changes.items()])
    for row in range(len(amended)):
        expected = set(changes[row]) if row in changes else set(BASE.categories_of(row)) if row < len(BASE) else set()
        assert set(amended.categories_of(row)) == expected
    query, _, segment = amended.explode(np.arange(len(amended), dtype=np.int32))
    assert set(query.tolist()) == set(range(len(amended))), "no segment is empty"
    assert len(segment) == len(amended)
