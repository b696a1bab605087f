"""Make a log of any size, to measure or to try something: `python jobs/simulate.py --events 5_000_000 --out FOLDER`.

FOLDER/events/part-*.parquet   user_id, item_id, event_type (view, cart, purchase), timestamp, value (price of a purchase)
FOLDER/items.parquet           item_id, name, category, price
FOLDER/recipe.yaml             a recipe for them: `python jobs/prepare.py --recipe FOLDER/recipe.yaml`

Made in parallel, the same for the same options whatever the cluster. Nothing in it is of real people.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from clm_ray.data.simulated import Simulation, simulated_events, simulated_items
from clm_ray.errors import ConfigError
from jobs.arguments import run_main

_USERS_PER_EVENT = 1 / 50
_RECIPE = """\
name: simulated
description: {events:,} made events of {users:,} users and {items:,} items, seed {seed}.
source:
  kind: files
  events: {{paths: [{events_folder}]}}
  items:
    paths: [{items_file}]
    text: "{{name}}"
    categories: [category]
event_types:
  view: {{roles: [context, activity]}}
  cart: {{roles: [context, activity]}}
  purchase: {{roles: [positive, context, activity], value: amount}}
  impression: {{roles: []}}
  click: {{roles: [context, activity]}}
split: {{protocol: row_share, valid_share: 0.1, test_share: 0.1}}
impressions: {{negatives: popularity}}
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Write the log, one Ray task per part."""
    made, out = _options(argv)

    if any(out.glob("*")):
        raise ConfigError("is not empty", field="--out", value=str(out), fix="name a new folder")

    import ray

    from jobs.session import start_ray

    start_ray()
    (out / "events").mkdir(parents=True)
    pq.write_table(simulated_items(made), out / "items.parquet", compression="zstd")
    started, task = time.monotonic(), ray.remote(_write)
    sizes = ray.get([task.remote(made, part, str(out / "events")) for part in range(made.parts)])
    recipe = _RECIPE.format(
        **vars(made),
        events_folder=json.dumps(str((out / "events").resolve())),
        items_file=json.dumps(str((out / "items.parquet").resolve())),
    )
    (out / "recipe.yaml").write_text(recipe, encoding="utf-8")
    print(f"{sum(sizes):,} events in {made.parts} parts, {time.monotonic() - started:.1f} s: {out}")


def _options(argv: Sequence[str] | None) -> tuple[Simulation, Path]:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--events", type=int, required=True, help="number of events")
    options.add_argument(
        "--out", type=Path, required=True, help="folder, new or empty; on a cluster, one that all nodes see"
    )
    options.add_argument("--users", type=int, help="number of users (default: one for 50 events)")
    options.add_argument("--items", type=int, default=10_000, help="number of items (default: %(default)s)")
    options.add_argument("--days", type=int, default=365, help="days that the log covers (default: %(default)s)")
    options.add_argument("--seed", type=int, default=0, help="another number, another log (default: %(default)s)")
    args = options.parse_args(argv)
    users = args.users if args.users is not None else max(1, round(args.events * _USERS_PER_EVENT))
    for name, value in (("--events", args.events), ("--users", users), ("--items", args.items), ("--days", args.days)):
        if value < 1:
            raise ConfigError("must be at least 1", field=name, value=value, fix="give a positive number")
    return Simulation(args.events, users, items=args.items, days=args.days, seed=args.seed), args.out


def _write(made: Simulation, part: int, folder: str) -> int:
    events: pa.Table = simulated_events(made, part)
    pq.write_table(events, Path(folder) / f"part-{part:05d}.parquet", compression="zstd")
    return int(events.num_rows)


if __name__ == "__main__":
    sys.exit(run_main(main))
