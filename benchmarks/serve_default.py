"""The same models composed the default way of Ray Serve's documentation: one deployment per model, one call per request and hop, FastAPI with
its pydantic models at the front, Ray's Python proxy before it. Same store, same records, same work per request.

    python -m benchmarks.serve_default --root workspaces/complete_journey --port 8000

The one setting that is not the default: every deployment takes 100 requests at once (Ray's default of 5 would only make callers wait).
Prints `ready`, serves until its standard input ends, then takes everything down.
"""

import argparse
import asyncio
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from clm_ray.config.workspace import Workspace
from clm_ray.messages import Recommendation, RecommendRequest, RetentionAction
from clm_ray.model.inference import Scorer
from clm_ray.release.read import thresholds_of
from clm_ray.serve.answers import Draft, answer_of, candidates_of, slate_of
from clm_ray.serve.asks import read_ask, wanted_of
from clm_ray.serve.catalogue import open_catalogue
from clm_ray.serve.course import Course
from clm_ray.serve.hops import ProfileAsk, ProfileBatch, Profiled, RankBatch, Ranked, RetainBatch, RetentionFacts
from clm_ray.serve.opened import Opened
from clm_ray.serve.profiler import Profiler, ProfilerRelease
from clm_ray.serve.ranker import Ranker, RankerRelease
from clm_ray.serve.retention import Retention, open_retention
from clm_ray.serve.telemetry import unrecorded
from clm_ray.store.clock import open_clock
from clm_ray.store.store import open_store

web = FastAPI()
deployment = serve.deployment(max_ongoing_requests=100)


class ProfilerModel:
    """Who is this user? One user per call."""

    def __init__(self, folder: Path, store_url: str) -> None:
        def open_release(release: Path) -> ProfilerRelease:
            return ProfilerRelease(Scorer.open(release, threads=1), thresholds_of(release))

        self.profiler = Profiler(releases=Opened(folder, open_release=open_release), store=open_store(store_url))
        self.release = folder.name

    async def profile(self, ask: ProfileAsk) -> Profiled:
        return await self.profiler.profile(ProfileBatch(self.release, [ask]))


class RankerModel:
    """What to show? One user's candidates per call."""

    def __init__(self, folder: Path) -> None:
        def open_release(release: Path) -> RankerRelease:
            return RankerRelease.of(Scorer.open(release, threads=1), open_catalogue(release).shelf)

        self.ranker = Ranker(releases=Opened(folder, open_release=open_release))
        self.release = folder.name

    async def rank(self, states: bytes, rows: Any, k: int) -> Ranked:
        return (await self.ranker.rank(RankBatch(self.release, states, [rows], [k])))[0]


class RetentionModel:
    """What to do to keep the user? One user per call."""

    def __init__(self, folder: Path, store_url: str) -> None:
        self.retention = Retention(releases=Opened(folder, open_release=open_retention), store=open_store(store_url))
        self.release = folder.name

    async def retain(self, facts: RetentionFacts) -> RetentionAction:
        return (await self.retention.retain(RetainBatch(self.release, [facts])))[0]


class Shop:
    """The front: asks the three models and logs what was shown."""

    def __init__(
        self,
        folder: Path,
        store_url: str,
        profiler: DeploymentHandle,
        ranker: DeploymentHandle,
        retention: DeploymentHandle,
    ) -> None:
        self.served = open_catalogue(folder)
        self.store = open_store(store_url)
        self.clock = open_clock(self.store, kind=self.served.recipe.serve.clock)
        self.profiler, self.ranker, self.retention = profiler, ranker, retention

    @web.post("/v1/recommend", response_model_exclude_unset=True)
    async def recommend(self, request: RecommendRequest) -> Recommendation:
        ask = read_ask(request, served=self.served, wanted=wanted_of(request, self.served), now=self.clock.now_us())
        draft = Draft(ask=ask)
        profiled = await self.profiler.profile.remote(ProfileAsk(ask.user_id, ask.time, ask.recent))
        draft.profile = profiled.profiles[0]
        if not draft.profile.events:
            draft.degraded.append("no_history")
        draft.ranked, draft.retention = await asyncio.gather(
            self.ranker.rank.remote(profiled.states, candidates_of(draft, served=self.served), ask.k),
            self.retention.retain.remote(profiled.facts[0]),
        )
        draft.decision_id = uuid.uuid4().hex
        await asyncio.to_thread(self.store.log_slates, [slate_of(draft, served=self.served)])
        now = asyncio.get_running_loop().time()
        return answer_of(draft, served=self.served, course=Course(unrecorded(), now), ended=now)


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until standard input ends."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--root", required=True)
    options.add_argument("--port", type=int, default=8000)
    args = options.parse_args(argv)
    workspace = Workspace.open(args.root, name="")
    folder, url = workspace.current("releases"), workspace.store_url
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": args.port})
        profiler, ranker, retention = map(deployment, (ProfilerModel, RankerModel, RetentionModel))
        parts = profiler.bind(folder, url), ranker.bind(folder), retention.bind(folder, url)
        serve.run(deployment(serve.ingress(web)(Shop)).bind(folder, url, *parts), route_prefix="/")
        print("ready", flush=True)
        sys.stdin.read()
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
