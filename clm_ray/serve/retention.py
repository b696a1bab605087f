"""Retention: one decision per user and period, a batch at a time, through `clm_ray.decide`.

As-of rule: a decision is based on the user as of the start of the decision period, so that the moment of the request within it
changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow.parquet as pq

from clm_ray.config.policy import PolicyConfig
from clm_ray.decide.decide import DecisionInput, decide
from clm_ray.decide.explain import explain
from clm_ray.decide.watch import watch_if_due
from clm_ray.errors import ClmError
from clm_ray.features.worth import spend_at_own_rate
from clm_ray.lifecycle.stages import Thresholds, explain_stage
from clm_ray.messages import ExpectedUplift, RetentionAction
from clm_ray.policy.epochs import epoch_of
from clm_ray.policy.rules import check_columns
from clm_ray.policy.uplift import Estimate
from clm_ray.release.read import recipe_of, thresholds_of
from clm_ray.serve import measures
from clm_ray.serve.hops import RetainBatch, RetentionFacts
from clm_ray.serve.opened import Opened
from clm_ray.serve.telemetry import Telemetry, unrecorded
from clm_ray.store.records import EstimateRecord, RetentionDecision, UserOverlay
from clm_ray.store.store import Store

logger = logging.getLogger("clm_ray.serve")
_ROWS = 10_000
"""Of the user table, read into Python objects at once."""


@dataclass(frozen=True)
class KnownUser:
    """May this user be contacted, in which time zone do they live, and what of the user table does the policy read?"""

    consent: bool
    timezone: str
    columns: Mapping[str, str | float] = field(default_factory=dict)


NOBODY_ASKED = KnownUser(consent=False, timezone="UTC")
"""For users that neither the user table nor the store knows."""


@dataclass(frozen=True)
class TableFile:
    """Where a user table was read from. The erasure of a user puts another file in its place. mark: of the one that was read."""

    path: Path
    mark: tuple[int, int]

    @staticmethod
    def about_to_be_read(path: Path) -> TableFile:
        """Its mark is taken before: what changes while it is read has changed."""
        return TableFile(path, _mark(path))

    @property
    def changed(self) -> bool:
        """Whether there is another one now, or none."""
        return _mark(self.path) != self.mark


@dataclass(frozen=True)
class RetentionRelease:
    """What retention needs of a release. users: by user id; activity: event types that count as being active; table: where the users are from."""

    policy: PolicyConfig
    thresholds: Thresholds
    users: Mapping[str, KnownUser]
    activity: frozenset[str]
    table: TableFile


def open_retention(folder: Path) -> RetentionRelease:
    """Read it from a release. Raises ReleaseError when a file is missing, ConfigError when the policy reads a column that nobody has."""
    recipe = recipe_of(folder)
    wanted = recipe.policy.columns()
    maps = ["categorical", "numeric"] if wanted else []
    file = TableFile.about_to_be_read(folder / "users.parquet")
    table = pq.read_table(file.path, columns=["user_id", "consent", "timezone", *maps])
    users: dict[str, KnownUser] = {}
    seen: set[str] = set()
    for batch in table.to_batches(max_chunksize=_ROWS):
        for row in batch.to_pylist():
            columns = {**dict(row.get("categorical") or ()), **dict(row.get("numeric") or ())}
            kept = {name: value for name, value in columns.items() if name in wanted and value is not None}
            seen |= kept.keys()
            users[row["user_id"]] = KnownUser(row["consent"], row["timezone"], kept)
    check_columns(recipe.policy, seen)
    activity = frozenset(name for name, of in recipe.event_types.items() if "activity" in of.roles)
    return RetentionRelease(recipe.policy, thresholds_of(folder), users, activity, file)


class Retention:
    """Answers `RetainBatch`es; the store is called in threads."""

    def __init__(self, *, releases: Opened[RetentionRelease], store: Store, telemetry: Telemetry | None = None) -> None:
        self._releases = releases
        self._store = store
        self._telemetry = telemetry or unrecorded()
        self._watcher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="retention-watch")
        self._watching: Future[None] | None = None
        self._watched = 0

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
        inputs = [input_of(facts, release, overlay=overlays.get(facts.user_id), now=now) for facts in batch.facts]
        decisions = decide(inputs, store=self._store, config=release.policy, now=now, release_id=batch.release)
        self._watch(release, now)
        return [action_of(decision) for decision in decisions]

    def _watch(self, release: RetentionRelease, now: int) -> None:
        """Look at the guardrails now and then, in a thread of its own, so that no request waits for it."""
        due = now - self._watched >= round(release.policy.guardrails.every_minutes * 60e6)
        if due and (self._watching is None or self._watching.done()):
            self._watched = now
            self._watching = self._watcher.submit(_look, self._store, release, now)


def _look(store: Store, release: RetentionRelease, now: int) -> None:
    try:
        watch_if_due(store, config=release.policy, activity=release.activity, now=now)
    except ClmError as error:
        logger.warning("the guardrails could not be looked at: %s", error)


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
        channel=decision.channel if decision.in_force == decision.action else None,
        deliver_from=decision.deliver_from if decision.channel and decision.in_force == decision.action else None,
        price=decision.price,
        reason=_reason(decision),
        masked={mask.action: mask.rule for mask in decision.masks},
        expected={name: _uplift(one) for name, one in decision.estimates.items()},
        explanation=explain(decision),
    )


def input_of(
    facts: RetentionFacts, release: RetentionRelease, *, overlay: UserOverlay | None, now: int
) -> DecisionInput:
    """What a decision at `now` (µs) looks at; everything about behaviour is as of the start of the user's decision period."""
    user = _known(facts.user_id, release, overlay)
    policy = release.policy
    epoch = epoch_of(now, timezone=user.timezone, epoch_days=policy.epoch_days)
    why = explain_stage(facts.activity_N, epoch.start, thresholds=release.thresholds)
    seen = {
        "days_since_last": why.days_since_last,
        "days_since_first": why.days_since_first,
        "days_since_return": why.days_since_return,
    }
    spend = None
    if facts.amount_N is not None:
        spend = spend_at_own_rate(facts.activity_N, facts.amount_N, at=epoch.start, days=policy.outcome_days)
    return DecisionInput(
        user_id=facts.user_id,
        stage=why.stage,
        consent=user.consent,
        timezone=user.timezone,
        features={name: value for name, value in seen.items() if value is not None},
        columns=user.columns,
        spend=spend,
        why=why.text,
        forecast=facts.forecast,
    )


def _known(user_id: str, release: RetentionRelease, overlay: UserOverlay | None) -> KnownUser:
    """What the user told us later goes before the user table. Of who was erased a table says nothing that was made, or read, before they were gone
    from it: a consent in it may be one that they withdrew, and the withdrawal is erased."""
    user = release.users.get(user_id, NOBODY_ASKED)
    if overlay is None:
        return user
    if overlay.pending or (overlay.erased and release.table.changed):
        user = NOBODY_ASKED
    consent = user.consent if overlay.consent is None else overlay.consent
    return replace(user, consent=consent, timezone=overlay.timezone or user.timezone)


def _uplift(one: EstimateRecord) -> ExpectedUplift:
    source = Estimate(one.mean, one.low, one.high, one.treated, one.control).source
    return ExpectedUplift(uplift=one.mean, low=one.low, high=one.high, source=source, score=one.score)


def _reason(decision: RetentionDecision) -> str:
    if decision.overrides:
        last = decision.overrides[-1]
        return f"{decision.action} was drawn, but {last.rule} replaced it"
    if decision.holdout:
        return "the user is in the holdout, which never gets an action"
    return f"drawn with probability {decision.propensity:.1%} for stage {decision.stage}"


def _mark(path: Path) -> tuple[int, int]:
    """Another one for every file that takes this name."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns
