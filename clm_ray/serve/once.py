"""Requests with an Idempotency-Key: answered once, however often they are sent, and through whichever replica.

Each request of a batch has a key of its own, made of the batch's key and its place, and the whole batch as its body. An answer is kept in the
transaction that logs its slate; a request that came to nothing gives its key back, so that it can be tried again.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from pydantic import BaseModel

from clm_ray.errors import ClmError, ConflictError
from clm_ray.messages import Recommendation
from clm_ray.serve.asks import Ask
from clm_ray.store.answers import Claim, Claimed
from clm_ray.store.clock import Clock
from clm_ray.store.store import Store

LEASE_US = 30_000_000
"""How long a key waits for the replica that claimed it: longer than all parts together may take."""
_WAIT_S = 10.0
"""How long a repeated request waits for the first one's answer."""
_PAUSE_S = 0.05

Outcome = Recommendation | ClmError


class Once:
    """Belongs to one event loop; the store is called in threads."""

    def __init__(self, *, store: Store, clock: Clock, keep_s: float) -> None:
        """`keep_s`: how long answers are kept, seconds."""
        self._store = store
        self._clock = clock
        self._keep_us = round(keep_s * 1_000_000)
        self._running: set[asyncio.Task[list[Outcome]]] = set()

    async def run(
        self,
        asks: Sequence[Ask | ClmError],
        *,
        key: str,
        body: BaseModel,
        answer: Callable[[Ask], Awaitable[Recommendation]],
    ) -> list[Outcome]:
        """The answer to each ask, new or kept; what was refused already stays so. It is seen to its end even when the caller goes away.

        Raises ConflictError (409): the key was used for another body, or the first request is not answered yet.
        """
        task = asyncio.get_running_loop().create_task(self._run(asks, key, body, answer))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _run(
        self,
        asks: Sequence[Ask | ClmError],
        key: str,
        body: BaseModel,
        answer: Callable[[Ask], Awaitable[Recommendation]],
    ) -> list[Outcome]:
        claims = self._claims(asks, key, body)
        claimed = await self._claim(claims, key)
        outcomes = await asyncio.gather(
            *(_outcome(ask, claims.get(n), claimed.get(n), answer) for n, ask in enumerate(asks)),
            return_exceptions=True,
        )
        nothing = [one.token for n, one in claims.items() if claimed[n].status == "mine" and not _is_kept(outcomes[n])]
        if nothing:
            await asyncio.to_thread(self._store.release_answers, nothing)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, ClmError):
                raise outcome
        return [outcome for outcome in outcomes if isinstance(outcome, Recommendation | ClmError)]

    def _claims(self, asks: Sequence[Ask | ClmError], key: str, body: BaseModel) -> dict[int, Claim]:
        now = self._clock.now_us()
        digest = _digest(type(body).__name__, body.model_dump_json())
        return {
            place: Claim(
                key=_digest(type(body).__name__, key, str(place)),
                body=digest,
                token=uuid.uuid4().hex,
                user_id=ask.user_id or None,
                claimed_until=now + LEASE_US,
                expires_at=now + self._keep_us,
            )
            for place, ask in enumerate(asks)
            if isinstance(ask, Ask)
        }

    async def _claim(self, claims: dict[int, Claim], key: str) -> dict[int, Claimed]:
        """Claim all; wait for what somebody else is answering."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _WAIT_S
        while True:
            found = await asyncio.to_thread(self._store.claim_answers, list(claims.values()), now=self._clock.now_us())
            claimed = dict(zip(claims, found, strict=True))
            statuses = {one.status for one in found}
            if "other" not in statuses and "busy" not in statuses:
                return claimed
            if "other" in statuses or loop.time() >= until:
                mine = [claims[place].token for place, one in claimed.items() if one.status == "mine"]
                await asyncio.to_thread(self._store.release_answers, mine)
                raise _conflict(key, busy="other" not in statuses)
            await asyncio.sleep(_PAUSE_S)


def _conflict(key: str, *, busy: bool) -> ConflictError:
    field = "Idempotency-Key"
    if not busy:
        fix = "use a new key for a new request"
        return ConflictError("was used for another request", field=field, value=key, fix=fix)
    problem = "the first request with this key is not answered yet"
    error = ConflictError(problem, field=field, value=key, fix="try again a little later")
    error.retry_after_s = 1
    return error


async def _outcome(
    ask: Ask | ClmError,
    claim: Claim | None,
    claimed: Claimed | None,
    answer: Callable[[Ask], Awaitable[Recommendation]],
) -> Outcome:
    if isinstance(ask, ClmError) or claim is None or claimed is None:
        assert isinstance(ask, ClmError), "every ask is claimed"
        return ask
    if claimed.answer is not None:
        return Recommendation.model_validate_json(claimed.answer)
    return await answer(replace(ask, claim=claim))


def _is_kept(outcome: object) -> bool:
    return isinstance(outcome, Recommendation) and "slate_not_logged" not in outcome.degraded


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
