"""Requests with an Idempotency-Key: answered once, however often they are sent, and through whichever replica.

Each request of a batch has a key of its own, made of the batch's key and its place, and the whole batch as its body. An answer is kept in the
transaction that logs its slate; a request that came to nothing gives its key back, so that it can be tried again. One that is no longer valid (its
item was taken out, say) is still told what it was told before.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel

from clm_ray.errors import ClmError, ConflictError, StoreError
from clm_ray.messages import Recommendation
from clm_ray.serve import request_ids
from clm_ray.serve.asks import Ask
from clm_ray.store.answers import Claim, Claimed
from clm_ray.store.clock import Clock
from clm_ray.store.store import Store

LEASE_US = 30_000_000
"""How long a key waits for the replica that claimed it: longer than all parts together may take."""
_WAIT_S = 10.0
"""How long a repeated request waits for the first one's answer, where its deadline is not sooner."""
_STORE_S = 10.0
"""How long any request waits for the store to say what was answered before, where its deadline is not sooner."""
_PAUSE_S = 0.05

_FIELD = "Idempotency-Key"

T = TypeVar("T")
Outcome = Recommendation | ClmError


class Once:
    """Belongs to one event loop; the store is called in threads."""

    def __init__(self, *, store: Store, clock: Clock, keep_s: float) -> None:
        """`keep_s`: how long answers are kept, seconds."""
        self._store = store
        self._clock = clock
        self._keep_us = round(keep_s * 1_000_000)
        self._running: set[asyncio.Task[Any]] = set()

    async def run(
        self,
        asks: Sequence[Ask | ClmError],
        *,
        key: str,
        body: BaseModel,
        answer: Callable[[Ask], Awaitable[Recommendation]],
    ) -> list[Outcome]:
        """The answer to each ask, new or kept; what was refused already stays so, unless there is an answer. It is seen to its end even when the
        caller goes away.

        Raises ConflictError (409): the key was used for another body, or the first request is not answered yet; StoreError: the store cannot say in time.
        """
        return await asyncio.shield(self._start(self._run(asks, key, body, answer)))

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin what goes on whoever waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _run(
        self,
        asks: Sequence[Ask | ClmError],
        key: str,
        body: BaseModel,
        answer: Callable[[Ask], Awaitable[Recommendation]],
    ) -> list[Outcome]:
        until = _until(asks)
        kept = await self._kept(asks, key, body, until)
        claims = self._claims(asks, key, body)
        claimed = await self._claim(claims, key, until)
        outcomes = await asyncio.gather(
            *(_outcome(kept.get(n, ask), claims.get(n), claimed.get(n), answer) for n, ask in enumerate(asks)),
            return_exceptions=True,
        )
        nothing = [one.token for n, one in claims.items() if claimed[n].status == "mine" and not _is_kept(outcomes[n])]
        self._give_back(nothing)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, ClmError):
                raise outcome
        return [outcome for outcome in outcomes if isinstance(outcome, Recommendation | ClmError)]

    def _claims(self, asks: Sequence[Ask | ClmError], key: str, body: BaseModel) -> dict[int, Claim]:
        now = self._clock.now_us()
        digest = _body_of(body)
        return {
            place: Claim(
                key=_key_of(key, body, place),
                body=digest,
                token=uuid.uuid4().hex,
                user_id=ask.user_id or None,
                claimed_until=now + LEASE_US,
                expires_at=now + self._keep_us,
            )
            for place, ask in enumerate(asks)
            if isinstance(ask, Ask)
        }

    async def _kept(
        self, asks: Sequence[Ask | ClmError], key: str, body: BaseModel, until: float
    ) -> dict[int, Recommendation]:
        """By place, what requests that are refused now were answered when they were not. Where the store cannot say, the refusal stands."""
        refused = {place: _key_of(key, body, place) for place, ask in enumerate(asks) if isinstance(ask, ClmError)}
        if not refused:
            return {}
        now, digest = self._clock.now_us(), _body_of(body)
        read = partial(self._store.kept_answers, list(refused.values()), body=digest, now=now)
        try:
            found = await self._asked(read, until=until)
        except StoreError as error:
            request_ids.log("kept answers not read", level=logging.WARNING, problem=error.problem)
            return {}
        return {place: Recommendation.model_validate_json(found[one]) for place, one in refused.items() if one in found}

    async def _claim(self, claims: dict[int, Claim], key: str, until: float) -> dict[int, Claimed]:
        """Claim all; wait for what somebody else is answering."""
        if not claims:
            return {}
        loop = asyncio.get_running_loop()
        patient = min(loop.time() + _WAIT_S, until)
        undo = partial(self._give_back, [one.token for one in claims.values()])
        while True:
            claim = partial(self._store.claim_answers, list(claims.values()), now=self._clock.now_us())
            found = await self._asked(claim, until=until, undo=undo)
            statuses = {one.status for one in found}
            if "other" not in statuses and "busy" not in statuses:
                return dict(zip(claims, found, strict=True))
            if "other" in statuses or loop.time() >= patient:
                undo()
                raise _conflict(key, busy="other" not in statuses)
            await asyncio.sleep(_PAUSE_S)

    async def _asked(self, call: Callable[[], T], *, until: float, undo: Callable[[], None] = lambda: None) -> T:
        """What the store says. Raises StoreError where it says nothing by `until` (the loop's clock, s); what it does all the same is undone."""
        asking = self._start(asyncio.to_thread(call))
        await asyncio.wait([asking], timeout=max(until - asyncio.get_running_loop().time(), 0.0))
        if asking.done():
            return asking.result()
        asking.add_done_callback(lambda task: None if task.cancelled() or task.exception() else undo())
        problem = "the store does not say in time whether this was answered before"
        raise StoreError(problem, field=_FIELD, fix="send it again with the same key")

    def _give_back(self, tokens: Sequence[str]) -> None:
        """Release claims that came to nothing, after the answer; where the store cannot, they end with their lease."""
        if tokens:
            self._start(self._released(tokens))

    async def _released(self, tokens: Sequence[str]) -> None:
        try:
            await asyncio.to_thread(self._store.release_answers, tokens)
        except StoreError as error:
            request_ids.log("keys not given back", level=logging.WARNING, problem=error.problem)


def _until(asks: Sequence[Ask | ClmError]) -> float:
    """By when the store is to have said what was answered before: the last of the deadlines, `_STORE_S` from now at most."""
    deadlines = [math.inf if ask.until is None else ask.until for ask in asks if isinstance(ask, Ask)]
    return min(asyncio.get_running_loop().time() + _STORE_S, max(deadlines, default=math.inf))


def _conflict(key: str, *, busy: bool) -> ConflictError:
    if not busy:
        fix = "use a new key for a new request"
        return ConflictError("was used for another request", field=_FIELD, value=key, fix=fix)
    problem = "the first request with this key is not answered yet"
    error = ConflictError(problem, field=_FIELD, value=key, fix="try again a little later")
    error.retry_after_s = 1
    return error


async def _outcome(
    ask: Ask | Outcome,
    claim: Claim | None,
    claimed: Claimed | None,
    answer: Callable[[Ask], Awaitable[Recommendation]],
) -> Outcome:
    if not isinstance(ask, Ask):
        return ask
    assert claim is not None, "every ask is claimed"
    assert claimed is not None, "and was told what of it"
    if claimed.answer is not None:
        return Recommendation.model_validate_json(claimed.answer)
    return await answer(replace(ask, claim=claim))


def _is_kept(outcome: object) -> bool:
    return isinstance(outcome, Recommendation) and "slate_not_logged" not in outcome.degraded


def _key_of(key: str, body: BaseModel, place: int) -> str:
    return _digest(type(body).__name__, key, str(place))


def _body_of(body: BaseModel) -> str:
    return _digest(type(body).__name__, body.model_dump_json())


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
