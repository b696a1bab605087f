"""Start (or resume) a training run on Ray Train, and leave its model folder behind."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clm_ray.config.recipe import Recipe
from clm_ray.config.train import TrainConfig
from clm_ray.config.workspace import DONE, Workspace
from clm_ray.data.manifest import read_manifest
from clm_ray.errors import DivergenceError, TrainError
from clm_ray.model.text import check_encoder
from clm_ray.train.engine import settings
from clm_ray.train.factors import fit_factors
from clm_ray.train.identity import identity, refuse_another, write_identity
from clm_ray.train.judged import judged_calibrations, with_judged_model
from clm_ray.train.narrate import following
from clm_ray.train.setup import open_dataset
from clm_ray.train.tracking import check_tracking, wandb_mode
from clm_ray.train.worker import STOPPED, train_worker

Say = Callable[[str], None]


def run_name(recipe: Recipe, dataset: Path) -> str:
    """Identity of a run: dataset and recipe. The same command resumes the same run."""
    return f"{read_manifest(dataset)['id']}-{recipe.training_digest()[:8]}"


def git_revision() -> str:
    """Commit of the code, marked -dirty with uncommitted changes; "unknown" outside a checkout."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def train(
    recipe: Recipe, workspace: Workspace, *, name: str | None = None, fresh: bool = False, say: Say = print
) -> Path:
    """Train on the current dataset; returns the run's folder (its model is in `model/`).

    A finished run is returned as it is; an interrupted one goes on from its last checkpoint; `fresh` starts over. `say` gets
    the progress lines.
    Raises ConfigError where the name is that of a run of another dataset or recipe; TrainError where the dataset was prepared with other
    settings, or the workers failed more often than train.max_failures; DivergenceError where the loss diverged; ConfigError and AssetError
    for what they cannot work with.
    """
    dataset = workspace.current("datasets")
    run = workspace.runs / (name or run_name(recipe, dataset))
    what = identity(recipe, dataset)
    if not fresh:
        refuse_another(run, what)
        if (run / DONE).is_file():
            return run
    recipe = with_judged_model(recipe, workspace)
    check(recipe, dataset)
    _say_what_is_missing(recipe.train, say=say)
    if fresh:
        shutil.rmtree(run, ignore_errors=True)
    write_identity(run, what)
    fit(recipe, dataset, run, say=say)
    return run


def check(recipe: Recipe, dataset: Path) -> None:
    """Raise here what the workers would refuse: they would be started again and again for it."""
    open_dataset(dataset, recipe)
    settings(recipe.train)
    judged_calibrations(recipe)
    check_tracking(recipe.train)
    if recipe.model.use_text:
        check_encoder(recipe.model.encoder)


def _say_what_is_missing(config: TrainConfig, *, say: Say) -> None:
    """Ray Train waits for its workers' resources without a word, for ever where no autoscaler adds them."""
    import ray

    if not ray.is_initialized():
        return
    kind = "GPU" if config.use_gpu else "CPU"
    has = int(ray.cluster_resources().get(kind, 0))
    if has < config.num_workers:
        say(
            f"waiting for {config.num_workers} {kind}s, the cluster has {has}: without an autoscaler they never come; "
            "then stop, and give train.num_workers and train.use_gpu by --set"
        )


def fit(recipe: Recipe, dataset: Path, run: Path, *, say: Say, callbacks: tuple[Any, ...] = ()) -> None:
    """Run the workers until the run is finished, from its last checkpoint if there is one. `callbacks`: Ray Train's.

    Raises TrainError where the workers failed more often than train.max_failures or there is nothing to factorise, DivergenceError where the
    loss diverged.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    fit_factors(recipe, dataset, run, say=say)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "recipe": recipe.model_dump(mode="json"),
            "dataset": str(dataset),
            "model_folder": str(run / "model"),
            "git": git_revision(),
            "wandb_mode": wandb_mode() if "wandb" in recipe.train.tracking else "offline",
        },
        torch_config=TorchConfig(backend="nccl" if recipe.train.use_gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=recipe.train.num_workers, use_gpu=recipe.train.use_gpu),
        run_config=RunConfig(
            name=run.name,
            storage_path=str(run.parent),
            failure_config=FailureConfig(max_failures=recipe.train.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            callbacks=list(callbacks),
        ),
    )
    (run / STOPPED).unlink(missing_ok=True)
    try:
        with following(run, say=say):
            trainer.fit()
    except Exception as error:
        cause = error.__cause__ or error
        raise TrainError(
            f"the workers failed: {str(error).strip().splitlines()[-1]}",
            field="train",
            value=run.name,
            fix="see the traceback above; the same command resumes from the last checkpoint",
        ) from cause
    if (run / STOPPED).is_file():
        stopped = json.loads((run / STOPPED).read_text(encoding="utf-8"))
        raise DivergenceError(stopped.pop("problem"), **stopped)
    (run / DONE).write_text(json.dumps({"dataset": dataset.name, "recipe": recipe.digest()}), encoding="utf-8")
