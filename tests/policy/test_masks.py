"""Masks: the first rule that applies names itself, `none` always remains."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clm_ray.config.policy import STAGES, PolicyConfig, Stage
from clm_ray.policy.catalogue import catalogue_of
from clm_ray.policy.masks import Circumstances, feasible, mask_unaffordable
from clm_ray.policy.stage_policy import StagePolicy

DAY = 86_400_000_000
CATALOGUE = catalogue_of(PolicyConfig())
FREE = Circumstances(enabled=True, consent=True, holdout=False, stage="at_risk", epoch_start=100 * DAY, last_taken={})


def rules(at: Circumstances) -> dict[str, str]:
    return {mask.action: mask.rule for mask in feasible(CATALOGUE, at).masks}


def test_eligibility_is_by_stage() -> None:
    assert feasible(CATALOGUE, FREE).names == ("none", "reminder", "coupon")
    assert rules(FREE) == {"targeted_slate": "eligibility", "win_back": "eligibility"}


@pytest.mark.parametrize(
    ("change", "rule", "actions"),
    [
        (
            {"enabled": False, "consent": False, "holdout": True},
            "kill_switch",
            ["reminder", "coupon", "targeted_slate"],
        ),
        ({"consent": False, "holdout": True}, "consent", ["reminder", "coupon", "win_back"]),
        ({"consent": False, "holdout": True}, "holdout", ["targeted_slate"]),
        ({"holdout": True, "stage": "prospect"}, "holdout", ["reminder", "coupon", "targeted_slate", "win_back"]),
        ({"stage": "prospect", "last_taken": {"coupon": 100 * DAY}}, "eligibility", ["coupon"]),
        ({"last_taken": {"coupon": 73 * DAY}}, "cooldown", ["coupon"]),
    ],
)
def test_the_first_rule_in_order_is_named(change: dict[str, object], rule: str, actions: list[str]) -> None:
    named = rules(replace(FREE, **change))  # type: ignore[arg-type]
    assert {action: named[action] for action in actions} == dict.fromkeys(actions, rule)


@pytest.mark.parametrize("clock_change", [-3_600_000_000, 0, 3_600_000_000])
def test_cooldown_ends_on_time(clock_change: int) -> None:
    def left(last: int) -> tuple[str, ...]:
        return feasible(CATALOGUE, replace(FREE, last_taken={"coupon": last + clock_change})).names

    assert "coupon" in left(72 * DAY)
    assert "coupon" not in left(73 * DAY)


@given(
    st.builds(
        Circumstances,
        enabled=st.booleans(),
        consent=st.booleans(),
        holdout=st.booleans(),
        stage=st.sampled_from(STAGES),
        epoch_start=st.integers(0, 200).map(lambda d: d * DAY),
        last_taken=st.dictionaries(st.sampled_from([a.name for a in CATALOGUE]), st.integers(0, 200 * DAY)),
    )
)
def test_each_action_is_either_left_or_masked_once(at: Circumstances) -> None:
    split = feasible(CATALOGUE, at)
    assert split.names[0] == "none"
    assert sorted([*split.names, *(mask.action for mask in split.masks)]) == sorted(a.name for a in CATALOGUE)


def test_a_refused_cost_drops_everything_as_dear() -> None:
    left = mask_unaffordable(feasible(CATALOGUE, replace(FREE, stage="churned")), cost=2.0)
    assert left.names == ("none",)
    assert {m.action for m in left.masks if m.rule == "budget"} == {"coupon", "win_back"}
    assert mask_unaffordable(feasible(CATALOGUE, replace(FREE, stage="churned")), cost=5.0).names == ("none", "coupon")


@pytest.mark.parametrize("stage", STAGES)
def test_the_default_policy_wants_only_what_its_stage_allows(stage: Stage) -> None:
    allowed = feasible(CATALOGUE, replace(FREE, stage=stage)).names
    assert set(StagePolicy.of(PolicyConfig()).weights(stage)) <= set(allowed)


def test_a_stage_without_preferences_wants_nothing() -> None:
    assert StagePolicy(version="v", preferences={}).weights("new") == {"none": 1.0}
