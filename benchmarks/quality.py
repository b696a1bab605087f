"""Quality of the model on public data, three seeds each: `python -m benchmarks.quality [--only ml100k.per_user]`.

MovieLens-100K in both protocols (needs `make movielens`), the test read once per seed. Writes benchmarks/results/quality.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import record
from clm_ray.config.recipe import load_recipe
from clm_ray.config.workspace import Workspace

PROTOCOLS = {"ml100k.global": "row_share", "ml100k.per_user": "per_user"}
SEEDS = (0, 1, 2)


def main(argv: Sequence[str] | None = None) -> None:
    """Prepare once per protocol, train and evaluate once per seed, write the means and deviations."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", choices=sorted(PROTOCOLS), help="one protocol (default: all)")
    options.add_argument("--root", default="workspaces/quality", help="folder for data and runs (default: %(default)s)")
    options.add_argument(
        "--set", dest="overrides", action="append", default=[], help="override of the recipe; is recorded"
    )
    args = options.parse_args(argv)

    from jobs.session import start_ray

    start_ray()
    figures = {
        name: protocol(name, Path(args.root).resolve(), overrides=args.overrides)
        for name in PROTOCOLS
        if args.only in (None, name)
    }
    record("quality", figures, merge=True)


def protocol(name: str, root: Path, *, overrides: Sequence[str]) -> dict[str, Any]:
    """Figures of one protocol."""
    from clm_ray.data.build import build_dataset
    from clm_ray.data.log import read_log

    split = [f"split.protocol={PROTOCOLS[name]}", *overrides]
    recipe = load_recipe("movielens_100k", overrides=split)
    workspace = Workspace(root / name)
    log = read_log(recipe, workspace=workspace, now_us=time.time_ns() // 1000)
    build_dataset(log, recipe, workspace, say=print)
    runs = [_seed(workspace, [*split, f"train.seed={seed}"]) for seed in SEEDS]
    summary: dict[str, Any] = {"seeds": list(SEEDS), "overrides": list(overrides), "runs": runs}
    for key in runs[0]:
        values = np.array([run[key] for run in runs])
        summary[key] = float(values.mean())
        summary[f"{key}_sd"] = float(values.std(ddof=1))
    print(json.dumps({k: v for k, v in summary.items() if k != "runs"}, indent=1))
    return summary


def _seed(workspace: Workspace, overrides: Sequence[str]) -> dict[str, float]:
    from clm_ray.evaluate.run import evaluate
    from clm_ray.train.run import train

    recipe = load_recipe("movielens_100k", overrides=overrides)
    run = train(recipe, workspace)
    evaluate(workspace, run=run.name, recipe=recipe, say=lambda _: None)
    metrics = json.loads((workspace.evaluations / run.name / "metrics.json").read_text(encoding="utf-8"))
    model = metrics["clicks"]["methods"]["model"]
    return {**{key: float(model[key]) for key in ("auc", "log_loss", "ece")}, "gauc": float(model["gauc"]["value"])}


if __name__ == "__main__":
    main()
