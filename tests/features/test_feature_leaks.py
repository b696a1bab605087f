"""Nothing at or after t changes anything that is used at t: two logs that differ only from t on give the same, to the bit."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from made_logs import CATALOGUE, HOUR_US, ITEMS, VOCABULARY, Row, history_of, moments, numbered, rows, source_of

from clm_ray.features.asked import Joined
from clm_ray.features.interests import interests
from clm_ray.features.statistics import day_of
from clm_ray.features.tokens import token_values
from clm_ray.features.user import rfm
from clm_ray.schema import DAY_US


@st.composite
def forks(draw: st.DrawFn) -> tuple[int, list[Row], list[Row]]:
    """A moment t and two logs of all users that agree before it. The futures are close to t, where a slip would show."""
    t = draw(moments(24, 24 * 30))
    past = draw(rows(moments(0, 24 * 32), max_size=16))
    near = st.one_of(st.just(t), st.integers(0, 60).map(lambda hour: t + hour * HOUR_US))
    futures = [draw(rows(near, max_size=8)) for _ in range(2)]
    past = [row for row in past if row.time < t]
    # Ids of the future may sort before those of the past: at equal times only the id decides.
    return t, *([row._replace(number=n) for n, row in enumerate([*future, *past], 1)] for future in futures)


def histories(log: list[Row]) -> dict[str, object]:
    return {user: history_of([row for row in log if row.user == user]) for user in {row.user for row in log}}


def questions(t: int) -> tuple[np.ndarray, np.ndarray]:
    """Every item at t and at moments before it."""
    times = np.array([t - 3 * DAY_US, t - HOUR_US, t - 1, t], np.int64)
    return np.tile(np.arange(len(ITEMS), dtype=np.int32), len(times)), np.repeat(times, len(ITEMS))


@settings(max_examples=70)
@given(forks())
def test_dense_features_do_not_see_the_future(fork: tuple[int, list[Row], list[Row]]) -> None:
    t, *logs = fork
    item_Q, time_Q = questions(t)
    for user in {row.user for log in logs for row in log if row.time < t}:
        one, two = (
            [source.click(history, item_Q, time_Q), source.retention(history, np.unique(time_Q))]
            for log in logs
            for source, history in [(source_of(log), histories(log)[user])]
        )
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])


@settings(max_examples=70)
@given(forks())
def test_tokens_residuals_interests_and_rfm_do_not_see_the_future(fork: tuple[int, list[Row], list[Row]]) -> None:
    t, *logs = fork
    for user in {row.user for log in logs for row in log if row.time < t}:
        seen = []
        for log in logs:
            source, history = source_of(log), histories(log)[user]
            before = len(history.before(t))
            tokens = token_values(
                Joined.of([history]),
                statistics=source.statistics,
                vocabulary=VOCABULARY,
                prior=source.recipe.features.prior_strength,
            )
            seen.append(
                (
                    tokens[:before].tolist(),
                    source.residuals(history)[:before].tolist(),
                    interests(history, t, catalogue=CATALOGUE, vocabulary=VOCABULARY),
                    rfm(history, t, vocabulary=VOCABULARY),
                )
            )
        assert seen[0] == seen[1]


@settings(max_examples=70)
@given(forks())
def test_item_statistics_used_at_a_moment_are_those_of_the_days_before(fork: tuple[int, list[Row], list[Row]]) -> None:
    t, *logs = fork
    item_Q, time_Q = questions(t)
    day_Q = day_of(time_Q)
    one, two = (
        [
            s.events(item_Q, day_Q),
            s.positives(item_Q, day_Q),
            s.window(item_Q, day_Q, days=7),
            s.like_rate(item_Q, day_Q, prior=3.0),
            s.mean_total(item_Q, day_Q),
        ]
        for s in (source_of(log).statistics for log in logs)
    )
    np.testing.assert_array_equal(one, two)


def test_the_rest_of_the_day_is_the_future_too() -> None:
    """Statistics are dated by whole days: an event an hour before t on the same day is not in them, whoever it is of."""
    noon = 19_010 * DAY_US + 12 * HOUR_US
    log = numbered([Row("u2", noon - HOUR_US, "purchase", 1), Row("u2", noon - 13 * HOUR_US, "purchase", 1)])
    counted = source_of(log).statistics.events(np.array([1, 1], np.int32), day_of(np.array([noon, noon + DAY_US])))
    assert counted.tolist() == [1, 2]
