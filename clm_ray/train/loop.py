"""The loop of one Ray Train worker: a thin loop around the DeepSpeed engine.

read windows → batch → engine(batch) → backward → step     every rank equally often
at the end of an epoch: refresh text vectors → validate → keep the best model → report a checkpoint
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import torch
from numpy.typing import NDArray

from clm_ray.config.recipe import Recipe, recipe_from
from clm_ray.errors import TrainError
from clm_ray.model.calibration import Calibration
from clm_ray.train.batches import BatchMaker, Popularity
from clm_ray.train.engine import rate_factor, set_rates, start_engine
from clm_ray.train.export import export_model, item_vectors
from clm_ray.train.narrate import tell
from clm_ray.train.schedule import Schedule
from clm_ray.train.setup import Assembled, Prepared, assemble, open_dataset
from clm_ray.train.texts import LowerStates, lower_states, text_vectors
from clm_ray.train.tracking import Tracker, tracking
from clm_ray.train.validate import Validation, score_of, validate
from clm_ray.train.windows import WindowSet, training_windows

TAG = "state"
STATE = "clm_state.json"


@dataclass
class Progress:
    """What a resumed run must know beside the engine's state."""

    epoch: int = 0
    best: float | None = None
    epochs_without_gain: int = 0
    finished: bool = False
    epochs: list[dict[str, float]] = field(default_factory=list)


def train_worker(config: dict[str, Any]) -> None:
    """Entry point of a Ray Train worker. `config`: dataset, model_folder, recipe, git, wandb_mode."""
    recipe = recipe_from(config["recipe"])
    if not recipe.train.use_gpu:
        torch.set_num_threads(recipe.train.threads_per_worker)
    folder = Path(config["model_folder"])
    worker = Worker.start(recipe, Path(config["dataset"]), folder, git=config["git"])
    done, git, mode = worker.progress.epoch * worker.schedule.steps, config["git"], config["wandb_mode"]
    with tracking(
        folder.parent, recipe=recipe, git=git, done=done, rank=worker.rank, wandb_mode=mode
    ) as worker.tracker:
        worker.run()


@dataclass
class Worker:
    """State of one worker."""

    recipe: Recipe
    prepared: Prepared
    assembled: Assembled
    engine: Any
    maker: BatchMaker
    train: WindowSet
    valid: WindowSet
    schedule: Schedule
    frozen: NDArray[np.float32]
    model_folder: Path
    git: str
    rank: int
    world: int
    device: torch.device
    progress: Progress
    tracker: Tracker = field(default_factory=Tracker)

    @staticmethod
    def start(recipe: Recipe, dataset: Path, model_folder: Path, *, git: str) -> Worker:
        """Open the dataset, build model and engine, and load the last checkpoint if there is one."""
        context = ray.train.get_context()
        rank, world = context.get_world_rank(), context.get_world_size()
        device = ray.train.torch.get_device() if recipe.train.use_gpu else torch.device("cpu")
        prepared = open_dataset(dataset, recipe)
        assembled = assemble(prepared)
        assembled.model.to(device)
        tower, tokens = assembled.model.tower, assembled.tokens
        lower: LowerStates | None = None
        frozen = np.zeros((len(prepared.items.texts), 1), np.float32)
        if tower is not None and tokens is not None:
            if rank == 0:
                tell(model_folder.parent, f"encoding {len(tokens):,} distinct item texts")
            lower = lower_states(tower, tokens, rank=rank, world=world, device=device)
            frozen = text_vectors(tower, lower, len(tokens), rank=rank, world=world, device=device)
        train, valid = training_windows(dataset, user_share=recipe.train.user_share)
        if not len(train):
            raise TrainError(
                "no training windows", field="dataset", value=str(dataset), fix="check split and event types"
            )
        maker = BatchMaker(
            recipe,
            prepared.spec,
            prepared.items,
            prepared.users,
            prepared.columns,
            lower,
            Popularity.build(prepared.events_I),
            prepared.manifest["train_end_us"] if not recipe.split.refit else prepared.manifest["log_end_us"] + 1,
            np.zeros(max(len(prepared.items.texts), 1), np.int64),
        )
        engine = start_engine(assembled.model, recipe.train)
        worker = Worker(
            recipe,
            prepared,
            assembled,
            engine,
            maker,
            train,
            valid,
            Schedule.plan(recipe.train, len(train)),
            frozen,
            model_folder,
            git,
            rank,
            world,
            device,
            Progress(),
        )
        worker._resume()
        asked, planned = recipe.train, worker.schedule
        if rank == 0 and (planned.windows_per_step, planned.epochs) != (asked.windows_per_step, asked.epochs):
            tell(
                model_folder.parent,
                f"{len(train):,} training windows are few: {planned.windows_per_step} per step, "
                f"up to {planned.epochs} epochs (train.min_steps={asked.min_steps})",
            )
        return worker

    def run(self) -> None:
        """All remaining epochs."""
        self._refresh()
        while self.progress.epoch < self.schedule.epochs and not self.progress.finished:
            started = time.monotonic()
            losses = self._epoch(self.progress.epoch)
            self._refresh()
            validation = self._validate()
            self._account(losses, validation, seconds=time.monotonic() - started)
            self._checkpoint(validation.metrics)

    def _epoch(self, epoch: int) -> dict[str, float]:
        config, schedule = self.recipe.train, self.schedule
        sums, started = torch.zeros(3), time.monotonic()
        shown = torch.zeros(3)
        torch.manual_seed(config.seed * 1_000_003 + epoch * 1009 + self.rank)
        self.engine.train()
        for step, windows in self.train.batches(schedule.windows_per_step, seed=config.seed, epoch=epoch, shuffle=True):
            done = epoch * schedule.steps + step
            set_rates(self.engine, rate_factor(done, schedule.total, warmup_share=config.warmup_share))
            batch = self.maker.make(windows, rank=self.rank, world=self.world, step=step, epoch=epoch, train=True)
            loss, parts = self.engine(batch.to(self.device))
            self.engine.backward(loss)
            self.engine.step()
            scaled = (
                parts.cpu()
                * batch.scale
                / torch.tensor(
                    [max(w, 1e-12) for w in (config.click_weight, config.retention_weight, config.retrieval_weight)]
                )
            )
            sums, shown = sums + scaled, shown + scaled
            if not bool(torch.isfinite(scaled).all()):
                raise TrainError(
                    "the loss is not finite",
                    field="train.learning_rate",
                    value=f"epoch {epoch + 1}, step {step + 1}, losses {[round(float(x), 4) for x in scaled]}",
                    fix="lower the learning rate; the last checkpoint is intact",
                )
            if self.rank == 0 and (step + 1) % config.log_every == 0:
                self._say(epoch, step + 1, shown / config.log_every, started)
                shown = torch.zeros(3)
        mean = sums / schedule.steps
        return {"click": float(mean[0]), "retention": float(mean[1]), "retrieval": float(mean[2])}

    def _say(self, epoch: int, step: int, losses: torch.Tensor, started: float) -> None:
        schedule = self.schedule
        speed = step * schedule.windows_per_step / (time.monotonic() - started)
        left = (schedule.steps - step) * schedule.windows_per_step / speed
        rates = {group["name"]: group["lr"] for group in self.engine.optimizer.param_groups}
        means = dict(zip(("click", "retention", "retrieval"), losses.tolist(), strict=True))
        self.tracker.steps(means, rates=rates, speed=speed, step=epoch * schedule.steps + step)
        tell(
            self.model_folder.parent,
            f"epoch {epoch + 1}/{schedule.epochs} step {step}/{schedule.steps}  "
            f"click {losses[0]:.4f}  retention {losses[1]:.4f}  retrieval {losses[2]:.3f}  "
            f"{speed:.0f} windows/s  {left:.0f} s left in epoch",
        )

    def _refresh(self) -> None:
        """Encode every text with the tower as it is now."""
        model = self.assembled.model
        if model.tower is None or self.maker.lower is None:
            model.cache_ZH = torch.zeros(
                len(self.prepared.items.texts), model.network.sizes.text_width, device=self.device
            )
            return
        vectors = text_vectors(
            model.tower,
            self.maker.lower,
            len(self.prepared.items.texts),
            rank=self.rank,
            world=self.world,
            device=self.device,
        )
        model.cache_ZH = torch.from_numpy(vectors).to(self.device)

    def _validate(self) -> Validation:
        return validate(
            self.assembled.model, self.valid, self.maker, rank=self.rank, world=self.world, device=self.device
        )

    def _account(self, losses: dict[str, float], validation: Validation, *, seconds: float) -> None:
        """Write down the epoch, keep the model if it is the best so far, decide whether to go on."""
        progress, metrics = self.progress, validation.metrics
        progress.epoch += 1
        score = score_of(self.recipe, metrics)
        better = progress.best is None or math.isnan(score) or score > progress.best
        train_loss = {f"train_{name}_loss": value for name, value in losses.items()}
        progress.epochs.append({"epoch": progress.epoch, **train_loss, **metrics, "seconds": seconds})
        if better:
            progress.best, progress.epochs_without_gain = score, 0
        else:
            progress.epochs_without_gain += 1
        waited = progress.epochs_without_gain >= self.recipe.train.patience
        progress.finished = waited and progress.epoch * self.schedule.steps >= self.recipe.train.min_steps
        if self.rank == 0:
            marks = " (best)" if better else ""
            shown = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if not math.isnan(value))
            line = f"epoch {progress.epoch}/{self.schedule.epochs} done in {seconds:.0f} s  valid: {shown}{marks}"
            tell(self.model_folder.parent, line)
            self.tracker.validated(metrics, step=progress.epoch * self.schedule.steps)
        if better:
            self._export(validation.calibration)

    def _export(self, calibration: Calibration) -> None:
        state = full_state(self.engine, self.assembled.model)
        vectors = item_vectors(self.assembled, self.prepared, self.assembled.model.cache_ZH)
        if self.rank == 0:
            export_model(
                self.model_folder,
                assembled=replace(
                    self.assembled, description=replace(self.assembled.description, calibration=calibration)
                ),
                prepared=self.prepared,
                state=state,
                vectors=vectors,
                frozen=self.frozen,
                history={"epochs": self.progress.epochs, "git": self.git, "dataset": self.prepared.manifest["id"]},
            )

    def _checkpoint(self, metrics: dict[str, float]) -> None:
        """Every rank saves its part to its own folder under one tag and reports it."""
        with tempfile.TemporaryDirectory() as folder:
            self.engine.save_checkpoint(folder, tag=TAG)
            if self.rank == 0:
                state = {**asdict(self.progress), "last_trained": self.maker.last_trained.tolist()}
                (Path(folder) / STATE).write_text(json.dumps(state), encoding="utf-8")
            ray.train.report(
                {**metrics, "epoch": self.progress.epoch, "best": self.progress.best},
                checkpoint=ray.train.Checkpoint.from_directory(folder),
            )

    def _resume(self) -> None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return
        with checkpoint.as_directory() as folder:
            self.engine.load_checkpoint(folder, tag=TAG)
            state = json.loads((Path(folder) / STATE).read_text(encoding="utf-8"))
        self.maker.last_trained = np.array(state.pop("last_trained"), np.int64)
        self.progress = Progress(**state)
        if self.rank == 0:
            tell(self.model_folder.parent, f"resumed after epoch {self.progress.epoch}")


def full_state(engine: Any, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Unpartitioned weights (ZeRO-3 gathers them)."""
    if engine.zero_optimization_stage() < 3:
        return {name: t.detach() for name, t in model.state_dict().items()}
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        return {name: t.detach().cpu().clone() for name, t in model.state_dict().items()}
