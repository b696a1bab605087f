"""Item neighbours as features: by hand, over slices, and blind to what comes at or after the question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from made_logs import (
    DAY_US,
    HOUR_US,
    ITEMS,
    START,
    VOCABULARY,
    Row,
    history_of,
    label_of,
    moments,
    ordered,
    rows,
    source_of,
)

from clm_ray.features.asked import Asked
from clm_ray.features.history import EMPTY
from clm_ray.features.neighbours import NEIGHBOUR_FEATURES, NO_NEIGHBOURS, ItemNeighbours, neighbour_features, tastes

Entry = tuple[int, int, int, int, float]
"""(relation, end, item, neighbour, similarity)."""

ENDS = (START + 5 * DAY_US, START + 12 * DAY_US, START + 20 * DAY_US)
ITEM = st.integers(1, len(ITEMS) - 1)
SIMILARITIES = st.floats(-1, 1, width=32).filter(lambda value: abs(value) > 0.01)
ENTRIES = st.dictionaries(
    st.tuples(st.integers(0, 1), st.sampled_from(ENDS), ITEM, ITEM), SIMILARITIES, max_size=40
).map(lambda found: [(*key, value) for key, value in found.items()])
LOGS = rows(moments(0, 24 * 25), max_size=25)
QUESTIONS = st.lists(st.tuples(ITEM, moments(0, 24 * 26)), min_size=1, max_size=5)


def made(entries: Sequence[Entry]) -> ItemNeighbours:
    columns = zip(*entries, strict=True) if entries else [()] * 5
    kinds = (np.int8, np.int64, np.int32, np.int32, np.float32)
    return ItemNeighbours.from_rows(*(np.array(c, kind) for c, kind in zip(columns, kinds, strict=True)))


def features(log: Sequence[Row], questions: Sequence[tuple[int, int]], neighbours: ItemNeighbours) -> np.ndarray:
    source = source_of(log)
    history = history_of(row for row in log if row.user == "u1")
    items, times = (np.array(column) for column in zip(*questions, strict=True))
    return neighbour_features(
        Asked.one(history, times.astype(np.int64)),
        items.astype(np.int32),
        neighbours=neighbours,
        vocabulary=VOCABULARY,
        surprise_N=source.surprises(history),
    )


def by_hand(log: Sequence[Row], entries: Sequence[Entry], item: int, t: int) -> list[float]:
    source = source_of(log)
    history = history_of(row for row in log if row.user == "u1")
    surprise_N = source.surprises(history).tolist()
    seen = [
        (row, surprise)
        for row, surprise in zip(ordered(r for r in log if r.user == "u1"), surprise_N, strict=True)
        if row.time < t and label_of(row) is not None
    ]
    closed = [end for _, end, *_ in entries if end <= t]
    opinion = weight = taste = liked_weight = recent = 0.0
    for relation, end, of, neighbour, similarity in entries:
        mine = [(row, surprise) for row, surprise in seen if row.item == neighbour]
        if not closed or end != max(closed) or of != item or not mine:
            continue
        if relation == 0:
            weight += abs(similarity)
            opinion += similarity * sum(surprise for _, surprise in mine) / len(mine)
        else:
            choice = sum(2 * (label_of(row) or 0.0) - 1 for row, _ in mine)
            damped = similarity * math.copysign(math.log2(1 + abs(choice)), choice)
            liked_weight += abs(similarity)
            taste += damped
            recent += damped * 0.5 ** ((t - mine[-1][0].time) / DAY_US / 28)
    return [
        opinion / (weight + 1),
        opinion,
        math.log1p(weight),
        taste / (liked_weight + 1),
        math.log1p(liked_weight),
        recent,
    ]


@settings(max_examples=120)
@given(LOGS, ENTRIES, QUESTIONS)
def test_neighbour_features_are_what_their_names_say(
    log: list[Row], entries: list[Entry], questions: list[tuple[int, int]]
) -> None:
    found = features(log, questions, made(entries))
    for got, (item, t) in zip(found, questions, strict=True):
        np.testing.assert_allclose(got, by_hand(log, entries, item, t), rtol=1e-4, atol=1e-5)


def test_a_slice_counts_from_its_end_on() -> None:
    log = [Row("u1", START, "purchase", 1, 3.0)]
    neighbours = made([(1, ENDS[0], 2, 1, 0.5), (1, ENDS[1], 2, 1, 0.25)])
    asked = [(2, ENDS[0] - 1), (2, ENDS[0]), (2, ENDS[1] - 1), (2, ENDS[1])]
    weight = features(log, asked, neighbours)[:, NEIGHBOUR_FEATURES.index("neighbour_choice_log_weight")]
    np.testing.assert_allclose(np.expm1(weight), [0, 0.5, 0.5, 0.25], rtol=1e-6)


@settings(max_examples=60)
@given(LOGS, LOGS, ENTRIES, ITEM, moments(24, 24 * 25))
def test_what_comes_at_or_after_the_question_changes_nothing(
    past: list[Row], future: list[Row], entries: list[Entry], item: int, t: int
) -> None:
    early = [row for row in past if row.time < t]
    late = [row._replace(number=1000 + n) for n, row in enumerate(future) if row.time >= t]
    later = [(r, t + 1 + end - START, i, n, -s) for r, end, i, n, s in entries]
    one = features([*early], [(item, t)], made(entries))
    two = features([*early, *late], [(item, t)], made([*entries, *later]))
    closed = [entry for entry in entries if entry[1] <= t]
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, features([*early], [(item, t)], made(closed)))


def test_the_order_of_the_rows_does_not_matter() -> None:
    entries = [(1, ENDS[0], 2, 1, 0.5), (0, ENDS[0], 2, 1, 0.3), (1, ENDS[1], 2, 3, 0.25), (1, ENDS[0], 4, 1, 0.1)]
    one, two = made(entries), made(entries[::-1])
    for name in ("surprise", "choice"):
        for column in ("slice_E", "item_E", "neighbour_E", "similarity_E"):
            np.testing.assert_array_equal(getattr(getattr(one, name), column), getattr(getattr(two, name), column))


def test_nothing_known_gives_zeros() -> None:
    log = [Row("u1", START, "purchase", 1, 3.0)]
    assert not features(log, [(2, START + HOUR_US)], NO_NEIGHBOURS).any()
    source = replace(source_of(log), neighbours=made([(1, ENDS[0], 2, 1, 0.5)]))
    dense = source.click(EMPTY, np.array([2], np.int32), np.array([ENDS[1]]))
    assert not dense[:, -len(NEIGHBOUR_FEATURES) :].any()


def test_the_tenth_like_says_less_than_the_first() -> None:
    assert tastes(np.array([1.0, -1.0, 3.0, 0.0])).tolist() == [1, -1, 2, 0]
