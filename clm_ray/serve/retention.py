"""Retention: one decision per user and period, a batch at a time, through `clm_ray.decide`.

As-of rule: a decision is based on the user as of the start of the decision period, so that the moment of the request within it
changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from clm_ray.config.policy import PolicyConfig
from clm_ray.decide.decide import DecisionInput, decide
from clm_ray.decide.explain import explain
from clm_ray.lifecycle.stages import Thresholds, explain_stage
from clm_ray.messages import RetentionAction
from clm_ray.policy.epochs import epoch_of
from clm_ray.serve import measures
from clm_ray.serve.catalogue import recipe_of, thresholds_of
from clm_ray.serve.hops import RetainBatch, RetentionFacts
from clm_ray.serve.opened import Opened
from clm_ray.serve.telemetry import Telemetry, unrecorded
from clm_ray.store.records import RetentionDecision, UserOverlay
from clm_ray.store.store import Store


@dataclass(frozen=True)
class Consent:
    """May this user be contacted, and in which time zone do they live?"""

    given: bool
    timezone: str


NOBODY_ASKED = Consent(given=False, timezone="UTC")
"""For users that neither the user table nor the store knows."""


@dataclass(frozen=True)
class RetentionRelease:
    """What retention needs of a release. users: consent by user id."""

    policy: PolicyConfig
    thresholds: Thresholds
    users: Mapping[str, Consent]


def open_retention(folder: Path) -> RetentionRelease:
    """Read it from a release. Raises ReleaseError when a file is missing."""
    table = pq.read_table(folder / "users.parquet", columns=["user_id", "consent", "timezone"])
    columns = (table.column(name).to_pylist() for name in ("user_id", "consent", "timezone"))
    users = {user: Consent(given, zone) for user, given, zone in zip(*columns, strict=True)}
    return RetentionRelease(policy=recipe_of(folder).policy, thresholds=thresholds_of(folder), users=users)


class Retention:
    """Answers `RetainBatch`es; the store is called in threads."""

    def __init__(self, *, releases: Opened[RetentionRelease], store: Store, telemetry: Telemetry | None = None) -> None:
        self._releases = releases
        self._store = store
        self._telemetry = telemetry or unrecorded()

    async def loaded(self) -> str:
        """The release this replica was started with."""
        return self._releases.release

    async def retain(self, batch: RetainBatch) -> list[RetentionAction]:
        """The decision in force for each user, in the order of the batch; new ones are durable when this returns."""
        with self._telemetry.timed(measures.STORE_SECONDS, "decisions"):
            return await asyncio.to_thread(self._retain, batch)

    def _retain(self, batch: RetainBatch) -> list[RetentionAction]:
        release = self._releases.get(batch.release)
        overlays = self._store.overlays([facts.user_id for facts in batch.facts])
        now = max(facts.time for facts in batch.facts)
        inputs = [_input(facts, release, overlays.get(facts.user_id), now) for facts in batch.facts]
        decisions = decide(inputs, store=self._store, config=release.policy, now=now, release_id=batch.release)
        return [action_of(decision) for decision in decisions]


def action_of(decision: RetentionDecision) -> RetentionAction:
    """A decision as the caller reads it."""
    return RetentionAction(
        action_id=decision.action_id,
        action=decision.in_force,
        propensity=decision.propensity,
        probabilities=dict(zip(decision.feasible, decision.probabilities, strict=True)),
        holdout=decision.holdout,
        epoch=decision.epoch,
        epoch_start=decision.epoch_start,
        policy=decision.policy_version,
        cost=decision.cost,
        reason=_reason(decision),
        masked={mask.action: mask.rule for mask in decision.masks},
        explanation=explain(decision),
    )


def _input(facts: RetentionFacts, release: RetentionRelease, overlay: UserOverlay | None, now: int) -> DecisionInput:
    user = _consent(release.users.get(facts.user_id, NOBODY_ASKED), overlay)
    epoch = epoch_of(now, timezone=user.timezone, epoch_days=release.policy.epoch_days)
    why = explain_stage(facts.activity_N, epoch.start, thresholds=release.thresholds)
    seen = {
        "days_since_last": why.days_since_last,
        "days_since_first": why.days_since_first,
        "days_since_return": why.days_since_return,
    }
    return DecisionInput(
        user_id=facts.user_id,
        stage=why.stage,
        consent=user.given,
        timezone=user.timezone,
        features={name: value for name, value in seen.items() if value is not None},
    )


def _consent(known: Consent, overlay: UserOverlay | None) -> Consent:
    """What the user told us later goes before the user table."""
    if overlay is None:
        return known
    return Consent(
        given=known.given if overlay.consent is None else overlay.consent,
        timezone=overlay.timezone or known.timezone,
    )


def _reason(decision: RetentionDecision) -> str:
    if decision.overrides:
        last = decision.overrides[-1]
        return f"{decision.action} was drawn, but {last.rule} replaced it"
    if decision.holdout:
        return "the user is in the holdout, which never gets an action"
    return f"drawn with probability {decision.propensity:.1%} for stage {decision.stage}"
