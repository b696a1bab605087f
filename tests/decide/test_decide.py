"""Decisions: in order, once, affordable, with the probabilities they were drawn by, and repeatable."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from clm_ray.config.policy import STAGES, PolicyConfig, Stage
from clm_ray.decide.choice import digest_of, replay
from clm_ray.decide.decide import DecisionInput, decide
from clm_ray.decide.explain import explain
from clm_ray.errors import ConfigError, DataError
from clm_ray.store.ledger import MICROS
from clm_ray.store.records import RetentionDecision
from clm_ray.store.store import Store, open_store

DAY = 86_400_000_000
MONDAY = 19_723 * DAY + 3 * 7 * DAY  # 22 January 2024, 00:00 UTC
NOW = MONDAY + DAY
BY_MAIL = {"channels": ("mail",)}
PLAIN: dict[str, Any] = {
    "kind": "stage",
    "version": "stage-1",
    "channels": {"onsite": {"contact": False, "needs_consent": False}, "mail": {}},
    "cap": {},
    "actions": (
        {"name": "targeted_slate", "stages": ("new", "established", "reactivated"), "channels": ("onsite",)},
        {"name": "reminder", "stages": ("established", "at_risk", "reactivated"), "cooldown_days": 7, **BY_MAIL},
        {"name": "coupon", "cost": 2.0, "stages": ("at_risk", "churned"), "cooldown_days": 28, **BY_MAIL},
        {"name": "win_back", "cost": 5.0, "stages": ("churned",), "cooldown_days": 56, **BY_MAIL},
    ),
    "preferences": {
        "new": {"none": 1.0, "targeted_slate": 2.0},
        "established": {"none": 2.0, "targeted_slate": 1.0, "reminder": 0.25},
        "at_risk": {"none": 1.0, "reminder": 2.0, "coupon": 2.0},
        "churned": {"none": 1.0, "coupon": 1.0, "win_back": 2.0},
    },
}
"""Fixed weights, no caps, no quiet hours: the frame around the choice by itself."""


def policy(**changes: object) -> PolicyConfig:
    return PolicyConfig.model_validate({**PLAIN, "holdout_share": 0.0, **changes})


EVERYONE = policy()
_examples = count()


def user(name: str, *, stage: Stage = "at_risk", consent: bool = True, timezone: str = "UTC") -> DecisionInput:
    return DecisionInput(name, stage, consent, timezone, {"recency": 3.0})


def run(
    store: Store, inputs: list[DecisionInput], *, config: PolicyConfig = EVERYONE, now: int = NOW
) -> list[RetentionDecision]:
    return decide(inputs, store=store, config=config, now=now, release_id="r1")


def rules(decision: RetentionDecision) -> dict[str, str]:
    return {mask.action: mask.rule for mask in decision.masks}


def test_the_record_is_complete(store: Store) -> None:
    (made,) = run(store, [user("u")])
    assert (made.epoch_start, made.time, made.outcome_due) == (MONDAY, NOW, NOW + 28 * DAY)
    assert (made.policy_version, made.release_id, made.stage, made.holdout) == ("stage-1", "r1", "at_risk", False)
    assert made.feasible == ("none", "reminder", "coupon")
    assert rules(made) == {"targeted_slate": "eligibility", "win_back": "eligibility"}
    assert made.probabilities == pytest.approx([0.97 * (0.02 + 0.94 * w / 5) + 0.01 for w in (1, 2, 2)])
    assert made.propensity == made.probabilities[made.feasible.index(made.action)]
    assert made.features_digest == digest_of({"recency": 3})
    assert store.decisions_of([("u", made.epoch)]) == {("u", made.epoch): made}


def test_asking_again_returns_the_stored_decision(store: Store) -> None:
    (first,) = run(store, [user("u")])
    changed = replace(user("u", stage="churned"), features={"recency": 99.0})
    assert run(store, [changed], now=NOW + 5 * DAY) == [first]
    assert run(store, [changed], now=MONDAY + 7 * DAY)[0].epoch == first.epoch + 1


def test_epochs_are_those_of_the_users_calendar(store: Store) -> None:
    edge = MONDAY + 7 * DAY - 3_600_000_000
    tokyo, london = run(store, [user("t", timezone="Asia/Tokyo"), user("l", timezone="Europe/London")], now=edge)
    assert tokyo.epoch == london.epoch + 1
    with pytest.raises(DataError, match="time zone"):
        run(store, [user("x", timezone="Nowhere/City")])


def test_a_user_given_twice_has_one_decision(store: Store) -> None:
    twice = run(store, [user("u"), user("v"), user("u", stage="new")])
    assert twice[0] == twice[2] != twice[1]
    assert twice[0].stage == "at_risk"
    assert run(store, []) == []


@pytest.mark.parametrize(
    ("config", "given_", "rule"),
    [
        ({"enabled": False}, {}, "kill_switch"),
        ({}, {"consent": False}, "consent"),
        ({"holdout_share": 1.0}, {}, "holdout"),
        ({}, {"stage": "prospect"}, "eligibility"),
        ({"budget": 1.0}, {"stage": "churned"}, "budget"),
    ],
)
def test_each_step_is_named_where_it_excludes(
    store: Store, config: dict[str, object], given_: dict[str, object], rule: str
) -> None:
    (made,) = run(store, [user("u", **given_)], config=EVERYONE.model_copy(update=config))  # type: ignore[arg-type]
    assert rules(made)["coupon"] == rule
    assert "coupon" not in made.feasible
    assert (made.holdout, store.budget().spent) == (rule == "holdout", 0)
    if rule in ("kill_switch", "holdout"):
        assert (made.feasible, made.action, made.propensity) == (("none",), "none", 1.0)


def test_a_cooldown_reaches_into_the_next_epoch(store: Store) -> None:
    config = EVERYONE.model_copy(
        update={"preferences": {"at_risk": {"coupon": 1.0}}, "floor": 0.0, "uniform_share": 0.0}
    )
    epochs = [run(store, [user("u")], config=config, now=NOW + week * 7 * DAY)[0] for week in range(5)]
    assert [made.action for made in epochs] == ["coupon", "none", "none", "none", "coupon"]
    assert rules(epochs[1])["coupon"] == "cooldown"


@pytest.mark.parametrize(("first", "later"), [(0, 0), (0, 7 * DAY - 1), (7 * DAY - 1, 0)])
def test_the_moment_within_the_epoch_does_not_change_a_cooldown(store: Store, first: int, later: int) -> None:
    (taken,) = run(store, [user("u")], config=certain("coupon"), now=MONDAY + first)
    (cooling,) = run(store, [user("u")], config=certain("coupon"), now=MONDAY + 21 * DAY + later)
    (again,) = run(store, [user("u")], config=certain("coupon"), now=MONDAY + 28 * DAY + later)
    assert [made.action for made in (taken, cooling, again)] == ["coupon", "none", "coupon"]
    assert cooling.last_taken == {"coupon": MONDAY}


def test_the_budget_is_spent_and_never_overspent(store: Store) -> None:
    config = EVERYONE.model_copy(update={"budget": 60.0})
    made = run(store, [user(f"u{n}", stage="churned") for n in range(100)], config=config)
    state = store.budget()
    assert state.reserved == 0
    assert state.spent == sum(round(decision.cost * MICROS) for decision in made) <= state.cap == 60 * MICROS
    assert {decision.feasible for decision in made} == {
        ("none", "coupon", "win_back"),
        ("none",),
    }  # 12 of 5, then nothing
    assert sum(decision.cost for decision in made) < 60  # what was reserved and not drawn went back
    later = run(store, [user(f"v{n}", stage="churned") for n in range(100)], config=config)
    assert store.budget().spent == sum(round(decision.cost * MICROS) for decision in [*made, *later]) <= 60 * MICROS
    assert sum(decision.cost for decision in later) > 0


def test_the_dearer_action_is_dropped_first(store: Store) -> None:
    (made,) = run(store, [user("u", stage="churned")], config=EVERYONE.model_copy(update={"budget": 4.0}))
    assert made.feasible == ("none", "coupon")
    assert rules(made)["win_back"] == "budget"
    assert store.budget().reserved == 0


def _killed_before_booking(
    store: Store, monkeypatch: pytest.MonkeyPatch, inputs: list[DecisionInput], *, config: PolicyConfig
) -> None:
    def crash(_batch: object) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(store, "book", crash)
        with pytest.raises(OSError, match="killed"):
            run(store, inputs, config=config)


def test_a_crash_between_reserving_and_booking_costs_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [user(f"u{n}", stage="churned") for n in range(10)]
    config = EVERYONE.model_copy(update={"budget": 50.0})
    _killed_before_booking(store, monkeypatch, inputs, config=config)
    assert store.budget().reserved == 50 * MICROS
    made = run(store, inputs, config=config)
    assert all("win_back" in decision.feasible for decision in made)
    assert (store.budget().reserved, store.budget().spent) == (0, sum(round(d.cost * MICROS) for d in made))


def test_what_a_crash_left_reserved_is_released_when_its_epoch_is_over(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EVERYONE.model_copy(update={"budget": 50.0})
    _killed_before_booking(store, monkeypatch, [user(f"u{n}", stage="churned") for n in range(10)], config=config)
    others = [user(f"v{n}", stage="churned") for n in range(10)]
    assert all(made.feasible == ("none",) for made in run(store, others[:5], config=config, now=NOW + 7 * DAY))
    assert all("win_back" in made.feasible for made in run(store, others[5:], config=config, now=NOW + 9 * DAY))
    assert store.budget().reserved == 0


def test_two_at_once_book_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one looks before the first has booked, sees other features, and books after it."""
    inputs = [user(f"u{n}", stage="churned") for n in range(20)]
    first = run(store, inputs)
    spent = store.budget()
    monkeypatch.setattr(store, "decisions_of", lambda _keys: {})
    assert run(store, [replace(i, stage="at_risk") for i in inputs], now=NOW + 1) == first
    assert store.budget() == spent


def test_draws_match_the_logged_propensities(store: Store) -> None:
    made = run(store, [user(f"u{n}") for n in range(3000)], config=EVERYONE.model_copy(update={"budget": 1e6}))
    counts = Counter(decision.action for decision in made)
    assert len({decision.probabilities for decision in made}) == 1
    expected = [p * len(made) for p in made[0].probabilities]
    assert stats.chisquare([counts[name] for name in made[0].feasible], expected).pvalue > 0.001


CASES = st.builds(
    user,
    st.integers(0, 9).map(str),
    stage=st.sampled_from(STAGES),
    consent=st.booleans(),
    timezone=st.sampled_from(["UTC", "Asia/Tokyo", "America/New_York"]),
)
CONFIGS = st.builds(
    policy,
    enabled=st.sampled_from([True, True, True, False]),
    floor=st.floats(0, 0.19),
    uniform_share=st.floats(0, 1),
    holdout_share=st.sampled_from([0.0, 0.3]),
    budget=st.floats(0, 30),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(CASES, min_size=1, max_size=8), CONFIGS, st.integers(0, 3))
def test_replay_gives_the_same_distribution_and_action(
    store: Store, inputs: list[DecisionInput], config: PolicyConfig, weeks: int
) -> None:
    example = next(_examples)  # the store lives on from example to example: these users were never seen before
    inputs = [replace(given, user_id=f"{example}-{given.user_id}") for given in inputs]
    run(store, inputs, config=config, now=NOW)
    for made in run(store, inputs, config=config, now=NOW + weeks * 7 * DAY):
        again = replay(RetentionDecision.from_json(made.to_json()), config=config)
        assert tuple(again.probabilities) == made.feasible
        assert tuple(again.probabilities.values()) == made.probabilities
        assert (again.action, again.propensity) == (made.action, made.propensity)
        assert sum(made.probabilities) == pytest.approx(1)
        state = store.budget()
        assert state.reserved + state.spent <= state.cap


def test_a_replay_with_another_policy_is_refused(store: Store) -> None:
    (made,) = run(store, [user("u")])
    assert replay(made, config=EVERYONE.model_copy(update={"enabled": False, "budget": 0.0})).action == made.action
    with pytest.raises(ConfigError, match="not the policy that decided"):
        replay(made, config=EVERYONE.model_copy(update={"floor": 0.1}))


def test_the_same_inputs_decide_the_same_in_another_store(store: Store, tmp_path: Path) -> None:
    inputs = [user(f"u{n}", stage=STAGES[n % 6]) for n in range(30)]
    with open_store(f"sqlite:///{tmp_path / 'other.db'}") as other:
        assert run(store, inputs) == run(other, inputs)


def certain(action: str) -> PolicyConfig:
    return EVERYONE.model_copy(update={"preferences": {"at_risk": {action: 1.0}}, "floor": 0.0, "uniform_share": 0.0})


@pytest.mark.parametrize(("consent", "enabled", "rule"), [(False, True, "consent"), (True, False, "kill_switch")])
def test_what_may_no_longer_be_delivered_is_overridden(store: Store, consent: bool, enabled: bool, rule: str) -> None:
    (first,) = run(store, [user("u")], config=certain("coupon"))
    off = certain("coupon").model_copy(update={"enabled": enabled})
    (second,) = run(store, [user("u", consent=consent)], config=off, now=NOW + 5)
    assert (first.in_force, second.in_force, second.action) == ("coupon", "none", "coupon")
    assert [(o.rule, o.time) for o in second.overrides] == [(rule, NOW + 5)]
    assert run(store, [user("u")], config=certain("coupon"), now=NOW + 9) == [second]  # a stop stays for the epoch
    assert any(line.startswith(f"{rule} replaced it with none") for line in explain(second))


def test_the_explanation_names_stage_rules_and_odds(store: Store) -> None:
    (made,) = run(store, [user("u", consent=False)], config=EVERYONE.model_copy(update={"uniform_share": 0.0}))
    text = "\n".join(explain(made))
    assert "start of the epoch (2024-01-22): at_risk." in text
    assert "coupon was excluded by rule consent: the user has not consented" in text
    assert "win_back was excluded by rule consent" in text
    assert "Policy stage-1 chose among none 100.0%." in text
    assert "none was drawn, which had probability 100.0%." in text
    (paid,) = run(store, [user("v")], config=certain("coupon"))
    assert "At most 2 of the budget is set aside for it." in explain(paid)
