"""The whole loop: prepare → train → evaluate → publish → serve → recommend → feedback; the endpoint stays up at the end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from itertools import zip_longest

from clm_ray.client import Client
from clm_ray.config.recipe import Recipe
from clm_ray.config.workspace import Workspace
from clm_ray.messages import RecommendedItem
from jobs import cluster, evaluate, prepare, publish, train
from jobs.arguments import open_recipe, parser, run_main

Stage = tuple[str, Callable[[Sequence[str] | None], None]]
STAGES: tuple[Stage, ...] = (
    ("prepare", prepare.main),
    ("train", train.main),
    ("evaluate", evaluate.main),
    ("publish", publish.main),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run every stage on the Ray that is there, or with --local on one of our own; an error or Ctrl-C takes that down if it was started here."""
    options = parser(__doc__ or "")
    options.add_argument("--local", action="store_true", help="start (or use) a Ray of our own, see jobs/cluster.py")
    options.add_argument("--port", type=int, default=8000, help="port of the endpoint (default: %(default)s)")
    args = options.parse_args(argv)
    recipe, workspace = open_recipe(args)
    shared = ["--recipe", args.recipe, "--root", str(workspace.root)]
    shared += [word for override in args.overrides for word in ("--set", override)]
    starts_ray = args.local and cluster.address() is None
    try:
        if args.local:
            _connect_local()
        _run(shared, recipe, workspace, port=args.port)
    except BaseException:
        if starts_ray:
            import ray

            print("taking Ray down", flush=True)
            ray.shutdown()  # first: a driver whose Ray goes away ends at once, and could not say what was wrong
            cluster.stop()
        raise


def _connect_local() -> None:
    os.environ.update(cluster.environment())
    os.environ["RAY_ADDRESS"] = cluster.start()


def _run(shared: list[str], recipe: Recipe, workspace: Workspace, *, port: int) -> None:
    started = time.monotonic()
    for name, stage in STAGES:
        print(f"\n=== {name} ({time.monotonic() - started:.0f} s)", flush=True)
        stage(shared)
    print(f"\n=== serve ({time.monotonic() - started:.0f} s)", flush=True)
    from clm_ray.serve.deploy import deploy
    from clm_ray.train.run import run_name
    from jobs.session import start_ray

    start_ray()
    readiness = deploy(workspace.root, port=port)
    print(f"release {readiness.release} answers at http://127.0.0.1:{port}")
    with Client(f"http://127.0.0.1:{port}") as client:
        show(client, recipe, workspace)
    print(f"\n=== done in {time.monotonic() - started:.0f} s")
    print(f"""
endpoint   http://127.0.0.1:{port}/docs
dashboard  http://127.0.0.1:8265
data       {workspace.current("datasets") / "report.html"}
report     {workspace.evaluations / run_name(recipe, workspace.current("datasets")) / "report.md"}
next       .venv/bin/python jobs/compact.py --recipe {recipe.name}     feedback into the log; the next prepare reads it
           docs/bring-your-own-log.md                      your own data
           make stop                                       take everything down""")


def show(client: Client, recipe: Recipe, workspace: Workspace) -> None:
    """One real recommendation, an answer to it, and the recommendation after that."""
    import pyarrow.parquet as pq

    users = pq.read_table(workspace.current("datasets") / "users.parquet", columns=["user_id"]).column("user_id")
    user = users[len(users) // 2].as_py()
    print(f"\n=== recommend: POST /v1/recommend {{'user_id': {user!r}, 'k': 3, 'explain': true}}")
    first = client.recommend(user, k=3, explain=True)
    print(first.model_dump_json(indent=2, exclude_none=True))
    if not first.items:
        print("  nothing was recommended, so there is nothing to answer")
        return
    answer = next(
        name for name, kind in recipe.event_types.items() if "positive" in kind.roles or kind.positive_from is not None
    )
    event = {"user_id": user, "event_type": answer, "item_id": first.items[0].item_id, "decision_id": first.decision_id}
    if recipe.event_types[answer].value != "none":
        liked_from = recipe.event_types[answer].positive_from
        event["value"] = 1.0 if liked_from is None else liked_from
    print(f"\n=== feedback: POST /v1/events {event}")
    print(client.events([event]).model_dump_json(indent=2, exclude_none=True))
    second = client.recommend(user, k=3)
    for place, (before, after) in enumerate(zip_longest(first.items, second.items), start=1):
        print(f"  place {place}: {_shown(before)} → {_shown(after)}")


def _shown(item: RecommendedItem | None) -> str:
    """Item and probability; a dash for what a degraded answer does not have."""
    if item is None:
        return "–"
    return f"{item.item_id} {'–' if item.probability is None else f'{item.probability:.4f}'}"


if __name__ == "__main__":
    sys.exit(run_main(main))
