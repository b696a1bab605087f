"""Score the untouched test split with a trained run, beside every baseline: metrics, report, pictures, predictions."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.arguments import open_recipe, parser, run_main


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate a run of the workspace on its current dataset; writes ROOT/evaluations/RUN."""
    options = parser(__doc__ or "")
    options.add_argument("--run", default="default", help="run to evaluate, a folder of ROOT/runs (default: %(default)s)")
    args = options.parse_args(argv)
    recipe, workspace = open_recipe(args)

    import ray

    from clm_ray.evaluate.run import evaluate

    ray.init(ignore_reinit_error=True, log_to_driver=False)
    evaluate(workspace, run=args.run, recipe=recipe)


if __name__ == "__main__":
    sys.exit(run_main(main))
