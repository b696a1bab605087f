"""The endpoint with more replicas and with larger catalogues: `python -m benchmarks.serve_sizes [--only PART ...]`.

replicas    requests/s and latencies at 32 connections with 1, 2 and 4 replicas of profiler, ranker and retention (needs a published release, see README);
            on a machine with fewer cores than replicas more of them share the same cores
catalogue   a made release of 1,000, 100,000 and 1,000,000 items (random weights, clustered vectors), requests without candidates at 8 connections:
            requests/s, latencies, memory of all processes (PSS)
index       item vectors that were learned, and the users who ask for them (needs a published release): all its items, and a million made of them (each another
            item's, moved by 0.3 standard deviations). `recall`: share of the exact best (serve.retrieve of them) that the index finds; `index_ms`,
            `exact_ms`: one search by either, one thread; `build_s`: the index

Writes benchmarks/results/serve_sizes.json, a part as soon as it is done.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from benchmarks.made_release import make_release
from benchmarks.record import figures_of, record
from benchmarks.serve import WARM_UP_S, load, running, staged
from clm_ray.config.recipe import load_recipe
from clm_ray.config.workspace import Workspace
from clm_ray.model.files import ITEM_VECTORS
from clm_ray.model.inference import Scorer, UserRequest
from clm_ray.model.item_index import INDEX, ItemIndex
from clm_ray.store.store import open_store

REPLICAS = (1, 2, 4)
ITEMS = (1_000, 100_000, 1_000_000)
MANY = 1_000_000
USERS, EVENTS, K = 500, 50, 10
SECONDS, PORT = 12.0, 8126


def replicas(root: Path) -> dict[str, Any]:
    """Figures by number of replicas."""
    found = {}
    for count in REPLICAS:
        with tempfile.TemporaryDirectory(prefix="clm-sizes-") as folder:
            stage = staged(Workspace(root), Path(folder))
            with running("ours", stage, port=PORT, options=["--replicas", str(count)]):
                found[str(count)] = _load(stage, connections=32)
        print(count, found[str(count)], flush=True)
    return found


def catalogue(root: Path) -> dict[str, Any]:
    """Figures by number of items."""
    found = {}
    recipe = load_recipe("complete_journey")
    for items in ITEMS:
        with tempfile.TemporaryDirectory(prefix="clm-sizes-") as folder:
            stage = Workspace(Path(folder))
            release = make_release(stage, recipe, items=items, users=USERS, events=EVENTS)
            indexed = items > recipe.serve.exact_items
            if indexed:  # as publishing does
                ItemIndex.build(np.load(release / ITEM_VECTORS), release / INDEX)
            with (stage.root / "bodies.jsonl").open("w", encoding="utf-8") as out:
                out.writelines(json.dumps({"user_id": f"u{n}", "k": K}) + "\n" for n in range(USERS))
            with running("ours", stage, port=PORT) as server:
                found[str(items)] = _load(stage, connections=8) | {"memory_gb": _memory(server)}
        print(items, found[str(items)], flush=True)
    return found


def index(root: Path) -> dict[str, Any]:
    """Figures by number of items."""
    torch.set_num_threads(1)
    workspace = Workspace(root)
    release = workspace.current("releases")
    scorer = Scorer.open(release, threads=1)
    query_BD = _queries(scorer, workspace)
    learned_ID = np.load(release / ITEM_VECTORS)
    random = np.random.default_rng(0)
    of_many = np.concatenate([[0], random.integers(1, len(learned_ID), MANY)])
    moved_ID = learned_ID[of_many] + 0.3 * learned_ID.std(0) * random.normal(size=(len(of_many), learned_ID.shape[1]))
    found = {}
    for item_ID in (learned_ID, moved_ID.astype(np.float32)):
        found[str(len(item_ID) - 1)] = _searched(item_ID, query_BD, count=scorer.recipe.serve.retrieve)
        print(len(item_ID) - 1, found[str(len(item_ID) - 1)], flush=True)
    return found


def _queries(scorer: Scorer, workspace: Workspace) -> NDArray[np.float32]:
    """[B, D]: of the first users of a release, at a moment after the last of their events."""
    users = pq.read_table(workspace.current("releases") / "users.parquet", columns=["user_id"])["user_id"].to_pylist()
    with open_store(workspace.store_url, create=False) as store:
        stored = {user: h for user, h in store.histories(users[:USERS]).items() if len(h)}
    now = max(int(h.time_N.max()) for h in stored.values()) + 1
    states = scorer.states(
        [
            UserRequest(user, h.history(row_of=scorer.items.row_of, event_of=scorer.vocabulary.index), now)
            for user, h in stored.items()
        ]
    )
    profile_BD = torch.from_numpy(np.stack([s.profile_D for s in states]))
    return scorer.network.query(profile_BD).detach().numpy()


def _searched(item_ID: NDArray[np.float32], query_BD: NDArray[np.float32], *, count: int) -> dict[str, float]:
    """The index beside an exact search, for every query."""
    with tempfile.TemporaryDirectory(prefix="clm-sizes-") as folder:
        began = time.perf_counter()
        ItemIndex.build(item_ID, Path(folder) / INDEX)
        build_s = time.perf_counter() - began
        index = ItemIndex.open(Path(folder) / INDEX, item_ID)
        assert index is not None
        every = torch.from_numpy(item_ID[1:])
        shares, by_index, exact = [], 0.0, 0.0
        for query_D in query_BD:
            began = time.perf_counter()
            near = index.search(query_D[None], [None], count=count)[0]
            between = time.perf_counter()
            best = torch.topk(every @ torch.from_numpy(query_D), count).indices.numpy() + 1
            by_index, exact = by_index + between - began, exact + time.perf_counter() - between
            shares.append(float(np.isin(best, near).mean()))
    each = 1000 / len(query_BD)
    return {
        "recall": round(float(np.mean(shares)), 4),
        "index_ms": round(by_index * each, 2),
        "exact_ms": round(exact * each, 2),
        "build_s": round(build_s, 1),
    }


def _load(stage: Workspace, *, connections: int) -> dict[str, Any]:
    load(stage, connections, port=PORT, seconds=WARM_UP_S)
    found = load(stage, connections, port=PORT, seconds=SECONDS)
    return {name: found[name] for name in ("rps", "p50_ms", "p95_ms", "p99_ms")}


def _memory(server: int) -> float:
    """GB of a process and all it started, what they share counted once."""
    total = 0
    for process in [psutil.Process(server), *psutil.Process(server).children(recursive=True)]:
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        total += int(re.findall(r"^Pss: +([0-9]+) kB", rollup, re.MULTILINE)[0]) * 1024
    return round(total / 1e9, 2)


PARTS: Mapping[str, Callable[[Path], dict[str, Any]]] = {"replicas": replicas, "catalogue": catalogue, "index": index}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the asked parts."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--root", default="workspaces/complete_journey", help="workspace (default: %(default)s)")
    options.add_argument("--only", nargs="+", choices=tuple(PARTS), default=tuple(PARTS), help="parts (default: all)")
    args = options.parse_args(argv)
    for part in args.only:
        record("serve_sizes", figures_of("serve_sizes") | {part: PARTS[part](Path(args.root).resolve())})


if __name__ == "__main__":
    main()
