"""What may be shown, and what moves it: filters, rules, freshness, diversity, pins; each by itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clm_ray.config.serve import FreshnessConfig, ServeConfig, ShopRule
from clm_ray.features.catalogue import Amendment, Catalogue
from clm_ray.schema import ITEMS
from clm_ray.serve.hops import ANYTHING, Wish
from clm_ray.serve.shelf import STOCK, Share, Shelf, order, pinned

DAY = datetime(2026, 5, 1, tzinfo=UTC)
NOW = int(DAY.timestamp() * 1_000_000)
CATALOGUE = Catalogue.build(
    ["", "a", "b", "c", "d", "e"],
    [""] * 6,
    [[], ["wine"], ["wine", "gift"], ["bread"], ["bread"], []],
)
ROWS = np.arange(1, 6, dtype=np.int32)


def shelf(config: ServeConfig | None = None) -> Shelf:
    """a: since ever; b: since yesterday; c: until now; d: from tomorrow; e: until tomorrow. b is new, c is adult."""
    ahead = timedelta(days=1)
    columns = {
        "available_from": [None, None, DAY - ahead, None, DAY + ahead, None],
        "available_until": [None, None, None, DAY, None, DAY + ahead],
        "flags": [None, [], ["new"], ["adult", "new"], None, []],
    }
    stock = pa.table({name: pa.array(columns[name], ITEMS.field(name).type) for name in STOCK})
    return Shelf.build(CATALOGUE, stock, config or ServeConfig())


def names(rows: np.ndarray) -> str:
    return "".join(CATALOGUE.ids[row] for row in rows)


def plain(**changes: object) -> Shelf:
    return Shelf.build(CATALOGUE, None, ServeConfig(**changes))


def test_an_item_is_shown_from_its_first_moment_until_before_its_end() -> None:
    assert names(shelf().left_of(ROWS, ANYTHING, NOW)) == "abe"
    assert names(shelf().left_of(ROWS, ANYTHING, NOW - 1)) == "abce"
    assert names(shelf().left_of(ROWS, ANYTHING, NOW + 24 * 3_600_000_000)) == "abd"


@pytest.mark.parametrize(
    ("wish", "left"),
    [
        (Wish(allow=np.array([2, 3], np.int32), said={"x": 1}), "bc"),
        (Wish(deny=np.array([1, 0], np.int32), said={"x": 1}), "bcde"),
        (Wish(categories=("wine", "unknown"), said={"x": 1}), "ab"),
        (Wish(without_categories=("gift", "bread"), said={"x": 1}), "ae"),
        (Wish(categories=("wine",), without_categories=("gift",), said={"x": 1}), "a"),
    ],
)
def test_a_request_may_narrow_down_what_is_shown(wish: Wish, left: str) -> None:
    assert names(plain().left_of(ROWS, wish, NOW)) == left


def test_flags_choose_and_exclude() -> None:
    assert names(shelf().left_of(ROWS, Wish(flags=("new",), said={"x": 1}), NOW - 1)) == "bc"
    assert names(shelf().left_of(ROWS, Wish(without_flags=("adult",), said={"x": 1}), NOW - 1)) == "abe"


def test_the_shops_rules_exclude_and_boost() -> None:
    rules = (
        ShopRule(do="exclude", categories=("bread",)),
        ShopRule(do="boost", flags=("new",), times=3.0),
        ShopRule(do="boost", items=("b",), times=0.5),
    )
    ruled = shelf(ServeConfig(rules=rules))
    assert names(ruled.left_of(ROWS, ANYTHING, NOW)) == "abe"
    np.testing.assert_allclose(ruled.lift(ROWS, NOW), [0, np.log(1.5), np.log(3), 0, 0], rtol=1e-6)
    assert ruled.shaping(ANYTHING)["boosts"] == 2


def test_a_rule_that_names_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="names items"):
        ShopRule(do="exclude")


def test_new_items_are_moved_up_and_less_so_as_they_age() -> None:
    fresh = shelf(ServeConfig(freshness=FreshnessConfig(times=4.0, half_life_days=1.0)))
    lift = fresh.lift(ROWS, NOW)
    assert lift[1] == pytest.approx(np.log(4.0) / 2), "b came a day ago"
    assert lift[0] == 0, "nobody knows since when a is there"
    assert fresh.lift(ROWS, NOW + 24 * 3_600_000_000)[1] == pytest.approx(np.log(4.0) / 4)


def test_without_diversity_the_best_come_first_and_with_it_twins_do_not_follow_each_other() -> None:
    logit = np.array([2.0, 1.9, 1.0], np.float32)
    vectors = np.array([[1, 0], [1, 0.01], [0, 1]], np.float32)
    assert order(logit, vectors, k=3, diversity=0.0).tolist() == [0, 1, 2]
    assert order(logit, vectors, k=3, diversity=0.5).tolist() == [0, 2, 1]
    assert order(logit, vectors, k=2, diversity=0.01).tolist() == [0, 1]


@given(st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=12), st.integers(1, 15), st.floats(0, 0.99))
def test_an_order_names_each_candidate_once_and_the_best_first(logits: list[float], k: int, diversity: float) -> None:
    logit = np.array(logits, np.float32)
    vectors = np.random.default_rng(0).normal(size=(len(logit), 3)).astype(np.float32)
    places = order(logit, vectors, k=k, diversity=diversity).tolist()
    assert len(places) == len(set(places)) == min(k, len(logits))
    assert logit[places[0]] == logit.max()


def test_of_the_first_items_a_share_is_kept_by_the_best_that_there_is() -> None:
    logit = np.array([6, 5, 4, 3, 2, 1], np.float32)
    rare_C = np.array([False, False, False, False, True, True])
    assert order(logit, None, k=6, diversity=0.0, shares=[Share(0.25, rare_C)]).tolist() == [0, 1, 2, 4, 3, 5]
    assert order(logit, None, k=4, diversity=0.0, shares=[Share(0.5, rare_C)]).tolist() == [0, 4, 1, 5]
    assert order(logit, None, k=3, diversity=0.0, shares=[Share(1.0, rare_C)]).tolist() == [4, 5, 0], "no more there"
    assert order(logit, None, k=3, diversity=0.0, shares=[Share(0.5, ~rare_C)]).tolist() == [0, 1, 2], "kept anyway"
    both = [Share(0.5, rare_C), Share(0.5, np.array([False, False, True, True, False, False]))]
    assert order(logit, None, k=4, diversity=0.0, shares=both).tolist() == [0, 4, 2, 5], "the first one first"


def test_shares_and_diversity_hold_together() -> None:
    logit = np.array([2.0, 1.9, 1.0, 0.9], np.float32)
    vectors = np.array([[1, 0], [1, 0.01], [1, 0.02], [0, 1]], np.float32)
    shares = [Share(0.5, np.array([False, False, True, True]))]
    assert order(logit, vectors, k=2, diversity=0.5, shares=shares).tolist() == [0, 3]
    assert order(logit, vectors, k=2, diversity=0.0, shares=shares).tolist() == [0, 2]


@given(st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=12), st.floats(0, 1), st.floats(0, 0.99), st.randoms())
def test_a_share_holds_for_every_beginning_of_a_slate(
    logits: list[float], part: float, diversity: float, rnd: Any
) -> None:
    logit = np.array(logits, np.float32)
    wanted_C = np.array([rnd.random() < 0.5 for _ in logits])
    vectors = np.random.default_rng(0).normal(size=(len(logit), 3)).astype(np.float32)
    places = order(logit, vectors, k=12, diversity=diversity, shares=[Share(part, wanted_C)])
    assert sorted(places.tolist()) == list(range(len(logit)))
    for n in range(1, len(places) + 1):
        assert wanted_C[places[:n]].sum() >= min(int(part * n), wanted_C.sum())


def test_pins_stand_at_their_place_whatever_their_score() -> None:
    assert pinned(np.array([3, 4, 5], np.int32), [(0, 5), (2, 1)], k=3).tolist() == [5, 3, 1]
    assert pinned(np.array([3], np.int32), [(4, 1)], k=5).tolist() == [3, 1]
    assert pinned(np.array([3, 4], np.int32), [(4, 1)], k=2).tolist() == [3, 4]
    ruled = plain(rules=[{"do": "pin", "items": ["d", "b"], "place": 2}])
    assert ruled.pins == ((1, 2), (2, 4))


def test_items_put_later_follow_the_same_rules() -> None:
    rules = (ShopRule(do="exclude", flags=("adult",)), ShopRule(do="boost", categories=("bread",), times=2.0))
    old = shelf(ServeConfig(rules=rules))
    more = CATALOGUE.amended(
        [
            Amendment(row=6, item_id="f", text="", categories=("bread",), gone=False),
            Amendment(row=7, item_id="g", text="", categories=(), gone=False),
            Amendment(row=1, item_id="a", text="", categories=("wine",), gone=True),
        ]
    )
    new = old.amended(more, {6: (NOW, None, ()), 7: (None, None, ("adult",)), 3: (None, None, ())})
    rows = np.arange(1, 8, dtype=np.int32)
    assert [more.ids[row] for row in new.left_of(rows, ANYTHING, NOW)] == ["b", "c", "e", "f"]
    assert [more.ids[row] for row in new.left_of(rows, ANYTHING, NOW - 1)] == ["b", "c", "e"]
    np.testing.assert_allclose(new.lift(rows, NOW), np.log([1, 1, 2, 2, 1, 2, 1]), rtol=1e-6)
