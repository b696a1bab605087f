"""One source of features, offline and online: many questions about a whole history, or one about what the endpoint keeps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from made_logs import ITEMS, Row, history_of, moments, ordered, recipe, rows, source_of

from clm_ray.features.history import EMPTY
from clm_ray.features.spec import click_feature_names
from clm_ray.schema import DAY_US

REACH = 7
CAPPED = recipe(features={"windows_days": [3, 14], "max_history": REACH})


@settings(max_examples=60)
@given(rows(moments(0, 20 * 24)), st.lists(moments(0, 22 * 24), min_size=1, max_size=6))
def test_a_question_asked_in_bulk_or_alone_has_the_same_features(log: list[Row], times: list[int]) -> None:
    log = [row._replace(user="u1") for row in log]
    history, source = history_of(log), source_of(log, CAPPED)
    item_Q = np.arange(len(times), dtype=np.int32) % len(ITEMS)
    click = source.click(history, item_Q, np.array(times))
    retention = source.retention(history, np.array(times))
    for q, time in enumerate(times):
        # What serving looks at: the events of the day, and before that day no more of them than the recipe says.
        earlier = [row for row in log if row.time < time // DAY_US * DAY_US]
        today = [row for row in log if time // DAY_US * DAY_US <= row.time < time]
        kept, moment = history_of([*ordered(earlier)[-REACH:], *today]), np.array([time])
        np.testing.assert_allclose(click[q], source.click(kept, item_Q[q : q + 1], moment)[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(retention[q], source.retention(kept, moment)[0], rtol=1e-5, atol=1e-6)


@settings(max_examples=60)
@given(rows(moments(0, 20 * 24)), moments(0, 22 * 24), st.booleans())
def test_users_asked_together_have_the_features_of_each_alone(log: list[Row], time: int, at_the_end: bool) -> None:
    source = source_of(log)
    if at_the_end:  # what serving asks: everything in the item statistics is known
        source, time = replace(source, statistics=source.statistics.as_released()), time + 400 * DAY_US
    users = [*sorted({row.user for row in log}), "nobody"]
    histories = [history_of(row for row in log if row.user == user and row.time < time) for user in users]
    time_B = np.array([time + n for n in range(len(users))])
    items = [np.arange(n % len(ITEMS), len(ITEMS), dtype=np.int32) for n in range(len(users))]
    click, retention = source.click_of(histories, time_B, items), source.retention_of(histories, time_B)
    alone = [
        source.click(h, row_C, np.full(len(row_C), t)) for h, row_C, t in zip(histories, items, time_B, strict=True)
    ]
    np.testing.assert_allclose(click, np.concatenate(alone), rtol=1e-5, atol=1e-6)
    one_by_one = [source.retention(h, time_B[n : n + 1]) for n, h in enumerate(histories)]
    np.testing.assert_allclose(retention, np.concatenate(one_by_one), rtol=1e-5, atol=1e-6)


@settings(max_examples=60)
@given(rows(moments(0, 20 * 24), max_size=40), st.lists(moments(0, 22 * 24), max_size=5), st.booleans())
def test_users_built_together_have_the_very_bits_of_each_alone(log: list[Row], times: list[int], capped: bool) -> None:
    """What a bucket gives must not depend on who else is in it."""
    source = source_of(log, CAPPED if capped else None)
    users = [*sorted({row.user for row in log}), "nobody"]
    histories = [history_of(row for row in log if row.user == user) for user in users]
    times_B = [np.array(sorted(t + n for t in times), np.int64) for n in range(len(users))]
    items_B = [np.arange(n, n + len(times), dtype=np.int32) % len(ITEMS) for n in range(len(users))]
    click, retention = source.click_of_users(histories, items_B, times_B), source.retention_of_users(histories, times_B)
    for history, item_Q, time_Q, *found in zip(histories, items_B, times_B, click, retention, strict=True):
        np.testing.assert_array_equal(found[0], source.click(history, item_Q, time_Q))
        np.testing.assert_array_equal(found[1], source.retention(history, time_Q))


def test_the_item_features_of_the_end_are_those_of_any_later_day() -> None:
    """On the last day of the table they are those of that day."""
    log = [Row(f"u{n % 3}", n * 7, "purchase", n % len(ITEMS), 2.0) for n in range(40)]
    plain = source_of(log)
    released = replace(plain, statistics=plain.statistics.as_released())
    item_Q = np.arange(len(ITEMS), dtype=np.int32)
    end = released.statistics.until * DAY_US
    for days in (-1, 0, 1, 200):
        at = [np.full(len(item_Q), end + days * DAY_US)]
        looked_up = released.click(EMPTY, item_Q, *at)
        searched = replace(released, statistics=replace(released.statistics, until=1 << 19)).click(
            EMPTY, item_Q, np.full(len(item_Q), end + min(days, 0) * DAY_US)
        )
        names = [n for n in click_feature_names(released.recipe) if n.startswith("item_")]
        where = [click_feature_names(released.recipe).index(n) for n in names]
        np.testing.assert_array_equal(looked_up[:, where], searched[:, where])


def test_no_question_gives_no_rows() -> None:
    source, history = source_of([]), history_of([Row("u1", 5, "login", 0)])
    assert len(source.click(history, np.empty(0, np.int32), np.empty(0, np.int64))) == 0
    assert len(source.retention(history, np.empty(0, np.int64))) == 0
