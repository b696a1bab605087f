"""Dense features against loops that read their meaning literally: for each question, look at every event."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from made_logs import (
    CATEGORIES,
    HOUR_US,
    ITEMS,
    START,
    TYPES,
    VOCABULARY,
    Row,
    history_of,
    label_of,
    ordered,
    recipe,
    rows,
    source_of,
)

from clm_ray.features.asked import Joined
from clm_ray.features.history import EMPTY
from clm_ray.features.neighbours import NEIGHBOUR_FEATURES
from clm_ray.features.pair import PAIR_FEATURES
from clm_ray.features.spec import click_feature_names, retention_feature_names
from clm_ray.features.tokens import TOKEN_VALUES, USER_MEAN_EVENTS, token_values
from clm_ray.features.user import rfm, user_feature_names
from clm_ray.schema import DAY_US, LARGEST_VALUE

RECIPE = recipe()
PRIOR = RECIPE.features.prior_strength
NEVER = 400.0
# Half days and few items: an item often comes again, and events lie at the very edges of the windows.
HALF_DAYS = st.integers(0, 60).map(lambda n: START + n * 12 * HOUR_US)
LOGS = rows(HALF_DAYS, users=("u1", "u1", "u1", "u2"), items=(0, 1, 1, 1, 2, 3, 4, 5))
QUESTIONS = st.lists(st.tuples(st.integers(0, len(ITEMS) - 1), HALF_DAYS), min_size=1, max_size=8)


def like_rate(log: Sequence[Row], item: int, day: int) -> float:
    """Share of positive labels of the item on earlier days, shrunk towards that of all items."""
    known = [(row.item, label) for row in log if row.time // DAY_US < day and (label := label_of(row)) is not None]
    overall = (sum(label for _, label in known) + 1) / (len(known) + 2) if known else 0.5
    mine = [label for i, label in known if i == item]
    return (sum(mine) + PRIOR * overall) / (len(mine) + PRIOR)


def residual(log: Sequence[Row], row: Row) -> float:
    label = label_of(row)
    return 0.0 if label is None else label - like_rate(log, row.item, row.time // DAY_US)


def spend(row: Row) -> float:
    return row.value or 0.0 if row.type == "purchase" else 0.0


def has(row: Row, role: str) -> bool:
    return role in TYPES[row.type]["roles"]


def user_by_hand(log: Sequence[Row], mine: Sequence[Row], t: int) -> dict[str, float]:
    seen = [row for row in mine if row.time < t]
    active = [row.time for row in seen if has(row, "activity")]
    days = sorted({time // DAY_US for time in active})
    gaps = [later - earlier for earlier, later in pairwise(days)]
    mean_gap = sum(gaps) / len(gaps) if gaps else 0.0
    sd_gap = math.sqrt(sum((gap - mean_gap) ** 2 for gap in gaps) / len(gaps)) if gaps else 0.0
    recency = (t - active[-1]) / DAY_US if active else NEVER
    found = {
        "log_days_since_active": math.log1p(recency),
        "log_days_since_event": math.log1p((t - seen[-1].time) / DAY_US if seen else NEVER),
        "log_tenure_days": math.log1p((t - active[0]) / DAY_US if active else 0.0),
        "log_mean_gap_days": math.log1p(mean_gap),
        "log_sd_gap_days": math.log1p(sd_gap),
        "log_overdue": math.log1p(recency / max(mean_gap, 1.0)),
        "log_events": math.log1p(len(seen)),
        "log_active_days": math.log1p(len(days)),
    }
    for window in RECIPE.features.windows_days:
        found[f"log_active_days_{window}d"] = math.log1p(sum(day >= t // DAY_US - window for day in days))
        recent = [row for row in seen if row.time >= t - window * DAY_US]
        found[f"log_spend_{window}d"] = math.log1p(sum(spend(row) for row in recent))
    month = [row for row in seen if row.time >= t - 28 * DAY_US]
    found["log_passive_28d"] = math.log1p(sum(has(row, "context") and not has(row, "activity") for row in month))
    for name, part, prior in (
        ("bias", seen, PRIOR),
        ("bias_recent_10", seen[-10:], 3),
        ("bias_recent_30", seen[-30:], 3),
    ):
        labels = sum(label_of(row) is not None for row in part)
        found[name] = sum(residual(log, row) for row in part) / (labels + prior)
    week = 2 * math.pi * (t / DAY_US % 7) / 7
    found |= {"weekday_sin": math.sin(week), "weekday_cos": math.cos(week)}
    return {f"user_{name}": value for name, value in found.items()}


def pair_by_hand(log: Sequence[Row], mine: Sequence[Row], item: int, t: int) -> dict[str, float]:
    seen = [row for row in mine if row.time < t and row.item and has(row, "context")]
    same = [row for row in seen if row.item == item and item]
    since = (t - same[-1].time) / DAY_US if same else NEVER
    between = (same[-1].time - same[0].time) / DAY_US / (len(same) - 1) if len(same) > 1 else 0.0
    found = {
        "pair_log_count": math.log1p(len(same)),
        "pair_log_days_since": math.log1p(since),
        "pair_log_cycle": math.log1p(since / max(between, 0.5)) if between > 0 else 0.0,
        "pair_residual": sum(residual(log, row) for row in same) / (len(same) + 1),
    }
    counts, shares, ages, likes, startled = [], [], [], [], []
    # An item without category shares the category "none" with all others like it.
    for category in CATEGORIES[item] or ("",):
        alike = [row for row in seen if category in (CATEGORIES[row.item] or ("",))]
        counts.append(len(alike))
        shares.append(len(alike) / (len(seen) + PRIOR))
        ages.append((t - alike[-1].time) / DAY_US if alike else NEVER)
        likes.append(sum(residual(log, row) for row in alike) / (len(alike) + PRIOR / 2))
        startled.append(sum(surprise(log, row) for row in alike) / (len(alike) + PRIOR / 2))
    found |= {"category_log_count_max": math.log1p(max(counts)), "category_log_count_min": math.log1p(min(counts))}
    found |= {"category_share_max": max(shares), "category_share_min": min(shares)}
    found |= {
        "category_log_days_since_max": math.log1p(max(ages)),
        "category_log_days_since_min": math.log1p(min(ages)),
    }
    found |= {"category_residual_mean": sum(likes) / len(likes)}
    found |= {"category_residual_min": min(likes), "category_residual_max": max(likes)}
    found |= {"category_surprise_mean": sum(startled) / len(startled)}
    found |= {"category_surprise_min": min(startled), "category_surprise_max": max(startled)}
    return found | item_by_hand(log, mine, item, t)


def item_by_hand(log: Sequence[Row], mine: Sequence[Row], item: int, t: int) -> dict[str, float]:
    today = t // DAY_US
    # Item 0 stands for "all items" in the statistics.
    of_item = [row for row in log if label_of(row) is not None and item in (row.item, 0)]
    total, month, week = (
        [row for row in of_item if today - days <= row.time // DAY_US < today] for days in (10**6, 28, 7)
    )
    labelled = [row for row in mine if row.time < t and label_of(row) is not None]
    rate = like_rate(log, item, today)
    if not item:
        overall = (sum(label_of(row) or 0.0 for row in total) + 1) / (len(total) + 2) if total else 0.5
        rate = (sum(label_of(row) or 0.0 for row in total) + PRIOR * overall) / (len(total) + PRIOR)
    mean = sum(row.value or 0.0 for row in total) / max(len(total), 1)
    return {
        "item_log_events": math.log1p(len(total)),
        "item_log_events_28d": math.log1p(len(month)),
        "item_log_events_7d": math.log1p(len(week)),
        "item_trend": math.log((len(week) + 1) / (len(month) / 4 + 1)),
        "item_like_rate": rate,
        "item_mean_value": math.log1p(mean),
        "both_like_rate": rate + sum(residual(log, row) for row in labelled) / (len(labelled) + PRIOR),
        "item_mean_rating": mean_rating(log, item, today),
        "both_mean_rating": mean_rating(log, item, today) + user_mean(log, mine, t),
    }


def mean_rating(log: Sequence[Row], item: int, today: int) -> float:
    rated = [(row.item, float(np.float32(row.value))) for row in log if is_rated(row) and row.time // DAY_US < today]
    overall = sum(value for _, value in rated) / max(len(rated), 1)
    mine = [value for which, value in rated if item in (which, 0)]
    return (sum(mine) + PRIOR * overall) / (len(mine) + PRIOR)


def is_rated(row: Row) -> bool:
    return row.type == "rating" and bool(row.item) and row.value is not None


def deviation(log: Sequence[Row], row: Row) -> float:
    if is_rated(row):
        return float(np.float32(row.value)) - mean_rating(log, row.item, row.time // DAY_US)
    return residual(log, row)


def user_mean(log: Sequence[Row], mine: Sequence[Row], t: int) -> float:
    """Of the last USER_MEAN_EVENTS events before t, whatever their type, those with a label or a rating."""
    last = [row for row in mine if row.time < t][-USER_MEAN_EVENTS:]
    known = [deviation(log, row) for row in last if is_rated(row) or label_of(row) is not None]
    return sum(known) / (len(known) + 5.0)


def surprise(log: Sequence[Row], row: Row) -> float:
    if not is_rated(row) and label_of(row) is None:
        return 0.0
    return deviation(log, row) - user_mean(log, ordered(r for r in log if r.user == row.user), row.time)


@settings(max_examples=60)
@given(LOGS, QUESTIONS)
def test_click_features_are_what_their_names_say(log: list[Row], questions: list[tuple[int, int]]) -> None:
    mine = ordered(row for row in log if row.user == "u1")
    items, times = (np.array(column) for column in zip(*questions, strict=True))
    dense = source_of(log).click(history_of(mine), items.astype(np.int32), times.astype(np.int64))
    for got, (item, t) in zip(dense, questions, strict=True):
        expected = user_by_hand(log, mine, t) | pair_by_hand(log, mine, item, t)
        found = dict(zip(click_feature_names(RECIPE), got.tolist(), strict=True))
        assert list(found)[: len(expected)] == list(expected)
        known = list(found.values())[: len(expected)]
        np.testing.assert_allclose(known, list(expected.values()), rtol=2e-5, atol=5e-6)
        assert list(found)[len(expected) :] == list(NEIGHBOUR_FEATURES)  # tests/features/test_neighbour_features.py


@settings(max_examples=40)
@given(LOGS, st.lists(HALF_DAYS, min_size=1, max_size=6))
def test_retention_features_are_the_user_features(log: list[Row], times: list[int]) -> None:
    mine = ordered(row for row in log if row.user == "u1")
    dense = source_of(log).retention(history_of(mine), np.array(times, np.int64))
    for got, t in zip(dense, times, strict=True):
        expected = user_by_hand(log, mine, t)
        assert list(expected) == list(retention_feature_names(RECIPE)) == list(user_feature_names((3, 14)))
        np.testing.assert_allclose(got, list(expected.values()), rtol=2e-5, atol=2e-6)


@settings(max_examples=60)
@given(LOGS)
def test_token_values_are_what_their_names_say(log: list[Row]) -> None:
    mine = ordered(row for row in log if row.user == "u1")
    source = source_of(log)
    values = token_values(
        Joined.of([history_of(mine)]), statistics=source.statistics, vocabulary=VOCABULARY, prior=PRIOR
    )
    assert values.shape == (len(mine), len(TOKEN_VALUES))
    for n, row in enumerate(mine):
        gap = (row.time - mine[n - 1].time) / DAY_US if n else 0.0
        expected = {
            "residual": residual(log, row),
            "surprise": surprise(log, row),
            "has_label": float(label_of(row) is not None),
            "log_amount": math.log1p(spend(row)) / 3,
            "log_gap_days": math.log1p(gap) / 3,
            "same_moment": float(gap == 0),
        }
        assert list(expected) == list(TOKEN_VALUES)
        np.testing.assert_allclose(values[n], list(expected.values()), rtol=1e-5, atol=1e-6)


@settings(max_examples=60)
@given(LOGS, HALF_DAYS)
def test_recency_frequency_and_spend_of_the_profile(log: list[Row], t: int) -> None:
    mine = ordered(row for row in log if row.user == "u1" and row.time < t)
    found = rfm(history_of(row for row in log if row.user == "u1"), t, vocabulary=VOCABULARY, windows_days=(3, 14))
    active = [row.time for row in mine if has(row, "activity")]
    if not active:
        assert (found.recency_days, found.tenure_days) == (None, None)
        assert (set(found.frequency.values()), set(found.monetary.values())) == ({0}, {0.0})
        return
    assert found.recency_days == (t - active[-1]) / DAY_US
    assert found.tenure_days == (t - active[0]) / DAY_US
    for days in (3, 14):
        assert found.frequency[days] == len({time // DAY_US for time in active if time >= t - days * DAY_US})
        recent = sum(spend(row) for row in mine if row.time >= t - days * DAY_US)
        np.testing.assert_allclose(found.monetary[days], recent, rtol=1e-5)


def test_the_largest_values_make_finite_figures() -> None:
    log = [Row("u1", START + n, "purchase", 1, LARGEST_VALUE) for n in range(5)]
    log += [Row("u1", START + DAY_US + n, "rating", n % 2 + 1, (-1) ** n * LARGEST_VALUE) for n in range(6)]
    history = history_of(log)
    found = rfm(history, START + 2 * DAY_US, vocabulary=VOCABULARY, windows_days=(3, 14))
    np.testing.assert_allclose([found.monetary[3], found.monetary[14]], 5 * LARGEST_VALUE, rtol=1e-6)
    source = source_of(log)
    tokens = token_values(Joined.of([history]), statistics=source.statistics, vocabulary=VOCABULARY, prior=PRIOR)
    assert np.abs(tokens).max() <= 2e6
    times = np.array([START, START + 2 * DAY_US])
    assert np.isfinite(source.click(history, np.array([1, 2], np.int32), times)).all()
    assert np.isfinite(source.retention(history, times)).all()


def test_a_user_and_a_log_without_events_have_features_too() -> None:
    nothing = source_of([])
    times = np.array([START, START + HOUR_US])
    dense = nothing.click(EMPTY, np.array([0, 3], np.int32), times)
    assert dense.shape == (2, len(click_feature_names(RECIPE)))
    assert np.isfinite(dense).all()
    column = {name: n for n, name in enumerate(click_feature_names(RECIPE))}
    assert dense[1, column["item_like_rate"]] == 0.5
    np.testing.assert_allclose(dense[:, column["user_log_days_since_active"]], math.log1p(NEVER), rtol=1e-6)
    assert nothing.click(EMPTY, np.empty(0, np.int32), times[:0]).shape == (0, dense.shape[1])
    assert len(PAIR_FEATURES) + len(NEIGHBOUR_FEATURES) + len(user_feature_names((3, 14))) == dense.shape[1]
