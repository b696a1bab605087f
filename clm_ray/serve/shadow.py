"""A release in the shadow of the one that answers: it scores the same requests after they were answered, is logged, and is never shown.

The gateway only puts an answer into a bounded line; where that is full the answer is dropped for the shadow, and counted. Scoring happens
in a replica of its own, which gives way to everything else on its machine.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clm_ray.serve import measures
from clm_ray.serve.answers import Draft
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.hops import ProfileAsk, ProfileBatch, Profiled, RankBatch, Ranked
from clm_ray.serve.telemetry import Telemetry
from clm_ray.store.records import ShadowSlate
from clm_ray.store.shadow import log_shadows
from clm_ray.store.store import Store

logger = logging.getLogger("clm_ray.serve")

_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class ShadowAsk:
    """An answer that was given. `candidates`: those the caller named, None where they were retrieved; `shown`: the items of the answer.
    `recent_items`, `recent_types`: what the codes in `ask.recent` stand for; they are those of the release that answered.
    """

    decision_id: str
    ask: ProfileAsk
    recent_items: tuple[str, ...]
    recent_types: tuple[str, ...]
    candidates: tuple[str, ...] | None
    shown: tuple[str, ...]
    k: int
    stage_strategy: bool = True


class ShadowLine:
    """Answers waiting for the shadow, `max_waiting` at most; one batch is on its way at a time. Belongs to one event loop."""

    def __init__(
        self,
        send: Callable[[list[ShadowAsk]], Awaitable[int]],
        *,
        release: str,
        telemetry: Telemetry,
        max_waiting: int,
        max_batch: int = 16,
    ) -> None:
        self._send = send
        self._release = release
        self._telemetry = telemetry
        self._max_waiting = max_waiting
        self._max_batch = max_batch
        self._waiting: deque[ShadowAsk] = deque()
        self._draining: asyncio.Task[None] | None = None

    def offer(self, drafts: Sequence[Draft], *, served: ServedCatalogue) -> None:
        """Take what fits of the answers that were logged; never waits. `served`: the release that answered, with its items as they are now."""
        for draft in drafts:
            if draft.decision_id is None:
                continue
            if len(self._waiting) >= self._max_waiting:
                self._telemetry.count(measures.SHADOW, self._release, "dropped")
                continue
            self._waiting.append(_shadow_ask(draft, draft.decision_id, served))
        if self._waiting and self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]
                try:
                    async with asyncio.timeout(_TIMEOUT_S):
                        logged = await self._send(batch)
                    self._telemetry.count(measures.SHADOW, self._release, "logged", by=logged)
                except Exception as error:
                    logger.warning("the shadow failed on %d answers: %s", len(batch), type(error).__name__)
                    self._telemetry.count(measures.SHADOW, self._release, "failed", by=len(batch))
        finally:
            self._draining = None


class Shadow:
    """Scores batches of answers with the shadow's release and logs what it would have shown."""

    def __init__(
        self,
        *,
        served: ServedCatalogue,
        store: Store,
        profile: Callable[[ProfileBatch], Awaitable[Profiled]],
        rank: Callable[[RankBatch], Awaitable[list[Ranked]]],
    ) -> None:
        """`profile`, `rank`: of a profiler and a ranker that have this release open."""
        self._served = served
        self._store = store
        self._profile = profile
        self._rank = rank

    async def score(self, asks: list[ShadowAsk]) -> int:
        """Score and log a batch; how many were logged. As-of rule: that of the answer, events strictly before its time."""
        release = self._served.release
        profiled = await self._profile(ProfileBatch(release, [self._ask(one) for one in asks]))
        rows = [self._candidates(one, profiled.profiles[n].events) for n, one in enumerate(asks)]
        stages = [p.stage if one.stage_strategy else None for one, p in zip(asks, profiled.profiles, strict=True)]
        own = await self._rank(RankBatch(release, profiled.states, rows, [one.k for one in asks], stages=stages))
        shown = [self._known(one.shown) for one in asks]
        judged = await self._rank(RankBatch(release, profiled.states, list(shown), [max(len(r), 1) for r in shown]))
        slates = [self._slate(*parts) for parts in zip(asks, own, judged, strict=True)]
        return await asyncio.to_thread(log_shadows, self._store, slates)

    def _ask(self, one: ShadowAsk) -> ProfileAsk:
        """The ask with the codes of this release; recent events of types that it does not know are left out."""
        code_of = self._served.vocabulary.index
        code_N = np.array([code_of.get(name, -1) for name in one.recent_types], np.int16)
        recent = replace(one.ask.recent, item_N=self._served.catalogue.rows(list(one.recent_items)), event_N=code_N)
        return replace(one.ask, recent=recent.select(code_N >= 0))

    def _candidates(self, one: ShadowAsk, events: int) -> NDArray[np.int32] | None:
        """As the gateway does it: those given; for a user without a history what is popular; else None, to be retrieved."""
        if one.candidates is not None:
            return self._known(one.candidates)
        return None if events else self._served.popular_I[: max(self._served.recipe.serve.retrieve, one.k)]

    def _known(self, items: Sequence[str]) -> NDArray[np.int32]:
        row_C = self._served.catalogue.rows(list(items))
        return row_C[row_C > 0]

    def _slate(self, one: ShadowAsk, own: Ranked, judged: Ranked) -> ShadowSlate:
        ids = self._served.catalogue.ids
        of = {ids[row]: p for row, p in zip(judged.row_K, judged.probability_K.tolist(), strict=True)}
        return ShadowSlate(
            decision_id=one.decision_id,
            user_id=one.ask.user_id,
            time=one.ask.time,
            release_id=self._served.release,
            items=tuple(ids[row] for row in own.row_K),
            probabilities=tuple(own.probability_K.tolist()),
            shown=tuple(of.get(item) for item in one.shown),
        )


def _shadow_ask(draft: Draft, decision_id: str, served: ServedCatalogue) -> ShadowAsk:
    recent, given = draft.ask.recent, draft.ask.row_C
    ids = served.catalogue.ids
    return ShadowAsk(
        decision_id=decision_id,
        ask=ProfileAsk(draft.ask.user_id, draft.ask.time, recent),
        recent_items=tuple(ids[row] for row in recent.item_N),
        recent_types=tuple(served.vocabulary.names[code] for code in recent.event_N),
        candidates=None if given is None else tuple(ids[row] for row in given),
        shown=tuple(ids[row] for row in draft.ranked.row_K),
        k=draft.ask.k,
        stage_strategy=draft.ask.request.stage_strategy,
    )
