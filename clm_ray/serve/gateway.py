"""Gateway: what callers ask. Requests are checked, put together into batches, and sent on their way (`answering.py`).

Only a request that makes no sense is refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import clm_ray
from clm_ray.errors import ClmError, RequestError
from clm_ray.features.history import EMPTY
from clm_ray.messages import (
    MAX_BATCH,
    MAX_EVENTS,
    MAX_K,
    BatchAnswer,
    BatchRequest,
    EventsAnswer,
    EventsRequest,
    Limits,
    Ranking,
    RankRequest,
    Readiness,
    Recommendation,
    RecommendRequest,
    UserProfile,
    Version,
)
from clm_ray.serve import measures, request_ids
from clm_ray.serve.answering import Answering
from clm_ray.serve.answers import (
    ranking_of,
    result_of,
)
from clm_ray.serve.args import CoalesceArgs, TimeoutArgs
from clm_ray.serve.asks import Ask, read_ask, wanted_of
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.coalesce import Coalescer
from clm_ray.serve.course import cause_of
from clm_ray.serve.hops import Hops, ProfileAsk
from clm_ray.serve.intake import admit, verdict_of
from clm_ray.serve.items import Items
from clm_ray.serve.live_items import EVERY_S, SOON_S
from clm_ray.serve.live_releases import LiveReleases
from clm_ray.serve.observed import note_events
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
        self._releases = LiveReleases(served, challenger=challenger, store=store, clock=clock)
        self._store = store
        self._clock = clock
        self._hops = hops
        self.telemetry = telemetry or unrecorded()
        self.policy = PolicyDesk(served=served, store=store, clock=clock)
        self.items = Items(
            live=self._releases.live(served.release),
            store=store,
            clock=clock,
            encode=hops.encode,
            encoder_s=timeouts.encoder_s,
        )
        self.users = Users(served=served, store=store, clock=clock, folder=folder)
        self._once = Once(store=store, clock=clock, keep_s=keep_answers_s)
        self._coalesce = coalesce
        self._answering = Answering(
            releases=self._releases, store=store, hops=hops, timeouts=timeouts, telemetry=self.telemetry, shadow=shadow
        )
        self._lanes: dict[tuple[str, int, bool], Coalescer[Ask, Recommendation]] = {}
        self._profiles = {
            name: _coalescer(partial(self._answering.profile, name), coalesce) for name in self._releases.names
        }

    async def recommend(self, request: RecommendRequest, *, key: str | None = None) -> Recommendation:
        """What to show, who the user is, and what to do. `key`: repeated requests with the same one get the same answer.

        Raises RequestError (4xx), OverloadedError, ConflictError.
        """
        ask = await self._read_or_error(request)
        if key is None:
            return await self._submit_or_error(ask)
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

    async def _read(self, request: RankRequest) -> Ask:
        arrived = asyncio.get_running_loop().time()
        await self._releases.look(every_s=EVERY_S)
        served = self._releases.to(request.user_id)
        wanted = wanted_of(request, served)
        if wanted is not None and not wanted.known:
            await self._releases.look(every_s=SOON_S)
            served = self._releases.to(request.user_id)
            wanted = wanted_of(request, served)
        return read_ask(
            request,
            served=served,
            wanted=wanted,
            now=self._clock.now_us(),
            arrived=arrived,
            request_id=request_ids.current(),
        )

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
        """Requests share batches with those whose deadline is of like length, and of which as much is left, so that nobody waits for, or is cut short by,
        somebody else's. Reasons take long: who asks for them waits with others who do."""
        deadline = ask.request.deadline_ms
        lane = ask.served.release, (deadline or 0).bit_length(), ask.request.explain
        if lane not in self._lanes:
            alike = None if deadline is None else _time_left
            self._lanes[lane] = _coalescer(self._answering.recommend, self._coalesce, alike=alike)
        return await self._lanes[lane].submit(ask)

    async def profile(self, user_id: str, *, as_of: int | None) -> UserProfile:
        """Who the user is. Raises RequestError, OverloadedError, EndpointError when no profile can be had."""
        now = self._clock.now_us()
        check_user(user_id)
        if as_of is not None and as_of > now:
            raise RequestError("lies in the future", field="as_of", value=as_of, fix="leave it out for now")
        served = self._releases.to(user_id)
        ask = ProfileAsk(user_id=served.known_as(user_id), time=now if as_of is None else as_of, recent=EMPTY)
        profile = await self._profiles[served.release].submit(ask)
        return UserProfile(user_id=user_id, time=ask.time, release=served.release, profile=profile)

    async def events(self, request: EventsRequest) -> EventsAnswer:
        """Store what is right, say what is wrong. Raises StoreError when the store refuses: then nothing was kept."""
        await self._releases.look(every_s=EVERY_S)
        now = self._clock.now_us()
        admitted = admit(request.events, served=self._releases.served, now=now)
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
        recipe = self._releases.served.recipe
        return Version(
            name="clm_ray",
            version=clm_ray.__version__,
            release=self._releases.served.release,
            recipe=recipe.name,
            clock=recipe.serve.clock,
            time=self._clock.now_us(),
            event_types=self._releases.served.event_types,
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
            "gateway": self._releases.served.release,
            **{name: text for name, (_, text) in zip(names, answers, strict=True)},
        }
        return Readiness(ready=all(ok for ok, _ in answers), release=self._releases.served.release, parts=parts)

    async def _loaded(self, part: str) -> tuple[bool, str]:
        try:
            async with asyncio.timeout(_READY_WITHIN_S):
                return True, await self._hops.loaded[part]()
        except TimeoutError:
            return False, "does not answer"
        except Exception as error:
            request_ids.log("not ready", level=logging.WARNING, part=part, cause=cause_of(error))
            return False, cause_of(error)


def _time_left(ask: Ask) -> int:
    """The same for asks of whose deadlines, now, as much is left within a factor of two; 0 where nothing is."""
    assert ask.until is not None, "it has a deadline"
    return max(round(1000 * (ask.until - asyncio.get_running_loop().time())), 0).bit_length()


def _coalescer(
    send: Callable[[list[Q]], Awaitable[list[A]]], how: CoalesceArgs, *, alike: Callable[[Q], int] | None = None
) -> Coalescer[Q, A]:
    return Coalescer(
        send,
        max_batch=how.max_batch,
        wait_s=how.wait_ms / 1000,
        in_flight=how.in_flight,
        max_waiting=how.max_waiting,
        alike=alike,
    )
