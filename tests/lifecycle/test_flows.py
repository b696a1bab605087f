"""The replay of stages: one state per user and day, the same as the answer online, and flows that add up."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clm_ray.config.policy import STAGES
from clm_ray.lifecycle.flows import OUTSIDE, STATES, Flows, daily_states, transition_keys
from clm_ray.lifecycle.stages import Thresholds, stage_at
from clm_ray.schema import DAY_US

FIRST, DAYS = 17_000, 365
USUAL = Thresholds(new_days=28, at_risk_days=13, churned_days=48, reactivated_days=28)
USERS = st.lists(
    st.lists(st.integers(0, 60 * DAY_US), max_size=12).map(lambda t: np.array(sorted(t), np.int64) + FIRST * DAY_US),
    max_size=6,
)


def flows_of(users: list[np.ndarray], days: int, thresholds: Thresholds = USUAL) -> Flows:
    count = np.zeros((days - 1) * STATES * STATES, np.int64)
    for activity in users:
        known = int(activity[0]) if len(activity) else FIRST * DAY_US
        states = daily_states(activity, known_from=known, first_day=FIRST, days=days, thresholds=thresholds)
        np.add.at(count, transition_keys(states), 1)
    return Flows.of(count, first_day=FIRST)


@given(USERS)
def test_today_is_yesterday_and_who_came_less_who_went(users: list[np.ndarray]) -> None:
    flows = flows_of(users, 61)
    size = flows.sizes()
    assert (size.sum(1) == len(users)).all()
    assert (size[1:] == size[:-1] + flows.came() - flows.went()).all()
    # Nobody is forgotten once known.
    assert not flows.count_DSS[:, :OUTSIDE, OUTSIDE].any()


@pytest.mark.parametrize("seed", range(3))
def test_a_year_replayed_is_what_was_answered_each_day(seed: int) -> None:
    random = np.random.default_rng(seed)
    gaps = random.choice([0.01, 1.0, 5.3, 12.9, 13.0, 14.0, 47.9, 48.0, 60.0], 60)
    activity = FIRST * DAY_US + np.cumsum(np.round(gaps * DAY_US)).astype(np.int64)
    replayed = daily_states(activity, known_from=int(activity[0]), first_day=FIRST, days=DAYS, thresholds=USUAL)
    for d in range(DAYS):
        now = (FIRST + d) * DAY_US
        seen = activity[activity < now]  # what the store holds at that moment
        state = STAGES.index(stage_at(seen, now, thresholds=USUAL)) if now > activity[0] else OUTSIDE
        assert replayed[d] == state


@settings(max_examples=300)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=40), st.integers(2, 20), st.integers(1, 60))
def test_one_day_of_activity_does_not_end_a_risk(gaps: list[int], at_risk: int, more: int) -> None:
    """Between two times at risk a user is active on two days at least, and nobody is settled for a single day."""
    thresholds = Thresholds(1, at_risk, at_risk + more, 1)
    day = np.cumsum([0, *gaps])
    activity = (FIRST + day) * DAY_US + 1
    days = int(day[-1]) + at_risk
    states = daily_states(activity, known_from=FIRST * DAY_US, first_day=FIRST, days=days, thresholds=thresholds)
    risk, settled = STAGES.index("at_risk"), STAGES.index("established")
    changes = [0, *(np.flatnonzero(np.diff(states)) + 1).tolist(), days]
    stays = [(int(states[a]), a, b) for a, b in pairwise(changes)]
    for (before, _, _), (state, begin, end), (after, _, _) in zip(stays, stays[1:], stays[2:], strict=False):
        if before == after == risk and state == settled:
            last_risk = activity[activity < (FIRST + begin) * DAY_US]
            assert len(last_risk) >= 2
            assert last_risk[-1] - last_risk[-2] < at_risk * DAY_US
            assert end - begin >= at_risk - 1


def test_visits_as_far_apart_as_the_threshold_do_not_swing() -> None:
    activity = (FIRST + np.arange(0, 200, 14)) * DAY_US + DAY_US // 2
    states = daily_states(activity, known_from=0, first_day=FIRST + 40, days=120, thresholds=USUAL)
    assert {STAGES[state] for state in states} == {"at_risk"}
    eager = Thresholds(28, 13, 48, 28, settled_days=1)
    swinging = daily_states(activity, known_from=0, first_day=FIRST + 40, days=120, thresholds=eager)
    assert {STAGES[state] for state in swinging} == {"at_risk", "established"}


def test_the_matrix_has_shares() -> None:
    users = [FIRST * DAY_US + np.array([0, 40, 41, 42]) * DAY_US, FIRST * DAY_US + np.array([5]) * DAY_US]
    matrix = flows_of(users, 100).matrix()
    rows = matrix[~np.isnan(matrix).all(1)]
    np.testing.assert_allclose(rows.sum(1), 1)
    assert np.isnan(matrix[STAGES.index("prospect")]).all()


def test_who_only_got_mail_is_a_prospect() -> None:
    states = daily_states(
        np.empty(0, np.int64), known_from=(FIRST + 2) * DAY_US, first_day=FIRST, days=5, thresholds=USUAL
    )
    assert states.tolist() == [OUTSIDE, OUTSIDE, OUTSIDE, 0, 0]
