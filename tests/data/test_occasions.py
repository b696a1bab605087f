"""Occasions and their sampled targets: what is asked about at which moment, with which label, weight and offset."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_logs import (
    HOUR_US,
    ITEMS,
    START,
    TYPES,
    VOCABULARY,
    Row,
    history_of,
    label_of,
    moments,
    numbered,
    ordered,
    rows,
    statistics_of,
)

from clm_ray.config.data import ImpressionsConfig
from clm_ray.data.occasions import NO_TARGETS, TARGET_FIELDS, Occasion, OccasionSource, Targets
from clm_ray.data.popularity import PopularityDraw
from clm_ray.data.slots import SlotTable
from clm_ray.data.user_events import UserEvents
from clm_ray.schema import DAY_US

MANY = tuple(f"i{n:02d}" for n in range(40))
SLOTS = ("front", "back", "empty", None, "nowhere")
OFFERS = {"front": (1, 2, 3, 4, 5), "back": (2, 6), "empty": (), "decision:d1": (1, 2, 3), "decision:d2": (4, 5, 6)}


def slots_of(offers: dict[str, Sequence[int]], ids: Sequence[str] = ITEMS) -> SlotTable:
    """Slots of item rows; the slot of an empty list exists all the same."""
    pairs = [(slot, ids[item] if item else "gone") for slot, items in offers.items() for item in items or (0,)]
    table = pa.table({"slot": [slot for slot, _ in pairs], "item_id": [item for _, item in pairs]})
    return SlotTable.build(table, pa.table({"item_id": list(ids)}))


def source(
    log: Sequence[Row] = (), *, slots: SlotTable | None = None, seed: int = 0, code: int | None = 5, **config: Any
) -> OccasionSource:
    made = ImpressionsConfig(**config)
    popularity = PopularityDraw(statistics_of(log), made.alpha, made.per_occasion)
    return OccasionSource(made, VOCABULARY, slots or slots_of(OFFERS), popularity, code, seed)


def occasions_of(source: OccasionSource, user: UserEvents) -> list[Occasion]:
    return source.occasions(source.labelled(user))


def sampled_of(source: OccasionSource, user: UserEvents, occasions: Sequence[Occasion]) -> Targets:
    parts = [NO_TARGETS, *(source.sampled(user.user_id, occasion) for occasion in occasions)]
    return Targets(*(np.concatenate([getattr(part, name) for part in parts]) for name in TARGET_FIELDS))


def user_of(log: Sequence[Row], user: str = "u1") -> UserEvents:
    mine = ordered(row for row in log if row.user == user)
    return UserEvents(
        user,
        history_of(mine),
        np.array([row.slot for row in mine], object),
        np.array([row.decision for row in mine], object),
    )


def targets_of(found: OccasionSource, log: Sequence[Row]) -> Targets:
    user = user_of(log)
    return sampled_of(found, user, occasions_of(found, user))


LOGS = rows(moments(0, 30), slots=SLOTS, max_size=25)


@settings(max_examples=40)
@given(LOGS)
def test_explicit_targets_are_the_labelled_events_as_they_stand(log: list[Row]) -> None:
    targets = targets_of(source(negatives="explicit", attribution_hours=None), log)
    found = Counter(
        zip(
            targets.time_T.tolist(),
            targets.item_T.tolist(),
            targets.label_T.tolist(),
            targets.weight_T.tolist(),
            strict=True,
        )
    )
    assert found == Counter(
        (row.time, row.item, label_of(row), TYPES[row.type].get("weight", 1.0))
        for row in log
        if row.user == "u1" and label_of(row) is not None
    )
    assert (targets.offset_T == 0).all()
    assert (np.diff(targets.time_T) >= 0).all()


def test_each_explicit_target_has_the_weight_of_its_own_type() -> None:
    log = [Row("u1", START, "skip", 1), Row("u1", START, "purchase", 2), Row("u1", START, "rating", 3, 5.0)]
    targets = targets_of(source(negatives="explicit"), numbered(log))
    assert targets.label_T.tolist() == [0, 1, 1]
    assert targets.weight_T.tolist() == [0.5, 1.0, 2.0]


@settings(max_examples=40)
@given(LOGS, st.integers(1, 4), st.integers(1, 4))
def test_availability_asks_about_what_was_on_offer(log: list[Row], count: int, cap: int) -> None:
    found = source(negatives="availability", per_occasion=count, positives_per_occasion=cap)
    user = user_of(log)
    occasions = {occasion.time: occasion for occasion in occasions_of(found, user)}
    bought: dict[int, list[Row]] = {}
    for row in ordered(row for row in log if row.user == "u1" and label_of(row) == 1.0):
        bought.setdefault(row.time, []).append(row)
    expected = {time: group for time, group in bought.items() if OFFERS.get(group[0].slot or "")}
    assert sorted(occasions) == sorted(expected)
    for time, group in expected.items():
        offer, basket = OFFERS[group[0].slot or ""], {row.item for row in group}
        occasion = occasions[time]
        assert occasion.shown_C is not None
        assert tuple(occasion.shown_C) == offer
        assert set(occasion.taken) == basket & set(offer)
        assert set(occasion.chosen) == basket
        check_sample(sampled_of(found, user, [occasion]), occasion, count=count, cap=cap)


def check_sample(targets: Targets, occasion: Occasion, *, count: int, cap: int) -> None:
    assert occasion.shown_C is not None
    positive = targets.label_T == 1
    others = set(occasion.shown_C) - set(occasion.taken)
    positives, negatives = targets.item_T[positive].tolist(), targets.item_T[~positive].tolist()
    assert set(positives) <= set(occasion.taken)
    assert set(negatives) <= others
    assert len(positives) == len({*positives}) == min(cap, len(occasion.taken))
    assert len(negatives) == len({*negatives}) == min(count, len(others))
    # One offset for all: what the model learns must not depend on the outcome.
    offset = -math.log(min(count, len(others)) / len(others)) if others else 0.0
    np.testing.assert_allclose(targets.offset_T, offset, atol=1e-6)
    np.testing.assert_allclose(targets.weight_T[positive].sum(), len(occasion.taken) * occasion.weight, rtol=1e-6)
    assert (targets.weight_T[~positive] == occasion.weight).all()
    assert (targets.time_T == occasion.time).all()


def many_bought(taken: int, *, slot: str | None = "front") -> list[Row]:
    return numbered(Row("u1", START, "purchase", item, slot=slot) for item in range(1, taken + 1))


def test_each_negative_is_kept_with_the_share_that_the_offset_says() -> None:
    everything = slots_of({"front": range(1, 40)}, ids=MANY)
    log, kept, draws = many_bought(9), Counter[int](), 600
    for seed in range(draws):
        made = source(slots=everything, negatives="availability", per_occasion=6, positives_per_occasion=3, seed=seed)
        targets = targets_of(made, log)
        kept.update(targets.item_T.tolist())
        share = math.exp(-float(targets.offset_T[0]))
        assert share == pytest.approx(6 / 30, rel=1e-6)
        weight = float(targets.weight_T[targets.label_T == 1][0])
        assert weight == pytest.approx(9 / 3)
    # Four standard errors of a share over all draws.
    for items, expected in ((range(1, 10), 1 / weight), (range(10, 40), share)):
        for item in items:
            assert abs(kept[item] / draws - expected) < 4 * math.sqrt(expected * (1 - expected) / draws)


@settings(max_examples=40)
@given(rows(moments(0, 10 * 24), max_size=25), st.integers(1, 6))
def test_popular_negatives_were_known_before_the_day_and_not_taken(log: list[Row], count: int) -> None:
    found = source(log, negatives="popularity", per_occasion=count)
    user = user_of(log)
    for occasion in occasions_of(found, user):
        assert (occasion.kind, occasion.shown_C, occasion.slot) == ("popularity", None, None)
        bought = {r.item for r in log if r.user == "u1" and r.time == occasion.time and label_of(r) == 1.0}
        assert set(occasion.chosen) == bought
        targets = sampled_of(found, user, [occasion])
        negatives = targets.item_T[targets.label_T == 0].tolist()
        day = occasion.time // DAY_US
        known = {r.item for r in log if label_of(r) is not None and r.time // DAY_US < day}
        assert set(occasion.taken) == bought & known, "what no draw could have given is no target"
        assert set(negatives) <= known - bought
        drawn = min(count, len(known))
        assert drawn - len(known & bought) <= len(negatives) == len({*negatives}) <= min(drawn, len(known - bought))
        assert set(targets.item_T[targets.label_T == 1]) == bought & known
        draw = found.popularity
        assert draw.shares(occasion.time, draw.known(occasion.time)).sum() == pytest.approx(drawn)
        share = np.exp(-targets.offset_T) * draw.even_share(occasion.time)
        np.testing.assert_allclose(share, draw.shares(occasion.time, targets.item_T), rtol=1e-6)


COUNTS = {1: 1, 2: 4, 3: 9, 4: 30, 5: 100}
SHARES = {
    (0.0, 2): [2 / 5] * 5,
    (0.5, 1): [math.sqrt(n) / (16 + math.sqrt(30)) for n in COUNTS.values()],
    (1.0, 1): [n / 144 for n in COUNTS.values()],
    (1.0, 3): [1 / 14, 4 / 14, 9 / 14, 1, 1],  # what would come out more than once comes out always
    (1.0, 5): [1] * 5,
    (1.0, 9): [1] * 5,
}


@pytest.mark.parametrize(("alpha", "count"), SHARES)
def test_each_popular_negative_is_drawn_with_the_share_that_its_offset_says(alpha: float, count: int) -> None:
    log = numbered(Row("u2", START, "skip", item) for item, n in COUNTS.items() for _ in range(n))
    made, draws, drawn = source(log, negatives="popularity", alpha=alpha, per_occasion=count), 1500, Counter[int]()
    taken = np.array([3], np.int32)
    offset: dict[int, float] = {}
    for n in range(draws):
        targets = made.sampled(f"u{n}", Occasion(START + DAY_US, "popularity", taken, taken, None, 1.0))
        drawn.update(targets.item_T[targets.label_T == 0].tolist())
        offset |= zip(targets.item_T.tolist(), targets.offset_T.tolist(), strict=True)
    assert 3 not in drawn
    assert set(offset) == {*COUNTS}, "what is taken has the offset that it would have if it were not"
    even = min(1, count / 5)
    for item, share in zip(COUNTS, SHARES[alpha, count], strict=True):
        assert share * math.exp(offset[item]) == pytest.approx(even, rel=1e-6)
        # Four standard errors of a share over all draws.
        assert item == 3 or abs(drawn[item] / draws - share) <= 4 * math.sqrt(share * (1 - share) / draws)


def test_nothing_popular_is_known_on_the_first_day() -> None:
    log = many_bought(2, slot=None)
    found = source(log, negatives="popularity")
    assert len(targets_of(found, log)) == 0
    [occasion] = occasions_of(found, user_of(log))
    assert set(occasion.chosen) == {1, 2}, "the whole catalogue is still ranked for it"


def test_what_is_forgotten_of_a_day_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clm_ray.data.popularity._CACHED_ENTRIES", 8)
    log = numbered(Row("u2", START + n * DAY_US, "skip", 1 + n % 4) for n in range(12))
    bounded = PopularityDraw(statistics_of(log), 0.5, 8)
    days = [3, 5, 4, 3, 9, 3]
    for day in days:
        fresh = PopularityDraw(statistics_of(log), 0.5, 8)
        assert bounded.known(START + day * DAY_US).tolist() == fresh.known(START + day * DAY_US).tolist()
        assert len(bounded._days) <= 2


SLATE = numbered(
    [
        Row("u1", START + 2 * HOUR_US, "impression", 0, decision="d1"),
        Row("u1", START + 3 * HOUR_US, "purchase", 2, slot="front", decision="d1"),
        Row("u1", START + 4 * HOUR_US, "purchase", 6, slot="front", decision="d1"),
        Row("u1", START + 5 * HOUR_US, "skip", 3, decision="d1"),
        Row("u1", START + 6 * HOUR_US, "impression", 0, decision="d2"),
        Row("u1", START + 7 * HOUR_US, "purchase", 1, slot="front"),
        Row("u1", START + 8 * HOUR_US, "purchase", 4, slot="front", decision="unknown"),
        Row("u1", START + 9 * HOUR_US, "impression", 0, decision="unknown"),
        Row("u1", START + 9 * HOUR_US, "impression", 0),
    ]
)


@pytest.mark.parametrize("negatives", ["explicit", "availability", "popularity"])
def test_a_served_slate_is_an_occasion_of_its_own_moment(negatives: str) -> None:
    found = source(negatives=negatives, per_occasion=1, positives_per_occasion=1)
    user = user_of(SLATE)
    decisions = [occasion for occasion in occasions_of(found, user) if occasion.kind == "decision"]
    assert [(o.time, o.slot) for o in decisions] == [
        (START + 2 * HOUR_US, "decision:d1"),
        (START + 6 * HOUR_US, "decision:d2"),
    ]
    targets = sampled_of(found, user, decisions)
    # All of the slate, whatever the sampling of others; what was bought beside it is no answer to it.
    asked = sorted(zip(targets.time_T.tolist(), targets.item_T.tolist(), targets.label_T.tolist(), strict=True))
    first, second = START + 2 * HOUR_US, START + 6 * HOUR_US
    assert asked == [(first, 1, 0), (first, 2, 1), (first, 3, 0), (second, 4, 0), (second, 5, 0), (second, 6, 0)]
    assert set(targets.weight_T) == {1.0}
    assert set(targets.offset_T) == {0.0}


@pytest.mark.parametrize("negatives", ["explicit", "availability", "popularity"])
def test_answers_are_asked_about_once(negatives: str) -> None:
    """What answers a known slate is no occasion of its own; what names an unknown one is an event like others."""
    times = [o.time for o in occasions_of(source(negatives=negatives), user_of(SLATE)) if o.kind != "decision"]
    assert times == [START + 7 * HOUR_US, START + 8 * HOUR_US]


def test_a_recipe_without_the_impression_event_has_no_slates() -> None:
    kinds = {o.kind for o in occasions_of(source(negatives="availability", code=None), user_of(SLATE))}
    assert kinds == {"availability"}


def test_another_user_does_not_answer() -> None:
    log = [*SLATE, Row("u2", START + 3 * HOUR_US, "purchase", 1, decision="d1", number=99)]
    [decision, *_] = occasions_of(source(negatives="explicit"), user_of(log))
    assert decision.taken.tolist() == [2]


def test_draws_depend_on_seed_user_and_moment_alone() -> None:
    everything = slots_of({"front": range(1, 40)}, ids=MANY)
    log = [*many_bought(2), *(row._replace(time=START + DAY_US, number=50 + row.number) for row in many_bought(3))]

    def drawn(seed: int = 0, user: str = "u1", which: slice = slice(None)) -> list[list[int]]:
        made = source(slots=everything, negatives="availability", seed=seed)
        events = user_of([row._replace(user=user) for row in log], user)
        return [sampled_of(made, events, [occasion]).item_T.tolist() for occasion in occasions_of(made, events)[which]]

    assert drawn() == drawn()
    assert drawn(which=slice(1, 2)) == drawn()[1:]
    first, second = drawn()
    assert first[2:] != second[3:]
    assert drawn(seed=1) != drawn() != drawn(user="u2")


def test_a_user_without_events_has_no_occasions() -> None:
    found = source(negatives="availability")
    nobody = user_of([])
    assert occasions_of(found, nobody) == []
    assert len(sampled_of(found, nobody, [])) == 0
