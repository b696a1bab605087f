"""Replay: whatever happened, a record decided again from itself alone gives the same distribution and the same action."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_policy import DAY, MONDAY, policy, run, user

from clm_ray.config.policy import STAGES
from clm_ray.decide.choice import circumstances_of, replay
from clm_ray.decide.controls import put_learned, release_guardrail, set_kill_switch, set_price, stop_actions
from clm_ray.decide.decide import DecisionInput
from clm_ray.policy.uplift import Estimate
from clm_ray.store.records import RetentionDecision
from clm_ray.store.store import Store, open_store

_examples = count()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    path: Path = tmp_path_factory.mktemp("replay") / "store.db"
    with open_store(f"sqlite:///{path}") as opened:
        yield opened


RULES: list[dict[str, Any]] = [
    {
        "name": "frail",
        "kind": "ethical",
        "reason": "so",
        "when": {"column": "frail", "one_of": ["yes"], "if_missing": True},
        "exclude_actions": ["coupon"],
    },
    {
        "name": "rich",
        "kind": "business",
        "reason": "so",
        "when": {"all_of": [{"feature": "value", "at_least": 20}, {"stage": ["at_risk", "churned"]}]},
        "require_actions": ["coupon", "letter"],
    },
]
ACTIONS = [
    {"name": "coupon", "cost": 2.0, "cooldown_days": 14, "uplift": {"at_risk": {"mean": 0.3, "low": 0.1, "high": 0.5}}},
    {
        "name": "letter",
        "cost": 0.5,
        "channels": ["post", "email"],
        "value": 30.0,
        "when": {"feature": "value", "at_least": 1},
    },
    {"name": "slate", "channels": ["onsite"], "stages": ["new", "at_risk"]},
    {"name": "gift", "cost": 4.0, "channels": ["onsite"], "approval": "always"},
]
CHANNELS = {
    "onsite": {"contact": False, "needs_consent": False},
    "email": {"quiet": {"begin": "20:30", "end": "07:15"}, "cap": {"windows": [{"days": 21, "most": 1}]}},
    "post": {"consent_column": "post_ok", "quiet": {"begin": "12:00", "end": "11:00", "defer_hours": 3}},
}
USERS = st.builds(
    user,
    st.integers(0, 5).map(str),
    stage=st.sampled_from(STAGES),
    consent=st.booleans(),
    timezone=st.sampled_from(["UTC", "Asia/Tokyo", "America/New_York", "Pacific/Apia"]),
    spend=st.none() | st.floats(0, 500),
    columns=st.fixed_dictionaries(
        {}, optional={"frail": st.sampled_from(["yes", "no"]), "post_ok": st.sampled_from(["yes", "no"])}
    ),
)
CONFIGS = st.builds(
    policy,
    actions=st.just(ACTIONS),
    channels=st.just(CHANNELS),
    rules=st.just(RULES),
    cap=st.sampled_from([{}, {"windows": [{"days": 28, "most": 2}], "min_gap_hours": 24 * 8}]),
    kind=st.sampled_from(["uplift", "uplift", "stage"]),
    preferences=st.just({"at_risk": {"coupon": 2.0, "none": 1.0}}),
    temperature=st.floats(0.01, 10),
    floor=st.floats(0, 0.19),
    uniform_share=st.floats(0, 1),
    holdout_share=st.sampled_from([0.0, 0.3]),
    budget=st.floats(0, 40),
)
NEWS = st.sampled_from(["nothing", "kill", "stop", "price", "learned"])


def announce(store: Store, news: str, *, now: int) -> None:
    """Something changes between two periods."""
    set_kill_switch(store, on=news == "kill", by="ann", reason="so", now=now)
    if news == "stop":
        stop_actions(store, "complaints", action="coupon", reason="so", now=now)
    else:
        release_guardrail(store, "guardrail:complaints:coupon", by="ann", reason="so", now=now)
    if news == "price":
        set_price(store, 0.7, by="ann", reason="so", now=now)
    if news == "learned":
        put_learned(
            store, {"coupon": {"at_risk": Estimate(0.123456789, 0.1, 0.2, 9, 9)}}, by="ann", reason="so", now=now
        )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(USERS, min_size=1, max_size=5),
    CONFIGS,
    st.lists(st.tuples(NEWS, st.integers(0, 7 * DAY - 1)), min_size=1, max_size=3),
)
def test_every_record_replays_exactly(
    store: Store, inputs: list[DecisionInput], config: Any, periods: list[tuple[str, int]]
) -> None:
    example = next(_examples)  # the store lives on from example to example: these users were never seen before
    inputs = [replace(given, user_id=f"{example}-{given.user_id}") for given in inputs]
    for week, (news, moment) in enumerate(periods):
        now = MONDAY + week * 7 * DAY + moment
        announce(store, news, now=now)
        for made in run(store, inputs, config=config, now=now):
            stored = RetentionDecision.from_json(made.to_json())
            assert stored == made
            again = replay(stored, config=config)
            assert tuple(again.probabilities) == made.feasible
            assert tuple(again.probabilities.values()) == made.probabilities
            assert (again.action, again.propensity) == (made.action, made.propensity)
            assert sum(made.probabilities) == pytest.approx(1)
            assert {(m.name, m.rule) for m in again.left.masks} == {(m.action, m.rule) for m in made.masks}
            assert circumstances_of(stored).time == made.time
            if made.channel is not None:
                route = again.left.routes[made.action]
                assert (route.channel, route.deliver_from) == (made.channel, made.deliver_from)
