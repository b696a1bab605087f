"""Retention decisions for a batch of users, from profile to record.

    stored already? → kill switch → guardrails → consent → holdout → eligibility → rules → approval → cooldown → caps → quiet hours
      → affordability → required → distribution → draw → refund → log

A user has one decision per epoch of their own calendar. Asking again returns the stored one, whatever has changed since; the only later
change is an override to `none`, when the kill switch was pulled, a guardrail stopped the action or consent was withdrawn before the epoch
ended.

Exactly once, though reserving and booking are two transactions: both use the decision's `action_id`, which is a hash of
(user, epoch). A process that dies in between leaves a reservation that the next attempt finds and uses; booking settles it in
the same transaction that writes the record. A reservation that nobody comes back for is released once its epoch is over. The
draw is a hash as well, so the next attempt draws the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from clm_ray.config.policy import NO_ACTION, PolicyConfig, Stage
from clm_ray.decide.choice import Merit, choose, policy_digest, what_is_left
from clm_ray.decide.controls import Controls, pace, read_controls, standing_of
from clm_ray.decide.record import Case, record_of
from clm_ray.policy.approval import Standing
from clm_ray.policy.catalogue import Action, catalogue_of
from clm_ray.policy.contacts import Contact, longest_window_us
from clm_ray.policy.distribution import in_holdout
from clm_ray.policy.epochs import Epoch, epoch_of
from clm_ray.policy.masks import Circumstances, mask_unaffordable
from clm_ray.policy.uplift import estimates_of
from clm_ray.schema import DAY_US
from clm_ray.store.contacts import Taken, channel_consents, taken
from clm_ray.store.decisions import forgone
from clm_ray.store.records import Override, Reservation, RetentionDecision
from clm_ray.store.store import Store

ENDPOINT = "endpoint"
"""Origin of decisions that a request made."""
_YES = frozenset({"true", "yes", "1", "1.0"})


@dataclass(frozen=True)
class DecisionInput:
    """What a decision needs to know of a user.

    `stage`, `features`, `spend` are as of the start of the user's epoch (`policy.epochs.epoch_of`), so that the moment of the request within
    it changes nothing. `consent`: in general, where neither a channel's own column nor the user said otherwise of it. `timezone`: IANA
    name. `columns`: of the user table, those that the policy reads (`PolicyConfig.columns`). `spend`: expected within
    `policy.outcome_days` if the user stays, in the recipe's currency; None where that is not known. `why`: the stage in words. `forecast`: chance of
    being active until the outcome is due; logged, not used.
    """

    user_id: str
    stage: Stage
    consent: bool
    timezone: str
    features: Mapping[str, float]
    columns: Mapping[str, str | float] = field(default_factory=dict)
    spend: float | None = None
    why: str = ""
    forecast: float | None = None


def decide(
    inputs: Sequence[DecisionInput],
    *,
    store: Store,
    config: PolicyConfig,
    now: int,
    release_id: str,
    origin: str = ENDPOINT,
    price: float | None = None,
) -> list[RetentionDecision]:
    """The retention decision of each user in the epoch that holds `now` (µs), in the order of `inputs`.

    New decisions are durable when this returns, and say by `origin` who asked first. `price`: of a unit of budget, None for the paced one. A user given twice has one decision. Deterministic
    given the inputs, the config, `now` and what the store holds. Raises DataError for an unknown time zone, StoreError when the store cannot
    be used: then nothing may be done.
    """
    by_user: dict[str, DecisionInput] = {}
    for given in inputs:
        by_user.setdefault(given.user_id, given)
    epochs = {u: epoch_of(now, timezone=i.timezone, epoch_days=config.epoch_days) for u, i in by_user.items()}
    state = read_controls(store, now=now)
    found = store.decisions_of([(user_id, epoch.index) for user_id, epoch in epochs.items()])
    decided = {user_id: found[user_id, e.index] for user_id, e in epochs.items() if (user_id, e.index) in found}
    decided.update(_withdraw(decided, by_user, state, store=store, config=config, now=now))
    fresh = [given for user_id, given in by_user.items() if user_id not in decided]
    if fresh:
        stands = standing_of(store, state, config=config, now=now)
        cases = _open(fresh, epochs, state, stands, store=store, now=now, price=price)
        cases = _afford(cases, store=store, config=stands.config, now=now)
        policy = policy_digest(config)
        records = [
            record_of(
                case,
                choice=choose(
                    case.left,
                    case.at,
                    merit=case.merit,
                    user_id=case.user_id,
                    epoch=case.epoch,
                    config=stands.config,
                ),
                policy=policy,
                release_id=release_id,
                origin=origin,
            )
            for case in cases
        ]
        decided.update((decision.user_id, decision) for decision in store.book(records))
        pace(store, state, config=stands.config, now=now)
    return [decided[i.user_id] for i in inputs]


def open_cases(
    inputs: Sequence[DecisionInput], *, store: Store, config: PolicyConfig, now: int, price: float | None = None
) -> list[Case]:
    """What is feasible for each user, and what it would bring, before the budget is asked; nothing is booked. For users without a decision in
    their epoch; the others are left out."""
    epochs = {i.user_id: epoch_of(now, timezone=i.timezone, epoch_days=config.epoch_days) for i in inputs}
    found = store.decisions_of([(user_id, epoch.index) for user_id, epoch in epochs.items()])
    fresh = [given for given in inputs if (given.user_id, epochs[given.user_id].index) not in found]
    state = read_controls(store, now=now)
    stands = standing_of(store, state, config=config, now=now)
    return _open(fresh, epochs, state, stands, store=store, now=now, price=price) if fresh else []


def action_id_of(user_id: str, epoch: int) -> str:
    """The id of the decision of a user and epoch, and the key of its reservation."""
    return "act-" + hashlib.sha256(f"{epoch}:{user_id}".encode()).hexdigest()[:32]


def _withdraw(
    decided: Mapping[str, RetentionDecision],
    by_user: Mapping[str, DecisionInput],
    state: Controls,
    *,
    store: Store,
    config: PolicyConfig,
    now: int,
) -> dict[str, RetentionDecision]:
    """Override stored actions that may no longer be delivered."""
    acting = {user_id: decision for user_id, decision in decided.items() if decision.in_force != NO_ACTION}
    consents = {}
    if acting:
        with store.reading() as connection:
            said = channel_consents(connection, list(acting))
        consents = _consents([by_user[user_id] for user_id in acting], said, config)
    stopped: dict[str, list[RetentionDecision]] = {}
    for user_id, decision in acting.items():
        stop = state.stopped(decision.in_force)
        rule = None
        if not config.enabled or state.killed is not None:
            rule = "kill_switch"
        elif stop is not None:
            rule = stop.rule
        elif decision.channel is not None and not _may_use(decision.channel, consents[user_id], config):
            rule = "consent"
        if rule is not None:
            stopped.setdefault(rule, []).append(decision)
    changed: dict[str, RetentionDecision] = {}
    for rule, decisions in stopped.items():
        left = store.override([d.action_id for d in decisions], by=Override(NO_ACTION, rule, now))
        changed |= {d.user_id: forgone(d) for d in decisions} | {d.user_id: d for d in left}
    return changed


def _may_use(channel: str, consents: Mapping[str, bool], config: PolicyConfig) -> bool:
    """A channel that the recipe no longer has may not be used."""
    known = config.channels.get(channel)
    return known is not None and (not known.needs_consent or consents.get(channel, False))


def _consents(
    inputs: Sequence[DecisionInput], said: Mapping[str, Mapping[str, bool]], config: PolicyConfig
) -> dict[str, dict[str, bool]]:
    """User → channel → consent: what the user said of the channel; else a no in general; else the channel's column, where it has one."""
    result = {}
    for given in inputs:
        own: dict[str, bool] = {}
        for name, channel in config.channels.items():
            column = channel.consent_column
            own[name] = given.consent and (column is None or str(given.columns.get(column, "")).lower() in _YES)
        result[given.user_id] = {**own, **said.get(given.user_id, {})}
    return result


def _open(
    fresh: Sequence[DecisionInput],
    epochs: Mapping[str, Epoch],
    state: Controls,
    stands: Standing,
    *,
    store: Store,
    now: int,
    price: float | None,
) -> list[Case]:
    config = stands.config
    with store.reading() as connection:
        users = [given.user_id for given in fresh]
        earlier = taken(connection, users, since=now - _reach_us(config))
        said = channel_consents(connection, users)
    consents = _consents(fresh, said, config)
    stops = {a.name: stop for a in config.actions if (stop := state.stopped(a.name)) is not None}
    cases = []
    for given in fresh:
        worth = worth_of(given.spend, config=config)
        at = _circumstances(given, epochs[given.user_id], earlier.get(given.user_id, []), worth, config, now)
        at = replace(
            at,
            enabled=config.enabled and state.killed is None,
            consents=consents[given.user_id],
            stops=stops,
            unapproved=stands.unapproved,
        )
        estimates = estimates_of(catalogue_of(config), stage=given.stage, learned=state.learned)
        cases.append(
            Case(
                user_id=given.user_id,
                action_id=action_id_of(given.user_id, epochs[given.user_id].index),
                epoch=epochs[given.user_id].index,
                consent=given.consent,
                at=at,
                left=what_is_left(at, config=config),
                would_be=what_is_left(replace(at, holdout=False), config=config).names if at.holdout else (),
                merit=Merit(estimates, worth, state.price if price is None else price),
                limits=stands.limits,
                policy_version=config.version,
                outcome_due=now + config.outcome_days * DAY_US,
                features=given.features,
                why=given.why,
                forecast=given.forecast,
            )
        )
    return cases


def _circumstances(
    given: DecisionInput, epoch: Epoch, earlier: Sequence[Taken], worth: float, config: PolicyConfig, now: int
) -> Circumstances:
    last: dict[str, int] = {}
    for one in earlier:
        last[one.action] = max(one.epoch_start, last.get(one.action, one.epoch_start))
    contacts = tuple(Contact(one.channel, one.deliver_from) for one in earlier if one.channel is not None)
    return Circumstances(
        enabled=True,
        holdout=in_holdout(given.user_id, experiment=config.holdout_experiment, share=config.holdout_share),
        stage=given.stage,
        epoch_start=epoch.start,
        epoch_end=epoch.end,
        time=now,
        timezone=given.timezone,
        last_taken=last,
        contacts=contacts,
        columns=given.columns,
        features={**given.features, "value": worth},
    )


def worth_of(spend: float | None, *, config: PolicyConfig) -> float:
    """What keeping a user is worth: the margin on what they would spend, within bounds; the recipe's default where that is not known."""
    return config.default_worth if spend is None else min(max(config.margin * spend, 0.0), config.max_worth)


def _reach_us(config: PolicyConfig) -> int:
    """How far back earlier actions matter, and an epoch more: cooldowns count from the starts of epochs."""
    cooldowns = max((action.cooldown_us for action in catalogue_of(config)), default=0)
    caps = longest_window_us([config.cap, *(channel.cap for channel in config.channels.values())])
    return max(cooldowns, caps) + (config.epoch_days + 2) * DAY_US


def _afford(cases: Sequence[Case], *, store: Store, config: PolicyConfig, now: int) -> list[Case]:
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
