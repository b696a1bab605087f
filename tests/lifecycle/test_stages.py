"""Stages: exactly one, from the past alone, the same one by one and in bulk."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from clm_ray.config.lifecycle import LifecycleConfig
from clm_ray.config.policy import STAGES
from clm_ray.errors import ConfigError
from clm_ray.lifecycle.stages import (
    Thresholds,
    active_day_gaps,
    explain_stage,
    learn_thresholds,
    stage_at,
    stages_at,
)
from clm_ray.schema import DAY_US

USUAL = Thresholds(new_days=28, at_risk_days=14, churned_days=60, reactivated_days=28)
HALF_DAYS = st.lists(st.integers(0, 500), max_size=25).map(
    lambda days: np.array(sorted(days), np.int64) * (DAY_US // 2)
)
MOMENTS = st.lists(st.integers(0, 520), min_size=1, max_size=12).map(lambda d: np.array(d, np.int64) * (DAY_US // 2))
THRESHOLDS = st.builds(
    lambda new, risk, more, back, settled: Thresholds(new, risk, risk + more, back, settled),
    st.integers(1, 60),
    st.integers(1, 40),
    st.integers(1, 80),
    st.integers(1, 60),
    st.integers(1, 3),
)


def literal_stage(activity: list[int], time: int, t: Thresholds) -> str:
    """The definition, read aloud."""
    past = [moment for moment in activity if moment < time]
    if not past:
        return "prospect"
    if time - past[-1] >= t.churned_days * DAY_US:
        return "churned"
    if time - past[-1] >= t.at_risk_days * DAY_US:
        return "at_risk"
    returns = [b for a, b in pairwise(past) if b - a >= t.churned_days * DAY_US]
    if returns and time - returns[-1] < t.reactivated_days * DAY_US:
        return "reactivated"
    silences = [b for a, b in pairwise(past) if b - a >= t.at_risk_days * DAY_US]
    if silences and len({moment // DAY_US for moment in past if moment >= silences[-1]}) < t.settled_days:
        return "at_risk"
    return "new" if time - past[0] < t.new_days * DAY_US else "established"


@given(HALF_DAYS, MOMENTS, THRESHOLDS)
def test_vector_and_scalar_follow_the_definition(
    activity: np.ndarray, times: np.ndarray, thresholds: Thresholds
) -> None:
    codes = stages_at(activity, times, thresholds=thresholds)
    for code, time in zip(codes, times.tolist(), strict=True):
        expected = literal_stage(activity.tolist(), time, thresholds)
        assert STAGES[code] == stage_at(activity, time, thresholds=thresholds) == expected


@given(HALF_DAYS, HALF_DAYS, st.integers(0, 520), THRESHOLDS)
def test_only_the_past_counts(past: np.ndarray, future: np.ndarray, day: int, thresholds: Thresholds) -> None:
    time = day * (DAY_US // 2)
    before = past[past < time]
    changed = np.sort(np.concatenate([before, future[future >= time]]))
    assert stage_at(before, time, thresholds=thresholds) == stage_at(changed, time, thresholds=thresholds)


def test_a_life() -> None:
    activity = np.array([0, 20, 40, 130, 135], np.int64) * DAY_US
    times = np.array([0, 1, 27, 30, 41, 54, 99, 100, 131, 149, 150, 163, 195], np.int64) * DAY_US
    stages = [STAGES[code] for code in stages_at(activity, times, thresholds=USUAL)]
    assert stages == [
        "prospect",
        "new",
        "at_risk",  # back on day 20 after 20 days, but only once so far
        "at_risk",
        "at_risk",
        "at_risk",
        "at_risk",
        "churned",
        "reactivated",
        "at_risk",
        "at_risk",
        "at_risk",
        "churned",
    ]


def test_a_second_active_day_ends_a_risk() -> None:
    activity = np.array([0, 20, 20.5, 22, 40, 45], np.float64)
    times = np.array([19, 20.2, 20.9, 21.9, 22.5, 34, 41, 46, 60], np.float64)
    asked = (np.round(v * DAY_US).astype(np.int64) for v in (activity, times))
    stages = [STAGES[code] for code in stages_at(*asked, thresholds=USUAL)]
    expected = ["at_risk"] * 4 + ["new", "established", "at_risk", "established", "at_risk"]
    assert stages == expected
    at = round(20.2 * DAY_US)
    assert explain_stage(activity_of(activity), at, thresholds=USUAL).text == (
        "active 0.2 days ago after 20.0 days of silence; at risk until active on 2 days"
    )


def test_thresholds_from_before_settled_days_behave_as_they_did() -> None:
    old = {"new_days": 28.0, "at_risk_days": 14.0, "churned_days": 60.0, "reactivated_days": 28.0}
    found = Thresholds.from_dict(old)
    assert found.settled_days == 1
    assert stage_at(activity_of(np.array([0.0, 20.0])), 21 * DAY_US, thresholds=found) == "new"


def activity_of(days: np.ndarray) -> np.ndarray:
    return np.round(days * DAY_US).astype(np.int64)


def test_a_return_is_watched_then_established() -> None:
    activity = np.array([0, 100, 110, 120, 130], np.int64) * DAY_US
    assert stage_at(activity, 128 * DAY_US - 1, thresholds=USUAL) == "reactivated"
    assert stage_at(activity, 128 * DAY_US, thresholds=USUAL) == "established"


def test_thresholds_are_learned_from_gaps() -> None:
    learned = learn_thresholds(np.arange(1, 101), np.ones(100, np.int64), config=LifecycleConfig())
    assert learned.at_risk_days == pytest.approx(90.1)
    assert learned.churned_days == pytest.approx(99.01)
    assert (
        learn_thresholds(np.arange(1, 101), np.ones(100, np.int64), config=LifecycleConfig(at_risk_days=5)).at_risk_days
        == 5
    )


@given(
    st.lists(st.integers(1, 200), max_size=50),
    st.none() | st.floats(0.1, 100),
    st.none() | st.floats(0.1, 100),
)
def test_churned_is_always_after_at_risk(gaps: list[int], at_risk: float | None, churned: float | None) -> None:
    if at_risk is not None and churned is not None and churned <= at_risk:
        with pytest.raises(ValidationError, match="must be less than churned_days"):
            LifecycleConfig(at_risk_days=at_risk, churned_days=churned)
        return
    config = LifecycleConfig(at_risk_days=at_risk, churned_days=churned)
    learned = learn_thresholds(*np.unique(np.array(gaps, np.int64), return_counts=True), config=config)
    assert learned.churned_days > learned.at_risk_days > 0
    assert at_risk in (None, learned.at_risk_days)
    assert churned in (None, learned.churned_days)


def test_gaps_are_between_active_days() -> None:
    times = np.array([0, 5, DAY_US - 1, DAY_US, 4 * DAY_US + 7, 4 * DAY_US + 9], np.int64)
    users = np.zeros(6, np.int32)
    assert active_day_gaps(times, user_A=users).tolist() == [1, 3]
    assert active_day_gaps(np.r_[times, times[3:]], user_A=np.r_[users, users[3:] + 1]).tolist() == [1, 3, 3]
    assert active_day_gaps(times[:0], user_A=users[:0]).tolist() == []


@given(st.lists(st.integers(1, 400), min_size=1, max_size=50), st.floats(0.5, 0.999), st.floats(0.5, 0.999))
def test_thresholds_are_quantiles_of_the_gaps(gaps: list[int], one: float, other: float) -> None:
    low, high = sorted([one, other])
    config = LifecycleConfig(at_risk_quantile=low, churned_quantile=high)
    learned = learn_thresholds(*np.unique(np.array(gaps, np.int64), return_counts=True), config=config)
    at_risk, churned = np.quantile(gaps, [low, high])
    assert learned.at_risk_days == pytest.approx(at_risk)
    if churned > at_risk * (1 + 1e-9):
        assert learned.churned_days == pytest.approx(churned)


def test_thresholds_survive_json() -> None:
    assert Thresholds.from_dict(USUAL.to_dict()) == USUAL
    with pytest.raises(ConfigError, match="five thresholds"):
        Thresholds.from_dict({"new_days": 1.0})


def test_the_reason_names_what_decided() -> None:
    activity = np.array([0, 100], np.int64) * DAY_US
    reason = explain_stage(activity, 105 * DAY_US, thresholds=USUAL)
    assert (reason.stage, reason.days_since_last, reason.days_since_first, reason.days_since_return) == (
        "reactivated",
        5,
        105,
        5,
    )
    assert "came back 5.0 days ago" in reason.text
    assert explain_stage(activity, 0, thresholds=USUAL).stage == "prospect"
    assert "silent for 20.0 days, at risk from 14" in explain_stage(activity, 120 * DAY_US, thresholds=USUAL).text


def test_one_activity_of_a_moment_ago_is_explained() -> None:
    thresholds = Thresholds(new_days=28.0, at_risk_days=14.0, churned_days=60.0, reactivated_days=28.0)
    why = explain_stage(np.array([1_000 * DAY_US]), 1_000 * DAY_US + 1, thresholds=thresholds)
    assert (why.stage, why.text) == ("new", "first active 0.0 days ago, new for 28")
