"""The retention policy: actions, their rules and the budget."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, TypeAdapter, model_validator

from clm_ray.config.channels import CapConfig, CapWindow, ChannelConfig, QuietHours
from clm_ray.config.guards import FairnessConfig, GuardrailsConfig
from clm_ray.config.rules import Condition, RuleConfig
from clm_ray.config.section import Section
from clm_ray.config.stages import NO_ACTION as NO_ACTION
from clm_ray.config.stages import STAGES as STAGES
from clm_ray.config.stages import Stage as Stage

CATALOGUE_FILE = Path(__file__).with_name("actions.yaml")
"""The shipped action catalogue."""
_NIGHT = QuietHours(begin="21:00", end="08:00")


class UpliftPrior(Section):
    """What an action is believed to gain before anything was observed: a normal distribution, given by mean and 95 % interval."""

    mean: float = Field(ge=-1, le=1)
    """Gain in the probability of being active within `policy.outcome_days`."""
    low: float = Field(ge=-1, le=1)
    high: float = Field(ge=-1, le=1)

    @model_validator(mode="after")
    def _in_order(self) -> UpliftPrior:
        if not self.low <= self.mean <= self.high or self.low == self.high:
            raise ValueError(f"low {self.low} ≤ mean {self.mean} ≤ high {self.high} with low < high is needed")
        return self


NO_UPLIFT = UpliftPrior(mean=0.0, low=-0.02, high=0.02)
"""The prior of a stage for which the catalogue gives none."""


class ActionConfig(Section):
    """One retention action."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Identifier; `none` is always there and costs nothing."""
    cost: float = Field(default=0.0, ge=0)
    """Highest cost of taking it once, in the recipe's currency."""
    value: float | None = Field(default=None, ge=0)
    """Worth of one user kept by it, in the recipe's currency. Null: the user's own worth (see `policy.margin`)."""
    channels: tuple[str, ...] = ("email",)
    """Channels it can go by; the first one that nothing stands against is taken."""
    stages: tuple[Stage, ...] = STAGES
    """Stages in which it may be taken."""
    when: Condition | None = None
    """A further condition of eligibility."""
    cooldown_days: float = Field(default=0.0, ge=0)
    """Days before the same user may get it again."""
    approval: Literal["free", "new", "always"] = "new"
    """free: never asks. new: asks where the store's first policy did not have it. always: needs an approval in force, every time."""
    uplift: dict[Stage, UpliftPrior] = Field(default_factory=dict)
    """Prior uplift by stage; a stage that is not named has none, within ±.02."""

    @model_validator(mode="after")
    def _reachable(self) -> ActionConfig:
        if not self.channels:
            raise ValueError(f"action {self.name} has no channel")
        return self


@cache
def shipped_actions() -> tuple[ActionConfig, ...]:
    """The shipped catalogue, read once."""
    raw = yaml.safe_load(CATALOGUE_FILE.read_text(encoding="utf-8"))
    return TypeAdapter(tuple[ActionConfig, ...]).validate_python(raw)


class PolicyConfig(Section):
    """What may be done to keep users, what it may cost, and how it is chosen."""

    enabled: bool = True
    """The kill switch of the release: off means every decision is `none`. The endpoint has another one that needs no release."""
    version: str = "uplift-2"
    """Recorded with each decision."""
    kind: Literal["uplift", "stage"] = "uplift"
    """uplift: by expected uplift × worth - price. stage: fixed weights per stage (`preferences`), whatever an action costs or gains."""
    actions: tuple[ActionConfig, ...] = Field(default_factory=shipped_actions)
    """Actions beside `none`; the default is the catalogue of clm_ray/config/actions.yaml."""
    channels: dict[str, ChannelConfig] = {
        "onsite": ChannelConfig(contact=False, needs_consent=False),
        "push": ChannelConfig(quiet=_NIGHT, cap=CapConfig(windows=(CapWindow(days=7, most=1),))),
        "email": ChannelConfig(quiet=_NIGHT, cap=CapConfig(windows=(CapWindow(days=28, most=3),))),
    }
    """Channels by name."""
    cap: CapConfig = CapConfig(windows=(CapWindow(days=7, most=1), CapWindow(days=28, most=3)), min_gap_hours=48.0)
    """Caps over all channels that are contacts."""
    rules: tuple[RuleConfig, ...] = ()
    """Logic rules, in the order in which they are asked."""
    preferences: dict[Stage, dict[str, float]] = Field(default_factory=dict)
    """kind `stage`: stage → action → weight; normalised over the actions that are feasible. A stage that is not named wants `none`."""
    margin: float = Field(default=0.25, gt=0)
    """Worth of a user: this share of what they would spend within `outcome_days` at their own rate so far."""
    default_worth: float = Field(default=10.0, ge=0)
    """Worth of a user whose spend is not known, in the recipe's currency."""
    max_worth: float = Field(default=500.0, gt=0)
    """No user counts for more than this, so that a few do not take the whole budget."""
    temperature: float = Field(default=0.25, gt=0)
    """kind `uplift`: weights are exp(score / temperature), in the recipe's currency. Small: nearly always the best action."""
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
    budget_days: float = Field(default=91.0, gt=0)
    """Days over which the budget is meant to last, from the first decision on: the price of money rises while spending is ahead of that."""
    price_step: float = Field(default=5.0, ge=0)
    """How much the price of money rises when a tenth of the budget is spent ahead of plan. 0: the price never moves."""
    max_price: float = Field(default=100.0, ge=0)
    """Highest price of money."""
    outcome_days: int = Field(default=28, ge=1)
    """Days after a decision at which its outcome is due."""
    guardrails: GuardrailsConfig = GuardrailsConfig()
    """When actions are stopped by themselves."""
    fairness: FairnessConfig = FairnessConfig()
    """Groups that are compared."""

    @model_validator(mode="after")
    def _names(self) -> PolicyConfig:
        names = [a.name for a in self.actions]
        if NO_ACTION in names or len(set(names)) != len(names):
            raise ValueError(f"actions must be distinct and not {NO_ACTION!r}: {names}")
        known = [NO_ACTION, *names]
        for stage, weights in self.preferences.items():
            for name, weight in weights.items():
                if name not in known:
                    raise ValueError(f"preferences.{stage} names an unknown action {name!r}; known: {known}")
                if weight < 0:
                    raise ValueError(f"preferences.{stage}.{name} must not be negative")
        for action in self.actions:
            for channel in action.channels:
                if channel not in self.channels:
                    raise ValueError(
                        f"action {action.name} names an unknown channel {channel!r}; known: {list(self.channels)}"
                    )
        self._check_rules(known)
        return self

    def _check_rules(self, known: list[str]) -> None:
        rules = [rule.name for rule in self.rules]
        if len(set(rules)) != len(rules):
            raise ValueError(f"rules must have distinct names: {rules}")
        for rule in self.rules:
            for name in (*rule.exclude_actions, *rule.require_actions):
                if name not in known:
                    raise ValueError(f"rule {rule.name} names an unknown action {name!r}; known: {known}")

    def columns(self) -> frozenset[str]:
        """The columns of the user table that decisions and their reports read."""
        conditions = [*(action.when for action in self.actions), *(rule.when for rule in self.rules)]
        asked = (condition.columns() for condition in conditions if condition is not None)
        consent = (c.consent_column for c in self.channels.values() if c.consent_column is not None)
        return frozenset({*consent, *self.fairness.columns}).union(*asked)
