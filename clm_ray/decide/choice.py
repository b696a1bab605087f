"""The part of a decision that is a pure function: what is feasible, how likely each action is, which one is drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from clm_ray.config.policy import PolicyConfig, Stage
from clm_ray.errors import ConfigError
from clm_ray.policy.catalogue import catalogue_of
from clm_ray.policy.distribution import distribution, draw, with_uniform_slice
from clm_ray.policy.masks import BUDGET, Circumstances, Feasible, feasible, mask_unaffordable
from clm_ray.policy.stage_policy import StagePolicy
from clm_ray.store.records import RetentionDecision


@dataclass(frozen=True)
class Choice:
    """The final distribution and what was drawn from it."""

    probabilities: dict[str, float]
    action: str

    @property
    def propensity(self) -> float:
        return self.probabilities[self.action]


def what_is_left(
    *, stage: Stage, consent: bool, holdout: bool, last_taken: Mapping[str, int], epoch_start: int, config: PolicyConfig
) -> Feasible:
    """The actions that kill switch, consent, holdout, eligibility and cooldown leave, before the budget is asked."""
    at = Circumstances(
        enabled=config.enabled,
        consent=consent,
        holdout=holdout,
        stage=stage,
        epoch_start=epoch_start,
        last_taken=last_taken,
    )
    return feasible(catalogue_of(config), at)


def choose(left: Feasible, *, stage: Stage, user_id: str, epoch: int, config: PolicyConfig) -> Choice:
    """The distribution over what is left, marginal over the uniform slice, and the draw of this user and epoch."""
    policy = distribution(StagePolicy.of(config).weights(stage), left.names, floor=config.floor)
    probabilities = with_uniform_slice(policy, share=config.uniform_share)
    return Choice(probabilities, draw(probabilities, salt=config.salt, user_id=user_id, epoch=epoch))


def replay(decision: RetentionDecision, *, config: PolicyConfig) -> Choice:
    """Decide again what the record says was decided, from the record's inputs alone.

    `config`: that of the record's policy. The kill switch and the budget's answers are read off the record, since they belong to
    their moment. The result equals the record's distribution and action, or the record is not what the policy did.
    Raises ConfigError when `config` is not the policy that decided.
    """
    if policy_digest(config) != decision.policy_digest:
        raise ConfigError(
            "is not the policy that decided",
            field="policy.version",
            value=config.version,
            fix="give that policy's recipe",
        )
    rules = {mask.action: mask.rule for mask in decision.masks}
    left = what_is_left(
        stage=decision.stage,
        consent=decision.consent,
        holdout=decision.holdout,
        last_taken=decision.last_taken,
        epoch_start=decision.epoch_start,
        config=config.model_copy(update={"enabled": "kill_switch" not in rules.values()}),
    )
    refused = [action.cost for action in left.actions if rules.get(action.name) == BUDGET]
    if refused:
        left = mask_unaffordable(left, cost=min(refused))
    return choose(left, stage=decision.stage, user_id=decision.user_id, epoch=decision.epoch, config=config)


def policy_digest(config: PolicyConfig) -> str:
    """Short SHA-256 of all that a choice depends on: the policy without kill switch and budget, which change while it is in force."""
    plain = config.model_dump(mode="json", exclude={"enabled", "budget"})
    return hashlib.sha256(orjson.dumps(plain, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]


def digest_of(features: Mapping[str, float]) -> str:
    """SHA-256 of what the policy saw, independent of order."""
    plain = {name: float(value) for name, value in features.items()}
    return hashlib.sha256(orjson.dumps(plain, option=orjson.OPT_SORT_KEYS)).hexdigest()
