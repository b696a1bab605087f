"""Profiler: from stored histories to user states and profiles, a batch at a time.

As-of rule: an ask at time t sees only events strictly before t.

Shape letters: N events of one user.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from clm_ray.config.policy import NO_ACTION
from clm_ray.config.recipe import Recipe
from clm_ray.config.stages import STAGES, Stage
from clm_ray.features.history import History
from clm_ray.features.interests import interests
from clm_ray.features.user import rfm
from clm_ray.lifecycle.stages import CODE, StageReason, Thresholds, explain_stage
from clm_ray.messages import Interest, Profile, Strategy
from clm_ray.model.explain import explain_slate
from clm_ray.model.inference import Scorer, UserRequest, UserState
from clm_ray.serve import measures
from clm_ray.serve.hops import ExplainBatch, Explained, Moved, ProfileAsk, ProfileBatch, Profiled, RetentionFacts
from clm_ray.serve.known import KnownUser, KnownUsers, read
from clm_ray.serve.opened import Opened
from clm_ray.serve.telemetry import Telemetry, unrecorded
from clm_ray.store.history import StoredHistory
from clm_ray.store.records import HistoryMark
from clm_ray.store.store import Store

MOST_REASONS = 3
"""Events that are named for an item."""
NO_ACTIVITY = "no activity yet: there is nothing to foresee from"


@dataclass(frozen=True)
class ProfilerRelease:
    """What the profiler needs of a release."""

    scorer: Scorer
    thresholds: Thresholds

    @cached_property
    def strategies(self) -> dict[Stage, Strategy]:
        """What answers say of the strategy of each stage; empty where there is none."""
        recipe = self.scorer.recipe
        return {stage: strategy_of(recipe, stage) for stage in STAGES} if recipe.strategy.enabled else {}


@dataclass(frozen=True)
class Foreseen:
    """What the model says of a user's future, each None where the release has no such head. chance_J: of being active within each bin's end; spend:
    within the longest reported horizon; action_E: chance of each event type to be the next."""

    chance_J: NDArray[np.float32] | None
    spend: float | None
    action_E: NDArray[np.float32] | None


def strategy_of(recipe: Recipe, stage: Stage) -> Strategy:
    """What is done for users of this stage."""
    own = recipe.strategy.of(stage)
    allowed = [action.name for action in recipe.policy.actions if stage in action.stages]
    return Strategy(name=own.name, why=own.why, slate=own.options(), actions=[NO_ACTION, *allowed])


class Profiler:
    """Answers `ProfileBatch`es. The store is read in one thread pool, the model runs in a thread of its own."""

    def __init__(
        self,
        *,
        releases: Opened[ProfilerRelease],
        store: Store,
        telemetry: Telemetry | None = None,
        remembered: int = 4096,
    ) -> None:
        """`remembered`: users whose state is kept between requests."""
        self._releases = releases
        self._known = KnownUsers(remembered)
        self._store = store
        self._telemetry = telemetry or unrecorded()
        self._model = ThreadPoolExecutor(max_workers=1, thread_name_prefix="profiler-model")
        self._explainer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="explainer-model")

    async def loaded(self) -> str:
        """The release this replica was started with; also proves that its store can be read."""
        await asyncio.to_thread(self._store.overlays, ["readiness"])
        return self._releases.release

    async def profile(self, batch: ProfileBatch) -> Profiled:
        """Profiles and states, in the order of the batch."""
        with self._telemetry.timed(measures.STORE_SECONDS, "marks"):
            marks = await asyncio.to_thread(self._store.marks, [ask.user_id for ask in batch.asks])
        catalogue = self._releases.current(batch.release).scorer.items
        known = self._known.find(batch.release, marks, catalogue=catalogue)
        missing = [user for user in marks if user not in known]
        self._telemetry.count(measures.CACHE, "profiles", "hit", by=len(known))
        self._telemetry.count(measures.CACHE, "profiles", "miss", by=len(missing))
        stored: dict[str, StoredHistory] = {}
        if missing:
            with self._telemetry.timed(measures.STORE_SECONDS, "histories"):
                stored = await asyncio.to_thread(self._store.histories, missing)
        read = partial(self._read, batch, marks=marks, known=known, stored=stored)
        return await asyncio.get_running_loop().run_in_executor(self._model, read)

    async def explain(self, batch: ExplainBatch) -> list[Explained]:
        """Which events moved the items of each slate, in the order of the batch. In a thread of its own: it takes long, and profiles must not wait."""
        users = [ask.user_id for ask in batch.asks]
        stored = await asyncio.to_thread(self._store.histories, users)
        return await asyncio.get_running_loop().run_in_executor(self._explainer, self._explain, batch, stored)

    def _explain(self, batch: ExplainBatch, stored: dict[str, StoredHistory]) -> list[Explained]:
        release, asks = self._of(batch)
        scorer = release.scorer
        requests = _requests(asks, _histories(asks, stored, scorer), scorer)
        return [_explained(scorer, request, rows) for request, rows in zip(requests, batch.rows, strict=True)]

    def _read(
        self,
        batch: ProfileBatch,
        *,
        marks: dict[str, HistoryMark],
        known: dict[str, KnownUser],
        stored: dict[str, StoredHistory],
    ) -> Profiled:
        release, asks = self._of(batch)
        fresh = read(stored, marks, release.scorer)
        self._known.keep(batch.release, fresh)
        return _profiled(asks, known | fresh, release)

    def _of(self, batch: ProfileBatch | ExplainBatch) -> tuple[ProfilerRelease, list[ProfileAsk]]:
        """The release, and the asks in its rows. Where the gateway knows of an item that is newer than our last look at the store, we look at once."""
        release = self._releases.get(batch.release)
        named = [ask.recent.item_N for ask in batch.asks] + (batch.rows if isinstance(batch, ExplainBatch) else [])
        if any(rows.max(initial=0) >= len(release.scorer.items) for rows in named):
            release = self._releases.get(batch.release, every_s=0.0)
        items = len(release.scorer.items)
        return release, [replace(ask, recent=ask.recent.of_first(items)) for ask in batch.asks]


def _profiled(asks: Sequence[ProfileAsk], users: Mapping[str, KnownUser], release: ProfilerRelease) -> Profiled:
    scorer = release.scorer
    known = [users[ask.user_id] for ask in asks]
    # What only this caller knows, or a moment within the history, asks for a state of its own.
    states = [
        scorer.later(user.state, ask.time) if user.state and user.holds(ask.time) and not len(ask.recent) else None
        for ask, user in zip(asks, known, strict=True)
    ]
    own = {
        place: UserRequest(ask.user_id, merged(user.history, ask.recent).before(ask.time), ask.time)
        for place, (ask, user, state) in enumerate(zip(asks, known, states, strict=True))
        if state is None
    }
    for place, state in zip(own, scorer.states(list(own.values())), strict=True):
        states[place] = state
    whole = [state for state in states if state is not None]
    requests = [
        own.get(place) or UserRequest(ask.user_id, user.history, ask.time)
        for place, (ask, user) in enumerate(zip(asks, known, strict=True))
    ]
    why_B = [explain_stage(_activity(r.history, scorer), r.time, thresholds=release.thresholds) for r in requests]
    foreseen_B = _foreseen(whole, why_B, scorer)
    profiles, facts = [], []
    for place, (ask, user) in enumerate(zip(asks, known, strict=True)):
        request = requests[place]
        liked = _liked(request, scorer) if place in own else user.liked
        profiles.append(_profile(request, liked, why_B[place], foreseen=foreseen_B[place], release=release))
        # A decision is booked for the whole period: what only this caller knows, and nobody stores, must not be in it.
        facts.append(
            facts_of(request, user.history.before(ask.time), chances=foreseen_B[place].chance_J, scorer=scorer)
        )
    return Profiled(profiles=profiles, facts=facts, states=pickle.dumps(whole, protocol=pickle.HIGHEST_PROTOCOL))


def _histories(asks: Sequence[ProfileAsk], stored: dict[str, StoredHistory], scorer: Scorer) -> list[History]:
    return [stored[ask.user_id].history(row_of=scorer.items.row_of, event_of=scorer.vocabulary.index) for ask in asks]


def _requests(asks: Sequence[ProfileAsk], histories: Sequence[History], scorer: Scorer) -> list[UserRequest]:
    return [
        UserRequest(ask.user_id, merged(history, ask.recent).before(ask.time), ask.time)
        for ask, history in zip(asks, histories, strict=True)
    ]


def _explained(scorer: Scorer, request: UserRequest, row_K: NDArray[np.int32]) -> Explained:
    found = explain_slate(scorer, request, items=row_K.tolist())
    past = request.history
    return Explained(
        np.array([one.probability for one in found]),
        [
            [
                Moved(event.event_type, int(past.item_N[event.place]), event.time, event.probability)
                for event in sorted(one.events, key=lambda event: (-abs(event.probability), -event.time))
                if event.probability
            ][:MOST_REASONS]
            for one in found
        ],
    )


def states_of(payload: bytes) -> Sequence[UserState]:
    """The states that a `Profiled` carries; called by the ranker, in the same cluster."""
    states: Sequence[UserState] = pickle.loads(payload)
    return states


def merged(history: History, recent: History) -> History:
    """Both, sorted by time; of events at the same time, `recent` comes later."""
    if not len(recent):
        return history
    time_N = np.concatenate([history.time_N, recent.time_N])
    order_N = np.argsort(time_N, kind="stable")
    return History(
        np.concatenate([history.item_N, recent.item_N])[order_N],
        np.concatenate([history.event_N, recent.event_N])[order_N],
        np.concatenate([history.value_N, recent.value_N])[order_N],
        time_N[order_N],
    )


def facts_of(
    request: UserRequest, stored: History, *, chances: NDArray[np.float32] | None, scorer: Scorer
) -> RetentionFacts:
    """What retention is told of a user. `stored`: history before the request's time; `chances`: of being active within each bin's end."""
    vocabulary, recipe = scorer.vocabulary, scorer.recipe
    active_N = vocabulary.is_activity(stored)
    days, forecast = recipe.policy.outcome_days, None
    if chances is not None and days in recipe.retention.bin_ends:
        forecast = float(chances[recipe.retention.bin_ends.index(days)])
    return RetentionFacts(
        user_id=request.user_id,
        time=request.time,
        activity_N=stored.time_N[active_N],
        amount_N=vocabulary.amounts(stored)[active_N] if vocabulary.spends else None,
        forecast=forecast,
    )


def _activity(history: History, scorer: Scorer) -> NDArray[np.int64]:
    return history.time_N[scorer.vocabulary.is_activity(history)]


def _liked(request: UserRequest, scorer: Scorer) -> list[tuple[str, float]]:
    return interests(request.history, request.time, catalogue=scorer.items, vocabulary=scorer.vocabulary)


def _foreseen(states: Sequence[UserState], why_B: Sequence[StageReason], scorer: Scorer) -> list[Foreseen]:
    chance_BJ = scorer.survival(states, stage_B=np.array([CODE[why.stage] for why in why_B], np.int8))
    spend_B, action_BE = scorer.values(states), scorer.next_actions(states)
    return [
        Foreseen(
            None if chance_BJ is None else chance_BJ[place],
            None if spend_B is None else float(spend_B[place]),
            None if action_BE is None else action_BE[place],
        )
        for place in range(len(states))
    ]


def _profile(
    request: UserRequest,
    liked: Sequence[tuple[str, float]],
    why: StageReason,
    *,
    foreseen: Foreseen,
    release: ProfilerRelease,
) -> Profile:
    scorer, action_E = release.scorer, foreseen.action_E
    habits = rfm(request.history, request.time, vocabulary=scorer.vocabulary)
    active = why.days_since_last is not None
    chance, reason = _chance_active(foreseen.chance_J, active, scorer)
    return Profile(
        stage=why.stage,
        why=why.text,
        strategy=release.strategies.get(why.stage),
        chance_active=chance,
        chance_active_reason=reason,
        expected_spend=foreseen.spend if active else None,
        next_action=dict(zip(scorer.vocabulary.names, action_E.tolist(), strict=True))
        if active and action_E is not None
        else None,
        recency_days=habits.recency_days,
        frequency={str(days): count for days, count in habits.frequency.items()},
        monetary={str(days): amount for days, amount in habits.monetary.items()},
        tenure_days=habits.tenure_days,
        interests=[Interest(category=name, weight=min(weight, 1.0)) for name, weight in liked],
        events=int(scorer.vocabulary.counts(request.history).sum()),
    )


def _chance_active(
    chances: NDArray[np.float32] | None, active: bool, scorer: Scorer
) -> tuple[dict[str, float] | None, str | None]:
    retention = scorer.recipe.retention
    if chances is None:
        return None, retention.reason_off or "this release has no retention head"
    if not active:
        return None, NO_ACTIVITY
    return {str(days): float(chances[retention.bin_ends.index(days)]) for days in retention.report_days}, None
