"""A log in which everything is uneven, and `prepare` on it: which task of a step took longest beside the usual one. Run by `benchmarks.data`.

python benchmarks/skewed.py FOLDER HEAVY ONCE     prints JSON

HEAVY events of one user and ONCE users of one event each, with ids of 200 characters; every other event is of one item; twenty items have texts of
100 kB. Durations are Ray's own (`ray.timeline`).
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clm_ray.config.recipe import load_recipe
from clm_ray.config.workspace import Workspace
from clm_ray.data.simulated import Simulation, simulated_events, simulated_items

_LONG_TEXTS, _TEXT_BYTES, _ID_CHARACTERS = 20, 100_000, 200
_RECIPE = """\
name: skewed
source:
  kind: files
  events: {{paths: [{folder}/events]}}
  items: {{paths: [{folder}/items.parquet], text: "{{name}}", categories: [category]}}
event_types:
  view: {{roles: [context, activity]}}
  cart: {{roles: [context, activity]}}
  purchase: {{roles: [positive, context, activity], value: amount}}
  click: {{roles: [context, activity]}}
split: {{protocol: time, train_end: 2024-10-01, valid_end: 2024-11-15}}
neighbours: {{slices: 2, slice_days: 180}}
"""


def write_log(folder: Path, *, heavy: int, once: int) -> None:
    """Events of both kinds of users, in parts of a million; items; a recipe."""
    (folder / "events").mkdir(parents=True)
    parts = [("heavy", heavy, 1), ("once", once, once)]
    for name, count, users in parts:
        made = Simulation(count, users, events_per_part=1 << 60, activity_sigma=0.0, lifetime_days=400.0)
        table = simulated_events(made, 0)
        if name == "once":
            ids = pa.array([f"{n:0{_ID_CHARACTERS}d}" for n in range(table.num_rows)])
            table = table.set_column(0, "user_id", ids)
        item_N = table.column("item_id").to_numpy(zero_copy_only=False)
        item_N = np.where(np.arange(len(item_N)) % 2 == 0, "i0000000", item_N)
        table = table.set_column(1, "item_id", pa.array(item_N, pa.string()))
        for number, start in enumerate(range(0, table.num_rows, 1_000_000)):
            pq.write_table(table.slice(start, 1_000_000), folder / "events" / f"{name}-{number}.parquet")
    items = simulated_items(Simulation(1, 1))
    names = [
        text + " word" * (_TEXT_BYTES // 5) if n < _LONG_TEXTS else text
        for n, text in enumerate(items["name"].to_pylist())
    ]
    pq.write_table(items.set_column(1, "name", pa.array(names)), folder / "items.parquet")
    (folder / "recipe.yaml").write_text(_RECIPE.format(folder=folder), encoding="utf-8")


def task_seconds(events: list[dict[str, Any]]) -> dict[str, Any]:
    """By name of the task: how many ran, the longest and the middle one, seconds."""
    found = defaultdict(list)
    for event in events:
        if event.get("cat", "").startswith("task::") and "Actor." not in event["cat"]:
            found[event["cat"].removeprefix("task::")].append(event["dur"] / 1e6)
    return {
        name: {"tasks": len(taken), "longest_s": max(taken), "median_s": statistics.median(taken)}
        for name, taken in sorted(found.items())
    }


def main(folder: Path, *, heavy: int, once: int) -> None:
    """Write the log where it is not there yet, prepare it, print the figures."""
    import ray

    from clm_ray.data.build import build_dataset
    from clm_ray.data.log import read_log
    from jobs.session import start_ray

    if not (folder / "recipe.yaml").is_file():
        write_log(folder, heavy=heavy, once=once)
    recipe, workspace = load_recipe(str(folder / "recipe.yaml")), Workspace(folder / "workspace")
    start_ray()
    log = read_log(recipe, workspace=workspace, now_us=time.time_ns() // 1000)
    built = build_dataset(log, recipe, workspace)
    time.sleep(2.0)  # Ray gathers the figures of its tasks once a second.
    tasks = task_seconds(ray.timeline())
    print(json.dumps({"events": built.manifest["counts"]["kept"], "tasks": tasks}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), heavy=int(sys.argv[2]), once=int(sys.argv[3]))
