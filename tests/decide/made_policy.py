"""A policy with one paid action and one message, and a store full of decisions whose outcomes are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from clm_ray.config.policy import PolicyConfig, Stage
from clm_ray.decide.decide import DecisionInput, decide
from clm_ray.store.records import RetentionDecision, StoredEvent
from clm_ray.store.store import Store

DAY = 86_400_000_000
MONDAY = 19_744 * DAY  # 22 January 2024, 00:00 UTC
NOW = MONDAY + DAY + DAY // 2
RAW: dict[str, Any] = {
    "holdout_share": 0.0,
    "temperature": 1.0,
    "cap": {},
    "channels": {
        "email": {"quiet": {"begin": "21:00", "end": "08:00"}},
        "onsite": {"contact": False, "needs_consent": False},
    },
    "actions": [
        {"name": "coupon", "cost": 2.0, "uplift": {"at_risk": {"mean": 0.3, "low": 0.1, "high": 0.5}}},
        {"name": "slate", "channels": ["onsite"], "uplift": {"at_risk": {"mean": 0.01, "low": 0.0, "high": 0.02}}},
    ],
    "budget": 1e6,
}


def policy(**changes: object) -> PolicyConfig:
    return PolicyConfig.model_validate({**RAW, **changes})


def user(name: str, *, stage: Stage = "at_risk", **more: Any) -> DecisionInput:
    made = DecisionInput(name, stage, True, "UTC", {}, spend=40.0, why="silent for 20 days")
    return replace(made, **more)


def run(
    store: Store, inputs: list[DecisionInput], *, config: PolicyConfig | None = None, now: int = NOW, **more: Any
) -> list[RetentionDecision]:
    return decide(inputs, store=store, config=config or policy(), now=now, release_id="r1", **more)


def event(user_id: str, kind: str, time: int) -> StoredEvent:
    return StoredEvent(f"{user_id}-{kind}-{time}", user_id, kind, time)
