"""A training worker of Ray Train: where it stands, and where its checkpoints go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ray.train
import torch

from clm_ray.config.recipe import recipe_from
from clm_ray.errors import DivergenceError
from clm_ray.train.loop import Place, Worker
from clm_ray.train.narrate import tell
from clm_ray.train.tracking import tracking

STOPPED = "stopped.json"
"""In a run's folder: the error that ended it, where beginning again would end the same."""


def train_worker(config: dict[str, Any]) -> None:
    """Entry point of a Ray Train worker. `config`: dataset, model_folder, recipe, git, wandb_mode."""
    recipe = recipe_from(config["recipe"])
    if not recipe.train.use_gpu:
        torch.set_num_threads(recipe.train.threads_per_worker)
    context = ray.train.get_context()
    place = Place(
        context.get_world_rank(),
        context.get_world_size(),
        ray.train.torch.get_device() if recipe.train.use_gpu else torch.device("cpu"),
    )
    model_folder = Path(config["model_folder"])
    worker = Worker.start(recipe, Path(config["dataset"]), model_folder, git=config["git"], place=place, report=_report)
    done = worker.progress.epoch * worker.schedule.steps + worker.progress.step
    try:
        with tracking(
            model_folder.parent,
            recipe=recipe,
            git=config["git"],
            done=done,
            rank=place.rank,
            wandb_mode=config["wandb_mode"],
        ) as worker.tracker:
            worker.run()
    except DivergenceError as error:
        # Raised on every rank. Handed on to Ray it would start the workers again, to no other end.
        if place.rank == 0:
            said = {"problem": error.problem, "field": error.field, "value": error.value, "fix": error.fix}
            (model_folder.parent / STOPPED).write_text(json.dumps(said), encoding="utf-8")
            tell(model_folder.parent, f"STOPPED {error}")


def _report(metrics: dict[str, Any], folder: Path) -> None:
    ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))
