"""Looking at the guardrails: what logged decisions led to, and stopping what must not go on.

The endpoint looks now and then (`policy.guardrails.every_minutes`), one replica for all; `jobs/review_policy.py` looks whenever it is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from clm_ray.config.policy import NO_ACTION, PolicyConfig, Stage
from clm_ray.decide.controls import RELEASED, put_learned, read_controls, request_approvals, stop_actions
from clm_ray.decide.outcomes import Followed, follow
from clm_ray.policy.catalogue import catalogue_of
from clm_ray.policy.fairness import PREFIX, Gap, GroupFigure, figures, findings, gap_subject, gaps
from clm_ray.policy.guardrails import Finding, check
from clm_ray.policy.uplift import Estimate, observe, posterior
from clm_ray.schema import DAY_US
from clm_ray.store.controls import Control, put_control, swap_control
from clm_ray.store.logged import logged_decisions
from clm_ray.store.store import Store

_WATCHED = "watched"
_BY = "policy"


@dataclass(frozen=True)
class Watched:
    """What was found. stopped: guardrail and action of what was stopped now and had not been before."""

    followed: tuple[Followed, ...]
    findings: tuple[Finding, ...]
    figures: tuple[GroupFigure, ...]
    gaps: tuple[Gap, ...]
    stopped: tuple[tuple[str, str], ...]


def watch_if_due(store: Store, *, config: PolicyConfig, activity: frozenset[str], now: int) -> Watched | None:
    """Look, if nobody has for a while; None where it is not due or another process does it. Raises StoreError."""
    before = read_controls(store, now=now).settings.get(_WATCHED)
    mine = Control(_WATCHED, {"at": now}, now, _BY, "the guardrails were looked at")
    if before is None:
        with store.writing() as connection:
            if not put_control(connection, mine, once=True):
                return None
    else:
        if now - int(before.value["at"]) < round(config.guardrails.every_minutes * 60e6):
            return None
        with store.writing() as connection:
            if not swap_control(connection, before, mine):
                return None
    return watch(store, config=config, activity=activity, now=now)


def watch(store: Store, *, config: PolicyConfig, activity: frozenset[str], now: int) -> Watched:
    """Look at the decisions of the guardrails' window and stop what breaks a bound. Raises StoreError."""
    seen = observe_only(store, config=config, activity=activity, now=now)
    return replace(seen, stopped=_stop(store, seen.findings, config=config, now=now))


def observe_only(store: Store, *, config: PolicyConfig, activity: frozenset[str], now: int) -> Watched:
    """The same look, which stops nothing."""
    guards = config.guardrails
    with store.reading() as connection:
        decisions = logged_decisions(connection, since=now - reach_us(config), until=now, most=guards.most_decisions)
    followed = follow(store, decisions, config=config, activity=activity, now=now)
    found = check([one.seen for one in followed], config=guards, holdout_share=config.holdout_share)
    groups = figures([one.treated for one in followed], config=config.fairness)
    differences = gaps(groups, config=config.fairness)
    return Watched(tuple(followed), (*found, *findings(differences)), tuple(groups), tuple(differences), ())


def _stop(store: Store, found: Sequence[Finding], *, config: PolicyConfig, now: int) -> tuple[tuple[str, str], ...]:
    """Stop what is to be stopped, unless a person set it free lately; a gap between groups asks for an approval too, and is let be while
    one is in force."""
    state = read_controls(store, now=now)
    approved = state.approved(now)
    stopped = []
    for finding in found:
        released = state.settings.get(f"{RELEASED}{finding.guardrail}:{finding.action}")
        if not finding.stops or (released is not None and now - released.changed_at < reach_us(config)):
            continue
        if finding.guardrail.startswith(PREFIX):
            subject = gap_subject(finding.guardrail)
            if subject in approved:
                continue
            request_approvals(store, [subject], by=_BY, now=now, reason=finding.text)
        if stop_actions(store, finding.guardrail, action=finding.action, reason=finding.text, now=now):
            stopped.append((finding.guardrail, finding.action))
    return tuple(stopped)


def reach_us(config: PolicyConfig) -> int:
    """How far back the guardrails look, µs: their window, and as long as outcomes take."""
    return round(config.guardrails.window_days * DAY_US) + config.outcome_days * DAY_US


def learn_uplifts(
    store: Store, followed: Sequence[Followed], *, config: PolicyConfig, now: int
) -> dict[str, dict[Stage, Estimate]]:
    """Update the uplifts of the catalogue by what was observed, and keep them in the store for the next decisions. Raises StoreError."""
    learned: dict[str, dict[Stage, Estimate]] = {}
    outcomes = [one.seen.outcome for one in followed if one.seen.outcome is not None]
    for action in catalogue_of(config):
        if action.name == NO_ACTION:
            continue
        for stage in action.stages:
            observed = observe([one for one in outcomes if one.stage == stage], action=action.name)
            if observed is not None:
                learned.setdefault(action.name, {})[stage] = posterior(action.prior(stage), observed)
    put_learned(store, learned, by=_BY, reason=f"from {len(outcomes)} decisions whose outcome is due", now=now)
    return learned
