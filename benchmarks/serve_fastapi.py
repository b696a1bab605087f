"""One FastAPI and torch process that holds everything: no Ray, no other process, nothing is sent anywhere.

    python -m benchmarks.serve_fastapi --root workspaces/complete_journey --port 8000

It is the endpoint's own gateway, HTTP skin and parts, called as plain objects in one event loop: the same coalescing, JSON, models in
threads of their own with as many torch threads, and the same store. So what the endpoint needs beyond this is what it costs to spread over
processes and machines. Prints `ready`, serves until its standard input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn
import uvloop

from benchmarks.production import production_args
from clm_ray.config.workspace import Workspace
from clm_ray.model.inference import Scorer
from clm_ray.release.read import thresholds_of
from clm_ray.serve.catalogue import open_catalogue
from clm_ray.serve.gateway import Gateway
from clm_ray.serve.hops import Hops
from clm_ray.serve.http import build_http
from clm_ray.serve.opened import Opened
from clm_ray.serve.profiler import Profiler, ProfilerRelease
from clm_ray.serve.ranker import Ranker, RankerRelease
from clm_ray.serve.retention import Retention, open_retention
from clm_ray.store.clock import open_clock
from clm_ray.store.store import open_store


def gateway_of(workspace: Workspace, *, way: Callable[[Hops], Hops] = lambda hops: hops) -> Gateway:
    """The gateway with its parts in the same process; the model is there once. `way`: may put something between them."""
    args = production_args()
    folder = workspace.current("releases")
    store = open_store(workspace.store_url)
    served = open_catalogue(folder)
    scorer = Scorer.open(folder, threads=args.threads)
    known = ProfilerRelease(scorer, thresholds_of(folder))

    def profiler_release(_: Path) -> ProfilerRelease:
        return known

    profiler = Profiler(releases=Opened(folder, open_release=profiler_release), store=store)
    ranking = RankerRelease.of(scorer, served.shelf)
    ranker = Ranker(releases=Opened(folder, open_release=lambda _: ranking))
    retention = Retention(releases=Opened(folder, open_release=open_retention), store=store)
    return Gateway(
        served=served,
        store=store,
        clock=open_clock(store, kind=served.recipe.serve.clock),
        hops=way(
            Hops(
                profile=profiler.profile,
                rank=ranker.rank,
                explain=profiler.explain,
                retain=retention.retain,
                loaded={"profiler": profiler.loaded, "ranker": ranker.loaded, "retention": retention.loaded},
            )
        ),
        coalesce=args.coalesce,
        timeouts=args.timeouts,
    )


async def serve(workspace: Workspace, *, port: int) -> None:
    """Serve until standard input ends."""
    app = build_http(gateway_of(workspace), admin_token=None)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", access_log=False))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.05)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.should_exit = True
    await running


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--root", required=True)
    options.add_argument("--port", type=int, default=8000)
    args = options.parse_args(argv)
    uvloop.run(serve(Workspace.open(args.root, name=""), port=args.port))


if __name__ == "__main__":
    main()
