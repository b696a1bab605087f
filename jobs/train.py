"""Fine-tune the model on the current dataset, with DeepSpeed under Ray Train. The same command resumes an interrupted run."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.arguments import open_recipe, parser, run_main


def main(argv: Sequence[str] | None = None) -> None:
    """Train; the best model of the run is left in ROOT/runs/RUN/model."""
    options = parser(__doc__ or "")
    options.add_argument("--run", help="name of the run (default: from dataset and recipe); a reused name resumes")
    options.add_argument("--fresh", action="store_true", help="start over even where the run exists")
    args = options.parse_args(argv)
    recipe, workspace = open_recipe(args)

    from clm_ray.train.run import train
    from jobs.session import start_ray

    start_ray()
    run = train(recipe, workspace, name=args.run, fresh=args.fresh)
    print(f"run {run.name} is trained; model in {run / 'model'}")


if __name__ == "__main__":
    sys.exit(run_main(main))
