"""Curves of a run, for TensorBoard, Weights & Biases, both or none (`train.tracking`); rank 0 alone writes them.

Everything lies in `tracking/` of the run's folder. A step is a global optimiser step, so a resumed run continues its curves: what
an interrupted epoch had written after its last checkpoint is written again, and counts once.

Weights & Biases writes to disk unless WANDB_MODE says otherwise: a run on a machine without a network is not held up by it. `wandb sync` on
the folder sends it later; WANDB_MODE=online sends at once, with the credentials that wandb finds on the worker's machine.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from clm_ray.config.recipe import Recipe
from clm_ray.config.train import TrainConfig
from clm_ray.errors import ConfigError

TRACKING = "tracking"
WANDB_MODES = ("offline", "online", "disabled")


class Writer(Protocol):
    """One place that curves go to."""

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Add one point to each named curve. Steps never fall; several calls for one step are one point each."""

    def close(self, *, failed: bool) -> None:
        """Write what is still in memory. `failed`: the run ended in an error."""


@dataclass(frozen=True)
class Tracker:
    """Every writer of a run; without writers it does nothing."""

    writers: tuple[Writer, ...] = ()

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """One point for each curve, at a global optimiser step; NaN says that there was nothing to measure and is left out."""
        measured = {name: float(value) for name, value in values.items() if not math.isnan(value)}
        for writer in self.writers:
            writer.log(measured, step=step)

    def steps(self, losses: Mapping[str, float], *, rates: Mapping[str, float], speed: float, step: int) -> None:
        """Mean losses since the last call, learning rates by parameter group, windows per second."""
        curves = {f"train/{name}_loss": value for name, value in losses.items()}
        curves |= {f"rate/{name}": value for name, value in rates.items()}
        self.log({**curves, "train/windows_per_s": speed}, step=step)

    def validated(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Validation metrics at the end of an epoch."""
        self.log({f"valid/{name}": value for name, value in metrics.items()}, step=step)


@contextmanager
def tracking(
    run: Path, *, recipe: Recipe, git: str, done: int, rank: int = 0, wandb_mode: str = "offline"
) -> Iterator[Tracker]:
    """The tracker of a run, closed at the end. `done`: optimiser steps that its checkpoint holds; `git`: the code's revision."""
    folder = run / TRACKING
    writers: list[Writer] = []
    failed = True
    try:
        for name in recipe.train.tracking if rank == 0 else ():
            folder.mkdir(parents=True, exist_ok=True)
            if name == "tensorboard":
                writers.append(TensorBoard(folder, recipe=recipe, git=git, done=done))
            else:
                writers.append(WeightsAndBiases(folder, run.name, recipe=recipe, git=git, mode=wandb_mode))
        yield Tracker(tuple(writers))
        failed = False
    finally:
        for writer in writers:
            writer.close(failed=failed)


class TensorBoard:
    """Event files; `tensorboard --logdir ROOT/runs` shows all runs of a workspace."""

    def __init__(self, folder: Path, *, recipe: Recipe, git: str, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # An interrupted epoch left points after the checkpoint: readers drop them.
        self._writer: Any = SummaryWriter(str(folder), purge_step=done + 1)
        self._writer.add_text("recipe", f"```yaml\n{recipe.to_yaml()}\n```", global_step=done)
        self._writer.add_text("git", git, global_step=done)

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, global_step=step)
        # A killed worker costs nothing that was written.
        self._writer.flush()

    def close(self, *, failed: bool) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A W&B run, in the project named by the recipe. Its id is the run's name, so that a resumed run is the same one there."""

    def __init__(self, folder: Path, name: str, *, recipe: Recipe, git: str, mode: str) -> None:
        import wandb

        self._run: Any = wandb.init(
            project=recipe.name,
            name=name,
            id=name,
            resume="allow",
            dir=str(folder),
            config={"recipe": recipe.model_dump(mode="json"), "git": git},
            mode=mode,  # type: ignore[arg-type]
            # The worker's output and machine are Ray's business.
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                disable_code=True,
                x_disable_stats=True,
                x_disable_meta=True,
            ),
        )

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self, *, failed: bool) -> None:
        import wandb

        self._run.finish(exit_code=int(failed))
        # finish() may return before W&B's own process has written the file; this waits for its end.
        wandb.teardown()


def wandb_mode() -> str:
    """What WANDB_MODE says, `offline` where it says nothing. Raises ConfigError for a mode that is not one of WANDB_MODES."""
    mode = os.environ.get("WANDB_MODE") or "offline"
    if mode not in WANDB_MODES:
        raise ConfigError(
            "no such mode",
            field="WANDB_MODE",
            value=mode,
            fix=f"set it to one of {', '.join(WANDB_MODES)}, or unset it",
        )
    return mode


def check_tracking(config: TrainConfig) -> None:
    """Raises ConfigError where a package that `train.tracking` needs is missing, or WANDB_MODE is none of W&B's."""
    if "wandb" not in config.tracking:
        return
    if importlib.util.find_spec("wandb") is None:
        raise ConfigError(
            "the package wandb is not installed",
            field="train.tracking",
            value="wandb",
            fix="pip install 'clm-ray[wandb]', or leave wandb out",
        )
    wandb_mode()
