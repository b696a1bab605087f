"""One batch on its way: through profiler, ranker and retention to answers, and into the log.

It degrades and never fails: what a part cannot give in time is left out or replaced by what is popular, and the answer says so.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from collections.abc import Sequence
from functools import partial
from typing import cast

from clm_ray.errors import EndpointError
from clm_ray.messages import Degraded, Profile, Recommendation
from clm_ray.serve import measures, request_ids
from clm_ray.serve.answers import (
    NOT_RANKED,
    Draft,
    answer_of,
    candidates_of,
    first_draft,
    kept_of,
    offered,
    popular_slate,
    slate_of,
)
from clm_ray.serve.args import TimeoutArgs
from clm_ray.serve.asks import Ask
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.course import STORE, Course, cause_of
from clm_ray.serve.hops import ANYTHING, ExplainBatch, Hops, ProfileAsk, ProfileBatch, Profiled, RankBatch, RetainBatch
from clm_ray.serve.live_releases import LiveReleases
from clm_ray.serve.observed import note_answers
from clm_ray.serve.shadow import ShadowLine
from clm_ray.serve.telemetry import Telemetry
from clm_ray.store.store import Store


class Answering:
    """Takes batches of one release through the parts. Belongs to one event loop; the store is called in threads."""

    def __init__(
        self,
        *,
        releases: LiveReleases,
        store: Store,
        hops: Hops,
        timeouts: TimeoutArgs,
        telemetry: Telemetry,
        shadow: ShadowLine | None,
    ) -> None:
        """`shadow`: is offered every answer that was logged."""
        self._releases = releases
        self._store = store
        self._hops = hops
        self._timeouts = timeouts
        self._telemetry = telemetry
        self._shadow = shadow

    async def profile(self, release: str, asks: list[ProfileAsk]) -> list[Profile]:
        """Who the users are. Raises EndpointError when no profile can be had."""
        course = Course(self._telemetry, asyncio.get_running_loop().time())
        profiled, trouble = await self._profiled(release, asks, course)
        if profiled is None:
            raise EndpointError(f"no profile at the moment ({trouble})", fix="try again")
        return profiled.profiles

    async def recommend(self, asks: list[Ask]) -> list[Recommendation]:
        """The answers, in the order of the batch."""
        now, served = asyncio.get_running_loop().time, self._releases.now(asks[0].served.release)
        request_ids.about(ask.request_id for ask in asks if ask.request_id)
        course = Course.of(((ask.until, ask.request.deadline_ms) for ask in asks), now=now(), telemetry=self._telemetry)
        drafts = [first_draft(ask, served=served) for ask in asks]
        wanted = [ProfileAsk(ask.user_id, ask.time, ask.recent) for ask in asks]
        profiled, trouble = await self._profiled(served.release, wanted, course)
        if profiled is None:
            for draft in drafts:
                draft.degraded.append(cast(Degraded, trouble))
                draft.retention_reason = draft.ask.why_not or "no profile, so no decision"
        else:
            served = self._releases.now(served.release)
            for draft, profile in zip(drafts, profiled.profiles, strict=True):
                draft.profile = profile
                draft.forbidden = served.forbidden(draft.ask.user_id, stage=profile.stage)
                draft.degraded += [] if profile.events else ["no_history"]
            await asyncio.gather(self._rank(drafts, profiled, course, served), self._retain(drafts, profiled, course))
            await self._explain([draft for draft in drafts if draft.ask.request.explain and draft.scored], course)
        served = self._releases.now(served.release)
        for draft in drafts:
            if draft.ranked is NOT_RANKED:
                draft.ranked = popular_slate(draft, served=served)
        await self._log([draft for draft in drafts if draft.ask.live or draft.ask.claim], course)
        shown = [draft for draft in drafts if not draft.ask.ranks_only]
        note_answers(self._telemetry, shown, served=served, seconds=now() - course.started)
        self._offer(drafts, served)
        return [draft.kept or answer_of(draft, served=served, course=course, ended=now()) for draft in drafts]

    def _offer(self, drafts: Sequence[Draft], served: ServedCatalogue) -> None:
        """To the shadow, whose trouble is nobody's who asked."""
        if self._shadow is None:
            return
        try:
            self._shadow.offer(drafts, served=served)
        except Exception as error:
            request_ids.log("not offered to the shadow", level=logging.ERROR, cause=cause_of(error))

    async def _profiled(self, release: str, asks: list[ProfileAsk], course: Course) -> tuple[Profiled | None, str]:
        batch = ProfileBatch(release=release, asks=asks)
        return await course.within("profiler", lambda: self._hops.profile(batch), self._timeouts.profiler_s)

    async def _rank(self, drafts: Sequence[Draft], profiled: Profiled, course: Course, served: ServedCatalogue) -> None:
        """Give each draft its slate; where that fails it has none. `served`: by which it was told what is forbidden."""
        batch = RankBatch(
            release=served.release,
            states=profiled.states,
            rows=[candidates_of(draft, served=served) for draft in drafts],
            k=[draft.ask.k for draft in drafts],
            forbidden=[d.forbidden.row_F for d in drafts] if any(len(d.forbidden.row_F) for d in drafts) else [],
            wishes=[] if all(d.ask.wish is ANYTHING for d in drafts) else [d.ask.wish for d in drafts],
            stages=[draft.strategic_stage for draft in drafts],
        )
        ranked, trouble = await course.within("ranker", lambda: self._hops.rank(batch), self._timeouts.ranker_s)
        if ranked and max(one.row_K.max(initial=0) for one in ranked) >= len(served.catalogue):
            await self._releases.look(every_s=0.0)  # the ranker knows of an item that is newer than our last look
        now = self._releases.now(served.release)
        for place, draft in enumerate(drafts):
            if ranked is None:
                draft.degraded.append(cast(Degraded, trouble))
                continue
            if now is not served:  # rules about items speak of the new ones too
                draft.forbidden = now.forbidden(draft.ask.user_id, stage=draft.profile.stage if draft.profile else None)
            draft.ranked = offered(ranked[place], served=now, forbidden=draft.forbidden)

    async def _retain(self, drafts: Sequence[Draft], profiled: Profiled, course: Course) -> None:
        """Give each live draft its retention decision; where that fails there is none."""
        live = [place for place, draft in enumerate(drafts) if draft.ask.live]
        if not live:
            return
        batch = RetainBatch(drafts[0].ask.served.release, [profiled.facts[place] for place in live])
        decided, trouble = await course.within(
            "retention", lambda: self._hops.retain(batch), self._timeouts.retention_s
        )
        for n, place in enumerate(live):
            if decided is None:
                drafts[place].degraded.append(cast(Degraded, trouble))
                drafts[place].retention_reason = "no decision in time, so no action"
            else:
                drafts[place].retention = decided[n]

    async def _explain(self, drafts: Sequence[Draft], course: Course) -> None:
        """Give each draft the reasons of its slate; where that fails it has none."""
        explain = self._hops.explain
        if not drafts or explain is None:
            return
        asks = [ProfileAsk(draft.ask.user_id, draft.ask.time, draft.ask.recent) for draft in drafts]
        batch = ExplainBatch(drafts[0].ask.served.release, asks, [draft.ranked.row_K for draft in drafts])
        explained, trouble = await course.within("explainer", lambda: explain(batch), self._timeouts.explainer_s)
        for place, draft in enumerate(drafts):
            if explained is None:
                draft.degraded.append(cast(Degraded, trouble))
            else:
                draft.explained = explained[place]

    async def _log(self, drafts: Sequence[Draft], course: Course) -> None:
        """Give answers their decision_id once their slates are durable, and keep those of requests with a key in the same transaction."""
        if not drafts:
            return
        for draft in drafts:
            draft.decision_id = uuid.uuid4().hex if draft.ask.live else None
        served = self._releases.now(drafts[0].ask.served.release)
        slates = [slate_of(draft, served=served) for draft in drafts if draft.ask.live]
        now = asyncio.get_running_loop().time()
        for draft in drafts:
            if draft.ask.claim:
                draft.kept = answer_of(draft, served=served, course=course, ended=now)
        kept = [kept_of(draft) for draft in drafts if draft.kept]
        late = threading.Event()
        write = partial(asyncio.to_thread, self._store.log_slates, slates, kept=kept, cancelled=late)
        with self._telemetry.timed(measures.STORE_SECONDS, "log_slates"):
            lost, trouble = await course.within(STORE, write, self._timeouts.store_s)
        if trouble:
            late.set()  # the thread may go on: what the answer calls not logged must not be logged after all
        for draft in drafts:
            if (
                lost is None
                or draft.decision_id in lost.decisions
                or (draft.ask.claim and draft.ask.claim.key in lost.keys)
            ):
                draft.decision_id, draft.kept = None, None
                draft.degraded.append("slate_not_logged")
