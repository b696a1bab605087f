"""Approvals: more than the first policy waits for a yes, less never does, and the first policy holds until then."""

from __future__ import annotations

from typing import Any

import pytest

from clm_ray.config.policy import PolicyConfig
from clm_ray.policy.approval import baseline_of, standing, with_limits

FIRST: dict[str, Any] = {
    "budget": 100.0,
    "channels": {
        "email": {"cap": {"windows": [{"days": 7, "most": 1}], "min_gap_hours": 24}},
        "onsite": {"contact": False},
    },
    "cap": {"windows": [{"days": 28, "most": 3}]},
    "actions": [{"name": "reminder"}, {"name": "refund", "approval": "always"}],
}
BASELINE = baseline_of(PolicyConfig.model_validate(FIRST))


def policy(**changes: object) -> PolicyConfig:
    return PolicyConfig.model_validate({**FIRST, **changes})


def test_the_first_policy_needs_approval_for_nothing_but_what_always_asks() -> None:
    stands = standing(policy(), baseline=BASELINE, approved=[])
    assert (stands.config, stands.limits) == (policy(), {})
    assert list(stands.unapproved) == ["refund"]
    assert standing(policy(), baseline=BASELINE, approved=[("new_action", "refund")]).asked == ()


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        ({"budget": 200.0}, "budget=200"),
        ({"cap": {"windows": [{"days": 28, "most": 4}]}}, "caps.total"),
        ({"cap": {"windows": [{"days": 21, "most": 3}]}}, "caps.total"),
        ({"cap": {}}, "caps.total"),
        ({"channels": {**FIRST["channels"], "email": {"cap": {"windows": [{"days": 7, "most": 1}]}}}}, "caps.email"),
        ({"channels": {**FIRST["channels"], "email": {"contact": False}}}, "caps.email"),
    ],
)
def test_more_than_before_waits_and_the_baseline_holds(change: dict[str, object], asked: str) -> None:
    wanted = policy(**change)
    stands = standing(wanted, baseline=BASELINE, approved=[("new_action", "refund")])
    (question,) = stands.asked
    assert question[0] == "cap_increase"
    assert question[1].startswith(asked)
    assert baseline_of(stands.config)["caps"] == BASELINE["caps"]
    assert stands.config.budget == BASELINE["budget"]
    assert with_limits(wanted, stands.limits) == stands.config
    allowed = standing(wanted, baseline=BASELINE, approved=[("new_action", "refund"), question])
    assert (allowed.config, allowed.asked) == (wanted, ())


@pytest.mark.parametrize(
    "change",
    [
        {"budget": 50.0},
        {"cap": {"windows": [{"days": 28, "most": 2}, {"days": 7, "most": 1}], "min_gap_hours": 5}},
        {"cap": {"windows": [{"days": 56, "most": 3}]}},
        {"channels": {"email": FIRST["channels"]["email"], "onsite": {"contact": True}}},
    ],
)
def test_less_asks_nobody(change: dict[str, object]) -> None:
    assert standing(policy(**change), baseline=BASELINE, approved=[("new_action", "refund")]).asked == ()


def test_a_new_action_waits_unless_its_class_is_free() -> None:
    more = policy(actions=[{"name": "reminder"}, {"name": "letter"}, {"name": "banner", "approval": "free"}])
    stands = standing(more, baseline=BASELINE, approved=[])
    assert list(stands.unapproved) == ["letter"]
    assert stands.asked == (("new_action", "letter"),)


def test_an_approval_is_for_what_was_asked_and_not_for_more() -> None:
    approved = standing(policy(budget=200.0), baseline=BASELINE, approved=[]).asked
    assert standing(policy(budget=300.0), baseline=BASELINE, approved=approved).config.budget == 100.0
