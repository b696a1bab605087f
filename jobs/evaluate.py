"""Score the untouched test split with a trained run, beside every baseline: metrics, report, pictures, predictions."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.arguments import chosen_run, open_recipe, parser, run_main


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate a run of the workspace on the dataset it was trained on; writes ROOT/evaluations/RUN."""
    options = parser(__doc__ or "")
    options.add_argument(
        "--run", help="run to evaluate, a folder of ROOT/runs (default: that of this recipe, else the newest)"
    )
    args = options.parse_args(argv)
    recipe, workspace = open_recipe(args)

    from clm_ray.evaluate.run import evaluate
    from jobs.session import start_ray

    run = chosen_run(args, recipe, workspace)
    print(f"evaluating run {run}")
    start_ray()
    evaluate(workspace, run=run, recipe=recipe)


if __name__ == "__main__":
    sys.exit(run_main(main))
