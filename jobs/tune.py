"""Search for better settings of a recipe on the current dataset. The same command resumes an interrupted search."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.arguments import open_recipe, parser, run_main


def main(argv: Sequence[str] | None = None) -> None:
    """Tune; the best recipe is left in ROOT/tuning/NAME/best.yaml, all trials in trials.json beside it."""
    options = parser(__doc__ or "")
    options.add_argument(
        "--space", required=True, help="YAML file: recipe key → {choice: [...]}, {uniform: [a, b]}, log_uniform or int"
    )
    options.add_argument("--trials", type=int, default=20, help="number of training runs (default: %(default)s)")
    options.add_argument("--name", help="name of the search (default: from dataset, recipe, space and trials)")
    options.add_argument("--fresh", action="store_true", help="start over even where the search exists")
    args = options.parse_args(argv)
    if args.trials < 1:
        options.error("--trials: give at least 1")
    recipe, workspace = open_recipe(args)

    from clm_ray.train.space import Space
    from clm_ray.train.tune import BEST, read_trials, tune
    from jobs.session import start_ray

    space = Space.open(Path(args.space), recipe=recipe)
    start_ray()
    folder = tune(recipe, workspace, space=space, trials=args.trials, name=args.name, fresh=args.fresh)
    best = read_trials(folder)[0]
    metric = recipe.train.metric
    print(f"best of {args.trials} trials on validation: {metric} {best.metrics[metric]:.4f} with {best.values}")
    print(f"train it: python jobs/train.py --recipe {folder / BEST} --root {workspace.root}")


if __name__ == "__main__":
    sys.exit(run_main(main))
