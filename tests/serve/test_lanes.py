"""Which requests share a batch: nobody waits for another one's reasons, and nobody is cut short by one that has waited."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest
from serve_fakes import NOW, Parts

from clm_ray.messages import RecommendRequest
from clm_ray.serve.args import CoalesceArgs, TimeoutArgs
from clm_ray.serve.asks import Ask
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.gateway import Gateway
from clm_ray.serve.hops import ExplainBatch, Explained, ProfileBatch, Profiled
from clm_ray.store.clock import Clock
from clm_ray.store.store import Store


@dataclass
class Held(Parts):
    """Parts that answer once they may."""

    profile_may: asyncio.Event = field(default_factory=asyncio.Event)
    explain_may: asyncio.Event = field(default_factory=asyncio.Event)

    async def profile(self, batch: ProfileBatch) -> Profiled:
        profiled = await super().profile(batch)
        await self.profile_may.wait()
        return profiled

    async def explain(self, batch: ExplainBatch) -> list[Explained]:
        await self.explain_may.wait()
        return await super().explain(batch)


Scene = Callable[[Gateway, Held], Awaitable[None]]


@pytest.fixture
def play(served: ServedCatalogue, store: Store) -> Callable[[Scene], None]:
    """Runs a scene with an endpoint that sends one batch at a time and has time."""

    async def run(scene: Scene) -> None:
        parts = Held(store=store)
        gateway = Gateway(
            served=served,
            store=store,
            clock=Clock(kind="wall", wall=lambda: NOW),
            hops=parts.hops(),
            coalesce=CoalesceArgs(in_flight=1),
            timeouts=TimeoutArgs(profiler_s=60.0, explainer_s=60.0, store_s=60.0),
        )
        async with asyncio.timeout(60):
            await scene(gateway, parts)

    return lambda scene: asyncio.run(run(scene))


def test_who_asks_for_no_reasons_does_not_wait_for_those_of_another(play: Callable[[Scene], None]) -> None:
    async def scene(gateway: Gateway, parts: Held) -> None:
        parts.profile_may.set()
        await gateway.recommend(
            RecommendRequest(user_id="first")
        )  # the store was just asked: the next two arrive together
        explained, plain = (
            asyncio.create_task(gateway.recommend(RecommendRequest(user_id=user, explain=explain)))
            for user, explain in (("patient", True), ("hurried", False))
        )
        assert (await plain).degraded == []
        assert not explained.done()
        parts.explain_may.set()
        assert (await explained).items[0].reasons

    play(scene)


def test_who_has_waited_long_does_not_cut_short_who_has_just_come(play: Callable[[Scene], None]) -> None:
    async def scene(gateway: Gateway, parts: Held) -> None:
        async def ask(user: str, *, waited_s: float) -> asyncio.Task[object]:
            read = await gateway._read(RecommendRequest(user_id=user, deadline_ms=60_000))
            return asyncio.create_task(gateway._submit(replace(read, arrived=read.arrived - waited_s)))

        asks = [await ask("first", waited_s=0.0)]
        await asyncio.sleep(0.01)
        for user, waited_s in (("a", 40.0), ("b", 1.0), ("c", 38.0), ("d", 0.0), ("late", 61.0)):
            asks.append(await ask(user, waited_s=waited_s))
        parts.profile_may.set()
        await asyncio.gather(*asks)
        users = [[one.user_id for one in batch.asks] for batch in parts.profile_batches]
        assert users == [["first"], ["a", "c"], ["b", "d"]], "the late one is answered without"

    play(scene)


def test_requests_without_a_deadline_all_share(play: Callable[[Scene], None]) -> None:
    async def scene(gateway: Gateway, parts: Held) -> None:
        async def submit(user: str, *, waited_s: float) -> Ask:
            read = await gateway._read(RecommendRequest(user_id=user))
            return replace(read, arrived=read.arrived - waited_s)

        asks = [await submit(f"u{n}", waited_s=10.0 * n) for n in range(4)]
        parts.profile_may.set()
        await asyncio.gather(*map(gateway._submit, asks))
        assert [len(batch.asks) for batch in parts.profile_batches] == [4]

    play(scene)
