"""Gateway: requests in, one batch through profiler, ranker and retention, answers out.

It degrades and never fails: what a part cannot give in time is left out or replaced by what is popular, and the answer says
so. Only a request that makes no sense is refused.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar, cast

from pydantic import TypeAdapter, ValidationError

import clm_ray
from clm_ray.errors import EndpointError, RequestError
from clm_ray.features.history import EMPTY
from clm_ray.messages import (
    MAX_EVENTS,
    MAX_K,
    Degraded,
    EventsAnswer,
    EventsRequest,
    Limits,
    Name,
    Profile,
    Readiness,
    Recommendation,
    RecommendRequest,
    UserProfile,
    Verdict,
    Version,
)
from clm_ray.serve import measures
from clm_ray.serve.answers import Draft, answer_of, candidates_of, popular_slate, slate_of
from clm_ray.serve.args import CoalesceArgs, TimeoutArgs
from clm_ray.serve.asks import Ask, read_ask
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.coalesce import Coalescer
from clm_ray.serve.hops import Hops, ProfileAsk, ProfileBatch, Profiled, RankBatch, RetainBatch
from clm_ray.serve.intake import admit
from clm_ray.serve.observed import note_answers, note_events
from clm_ray.serve.telemetry import Telemetry, unrecorded
from clm_ray.store.clock import Clock
from clm_ray.store.store import Store

logger = logging.getLogger("clm_ray.serve")

T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")

AS_OF_REASON = "an as_of request books no decision and is not logged"
_READY_WITHIN_S = 5.0
_NAME: TypeAdapter[str] = TypeAdapter(Name)


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
    ) -> None:
        """`telemetry`: where metrics go; None: nowhere."""
        self._served = served
        self._store = store
        self._clock = clock
        self._hops = hops
        self._timeouts = timeouts
        self.telemetry = telemetry or unrecorded()
        self._recommendations = _coalescer(self._recommend, coalesce)
        self._profiles = _coalescer(self._profile, coalesce)

    # what callers ask

    async def recommend(self, request: RecommendRequest) -> Recommendation:
        """What to show, who the user is, and what to do. Raises RequestError (4xx), OverloadedError."""
        return await self._recommendations.submit(read_ask(request, served=self._served, now=self._clock.now_us()))

    async def profile(self, user_id: str, *, as_of: int | None) -> UserProfile:
        """Who the user is. Raises RequestError, OverloadedError, EndpointError when no profile can be had."""
        now = self._clock.now_us()
        try:
            _NAME.validate_python(user_id)
        except ValidationError as error:
            message = error.errors(include_url=False)[0]["msg"]
            raise RequestError(message, field="user_id", value=user_id, fix="1 to 200 printable characters") from None
        if as_of is not None and as_of > now:
            raise RequestError("lies in the future", field="as_of", value=as_of, fix="leave it out for now")
        ask = ProfileAsk(user_id=self._served.known_as(user_id), time=now if as_of is None else as_of, recent=EMPTY)
        profile = await self._profiles.submit(ask)
        return UserProfile(user_id=user_id, time=ask.time, release=self._served.release, profile=profile)

    async def events(self, request: EventsRequest) -> EventsAnswer:
        """Store what is right, say what is wrong. Raises StoreError when the store refuses: then nothing was kept."""
        now = self._clock.now_us()
        admitted = admit(request.events, served=self._served, now=now)
        stored = []
        if admitted.events:
            with self.telemetry.timed(measures.STORE_SECONDS, "append_events"):
                stored = await asyncio.to_thread(self._store.append_events, admitted.events, received_at=now)
        verdicts = list(admitted.rejected)
        for index, event, verdict, note in zip(admitted.index, admitted.events, stored, admitted.notes, strict=True):
            fields = {"note": note} if note else {}
            verdicts.append(Verdict(index=index, event_id=event.event_id, status=verdict.value, **fields))
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
            logger.warning("%s is not ready: %s", part, _cause(error))
            return False, _cause(error)

    # one batch

    async def _profile(self, asks: list[ProfileAsk]) -> list[Profile]:
        profiled, trouble = await self._profiled(asks)
        if profiled is None:
            raise EndpointError(f"no profile at the moment ({trouble})", fix="try again")
        return profiled.profiles

    async def _recommend(self, asks: list[Ask]) -> list[Recommendation]:
        start = time.perf_counter()
        drafts = [Draft(ask=ask, ranked=popular_slate(ask, served=self._served)) for ask in asks]
        profiled, trouble = await self._profiled([ProfileAsk(a.user_id, a.time, a.recent) for a in asks])
        if profiled is None:
            for draft in drafts:
                draft.degraded.append(cast(Degraded, trouble))
                draft.retention_reason = "no profile, so no decision" if draft.ask.live else AS_OF_REASON
        else:
            for draft, profile in zip(drafts, profiled.profiles, strict=True):
                draft.profile = profile
                draft.degraded += [] if profile.events else ["no_history"]
            await asyncio.gather(self._rank(drafts, profiled), self._retain(drafts, profiled))
        await self._log([draft for draft in drafts if draft.ask.live])
        note_answers(self.telemetry, drafts, served=self._served, seconds=time.perf_counter() - start)
        return [answer_of(draft, served=self._served) for draft in drafts]

    async def _profiled(self, asks: list[ProfileAsk]) -> tuple[Profiled | None, str]:
        batch = ProfileBatch(release=self._served.release, asks=asks)
        return await self._within("profiler", lambda: self._hops.profile(batch), self._timeouts.profiler_s)

    async def _rank(self, drafts: Sequence[Draft], profiled: Profiled) -> None:
        """Give each draft its slate; where that fails it keeps the popular one."""
        batch = RankBatch(
            release=self._served.release,
            states=profiled.states,
            rows=[candidates_of(draft, served=self._served) for draft in drafts],
            k=[draft.ask.k for draft in drafts],
        )
        ranked, trouble = await self._within("ranker", lambda: self._hops.rank(batch), self._timeouts.ranker_s)
        for place, draft in enumerate(drafts):
            if ranked is None:
                draft.degraded.append(cast(Degraded, trouble))
            else:
                draft.ranked = ranked[place]

    async def _retain(self, drafts: Sequence[Draft], profiled: Profiled) -> None:
        """Give each live draft its retention decision; where that fails there is none."""
        live = [place for place, draft in enumerate(drafts) if draft.ask.live]
        for draft in drafts:
            draft.retention_reason = None if draft.ask.live else AS_OF_REASON
        if not live:
            return
        batch = RetainBatch(self._served.release, [profiled.facts[place] for place in live])
        decided, trouble = await self._within("retention", lambda: self._hops.retain(batch), self._timeouts.retention_s)
        for n, place in enumerate(live):
            if decided is None:
                drafts[place].degraded.append(cast(Degraded, trouble))
                drafts[place].retention_reason = "no decision in time, so no action"
            else:
                drafts[place].retention = decided[n]

    async def _log(self, live: Sequence[Draft]) -> None:
        """Give answers their decision_id once their slates are durable."""
        if not live:
            return
        ids = [uuid.uuid4().hex for _ in live]
        slates = [slate_of(d, decision_id=i, served=self._served) for d, i in zip(live, ids, strict=True)]
        late = threading.Event()
        with self.telemetry.timed(measures.STORE_SECONDS, "log_slates"):
            _, trouble = await self._within(
                "store",
                lambda: asyncio.to_thread(self._store.log_slates, slates, cancelled=late),
                self._timeouts.store_s,
            )
        if trouble:
            late.set()  # the thread may go on: what the answer calls not logged must not be logged after all
        for draft, decision_id in zip(live, ids, strict=True):
            if trouble:
                draft.degraded.append("slate_not_logged")
            else:
                draft.decision_id = decision_id

    async def _within(self, part: str, hop: Callable[[], Awaitable[T]], seconds: float) -> tuple[T | None, str]:
        """What the part answers, or None and why not: the one place where failures become degradations."""
        start, outcome = time.perf_counter(), "ok"
        try:
            async with asyncio.timeout(seconds):
                return await hop(), ""
        except TimeoutError:
            logger.warning("%s did not answer within %g s", part, seconds)
            outcome = "late"
        except Exception as error:
            logger.error("%s failed: %s", part, _cause(error))
            outcome = "failed"
        finally:
            self.telemetry.observe(measures.HOP_SECONDS, part, outcome, value=time.perf_counter() - start)
        return None, f"{part}_{outcome}"


def _cause(error: BaseException) -> str:
    """What went wrong in one line without the values of a statement, which may be personal; Ray wraps the cause in its own error."""
    cause = getattr(error, "cause", None) or error
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0][:200]}" if lines else type(cause).__name__


def _coalescer(send: Callable[[list[Q]], Awaitable[list[A]]], how: CoalesceArgs) -> Coalescer[Q, A]:
    return Coalescer(
        send,
        max_batch=how.max_batch,
        wait_s=how.wait_ms / 1000,
        in_flight=how.in_flight,
        max_waiting=how.max_waiting,
    )
