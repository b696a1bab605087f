"""The actions that a decision chooses among."""

from __future__ import annotations

from dataclasses import dataclass

from clm_ray.config.policy import NO_ACTION, STAGES, PolicyConfig, Stage
from clm_ray.schema import DAY_US


@dataclass(frozen=True)
class Action:
    """One retention action. `cost`: the highest cost of taking it once; `cooldown_us`: least time before it may be repeated."""

    name: str
    cost: float
    stages: tuple[Stage, ...]
    needs_consent: bool
    cooldown_us: int


NONE = Action(name=NO_ACTION, cost=0.0, stages=STAGES, needs_consent=False, cooldown_us=0)
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
                needs_consent=action.needs_consent,
                cooldown_us=round(action.cooldown_days * DAY_US),
            )
            for action in config.actions
        ),
    )
