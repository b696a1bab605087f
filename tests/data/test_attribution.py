"""Which answers count for which impression or slate, and which targets are left out because their label is not known yet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_bucket import build, targets_of
from made_logs import (
    DAYS,
    HOUR_US,
    START,
    TRAIN_END,
    TYPES,
    VALID_END,
    VOCABULARY,
    Row,
    history_of,
    label_of,
    moments,
    numbered,
    ordered,
    recipe,
    rows,
)

from clm_ray.data.attribution import attribute
from clm_ray.schema import DAY_US, TRAIN, VALID

LOG_END = START + DAYS * DAY_US
HOURS = 5


def by_hand(log: Sequence[Row], window: int) -> dict[int, tuple[float | None, float, int]]:
    """Row number → (label, weight, hour from which it is known), one row after the other."""
    found: dict[int, tuple[float | None, float, int]] = {
        row.number: (label_of(row), TYPES[row.type].get("weight", 1.0), row.time) for row in log
    }
    for row in log:
        if row.type == "skip" and row.item:
            found[row.number] = (0.0, 0.5, row.time + window)
    for row in log:
        if row.type != "purchase" or not row.item:
            continue
        shown = [r for r in log if r.type == "skip" and r.item == row.item and r.time <= row.time]
        if shown and row.time - shown[-1].time < window:
            last = shown[-1].number
            found[row.number] = (None, *found[row.number][1:])
            found[last] = (1.0, 1.0, found[last][2])
    return found


@given(rows(moments(0, 20), users=["u1"], items=[0, 1, 2], max_size=20), st.integers(1, 8))
def test_an_answer_goes_to_the_last_impression_of_its_item_in_time(log: list[Row], hours: int) -> None:
    log = ordered(log)
    history = history_of(log)
    labels = VOCABULARY.labels(history)
    found = attribute(history, labels, VOCABULARY, window_us=hours * HOUR_US)
    expected = [by_hand(log, hours * HOUR_US)[row.number] for row in log]
    asked = [(None if np.isnan(label) else label) for label in found.label_N.tolist()]
    assert asked == [label for label, *_ in expected]
    targets = ~np.isnan(found.label_N)
    assert found.weight_N[targets].tolist() == [w for label, w, _ in expected if label is not None]
    assert found.final_N[targets].tolist() == [t for label, _, t in expected if label is not None]
    assert np.array_equal(labels, VOCABULARY.labels(history), equal_nan=True), "the history's own labels stay"


@given(rows(moments(0, 20), users=["u1"], max_size=20))
def test_without_a_window_every_event_stands_for_itself(log: list[Row]) -> None:
    history = history_of(log)
    found = attribute(history, VOCABULARY.labels(history), VOCABULARY, window_us=0)
    assert np.array_equal(found.label_N, VOCABULARY.labels(history), equal_nan=True)
    assert np.array_equal(found.final_N, history.time_N)


def asked(log: Sequence[Row], **impressions: object) -> list[tuple[int, int, float, int]]:
    """(hours after START, item, label, split) of the targets."""
    made = recipe(impressions={"negatives": "explicit", "attribution_hours": HOURS, **impressions})
    found = targets_of(build(numbered(log), made, log_end=LOG_END))
    return [((t.time - START) // HOUR_US, t.item, t.label, t.split) for t in found]


def test_an_impression_and_its_click_are_one_target_at_the_impressions_moment() -> None:
    log = [Row("u1", START + 2 * HOUR_US, "skip", 1), Row("u1", START + 3 * HOUR_US, "purchase", 1)]
    assert asked(log) == [(2, 1, 1.0, TRAIN)]
    assert asked(log, attribution_hours=None) == [(2, 1, 0.0, TRAIN), (3, 1, 1.0, TRAIN)]


@pytest.mark.parametrize(("late", "label"), [(HOURS * HOUR_US - 1, 1.0), (HOURS * HOUR_US, 0.0)])
def test_the_window_is_half_open(late: int, label: float) -> None:
    log = [Row("u1", START, "skip", 1), Row("u1", START + late, "purchase", 1)]
    assert asked(log)[0] == (0, 1, label, TRAIN)
    slate = [Row("u1", START, "impression", 0, decision="d2"), Row("u1", START + late, "purchase", 4, decision="d2")]
    assert asked(slate)[0] == (0, 4, label, TRAIN)
    assert len(asked(slate)) == (3 if label else 4), "what came too late stands for itself"


@pytest.mark.parametrize(
    ("end", "split"), [(TRAIN_END, TRAIN), (VALID_END, VALID), (LOG_END, None)], ids=["train", "valid", "log"]
)
def test_a_label_that_is_not_known_at_the_end_is_no_target(end: int, split: int | None) -> None:
    """Neither where it would look into the next split, nor where the log has not yet seen the whole window."""
    for kind, item, decision in (("skip", 3, None), ("impression", 0, "d2")):
        for time, kept in ((end - HOURS * HOUR_US, True), (end - HOURS * HOUR_US + 1, False)):
            for answered in (True, False):
                answer = [Row("u1", end - 1, "purchase", 4 if decision else 3, 1.0, decision=decision)]
                log = numbered([Row("u1", time, kind, item, decision=decision), *(answer if answered else [])])
                made = recipe(impressions={"negatives": "explicit", "attribution_hours": HOURS})
                result = build(log, made, log_end=LOG_END)
                known = [t for t in targets_of(result) if t.time == time]
                held = [row for row in result.impressions if row["time"] == time]
                assert bool(known) == (kept and split is not None)
                assert bool(held) == (kept and split is None)
                assert result.left_out == (0 if kept else 3 if decision else 1)
                assert {t.split for t in known} <= {split}


def test_events_that_need_no_waiting_are_targets_up_to_the_end() -> None:
    log = [Row("u1", TRAIN_END - 1, "purchase", 1, 1.0), Row("u1", TRAIN_END - 1, "rating", 2, 5.0)]
    assert {(item, split) for _, item, _, split in asked(log)} == {(1, TRAIN), (2, TRAIN)}


def slate_labels(end: int, answered: int, **sections: dict[str, object]) -> list[tuple[int, float]]:
    """(item, label) of a slate served a day before `end`, of which item 2 was taken at `answered`."""
    slate = Row("u1", end - DAY_US, "impression", 0, decision="d1")
    log = numbered([slate, Row("u1", answered, "purchase", 2, 1.0, decision="d1")])
    found = targets_of(build(log, recipe(**sections), log_end=LOG_END))
    assert {t.time for t in found} == {slate.time}, "the answer is no target of its own"
    return [(t.item, t.label) for t in found]


@pytest.mark.parametrize("negatives", ["explicit", "availability", "popularity"])
@pytest.mark.parametrize("end", [TRAIN_END, VALID_END], ids=["train", "valid"])
def test_without_a_window_an_answer_counts_until_the_split_of_its_slate_ends(negatives: str, end: int) -> None:
    impressions = {"negatives": negatives, "attribution_hours": None}
    assert slate_labels(end, end - 1, impressions=impressions) == [(1, 0.0), (2, 1.0), (3, 0.0)]
    assert slate_labels(end, end, impressions=impressions) == [(1, 0.0), (2, 0.0), (3, 0.0)]


def test_where_all_is_trained_on_every_answer_counts() -> None:
    split = {"protocol": "time", "train_end": "2022-01-23", "valid_end": "2022-01-28", "refit": True}
    assert slate_labels(TRAIN_END, VALID_END + DAY_US, split=split) == [(1, 0.0), (2, 1.0), (3, 0.0)]


@pytest.mark.parametrize(("late", "label"), [(-1, 1.0), (0, 0.0)])
def test_at_shares_of_a_users_rows_the_split_ends_where_the_next_one_begins(late: int, label: float) -> None:
    """Three rows of a slate and seven ratings: the last two are test, two before them valid."""
    first_valid = START + 13 * HOUR_US
    log = numbered(
        [
            Row("u1", START, "impression", 0, decision="d1"),
            *(Row(user, START + (10 + n) * HOUR_US, "rating", 1, 5.0) for user in ("u1", "u2") for n in range(7)),
            Row("u1", first_valid + late, "purchase", 2, 1.0, decision="d1"),
        ]
    )
    made = recipe(split={"protocol": "per_user", "valid_share": 0.2, "test_share": 0.2})
    found = targets_of(build(log, made, log_end=LOG_END))
    assert [(t.item, t.label, t.split) for t in found if t.time == START] == [
        (1, 0.0, TRAIN),
        (2, label, TRAIN),
        (3, 0.0, TRAIN),
    ]
    assert min(t.time for t in found if (t.user, t.split) == ("u1", VALID)) == first_valid
