"""Logged decisions joined to what their users did afterwards, by user and window.

An outcome window is half-open: an event at the very moment of the decision is not its consequence, one when the outcome is due comes too late.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from clm_ray.config.policy import PolicyConfig
from clm_ray.decide.choice import policy_digest
from clm_ray.policy.fairness import Treated
from clm_ray.policy.guardrails import Seen
from clm_ray.policy.uplift import Outcome
from clm_ray.schema import DAY_US
from clm_ray.store.history import StoredHistory
from clm_ray.store.records import RetentionDecision
from clm_ray.store.store import Store

_USERS = 500


@dataclass(frozen=True)
class Followed:
    """One logged decision as guardrails and as fairness look at it."""

    decision: RetentionDecision
    seen: Seen
    treated: Treated


def follow(
    store: Store,
    decisions: Sequence[RetentionDecision],
    *,
    config: PolicyConfig,
    activity: frozenset[str],
    now: int,
) -> list[Followed]:
    """Each decision with what followed it up to `now` (µs), in the order given. `activity`: event types that count as being active."""
    today = policy_digest(config)
    users = list(dict.fromkeys(decision.user_id for decision in decisions))
    found: dict[str, Followed] = {}
    by_user: dict[str, list[RetentionDecision]] = {user: [] for user in users}
    for decision in decisions:
        by_user[decision.user_id].append(decision)
    for start in range(0, len(users), _USERS):
        histories = store.histories(users[start : start + _USERS])
        for user, history in histories.items():
            for decision in by_user[user]:
                found[decision.action_id] = _follow(decision, history, config, activity, now, today)
    return [found[decision.action_id] for decision in decisions]


def _follow(
    decision: RetentionDecision,
    history: StoredHistory,
    config: PolicyConfig,
    activity: frozenset[str],
    now: int,
    today: str,
) -> Followed:
    guards = config.guardrails
    answer_until = max(decision.time, decision.deliver_from) + round(guards.answer_days * DAY_US)
    outcome = None
    # What was overridden was drawn and perhaps delivered, perhaps not: nothing can be learned from it.
    if decision.outcome_due <= now and not decision.overrides:
        outcome = Outcome(
            user_id=decision.user_id,
            stage=decision.stage,
            holdout=decision.holdout,
            feasible=frozenset(decision.would_be if decision.holdout else decision.feasible),
            action=decision.action,
            propensity=decision.propensity,
            active=_any(history, activity, decision.time, decision.outcome_due),
        )
    channel = config.channels.get(decision.channel or "")
    seen = Seen(
        user_id=decision.user_id,
        time=decision.time,
        stage=decision.stage,
        holdout=decision.holdout,
        action=decision.action,
        contact=decision.channel is not None and (channel is None or channel.contact),
        cost=decision.cost,
        answer_due=answer_until <= now,
        unsubscribed=_any(history, guards.unsubscribe_events, decision.time, answer_until),
        complained=_any(history, guards.complaint_events, decision.time, answer_until),
        outcome=outcome,
        current=decision.policy_digest == today,
    )
    treated = Treated(
        user_id=decision.user_id,
        stage=decision.stage,
        holdout=decision.holdout,
        columns=decision.columns,
        probabilities=dict(zip(decision.feasible, decision.probabilities, strict=True)),
        forecast=decision.forecast,
        outcome=outcome,
    )
    return Followed(decision, seen, treated)


def _any(history: StoredHistory, types: Iterable[str], after: int, before: int) -> bool:
    """Whether an event of one of these types lies strictly after `after` and before `before` (µs)."""
    codes = [code for code, name in enumerate(history.types) if name in set(types)]
    if not codes:
        return False
    first = int(np.searchsorted(history.time_N, after, side="right"))
    last = int(np.searchsorted(history.time_N, before, side="left"))
    return bool(np.isin(history.type_code_N[first:last], codes).any())
