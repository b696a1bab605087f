"""Make a trained run the current release, and load the log's histories into the online store."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from jobs.arguments import chosen_run, open_recipe, parser, run_main


def main(argv: Sequence[str] | None = None) -> None:
    """Write ROOT/releases/ID and point CURRENT to it; policy, serve and store are those of the recipe given here."""
    options = parser(__doc__ or "")
    options.add_argument(
        "--run", help="run to publish (default: that of this recipe and the current dataset, else the newest)"
    )
    args = options.parse_args(argv)
    recipe, workspace = open_recipe(args)

    import pyarrow as pa

    from clm_ray.data.manifest import read_manifest
    from clm_ray.evaluate.dataset import Dataset
    from clm_ray.evaluate.reference import score_reference
    from clm_ray.features.events import EventVocabulary
    from clm_ray.lifecycle.stages import Thresholds
    from clm_ray.metrics.scores import ScoreReference
    from clm_ray.model.files import ModelFolder
    from clm_ray.model.inference import Scorer
    from clm_ray.release.publish import fill_store, publish
    from clm_ray.release.stage_choices import stage_choices
    from clm_ray.store.store import open_store

    dataset = workspace.current("datasets")
    run = workspace.runs / chosen_run(args, recipe, workspace)
    evaluation = workspace.evaluations / run.name
    metrics = evaluation if evaluation.is_dir() else None

    def score() -> ScoreReference | None:
        print("scoring moments of the dataset, to know what is to be expected", flush=True)
        return score_reference(Dataset.open(dataset), Scorer.open(run / "model"))

    def choices() -> pa.Table:
        files, thresholds = ModelFolder.open(run / "model"), read_manifest(dataset)["thresholds"]
        return stage_choices(
            dataset,
            catalogue=files.catalogue(),
            vocabulary=EventVocabulary(files.recipe().event_types),
            thresholds=Thresholds.from_dict(thresholds),
        )

    release = publish(
        workspace, run=run, dataset=dataset, evaluation=metrics, recipe=recipe, score=score, choices=choices
    )
    with open_store(recipe.store.url or workspace.store_url) as store:
        loaded = fill_store(store, dataset, clock=recipe.serve.clock, wall_us=time.time_ns() // 1000)
    print(f"release {release.id} of run {run.name} is current: {len(release.manifest['files'])} files, verified")
    print(f"store: histories of {loaded.users:,} users, {loaded.events:,} events")


if __name__ == "__main__":
    sys.exit(run_main(main))
