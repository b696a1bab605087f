"""Speed of the endpoint beside two others with the same models: `python -m benchmarks.serve` (needs a published release, see README).

ours      this endpoint in its production profile (benchmarks/serve_ours.py)
default   the same models, one call per request and hop, behind Ray's Python proxy (benchmarks/serve_default.py)
fastapi   one FastAPI and torch process that holds everything (benchmarks/serve_fastapi.py)

Each serves the same release to the same callers from a fresh store in which every user has a history of 50 events: one after the other, in
several rounds, as the speed of a machine drifts. Figures are medians over the rounds, ratios medians of the ratios within a round.
A request names a user and 100 candidates; an answer has a profile, ten items, a retention decision and a slate that is on disk.
Callers (benchmarks/serve_load.py) run in a process of their own, on the same cores. Writes benchmarks/results/serve.json:
for 1, 8, 32 and 128 connections requests per second and latencies, and the ratios between the three.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow.parquet as pq

from benchmarks.record import record
from clm_ray.config.workspace import Workspace
from clm_ray.store.history import StoredHistory, since
from clm_ray.store.store import open_store

Round: TypeAlias = dict[str, dict[int, dict[str, Any]]]
"""What each contender did at each number of connections."""

CONTENDERS = ("fastapi", "ours", "default")
CONNECTIONS = (1, 8, 32, 128)
EVENTS, CANDIDATES, K = 50, 100, 10
REQUESTS = 4000
WARM_UP_S = 8.0
SEED = 0


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all three and write the figures down."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--root", default="workspaces/complete_journey", help="workspace (default: %(default)s)")
    options.add_argument("--seconds", type=float, default=8.0, help="per number of connections (default: %(default)s)")
    options.add_argument("--rounds", type=int, default=3, help="how often each is started (default: %(default)s)")
    options.add_argument("--port", type=int, default=8123)
    options.add_argument("--only", choices=CONTENDERS, action="append", help="measure these alone and write nothing")
    options.add_argument("--connections", type=int, action="append", help="these numbers of connections alone")
    args = options.parse_args(argv)
    workspace = Workspace(Path(args.root).resolve())
    connections = tuple(args.connections or CONNECTIONS)
    before = round(os.getloadavg()[1], 1)  # figures taken beside other work are worth little
    rounds: list[Round] = []
    for number in range(args.rounds):
        found: Round = {}
        for name in args.only or CONTENDERS:
            with tempfile.TemporaryDirectory(prefix="clm-serve-") as folder:
                stage = staged(workspace, Path(folder))
                with running(name, stage, port=args.port) as server:
                    found[name] = measured(stage, connections, server=server, port=args.port, seconds=args.seconds)
            print(f"round {number + 1} of {args.rounds}", name, json.dumps(found[name]), flush=True)
        rounds.append(found)
    if not args.only and not args.connections:
        record("serve", figures(rounds) | {"rounds": args.rounds, "load_average_before": before}, merge=True)


def figures(rounds: Sequence[Round]) -> dict[str, Any]:
    """What the three did at each number of connections, and how this endpoint compares: medians over the rounds."""
    return {f"c{n}": _median([_compared(found, n) for found in rounds]) for n in rounds[0]["ours"]}


def _compared(found: Round, connections: int) -> dict[str, Any]:
    at = {name: dict(found[name][connections]) for name in CONTENDERS}
    ours, default, fastapi = at["ours"], at["default"], at["fastapi"]
    return {
        **at,
        "rps_vs_default": round(ours["rps"] / default["rps"], 2),
        "p95_vs_default": round(ours["p95_ms"] / default["p95_ms"], 3),
        "rps_vs_fastapi": round(ours["rps"] / fastapi["rps"], 2),
        "p50_over_fastapi_ms": round(ours["p50_ms"] - fastapi["p50_ms"], 2),
    }


def _median(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Number by number; what only some rounds have (answers that were not complete) is kept as it was said."""
    result: dict[str, Any] = {}
    for name in {name: None for row in rows for name in row}:
        values = [row[name] for row in rows if name in row]
        if isinstance(values[0], int | float):
            result[name] = round(statistics.median(values), 3)
        else:
            result[name] = values if name == "incomplete" else _median(values)
    return result


def staged(workspace: Workspace, folder: Path) -> Workspace:
    """A workspace with the release and a fresh store: each user's last 50 events, and the requests that will be asked."""
    release = workspace.current("releases")
    stage = Workspace(folder)
    stage.releases.mkdir()
    (stage.releases / release.name).symlink_to(release)
    stage.point("releases", release.name)
    users = pq.read_table(release / "users.parquet", columns=["user_id"]).column("user_id").to_pylist()
    items = pq.read_table(release / "items.parquet", columns=["item_id"]).column("item_id").to_pylist()[1:]
    with open_store(workspace.store_url, create=False) as source, open_store(stage.store_url) as store:
        store.set_clock_offset_once(source.clock_offset() or 0)
        histories = [h for h in source.histories(users).values() if len(h) >= EVENTS]
        store.load_base(
            ((_last(h), [f"{h.user_id}:{n}" for n in range(EVENTS)]) for h in histories), dataset="benchmark"
        )
    rng = np.random.default_rng(SEED)
    with (folder / "bodies.jsonl").open("w", encoding="utf-8") as out:
        for _ in range(REQUESTS):
            chosen = rng.choice(len(items), CANDIDATES, replace=False).tolist()
            user = histories[int(rng.integers(len(histories)))].user_id
            out.write(json.dumps({"user_id": user, "candidates": [items[n] for n in chosen], "k": K}) + "\n")
    return stage


def _last(history: StoredHistory) -> StoredHistory:
    """Its last events, with the names of what they are about alone, as the store keeps a history."""
    cut = slice(len(history) - EVENTS, None)
    last = replace(
        history,
        item_code_N=history.item_code_N[cut],
        type_code_N=history.type_code_N[cut],
        value_N=history.value_N[cut],
        time_N=history.time_N[cut],
    )
    return since(last, [str(n) for n in range(EVENTS)], 0)[0]


@contextmanager
def running(name: str, stage: Workspace, *, port: int, options: Sequence[str] = ()) -> Iterator[int]:
    """The contender serves while the block runs, as this process; gone, with all it started, when the block is left."""
    command = [
        sys.executable,
        "-m",
        f"benchmarks.serve_{name}",
        "--root",
        str(stage.root),
        "--port",
        str(port),
        *options,
    ]
    # Ray lets its workers give way to everything else on the machine; here all three stand in the same line.
    environment = os.environ | {"RAY_worker_niceness": "0"}
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        for line in server.stdout:
            if line.strip() == "ready":
                break
        else:
            raise RuntimeError(f"{name} did not start: exit code {server.wait()}")
        yield server.pid
    finally:
        server.stdin.close()
        server.wait(timeout=120)


def measured(
    stage: Workspace, connections: Sequence[int], *, server: int, port: int, seconds: float
) -> dict[int, dict[str, Any]]:
    """Figures by number of connections, after a warm-up. cpu_ms: CPU time per request of all the contender's processes, callers left out."""
    load(stage, 32, port=port, seconds=WARM_UP_S)
    found = {}
    for n in connections:
        before = cpu_seconds(server)
        found[n] = load(stage, n, port=port, seconds=seconds)
        answered = found[n].pop("answered")
        found[n]["cpu_ms"] = round((cpu_seconds(server) - before) / max(answered, 1) * 1000, 2)
        wrong = {outcome: count for outcome, count in found[n].pop("outcomes").items() if outcome != "200"}
        if wrong:
            print(f"{n} connections: not every answer was complete: {wrong}", file=sys.stderr)
            found[n]["incomplete"] = wrong
    return found


def cpu_seconds(server: int) -> float:
    """CPU time so far of a process and all that descend from it."""
    tick = os.sysconf("SC_CLK_TCK")
    parent: dict[int, int] = {}
    spent: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parent[int(folder.name)], spent[int(folder.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
    family = {server}
    while more := {child for child, of in parent.items() if of in family} - family:
        family |= more
    return sum(spent[one] for one in family if one in spent) / tick


def load(stage: Workspace, connections: int, *, port: int, seconds: float) -> dict[str, Any]:
    """One measurement by callers in a process of their own."""
    command = [sys.executable, "-m", "benchmarks.serve_load", "--port", str(port), "--connections", str(connections)]
    command += ["--seconds", str(seconds), "--bodies", str(stage.root / "bodies.jsonl")]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


if __name__ == "__main__":
    main()
