"""Replicas beside the answers: what they do is not waited for, and the endpoint answers without them."""

from __future__ import annotations

import os
from pathlib import Path

from clm_ray.release.read import thresholds_of
from clm_ray.serve.args import AppArgs
from clm_ray.serve.catalogue import open_catalogue
from clm_ray.serve.opened import Opened
from clm_ray.serve.outcome_watch import OutcomeWatch
from clm_ray.serve.shadow import Shadow, ShadowAsk
from clm_ray.serve.telemetry import ray_telemetry
from clm_ray.store.clock import open_clock
from clm_ray.store.outcomes import Meaning
from clm_ray.store.store import open_store

_USUAL_WINDOW_HOURS = 24.0


class ShadowReplica:
    """Loads the shadow's release, once for its profiler and its ranker, and hands over to `Shadow`."""

    def __init__(self, args: AppArgs) -> None:
        from clm_ray.model.inference import Scorer
        from clm_ray.serve.profiler import Profiler, ProfilerRelease
        from clm_ray.serve.ranker import Ranker, RankerRelease

        assert args.shadow is not None, "build_app makes it for a shadow"
        assert args.store_url is not None, "build_app settles the store"
        os.nice(19)  # what is shown goes first
        folder = Path(str(args.release)).parent / args.shadow.release
        scorer = Scorer.open(folder, threads=args.threads)
        store = open_store(args.store_url)
        profiled = ProfilerRelease(scorer, thresholds_of(folder))
        profiler = Profiler(releases=Opened(folder, open_release=lambda _folder: profiled), store=store)
        served = open_catalogue(folder)
        ranking = RankerRelease.of(scorer, served.shelf)
        ranker = Ranker(releases=Opened(folder, open_release=lambda _folder: ranking))
        self._part = Shadow(served=served, store=store, profile=profiler.profile, rank=ranker.rank)

    async def score(self, asks: list[ShadowAsk]) -> int:
        """See `Shadow.score`."""
        return await self._part.score(asks)


class OutcomesReplica:
    """Looks at outcomes from time to time; nobody calls it."""

    def __init__(self, args: AppArgs) -> None:
        assert args.store_url is not None, "build_app settles the store"
        served = open_catalogue(Path(str(args.release)))
        store = open_store(args.store_url)
        recipe = served.recipe
        window = args.outcomes.window_hours or recipe.impressions.attribution_hours or _USUAL_WINDOW_HOURS
        self._watch = OutcomeWatch(
            store=store,
            clock=open_clock(store, kind=recipe.serve.clock),
            meaning=Meaning.of(recipe.event_types),
            window_hours=window,
            args=args.outcomes,
            telemetry=ray_telemetry(),
        )
        self._watch.start()
