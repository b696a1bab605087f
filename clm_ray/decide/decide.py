"""Retention decisions for a batch of users, from profile to record.

    stored already? → kill switch → consent → holdout → eligibility → cooldown → affordability → distribution → draw → refund → log

A user has one decision per epoch of their own calendar. Asking again returns the stored one, whatever has changed since; the only later
change is an override to `none`, when the kill switch was pulled or consent withdrawn before the epoch ended.

Exactly once, though reserving and booking are two transactions: both use the decision's `action_id`, which is a hash of
(user, epoch). A process that dies in between leaves a reservation that the next attempt finds and uses; booking settles it in
the same transaction that writes the record. A reservation that nobody comes back for is released once its epoch is over. The
draw is a hash as well, so the next attempt draws the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from clm_ray.config.policy import NO_ACTION, PolicyConfig, Stage
from clm_ray.decide.choice import choose, digest_of, policy_digest, what_is_left
from clm_ray.policy.catalogue import Action, catalogue_of
from clm_ray.policy.distribution import in_holdout
from clm_ray.policy.epochs import Epoch, epoch_of
from clm_ray.policy.masks import Feasible, mask_unaffordable
from clm_ray.schema import DAY_US
from clm_ray.store.records import MaskRecord, Override, Reservation, RetentionDecision
from clm_ray.store.store import Store


@dataclass(frozen=True)
class DecisionInput:
    """What a decision needs to know of a user. `stage` and `features` are as of the start of the user's epoch
    (`policy.epochs.epoch_of`), so that the moment of the request within it changes nothing. `timezone`: IANA name."""

    user_id: str
    stage: Stage
    consent: bool
    timezone: str
    features: Mapping[str, float]


@dataclass(frozen=True)
class _Case:
    """One user's decision in the making."""

    given: DecisionInput
    epoch: Epoch
    action_id: str
    last_taken: Mapping[str, int]
    holdout: bool
    left: Feasible


def decide(
    inputs: Sequence[DecisionInput], *, store: Store, config: PolicyConfig, now: int, release_id: str
) -> list[RetentionDecision]:
    """The retention decision of each user in the epoch that holds `now` (µs), in the order of `inputs`.

    New decisions are durable when this returns. A user given twice has one decision. Deterministic given the inputs, the config, `now`
    and what the store holds. Raises DataError for an unknown time zone, StoreError when the store cannot be used.
    """
    by_user: dict[str, DecisionInput] = {}
    for given in inputs:
        by_user.setdefault(given.user_id, given)
    epochs = {u: epoch_of(now, timezone=i.timezone, epoch_days=config.epoch_days) for u, i in by_user.items()}
    found = store.decisions_of([(user_id, epoch.index) for user_id, epoch in epochs.items()])
    decided = {user_id: found[user_id, e.index] for user_id, e in epochs.items() if (user_id, e.index) in found}
    decided.update(_withdraw(decided, by_user, store=store, config=config, now=now))
    fresh = [given for user_id, given in by_user.items() if user_id not in decided]
    if fresh:
        cases = _afford(_open(fresh, epochs, store=store, config=config), store=store, config=config, now=now)
        policy = policy_digest(config)
        records = [_record(case, config=config, policy=policy, now=now, release_id=release_id) for case in cases]
        decided.update((decision.user_id, decision) for decision in store.book(records))
    return [decided[i.user_id] for i in inputs]


def action_id_of(user_id: str, epoch: int) -> str:
    """The id of the decision of a user and epoch, and the key of its reservation."""
    return "act-" + hashlib.sha256(f"{epoch}:{user_id}".encode()).hexdigest()[:32]


def _withdraw(
    decided: Mapping[str, RetentionDecision],
    by_user: Mapping[str, DecisionInput],
    *,
    store: Store,
    config: PolicyConfig,
    now: int,
) -> dict[str, RetentionDecision]:
    """Override stored actions that may no longer be delivered."""
    needs_consent = {action.name for action in catalogue_of(config) if action.needs_consent}
    stopped: dict[str, list[str]] = {"kill_switch": [], "consent": []}
    for user_id, decision in decided.items():
        if decision.in_force == NO_ACTION:
            continue
        if not config.enabled:
            stopped["kill_switch"].append(decision.action_id)
        elif decision.in_force in needs_consent and not by_user[user_id].consent:
            stopped["consent"].append(decision.action_id)
    changed: dict[str, RetentionDecision] = {}
    for rule, ids in stopped.items():
        if ids:
            changed.update((d.user_id, d) for d in store.override(ids, by=Override(NO_ACTION, rule, now)))
    return changed


def _open(
    fresh: Sequence[DecisionInput], epochs: Mapping[str, Epoch], *, store: Store, config: PolicyConfig
) -> list[_Case]:
    last_taken = store.last_actions([given.user_id for given in fresh])
    cases = []
    for given in fresh:
        epoch, last = epochs[given.user_id], last_taken.get(given.user_id, {})
        holdout = in_holdout(given.user_id, experiment=config.holdout_experiment, share=config.holdout_share)
        left = what_is_left(
            stage=given.stage,
            consent=given.consent,
            holdout=holdout,
            last_taken=last,
            epoch_start=epoch.start,
            config=config,
        )
        cases.append(_Case(given, epoch, action_id_of(given.user_id, epoch.index), last, holdout, left))
    return cases


def _afford(cases: Sequence[_Case], *, store: Store, config: PolicyConfig, now: int) -> list[_Case]:
    """Reserve the highest cost that remains feasible for each; where it is refused, drop that action and try again."""
    left = {case.action_id: case.left for case in cases}
    stale_us = (config.epoch_days + 1) * DAY_US  # an epoch across a daylight-saving change is an hour longer
    undecided = list(left)
    while undecided:
        asked = [Reservation(key, cost) for key in undecided if (cost := _dearest(left[key].actions)) > 0]
        granted = store.reserve(asked, cap=config.budget, now=now, stale_us=stale_us) if asked else []
        undecided = []
        for request, yes in zip(asked, granted, strict=True):
            if not yes:
                left[request.key] = mask_unaffordable(left[request.key], cost=request.amount)
                undecided.append(request.key)
    return [replace(case, left=left[case.action_id]) for case in cases]


def _dearest(actions: Sequence[Action]) -> float:
    return max(action.cost for action in actions)


def _record(case: _Case, *, config: PolicyConfig, policy: str, now: int, release_id: str) -> RetentionDecision:
    given, epoch = case.given, case.epoch
    choice = choose(case.left, stage=given.stage, user_id=given.user_id, epoch=epoch.index, config=config)
    return RetentionDecision(
        action_id=case.action_id,
        user_id=given.user_id,
        epoch=epoch.index,
        epoch_start=epoch.start,
        time=now,
        policy_version=config.version,
        policy_digest=policy,
        release_id=release_id,
        stage=given.stage,
        consent=given.consent,
        last_taken=dict(case.last_taken),
        holdout=case.holdout,
        feasible=tuple(choice.probabilities),
        probabilities=tuple(choice.probabilities.values()),
        action=choice.action,
        propensity=choice.propensity,
        cost=next(action.cost for action in case.left.actions if action.name == choice.action),
        masks=tuple(MaskRecord(mask.action, mask.rule, mask.reason) for mask in case.left.masks),
        features_digest=digest_of(given.features),
        outcome_due=now + config.outcome_days * DAY_US,
    )
