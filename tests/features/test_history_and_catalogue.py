"""The arrays that features are computed from."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from made_logs import CATALOGUE, CATEGORIES, ITEMS, START, VOCABULARY, Row, history_of, label_of, moments, rows

from clm_ray.features.catalogue import Catalogue
from clm_ray.features.interests import interests
from clm_ray.schema import DAY_US


@settings(max_examples=60)
@given(rows(moments(0, 200)), moments(0, 200), st.integers(0, 5))
def test_before_is_strict_and_tail_keeps_the_newest(log: list[Row], time: int, count: int) -> None:
    history = history_of(row for row in log if row.user == "u1")
    past = history.before(time)
    assert past.time_N.tolist() == [moment for moment in history.time_N.tolist() if moment < time]
    assert past.item_N.tolist() == history.item_N[: len(past)].tolist()
    assert history.tail(count).time_N.tolist() == history.time_N.tolist()[max(0, len(history) - count) :]
    assert len(history.tail(count)) == min(count, len(history))


@given(st.lists(st.integers(0, len(ITEMS) - 1), max_size=10))
def test_explode_gives_every_category_of_every_item(items: list[int]) -> None:
    query, code, segment = CATALOGUE.explode(np.array(items, np.int32))
    found: list[list[str]] = [[] for _ in items]
    for q, c in zip(query, code, strict=True):
        found[q].append(CATALOGUE.categories[c])
    assert found == [sorted(CATEGORIES[item]) or [""] for item in items]
    assert segment.tolist() == [int(np.flatnonzero(query == q)[0]) for q in range(len(items))]


def test_codes_depend_on_the_content_alone() -> None:
    made = Catalogue.build(["", "b", "a"], ["", "B", "A"], [[], ["z", "a", "z", ""], []])
    assert made.categories == ("", "a", "z")
    assert made.categories_of(1) == ("a", "z")
    assert (made.categories_of(0), made.categories_of(2)) == ((), ())
    assert made.rows(["a", "nothing", "b"]).tolist() == [2, 0, 1]


@settings(max_examples=60)
@given(rows(moments(0, 40 * 24)), moments(0, 45 * 24), st.integers(1, 4))
def test_interests_are_shares_of_decayed_choices(log: list[Row], time: int, top: int) -> None:
    mine = [row for row in log if row.user == "u1"]
    weights: dict[str, float] = {}
    for row in mine:
        if row.time < time and label_of(row) == 1.0:
            for category in CATEGORIES[row.item]:
                weights[category] = weights.get(category, 0.0) + 0.5 ** ((time - row.time) / DAY_US / 14)
    expected = sorted(weights.items(), key=lambda pair: -pair[1])[:top]
    found = interests(history_of(mine), time, catalogue=CATALOGUE, vocabulary=VOCABULARY, top=top, half_life_days=14.0)
    np.testing.assert_allclose(
        [share for _, share in found], [weight / sum(weights.values()) for _, weight in expected], rtol=1e-9
    )
    for name, share in found:
        np.testing.assert_allclose(share, weights[name] / sum(weights.values()), rtol=1e-9)


def test_equal_interests_come_in_alphabetical_order() -> None:
    history = history_of([Row("u1", START, "purchase", 4)])
    found = interests(history, START + 1, catalogue=CATALOGUE, vocabulary=VOCABULARY)
    assert found == [("fresh", 0.5), ("fruit", 0.5)]
    assert interests(history, START, catalogue=CATALOGUE, vocabulary=VOCABULARY) == []


def test_items_without_a_category_are_no_interest() -> None:
    log = [Row("u1", START, "purchase", 1), Row("u1", START, "purchase", 3, number=1)]
    assert CATEGORIES[3] == ()
    assert interests(history_of(log), START + 1, catalogue=CATALOGUE, vocabulary=VOCABULARY) == [("fruit", 1.0)]
    assert interests(history_of(log[1:]), START + 1, catalogue=CATALOGUE, vocabulary=VOCABULARY) == []
