"""The replay of stages: one state per user and day, the same as the answer online, and flows that add up."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clm_ray.config.policy import STAGES
from clm_ray.lifecycle.flows import OUTSIDE, STATES, Flows, first_moves, moves_of
from clm_ray.lifecycle.stages import Thresholds, stage_at, stages_at
from clm_ray.schema import DAY_US

FIRST, DAYS = 17_000, 365
USUAL = Thresholds(new_days=28, at_risk_days=13, churned_days=48, reactivated_days=28)
USERS = st.lists(
    st.lists(st.integers(0, 60 * DAY_US), max_size=12).map(lambda t: np.array(sorted(t), np.int64) + FIRST * DAY_US),
    max_size=6,
)


def daily_states(
    activity: np.ndarray, *, known_from: int, first_day: int, days: int, thresholds: Thresholds
) -> np.ndarray:
    """A user's state at the start of each day, from the user's moves."""
    move, states = moves_of(activity, known_from=known_from, thresholds=thresholds), np.full(days, OUTSIDE)
    for day, state in zip(move // STATES**2, move % STATES, strict=True):
        states[max(day + 1 - first_day, 0) :] = state
    return states


def flows_of(users: list[np.ndarray], days: int, thresholds: Thresholds = USUAL) -> Flows:
    count = np.zeros((days, STATES, STATES), np.int64)
    for activity in users:
        known = int(activity[0]) if len(activity) else FIRST * DAY_US
        move = moves_of(activity, known_from=known, thresholds=thresholds) - FIRST * STATES**2
        count.reshape(-1)[move[move < count.size]] += 1
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


THRESHOLDS = st.builds(
    lambda risk, more, new, back, settled: Thresholds(new, risk, risk + more, back, settled),
    *(st.floats(0.01, 40) for _ in range(4)),
    st.integers(1, 4),
)


@settings(max_examples=200)
@given(USERS, THRESHOLDS, st.integers(0, 3 * DAY_US))
def test_moves_are_the_changes_between_the_states_of_the_days(
    users: list[np.ndarray], thresholds: Thresholds, before: int
) -> None:
    """Days after the last activity included, and the first time of each move and of staying."""
    days, moves, expected = 200, list[np.ndarray](), list[int]()
    for activity in users:
        known = (int(activity[0]) if len(activity) else FIRST * DAY_US) - before
        first = known // DAY_US
        midnights = (first + np.arange(1, days)) * DAY_US
        states = [OUTSIDE, *stages_at(activity, midnights, thresholds=thresholds).tolist()]
        pairs = [((first + d) * STATES + a) * STATES + b for d, (a, b) in enumerate(pairwise(states))]
        move = moves_of(activity, known_from=known, thresholds=thresholds)
        assert move.tolist() == [key for key in pairs if (key // STATES) % STATES != key % STATES]
        firsts = {key % STATES**2: key for key in reversed(pairs)}
        moves.append(move)
        expected += firsts.values()
    user_M = np.repeat(np.arange(len(moves)), [len(move) for move in moves])
    found = first_moves(np.concatenate([np.empty(0, np.int64), *moves]), user_M=user_M)
    assert sorted(found.tolist()) == sorted(expected)


def test_a_threshold_longer_than_any_log_is_never_reached() -> None:
    endless = Thresholds(new_days=1e9, at_risk_days=1e9, churned_days=1e12, reactivated_days=1e9)
    activity = np.array([FIRST * DAY_US + 1, (FIRST + 300) * DAY_US], np.int64)
    states = daily_states(activity, known_from=int(activity[0]), first_day=FIRST, days=400, thresholds=endless)
    assert states.tolist() == [OUTSIDE] + [STAGES.index("new")] * 399


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
