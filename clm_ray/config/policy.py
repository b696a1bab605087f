"""The retention policy: actions, their rules and the budget."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from clm_ray.config.section import Section

Stage = Literal["prospect", "new", "established", "at_risk", "churned", "reactivated"]
STAGES: tuple[Stage, ...] = ("prospect", "new", "established", "at_risk", "churned", "reactivated")
NO_ACTION = "none"


class ActionConfig(Section):
    """One retention action."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Identifier; `none` is always there and costs nothing."""
    cost: float = Field(default=0.0, ge=0)
    """Highest cost of taking it once, in the recipe's currency."""
    stages: tuple[Stage, ...] = STAGES
    """Stages in which it may be taken."""
    needs_consent: bool = True
    """Only for users who consented to being contacted."""
    cooldown_days: float = Field(default=0.0, ge=0)
    """Days before the same user may get it again."""


class PolicyConfig(Section):
    """The first, stage-based policy and the frame around it."""

    enabled: bool = True
    """The kill switch: off means every decision is `none`."""
    version: str = "stage-1"
    """Recorded with each decision."""
    actions: tuple[ActionConfig, ...] = (
        ActionConfig(name="targeted_slate", stages=("new", "established", "reactivated"), needs_consent=False),
        ActionConfig(name="reminder", stages=("established", "at_risk", "reactivated"), cooldown_days=7),
        ActionConfig(name="coupon", cost=2.0, stages=("at_risk", "churned"), cooldown_days=28),
        ActionConfig(name="win_back", cost=5.0, stages=("churned",), cooldown_days=56),
    )
    """Actions beside `none`."""
    preferences: dict[Stage, dict[str, float]] = {
        "prospect": {NO_ACTION: 1.0},
        "new": {NO_ACTION: 1.0, "targeted_slate": 2.0},
        "established": {NO_ACTION: 2.0, "targeted_slate": 1.0, "reminder": 0.25},
        "at_risk": {NO_ACTION: 1.0, "reminder": 2.0, "coupon": 2.0},
        "churned": {NO_ACTION: 1.0, "coupon": 1.0, "win_back": 2.0},
        "reactivated": {NO_ACTION: 2.0, "targeted_slate": 1.0, "reminder": 0.5},
    }
    """Stage → action → weight; normalised over the actions that are feasible."""
    floor: float = Field(default=0.02, ge=0, lt=0.2)
    """Least probability of each feasible action (exploration)."""
    uniform_share: float = Field(default=0.03, ge=0, le=1)
    """Share of (user, epoch) pairs decided uniformly over the feasible actions."""
    holdout_share: float = Field(default=0.05, ge=0, le=1)
    """Share of users who never get an action, by a stable hash."""
    holdout_experiment: str = "holdout-1"
    """Name hashed with the user for the holdout."""
    salt: str = "clm"
    """Salt of the draw; the draw is a hash of (salt, user, epoch)."""
    epoch_days: int = Field(default=7, ge=1)
    """Length of a decision epoch, days of the user's local calendar."""
    budget: float = Field(default=1000.0, ge=0)
    """Most that may be reserved and spent, in the recipe's currency."""
    outcome_days: int = Field(default=28, ge=1)
    """Days after a decision at which its outcome is due."""

    @model_validator(mode="after")
    def _names(self) -> PolicyConfig:
        names = [a.name for a in self.actions]
        if NO_ACTION in names or len(set(names)) != len(names):
            raise ValueError(f"actions must be distinct and not {NO_ACTION!r}: {names}")
        for stage, weights in self.preferences.items():
            for name, weight in weights.items():
                if name != NO_ACTION and name not in names:
                    raise ValueError(
                        f"preferences.{stage} names an unknown action {name!r}; known: {[NO_ACTION, *names]}"
                    )
                if weight < 0:
                    raise ValueError(f"preferences.{stage}.{name} must not be negative")
        return self
