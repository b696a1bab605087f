"""The actions that a decision chooses among."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from clm_ray.config.policy import NO_ACTION, NO_UPLIFT, STAGES, PolicyConfig, Stage, UpliftPrior
from clm_ray.config.rules import Condition
from clm_ray.schema import DAY_US


@dataclass(frozen=True)
class Action:
    """One retention action. `cost`: the highest cost of taking it once; `value`: worth of one user kept by it, None: the user's own;
    `cooldown_us`: least time before it may be repeated; `channels`: in order of preference."""

    name: str
    cost: float
    stages: tuple[Stage, ...]
    channels: tuple[str, ...]
    cooldown_us: int
    value: float | None = None
    when: Condition | None = None
    approval: Literal["free", "new", "always"] = "free"
    priors: Mapping[Stage, UpliftPrior] = field(default_factory=dict)

    def prior(self, stage: Stage) -> UpliftPrior:
        """What it is believed to gain in this stage before anything was observed."""
        return self.priors.get(stage, NO_UPLIFT)


NONE = Action(name=NO_ACTION, cost=0.0, stages=STAGES, channels=(), cooldown_us=0)
"""Doing nothing: always feasible, free."""


def catalogue_of(config: PolicyConfig) -> tuple[Action, ...]:
    """All actions of a recipe, `none` first, then in the recipe's order. This order is the order of every distribution."""
    return (
        NONE,
        *(
            Action(
                name=action.name,
                cost=action.cost,
                stages=action.stages,
                channels=action.channels,
                cooldown_us=round(action.cooldown_days * DAY_US),
                value=action.value,
                when=action.when,
                approval=action.approval,
                priors=action.uplift,
            )
            for action in config.actions
        ),
    )
