"""Stand-ins for the parts behind the gateway."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np

from clm_ray.messages import Interest, Profile, RetentionAction
from clm_ray.serve.args import CoalesceArgs, TimeoutArgs
from clm_ray.serve.catalogue import ServedCatalogue
from clm_ray.serve.gateway import Gateway
from clm_ray.serve.hops import (
    ExplainBatch,
    Explained,
    Hops,
    Moved,
    ProfileBatch,
    Profiled,
    RankBatch,
    Ranked,
    RetainBatch,
    RetentionFacts,
)
from clm_ray.serve.retention import action_of
from clm_ray.store.clock import Clock
from clm_ray.store.records import MaskRecord, RetentionDecision
from clm_ray.store.store import Store

NOW = 1_510_000_000_000_000
ADMIN = "let-me-in"


def decision(user_id: str) -> RetentionDecision:
    """A decision for `none`; the coupon was ruled out."""
    return RetentionDecision(
        action_id=f"action-{user_id}",
        user_id=user_id,
        epoch=7,
        epoch_start=NOW - 1000,
        time=NOW,
        policy_version="stage-1",
        policy_digest="",
        release_id="r1",
        stage="established",
        consent=True,
        last_taken={},
        holdout=False,
        feasible=("none",),
        probabilities=(1.0,),
        action="none",
        propensity=1.0,
        cost=0.0,
        masks=(MaskRecord("coupon", "eligibility", "not for this stage"),),
        features_digest="",
        outcome_due=NOW + 1000,
    )


@dataclass
class Parts:
    """Profiler, ranker and retention as the gateway sees them. `trouble`: part → an exception, or seconds of delay."""

    trouble: dict[str, Exception | float] = field(default_factory=dict)
    store: Store | None = None
    newcomers: set[str] = field(default_factory=set)
    profile_batches: list[ProfileBatch] = field(default_factory=list)
    rank_batches: list[RankBatch] = field(default_factory=list)
    retain_batches: list[RetainBatch] = field(default_factory=list)

    async def _meet(self, part: str) -> None:
        trouble = self.trouble.get(part)
        if isinstance(trouble, Exception):
            raise trouble
        await asyncio.sleep(trouble or 0)

    async def profile(self, batch: ProfileBatch) -> Profiled:
        self.profile_batches.append(batch)
        await self._meet("profiler")
        profiles = [
            Profile(
                stage="prospect" if ask.user_id in self.newcomers else "established",
                why="because",
                chance_active={"7": 0.5, "28": 0.75},
                recency_days=1.0,
                frequency={"7": 1},
                monetary={"7": 2.5},
                tenure_days=30.0,
                interests=[Interest(category="fruit", weight=1.0)],
                events=len(ask.recent) + (0 if ask.user_id in self.newcomers else 5),
            )
            for ask in batch.asks
        ]
        facts = [RetentionFacts(a.user_id, a.time, np.empty(0, np.int64)) for a in batch.asks]
        return Profiled(profiles=profiles, facts=facts, states=b"states")

    async def rank(self, batch: RankBatch) -> list[Ranked]:
        """Scores fall with the row, so that i1 is the best of all."""
        self.rank_batches.append(batch)
        await self._meet("ranker")
        answers = []
        for rows, k in zip(batch.rows, batch.k, strict=True):
            row_K = np.sort(np.arange(1, 10, dtype=np.int32) if rows is None else rows)[:k]
            answers.append(Ranked(row_K, (0.9 - row_K / 100).astype(np.float32)))
        return answers

    async def retain(self, batch: RetainBatch) -> list[RetentionAction]:
        self.retain_batches.append(batch)
        await self._meet("retention")
        decisions = [decision(facts.user_id) for facts in batch.facts]
        if self.store is not None:
            self.store.book(decisions)
        return [action_of(one) for one in decisions]

    async def explain(self, batch: ExplainBatch) -> list[Explained]:
        """The click on i3 a day ago made every item more likely by .01 times its place in the slate."""
        await self._meet("explainer")
        return [
            Explained(
                np.full(len(rows), 0.5),
                [[Moved("click", 3, ask.time - 86_400_000_000, 0.01 * (place + 1))] for place in range(len(rows))],
            )
            for ask, rows in zip(batch.asks, batch.rows, strict=True)
        ]

    async def encode(self) -> int:
        """A vector for every item that waits."""
        await self._meet("encoder")
        assert self.store is not None
        waiting = self.store.unencoded_items(release="r1", limit=100)
        self.store.put_item_vectors([(one.item_id, one.version, b"") for one in waiting], release="r1")
        return len(waiting)

    def hops(self) -> Hops:
        async def loaded() -> str:
            await self._meet("loaded")
            return "r1"

        return Hops(
            profile=self.profile,
            rank=self.rank,
            retain=self.retain,
            loaded={"profiler": loaded, "ranker": loaded},
            explain=self.explain,
            encode=self.encode,
        )


def gateway_of(served: ServedCatalogue, store: Store, parts: Parts) -> Gateway:
    """A gateway at the moment NOW before these parts, which get 0.3 s each."""
    return Gateway(
        served=served,
        store=store,
        clock=Clock(kind="wall", wall=lambda: NOW),
        hops=parts.hops(),
        coalesce=CoalesceArgs(),
        timeouts=TimeoutArgs(
            profiler_s=0.3, ranker_s=0.3, retention_s=0.3, explainer_s=0.3, encoder_s=0.3, store_s=5.0
        ),
    )
