"""A decision in the making, and the record that is kept of it: everything that is needed to explain it and to decide again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clm_ray.decide.choice import Choice, Merit, digest_of
from clm_ray.policy.masks import ORDER, Circumstances, Feasible, Mask
from clm_ray.store.records import EstimateRecord, MaskRecord, RetentionDecision


@dataclass(frozen=True)
class Case:
    """One user's decision in the making. left: before rules that require something; would_be: of a holdout user, what would have been left."""

    user_id: str
    action_id: str
    epoch: int
    consent: bool
    at: Circumstances
    left: Feasible
    would_be: tuple[str, ...]
    merit: Merit
    limits: Mapping[str, Any]
    policy_version: str
    outcome_due: int
    features: Mapping[str, float]
    why: str
    forecast: float | None


def record_of(case: Case, *, choice: Choice, policy: str, release_id: str, origin: str) -> RetentionDecision:
    """The record of a case and what was drawn for it."""
    at, left = case.at, choice.left
    drawn = next(action for action in left.actions if action.name == choice.action)
    route = left.routes[drawn.name]
    return RetentionDecision(
        action_id=case.action_id,
        user_id=case.user_id,
        epoch=case.epoch,
        epoch_start=at.epoch_start,
        time=at.time,
        policy_version=case.policy_version,
        policy_digest=policy,
        release_id=release_id,
        stage=at.stage,
        consent=case.consent,
        last_taken=dict(at.last_taken),
        holdout=at.holdout,
        feasible=tuple(choice.probabilities),
        probabilities=tuple(choice.probabilities.values()),
        action=choice.action,
        propensity=choice.propensity,
        cost=drawn.cost,
        masks=_masks(left.masks),
        features_digest=digest_of(case.features),
        outcome_due=case.outcome_due,
        channel=route.channel,
        deliver_from=route.deliver_from,
        epoch_end=at.epoch_end,
        timezone=at.timezone,
        consents=dict(at.consents),
        contacts=tuple((contact.channel, contact.time) for contact in at.contacts),
        columns=dict(at.columns),
        features=dict(at.features),
        worth=case.merit.worth,
        price=case.merit.price,
        estimates=_estimates(case),
        enabled=at.enabled,
        stops={action: (stop.rule, stop.reason) for action, stop in at.stops.items()},
        unapproved=dict(at.unapproved),
        limits=dict(case.limits),
        closed=_masks(left.closed),
        would_be=case.would_be,
        origin=origin,
        why=case.why,
        forecast=case.forecast,
    )


def effects(decision: RetentionDecision) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """(step, actions that it excluded, channels that it closed) of each step of the decision, in order; most exclude nothing."""
    return [
        (
            step,
            tuple(mask.action for mask in decision.masks if mask.step == step),
            tuple(mask.action for mask in decision.closed if mask.step == step),
        )
        for step in ORDER
    ]


def _masks(masks: tuple[Mask, ...]) -> tuple[MaskRecord, ...]:
    return tuple(MaskRecord(mask.name, mask.rule, mask.reason, mask.step) for mask in masks)


def _estimates(case: Case) -> dict[str, EstimateRecord]:
    """Of the actions that were left before rules required one: more cannot matter."""
    scores = case.merit.scores(case.left)
    return {
        name: EstimateRecord(one.mean, one.low, one.high, one.treated, one.control, scores[name])
        for name, one in case.merit.estimates.items()
        if name in scores
    }
