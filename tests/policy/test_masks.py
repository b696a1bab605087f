"""Masks: the first step that applies names itself, `none` always remains unless a rule requires something else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clm_ray.config.policy import STAGES, PolicyConfig
from clm_ray.policy.catalogue import catalogue_of
from clm_ray.policy.contacts import Contact
from clm_ray.policy.masks import Circumstances, Feasible, Stop, feasible, keep_required, mask_unaffordable

HOUR = 3_600_000_000
DAY = 24 * HOUR
CONFIG = PolicyConfig.model_validate(
    {
        "channels": {
            "onsite": {"contact": False, "needs_consent": False},
            "email": {"quiet": {"begin": "21:00", "end": "08:00"}, "cap": {"windows": [{"days": 7, "most": 1}]}},
            "push": {"quiet": {"begin": "22:00", "end": "06:00", "defer_hours": 2}},
        },
        "cap": {"windows": [{"days": 7, "most": 2}]},
        "actions": [
            {"name": "slate", "channels": ["onsite"], "stages": ["new", "at_risk"]},
            {"name": "reminder", "channels": ["push", "email"]},
            {
                "name": "coupon",
                "cost": 2.0,
                "channels": ["email"],
                "stages": ["at_risk", "churned"],
                "cooldown_days": 28,
            },
            {"name": "win_back", "cost": 5.0, "channels": ["email"], "stages": ["churned"]},
        ],
        "rules": [
            {
                "name": "no_coupons_for_the_frail",
                "kind": "ethical",
                "reason": "coupons are not sent to who may be harmed by them",
                "when": {"column": "frail", "one_of": ["yes"]},
                "exclude_actions": ["coupon"],
            },
            {
                "name": "write_to_the_old",
                "kind": "legal",
                "reason": "the law asks for it",
                "when": {"column": "age", "at_least": 90},
                "require_actions": ["reminder"],
            },
        ],
    }
)
CATALOGUE = catalogue_of(CONFIG)
NOON = 100 * DAY + 12 * HOUR
FREE = Circumstances(
    enabled=True,
    holdout=False,
    stage="at_risk",
    epoch_start=100 * DAY,
    epoch_end=107 * DAY,
    time=NOON,
    consents={"email": True, "push": True},
)


def split(at: Circumstances) -> Feasible:
    return feasible(CATALOGUE, at, config=CONFIG)


def rules(at: Circumstances) -> dict[str, str]:
    return {mask.name: mask.rule for mask in split(at).masks}


def test_eligibility_is_by_stage() -> None:
    assert split(FREE).names == ("none", "slate", "reminder", "coupon")
    assert rules(FREE) == {"win_back": "eligibility"}


STOPPED = {"reminder": Stop("guardrail:complaints", "too many")}
NOBODY: dict[str, bool] = {}


@pytest.mark.parametrize(
    ("change", "rule", "actions"),
    [
        ({"enabled": False, "stops": STOPPED}, "kill_switch", ["slate", "reminder", "coupon", "win_back"]),
        ({"stops": STOPPED, "consents": NOBODY}, "guardrail:complaints", ["reminder"]),
        ({"consents": NOBODY, "holdout": True}, "consent", ["reminder", "coupon", "win_back"]),
        ({"consents": NOBODY, "holdout": True}, "holdout", ["slate"]),
        ({"holdout": True, "stage": "prospect"}, "holdout", ["slate", "reminder", "coupon", "win_back"]),
        ({"stage": "prospect", "columns": {"frail": "yes"}}, "eligibility", ["coupon"]),
        ({"columns": {"frail": "yes"}, "unapproved": {"coupon": "?"}}, "rule:no_coupons_for_the_frail", ["coupon"]),
        ({"unapproved": {"coupon": "?"}, "last_taken": {"coupon": 99 * DAY}}, "approval", ["coupon"]),
        ({"last_taken": {"coupon": 73 * DAY}, "contacts": (Contact("email", 99 * DAY),)}, "cooldown", ["coupon"]),
        ({"contacts": (Contact("email", 99 * DAY),)}, "caps", ["coupon"]),
        ({"contacts": (Contact("push", 99 * DAY),) * 2}, "caps", ["coupon", "reminder"]),
        ({"time": 106 * DAY + 22 * HOUR}, "quiet_hours", ["coupon"]),
    ],
)
def test_the_first_step_in_order_is_named(change: dict[str, object], rule: str, actions: list[str]) -> None:
    named = rules(replace(FREE, **change))  # type: ignore[arg-type]
    assert {action: named.get(action) for action in actions} == dict.fromkeys(actions, rule)


def test_a_closed_channel_leaves_the_others() -> None:
    left = split(replace(FREE, contacts=(Contact("email", 99 * DAY),)))
    assert left.routes["reminder"].channel == "push"
    assert [(mask.name, mask.rule) for mask in left.closed] == [("email", "caps")]
    assert "reminder" in left.names
    assert "coupon" not in left.names


def test_consent_is_by_channel() -> None:
    left = split(replace(FREE, consents={"email": True, "push": False}))
    assert left.routes["reminder"].channel == "email"
    assert left.names == ("none", "slate", "reminder", "coupon")


def test_messages_wait_for_the_end_of_quiet_hours_and_go_where_they_can_go_first() -> None:
    left = split(replace(FREE, time=101 * DAY + 23 * HOUR))
    assert left.routes["coupon"] == left.routes["reminder"]  # push may wait two hours at most
    assert (left.routes["coupon"].channel, left.routes["coupon"].deliver_from) == ("email", 102 * DAY + 8 * HOUR)
    assert left.routes["slate"].deliver_from == 101 * DAY + 23 * HOUR
    early = split(replace(FREE, time=102 * DAY + 5 * HOUR))
    assert (early.routes["reminder"].channel, early.routes["reminder"].deliver_from) == ("push", 102 * DAY + 6 * HOUR)


def test_what_is_no_contact_counts_for_no_cap() -> None:
    assert "coupon" in split(replace(FREE, contacts=(Contact("onsite", 99 * DAY),) * 5)).names
    assert "coupon" not in split(replace(FREE, contacts=(Contact("a channel of old", 99 * DAY),) * 2)).names


@pytest.mark.parametrize("clock_change", [-HOUR, 0, HOUR])
def test_cooldown_ends_on_time(clock_change: int) -> None:
    def left(last: int) -> tuple[str, ...]:
        return split(replace(FREE, last_taken={"coupon": last + clock_change})).names

    assert "coupon" in left(72 * DAY)
    assert "coupon" not in left(73 * DAY)


SITUATIONS = st.builds(
    Circumstances,
    enabled=st.sampled_from([True, True, True, False]),
    holdout=st.sampled_from([False, False, True]),
    stage=st.sampled_from(STAGES),
    epoch_start=st.just(100 * DAY),
    epoch_end=st.just(107 * DAY),
    time=st.integers(100 * DAY, 107 * DAY - 1),
    timezone=st.sampled_from(["UTC", "Asia/Tokyo", "America/New_York"]),
    consents=st.dictionaries(st.sampled_from(["email", "push"]), st.booleans()),
    last_taken=st.dictionaries(st.sampled_from([a.name for a in CATALOGUE]), st.integers(0, 100 * DAY)),
    contacts=st.lists(
        st.builds(Contact, st.sampled_from(["email", "push", "onsite"]), st.integers(90 * DAY, 100 * DAY)), max_size=3
    ).map(tuple),
    columns=st.fixed_dictionaries({}, optional={"frail": st.sampled_from(["yes", "no"]), "age": st.floats(0, 120)}),
    stops=st.dictionaries(st.sampled_from(["slate", "coupon"]), st.just(Stop("guardrail:x", "y"))),
    unapproved=st.dictionaries(st.sampled_from(["reminder", "coupon"]), st.just("no")),
)


@given(SITUATIONS)
def test_each_action_is_either_left_or_masked_once(at: Circumstances) -> None:
    left = split(at)
    assert left.names[0] == "none"
    assert sorted([*left.names, *(mask.name for mask in left.masks)]) == sorted(a.name for a in CATALOGUE)
    final = keep_required(left, at, config=CONFIG)
    assert final.names
    assert sorted([*final.names, *(mask.name for mask in final.masks)]) == sorted(a.name for a in CATALOGUE)


@given(SITUATIONS)
def test_what_is_left_breaks_no_rule(at: Circumstances) -> None:
    left = split(at)
    for action in left.actions[1:]:
        route = left.routes[action.name]
        assert at.enabled
        assert not at.holdout
        assert at.stage in action.stages
        assert action.name not in at.stops
        assert action.name not in at.unapproved
        assert route.channel in action.channels
        assert at.time <= route.deliver_from < at.epoch_end or route.deliver_from == at.time
        if route.channel != "onsite":
            assert at.consents[str(route.channel)]
            recent = [c for c in at.contacts if c.channel != "onsite" and at.time - c.time < 7 * DAY]
            assert len(recent) < 2
            assert route.channel != "email" or not any(c.channel == "email" for c in recent)


def test_a_refused_cost_drops_everything_as_dear() -> None:
    churned = split(replace(FREE, stage="churned"))
    assert mask_unaffordable(churned, cost=2.0).names == ("none", "reminder")
    assert mask_unaffordable(churned, cost=5.0).names == ("none", "reminder", "coupon")
    assert [m.step for m in mask_unaffordable(churned, cost=5.0).masks if m.name == "win_back"] == ["budget"]


def test_a_required_action_leaves_nothing_else_and_what_cannot_be_had_is_not_required() -> None:
    old = replace(FREE, columns={"age": 91.0})
    final = keep_required(split(old), old, config=CONFIG)
    assert final.names == ("reminder",)
    assert {m.name for m in final.masks if m.rule == "rule:write_to_the_old"} == {"none", "slate", "coupon"}
    unreachable = replace(old, consents={})
    assert keep_required(split(unreachable), unreachable, config=CONFIG).names == ("none", "slate")
    held_out = replace(old, holdout=True)
    assert keep_required(split(held_out), held_out, config=CONFIG).names == ("none",)
