"""The endpoint with more replicas and with larger catalogues: `python -m benchmarks.serve_sizes [--only PART ...]`.

replicas    requests/s and latencies at 32 connections with 1, 2 and 4 replicas of profiler, ranker and retention (needs a published release, see README);
            on a machine with fewer cores than replicas more of them share the same cores
catalogue   a made release of 1,000, 100,000 and 1,000,000 items (random weights, clustered vectors), requests without candidates at 8 connections:
            requests/s, latencies, memory of all processes (PSS); `recall`: share of the exact best items (serve.retrieve of them) that the index finds, NaN
            where the catalogue is small enough to be searched one by one; `index_ms`, `exact_ms`: one search by either, one thread

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
import torch

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
            search = _search(stage, release, count=recipe.serve.retrieve) if indexed else {}
            with running("ours", stage, port=PORT) as server:
                found[str(items)] = _load(stage, connections=8) | {"memory_gb": _memory(server)} | search
        print(items, found[str(items)], flush=True)
    return found


def _search(stage: Workspace, release: Path, *, count: int) -> dict[str, float]:
    """The index beside an exact search, for every user."""
    torch.set_num_threads(1)
    scorer = Scorer.open(release, threads=1)
    with open_store(stage.store_url, create=False) as store:
        stored = store.histories([f"u{n}" for n in range(USERS)])
    now = max(int(h.time_N.max()) for h in stored.values()) + 1
    asks = [
        UserRequest(user, h.history(row_of=scorer.items.row_of, event_of=scorer.vocabulary.index), now)
        for user, h in stored.items()
    ]
    states = scorer.states(asks)
    query_BD = scorer.network.query(torch.from_numpy(np.stack([s.profile_D for s in states]))).detach()
    index, item_ID = scorer.index, torch.from_numpy(np.load(release / ITEM_VECTORS))
    assert index is not None
    shares, by_index, exact = [], 0.0, 0.0
    for query_1D in query_BD.split(1):
        began = time.perf_counter()
        near = index.search(query_1D.numpy(), [None], count=count)[0]
        between = time.perf_counter()
        score = query_1D @ item_ID[1:].T
        best = torch.topk(score[0], count).indices.numpy() + 1
        by_index, exact = by_index + between - began, exact + time.perf_counter() - between
        shares.append(float(np.isin(best, near).mean()))
    each = 1000 / len(states)
    recall = round(float(np.mean(shares)), 4)
    return {"recall": recall, "index_ms": round(by_index * each, 2), "exact_ms": round(exact * each, 2)}


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


PARTS: Mapping[str, Callable[[Path], dict[str, Any]]] = {"replicas": replicas, "catalogue": catalogue}


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
