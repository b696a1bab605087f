"""The part of a decision that is a pure function: what is feasible, how likely each action is, which one is drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from clm_ray.config.policy import PolicyConfig
from clm_ray.errors import ConfigError
from clm_ray.policy.approval import with_limits
from clm_ray.policy.catalogue import catalogue_of
from clm_ray.policy.contacts import Contact
from clm_ray.policy.distribution import distribution, draw, with_uniform_slice
from clm_ray.policy.masks import (
    BUDGET,
    Circumstances,
    Feasible,
    Stop,
    feasible,
    keep_required,
    mask_unaffordable,
)
from clm_ray.policy.stage_policy import stage_weights
from clm_ray.policy.uplift import Estimate, score, weights_of
from clm_ray.store.records import RetentionDecision


@dataclass(frozen=True)
class Merit:
    """What scores are made of: uplift by action, worth of the user kept, price of budget. Both in the recipe's currency."""

    estimates: Mapping[str, Estimate]
    worth: float
    price: float

    def scores(self, left: Feasible) -> dict[str, float]:
        """Action → uplift × worth - cost × (1 + price)."""
        return {
            action.name: score(
                self.estimates[action.name],
                worth=self.worth if action.value is None else action.value,
                cost=action.cost,
                price=self.price,
            )
            for action in left.actions
        }


@dataclass(frozen=True)
class Choice:
    """The final distribution and what was drawn from it. left: what it is over, with every mask."""

    left: Feasible
    probabilities: dict[str, float]
    action: str

    @property
    def propensity(self) -> float:
        return self.probabilities[self.action]


def what_is_left(at: Circumstances, *, config: PolicyConfig) -> Feasible:
    """The actions that every step before the budget leaves. `config`: as far as it is in force."""
    return feasible(catalogue_of(config), at, config=config)


def choose(
    left: Feasible, at: Circumstances, *, merit: Merit, user_id: str, epoch: int, config: PolicyConfig
) -> Choice:
    """The distribution over what is left, marginal over the uniform slice, and the draw of this user and epoch."""
    final = keep_required(left, at, config=config)
    if config.kind == "uplift":
        weights = weights_of(merit.scores(final), temperature=config.temperature)
    else:
        weights = stage_weights(config, at.stage)
    policy = distribution(weights, final.names, floor=config.floor)
    probabilities = with_uniform_slice(policy, share=config.uniform_share)
    return Choice(final, probabilities, draw(probabilities, salt=config.salt, user_id=user_id, epoch=epoch))


def replay(decision: RetentionDecision, *, config: PolicyConfig) -> Choice:
    """Decide again what the record says was decided, from the record's inputs alone.

    `config`: that of the record's policy. The budget's answers are read off the record's masks, since they belong to their moment; what
    the store said (kill switch, guardrails, approvals, price, uplifts) is in the record. The result equals the record's distribution
    and action, or the record is not what the policy did. Raises ConfigError when `config` is not the policy that decided.
    """
    if policy_digest(config) != decision.policy_digest:
        raise ConfigError(
            "is not the policy that decided",
            field="policy.version",
            value=config.version,
            fix="give that policy's recipe",
        )
    in_force = with_limits(config, decision.limits)
    at = circumstances_of(decision)
    left = what_is_left(at, config=in_force)
    refused = {mask.action for mask in decision.masks if mask.step == BUDGET}
    costs = [action.cost for action in left.actions if action.name in refused]
    if costs:
        left = mask_unaffordable(left, cost=min(costs))
    estimates = {
        name: Estimate(one.mean, one.low, one.high, one.treated, one.control)
        for name, one in decision.estimates.items()
    }
    merit = Merit(estimates, decision.worth, decision.price)
    return choose(left, at, merit=merit, user_id=decision.user_id, epoch=decision.epoch, config=in_force)


def circumstances_of(decision: RetentionDecision) -> Circumstances:
    """What the rules saw when the decision was made."""
    return Circumstances(
        enabled=decision.enabled,
        holdout=decision.holdout,
        stage=decision.stage,
        epoch_start=decision.epoch_start,
        epoch_end=decision.epoch_end,
        time=decision.time,
        timezone=decision.timezone,
        consents=decision.consents,
        last_taken=decision.last_taken,
        contacts=tuple(Contact(channel, time) for channel, time in decision.contacts),
        columns=decision.columns,
        features=decision.features,
        stops={action: Stop(rule, reason) for action, (rule, reason) in decision.stops.items()},
        unapproved=decision.unapproved,
    )


def policy_digest(config: PolicyConfig) -> str:
    """Short SHA-256 of all that a choice depends on: the policy without kill switch, budget and guardrails, which act through the record."""
    moving = {"enabled", "budget", "budget_days", "price_step", "max_price", "guardrails", "fairness"}
    plain = config.model_dump(mode="json", exclude=moving)
    return hashlib.sha256(orjson.dumps(plain, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]


def digest_of(features: Mapping[str, float]) -> str:
    """SHA-256 of what the policy saw, independent of order."""
    plain = {name: float(value) for name, value in features.items()}
    return hashlib.sha256(orjson.dumps(plain, option=orjson.OPT_SORT_KEYS)).hexdigest()
