"""Gateway: requests in, one batch through profiler, ranker and retention, answers out.

It degrades and never fails: what a part cannot give in time is left out or replaced by what is popular, and the answer says
so. Only a request that makes no sense is refused.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import clm_ray
from clm_ray.errors import ClmError, EndpointError, RequestError
from clm_ray.features.history import EMPTY
from clm_ray.messages import (
    MAX_BATCH,
    MAX_EVENTS,
    MAX_K,
    BatchAnswer,
    BatchRequest,
    Degraded,
    EventsAnswer,
    EventsRequest,
    Limits,
    Profile,
    Ranking,
    RankRequest,
    Readiness,
    Recommendation,
    RecommendRequest,
    UserProfile,
    Version,
)
from clm_ray.serve import measures, request_ids
from clm_ray.serve.answers import (
    Draft,
    answer_of,
    candidates_of,
    first_draft,
    kept_of,
    offered,
    popular_slate,
    ranking_of,
    result_of,
    slate_of,
)
from clm_ray.serve.args import CoalesceArgs, TimeoutArgs
from clm_ray.serve.asks import Ask, names_unknown_items, read_ask
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.coalesce import Coalescer
from clm_ray.serve.course import STORE, Course, cause_of
from clm_ray.serve.hops import ANYTHING, ExplainBatch, Hops, ProfileAsk, ProfileBatch, Profiled, RankBatch, RetainBatch
from clm_ray.serve.intake import admit, verdict_of
from clm_ray.serve.items import Items
from clm_ray.serve.live_items import EVERY_S, SOON_S, LiveItems, amended_catalogue
from clm_ray.serve.observed import note_answers, note_events
from clm_ray.serve.once import Once
from clm_ray.serve.policy_desk import PolicyDesk
from clm_ray.serve.shadow import ShadowLine
from clm_ray.serve.split import Challenger
from clm_ray.serve.telemetry import Telemetry, unrecorded
from clm_ray.serve.users import Users, check_user
from clm_ray.store.clock import Clock
from clm_ray.store.store import Store

Q = TypeVar("Q")
A = TypeVar("A")

_READY_WITHIN_S = 5.0


class Gateway:
    """Serves one release. Belongs to one event loop; the store is called in threads."""

    def __init__(
        self,
        *,
        served: ServedCatalogue,
        store: Store,
        clock: Clock,
        hops: Hops,
        coalesce: CoalesceArgs,
        timeouts: TimeoutArgs,
        telemetry: Telemetry | None = None,
        keep_answers_s: float = 24 * 3600,
        folder: Path | None = None,
        challenger: Challenger | None = None,
        shadow: ShadowLine | None = None,
    ) -> None:
        """`telemetry`: where metrics go; None: nowhere. `keep_answers_s`: how long answers of requests with an Idempotency-Key are kept, seconds. `folder`: of the release.
        `challenger`: answers its share of the users instead. `shadow`: is offered every answer that was logged."""
        self._release = served.release
        self._lives = {
            one.release: LiveItems(one, release=one.release, store=store, amend=amended_catalogue, now=clock.now_us)
            for one in (served, *([challenger.served] if challenger else []))
        }
        self._store = store
        self._clock = clock
        self._hops = hops
        self._timeouts = timeouts
        self.telemetry = telemetry or unrecorded()
        self.policy = PolicyDesk(served=served, store=store, clock=clock)
        self.items = Items(
            live=self._lives[self._release], store=store, clock=clock, encode=hops.encode, encoder_s=timeouts.encoder_s
        )
        self.users = Users(served=served, store=store, clock=clock, folder=folder)
        self._once = Once(store=store, clock=clock, keep_s=keep_answers_s)
        self._coalesce = coalesce
        self._challenger = challenger
        self._shadow = shadow
        self._lanes: dict[tuple[str, int], Coalescer[Ask, Recommendation]] = {}
        self._profiles = {
            one.release: _coalescer(partial(self._profile, one.release), coalesce)
            for one in (served, *([challenger.served] if challenger else []))
        }

    @property
    def _served(self) -> ServedCatalogue:
        """The release, with its items as they were when the store was last asked. Rows keep their meaning, whenever that was."""
        return self._lives[self._release].current

    # what callers ask

    async def recommend(self, request: RecommendRequest, *, key: str | None = None) -> Recommendation:
        """What to show, who the user is, and what to do. `key`: repeated requests with the same one get the same answer.

        Raises RequestError (4xx), OverloadedError, ConflictError.
        """
        ask = await self._read(request)
        if key is None:
            return await self._submit(ask)
        (outcome,) = await self._once.run([ask], key=key, body=request, answer=self._submit)
        if isinstance(outcome, ClmError):
            raise outcome
        return outcome

    async def recommend_batch(self, request: BatchRequest, *, key: str | None = None) -> BatchAnswer:
        """A recommendation, or what is wrong, for each request. Raises ConflictError."""
        asks = [await self._read_or_error(one) for one in request.requests]
        outcomes: Sequence[Recommendation | BaseException]
        if key is None:
            outcomes = await asyncio.gather(*map(self._submit_or_error, asks), return_exceptions=True)
        else:
            outcomes = await self._once.run(asks, key=key, body=request, answer=self._submit)
        return BatchAnswer(results=[result_of(index, outcome) for index, outcome in enumerate(outcomes)])

    async def rank(self, request: RankRequest) -> Ranking:
        """Items in order: no decision, no action, nothing logged. Raises as `recommend` does."""
        return ranking_of(await self._submit(await self._read(request)))

    def _served_to(self, user_id: str | None) -> ServedCatalogue:
        """The release that answers this user; anonymous ones are answered by the one that is served."""
        if self._challenger is None or user_id is None or not self._challenger.takes(self._served.known_as(user_id)):
            return self._served
        return self._now(self._challenger.served)

    def _now(self, served: ServedCatalogue) -> ServedCatalogue:
        """The release with its items as they were when the store was last asked. Rows keep their meaning, whenever that was."""
        return self._lives[served.release].current

    async def _read(self, request: RankRequest) -> Ask:
        arrived = asyncio.get_running_loop().time()
        await self._look(every_s=EVERY_S)
        if names_unknown_items(request, self._served_to(request.user_id)):
            await self._look(every_s=SOON_S)
        return read_ask(
            request,
            served=self._served_to(request.user_id),
            now=self._clock.now_us(),
            arrived=arrived,
            request_id=request_ids.current(),
        )

    async def _look(self, *, every_s: float) -> None:
        """See which items are new, where that was last seen `every_s` ago."""
        for live in self._lives.values():
            if live.due(every_s=every_s):
                await asyncio.to_thread(live.get, every_s=every_s)

    async def _read_or_error(self, request: RankRequest) -> Ask | ClmError:
        try:
            return await self._read(request)
        except ClmError as error:
            return error

    async def _submit_or_error(self, ask: Ask | ClmError) -> Recommendation:
        if isinstance(ask, ClmError):
            raise ask
        return await self._submit(ask)

    async def _submit(self, ask: Ask) -> Recommendation:
        """Requests share batches with those whose deadline is of like length, so that nobody waits for, or is cut short by, somebody else's."""
        lane = ask.served.release, (ask.request.deadline_ms or 0).bit_length()
        if lane not in self._lanes:
            self._lanes[lane] = _coalescer(self._recommend, self._coalesce)
        return await self._lanes[lane].submit(ask)

    async def profile(self, user_id: str, *, as_of: int | None) -> UserProfile:
        """Who the user is. Raises RequestError, OverloadedError, EndpointError when no profile can be had."""
        now = self._clock.now_us()
        check_user(user_id)
        if as_of is not None and as_of > now:
            raise RequestError("lies in the future", field="as_of", value=as_of, fix="leave it out for now")
        served = self._served_to(user_id)
        ask = ProfileAsk(user_id=served.known_as(user_id), time=now if as_of is None else as_of, recent=EMPTY)
        profile = await self._profiles[served.release].submit(ask)
        return UserProfile(user_id=user_id, time=ask.time, release=served.release, profile=profile)

    async def events(self, request: EventsRequest) -> EventsAnswer:
        """Store what is right, say what is wrong. Raises StoreError when the store refuses: then nothing was kept."""
        await self._look(every_s=EVERY_S)
        now = self._clock.now_us()
        admitted = admit(request.events, served=self._served, now=now)
        stored = []
        if admitted.events:
            with self.telemetry.timed(measures.STORE_SECONDS, "append_events"):
                stored = await asyncio.to_thread(self._store.append_events, admitted.events, received_at=now)
        verdicts = list(admitted.rejected)
        for index, event, verdict, note in zip(admitted.index, admitted.events, stored, admitted.notes, strict=True):
            verdicts.append(verdict_of(index, event.event_id, verdict, note))
        verdicts.sort(key=lambda verdict: verdict.index)
        count = {status: sum(v.status == status for v in verdicts) for status in ("accepted", "duplicate", "rejected")}
        answer = EventsAnswer(verdicts=verdicts, **count)
        note_events(self.telemetry, answer)
        return answer

    async def version(self) -> Version:
        """What is being served."""
        recipe = self._served.recipe
        return Version(
            name="clm_ray",
            version=clm_ray.__version__,
            release=self._served.release,
            recipe=recipe.name,
            clock=recipe.serve.clock,
            time=self._clock.now_us(),
            event_types=self._served.event_types,
            limits=Limits(
                default_k=recipe.serve.k,
                max_k=MAX_K,
                max_candidates=recipe.serve.max_candidates,
                max_events=MAX_EVENTS,
                max_batch=MAX_BATCH,
            ),
        )

    async def ready(self) -> Readiness:
        """Ask every part for the release it has loaded."""
        names = list(self._hops.loaded)
        answers = await asyncio.gather(*(self._loaded(name) for name in names))
        parts = {
            "gateway": self._served.release,
            **{name: text for name, (_, text) in zip(names, answers, strict=True)},
        }
        return Readiness(ready=all(ok for ok, _ in answers), release=self._served.release, parts=parts)

    async def _loaded(self, part: str) -> tuple[bool, str]:
        try:
            async with asyncio.timeout(_READY_WITHIN_S):
                return True, await self._hops.loaded[part]()
        except TimeoutError:
            return False, "does not answer"
        except Exception as error:
            request_ids.log("not ready", level=logging.WARNING, part=part, cause=cause_of(error))
            return False, cause_of(error)

    # one batch

    async def _profile(self, release: str, asks: list[ProfileAsk]) -> list[Profile]:
        course = Course(self.telemetry, asyncio.get_running_loop().time())
        profiled, trouble = await self._profiled(release, asks, course)
        if profiled is None:
            raise EndpointError(f"no profile at the moment ({trouble})", fix="try again")
        return profiled.profiles

    async def _recommend(self, asks: list[Ask]) -> list[Recommendation]:
        now, served = asyncio.get_running_loop().time, self._now(asks[0].served)
        request_ids.about(ask.request_id for ask in asks if ask.request_id)
        course = Course.of(((ask.until, ask.request.deadline_ms) for ask in asks), now=now(), telemetry=self.telemetry)
        drafts = [first_draft(ask, served=served) for ask in asks]
        wanted = [ProfileAsk(ask.user_id, ask.time, ask.recent) for ask in asks]
        profiled, trouble = await self._profiled(served.release, wanted, course)
        if profiled is None:
            for draft in drafts:
                draft.degraded.append(cast(Degraded, trouble))
                draft.retention_reason = draft.ask.why_not or "no profile, so no decision"
        else:
            for draft, profile in zip(drafts, profiled.profiles, strict=True):
                draft.profile = profile
                draft.forbidden = served.forbidden(draft.ask.user_id, stage=profile.stage)
                draft.ranked = popular_slate(draft.ask, served=served, stage=profile.stage, forbidden=draft.forbidden)
                draft.degraded += [] if profile.events else ["no_history"]
            await asyncio.gather(self._rank(drafts, profiled, course), self._retain(drafts, profiled, course))
            await self._explain([draft for draft in drafts if draft.ask.request.explain and draft.scored], course)
        served = self._now(served)
        await self._log([draft for draft in drafts if draft.ask.live or draft.ask.claim], course)
        shown = [draft for draft in drafts if not draft.ask.ranks_only]
        note_answers(self.telemetry, shown, served=served, seconds=now() - course.started)
        if self._shadow is not None:
            self._shadow.offer(drafts)
        return [draft.kept or answer_of(draft, served=served, course=course, ended=now()) for draft in drafts]

    async def _profiled(self, release: str, asks: list[ProfileAsk], course: Course) -> tuple[Profiled | None, str]:
        batch = ProfileBatch(release=release, asks=asks)
        return await course.within("profiler", lambda: self._hops.profile(batch), self._timeouts.profiler_s)

    async def _rank(self, drafts: Sequence[Draft], profiled: Profiled, course: Course) -> None:
        """Give each draft its slate; where that fails it keeps the popular one."""
        served = self._now(drafts[0].ask.served)
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
            await self._look(every_s=0.0)  # the ranker knows of an item that is newer than our last look
        for place, draft in enumerate(drafts):
            if ranked is None:
                draft.degraded.append(cast(Degraded, trouble))
            else:
                draft.ranked = offered(ranked[place], served=self._now(served))

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
        served = self._now(drafts[0].ask.served)
        slates = [slate_of(draft, served=served) for draft in drafts if draft.ask.live]
        now = asyncio.get_running_loop().time()
        for draft in drafts:
            if draft.ask.claim:
                draft.kept = answer_of(draft, served=served, course=course, ended=now)
        kept = [kept_of(draft) for draft in drafts if draft.kept]
        late = threading.Event()
        write = partial(asyncio.to_thread, self._store.log_slates, slates, kept=kept, cancelled=late)
        with self.telemetry.timed(measures.STORE_SECONDS, "log_slates"):
            lost, trouble = await course.within(STORE, write, self._timeouts.store_s)
        if trouble:
            late.set()  # the thread may go on: what the answer calls not logged must not be logged after all
        for draft in drafts:
            if lost is None or (draft.ask.claim and draft.ask.claim.key in lost):
                draft.decision_id, draft.kept = None, None
                draft.degraded.append("slate_not_logged")


def _coalescer(send: Callable[[list[Q]], Awaitable[list[A]]], how: CoalesceArgs) -> Coalescer[Q, A]:
    return Coalescer(
        send,
        max_batch=how.max_batch,
        wait_s=how.wait_ms / 1000,
        in_flight=how.in_flight,
        max_waiting=how.max_waiting,
    )
