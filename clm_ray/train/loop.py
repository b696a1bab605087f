"""The loop of one training worker: a thin loop around the DeepSpeed engine.

read windows → batch → engine(batch) → backward → step     every rank equally often
every few steps: checkpoint
at the end of an epoch: refresh text vectors → validate → keep the best model → checkpoint

The loop knows nothing of Ray: it works in a process group of torch.distributed, wherever that comes from.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from clm_ray.config.recipe import Recipe
from clm_ray.errors import DivergenceError, TrainError
from clm_ray.lifecycle.stages import Thresholds
from clm_ray.model.recommender import LOSSES, Batch
from clm_ray.train import checkpoint
from clm_ray.train.ahead import ahead
from clm_ray.train.averaging import Average
from clm_ray.train.batches import BatchMaker
from clm_ray.train.checkpoint import Found, Progress
from clm_ray.train.engine import rate_factor, set_rates, start_engine
from clm_ray.train.export import export_model, item_vectors
from clm_ray.train.factors import ExpectedRatings
from clm_ray.train.guards import leak_warnings
from clm_ray.train.histories import Histories
from clm_ray.train.judged import missing_calibration
from clm_ray.train.losses import loss_weights, told_losses
from clm_ray.train.narrate import tell
from clm_ray.train.reference_stages import ReferenceStages
from clm_ray.train.schedule import Schedule
from clm_ray.train.setup import Assembled, Prepared, assemble, batch_maker, frozen_texts, open_dataset
from clm_ray.train.texts import text_vectors
from clm_ray.train.tracking import Tracker
from clm_ray.train.validate import Validation, score_of, validate
from clm_ray.train.weights import full_state, gathered
from clm_ray.train.windows import WindowSet, training_windows

Report = Callable[[dict[str, Any], Path], None]
"""Hands a rank's part of a checkpoint over to where checkpoints are kept; every rank calls it equally often."""


@dataclass(frozen=True)
class Place:
    """Where a worker stands."""

    rank: int
    world: int
    device: torch.device


@dataclass(frozen=True)
class Made:
    """This rank's batches of a step, ready for the device. `last_trained`: of the batch maker after the step, where a checkpoint follows."""

    step: int
    batches: list[Batch]
    last_trained: NDArray[np.int64] | None


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
    stages: ReferenceStages
    schedule: Schedule
    frozen: NDArray[np.float32]
    model_folder: Path
    git: str
    place: Place
    report: Report
    ratings: ExpectedRatings | None = None
    average: Average | None = None
    progress: Progress = field(default_factory=Progress)
    last_checkpoint: str = "none"
    tracker: Tracker = field(default_factory=Tracker)

    @staticmethod
    def start(recipe: Recipe, dataset: Path, model_folder: Path, *, git: str, place: Place, report: Report) -> Worker:
        """Open the dataset, build model and engine, and load the last whole checkpoint if there is one."""
        prepared = open_dataset(dataset, recipe)
        assembled = assemble(prepared)
        assembled.model.to(place.device)
        train, valid = training_windows(dataset, user_share=recipe.train.user_share)
        if not len(train):
            raise TrainError(
                "no training windows", field="dataset", value=str(dataset), fix="check split and event types"
            )
        run = model_folder.parent
        say = _narrator(run, place)
        lower, frozen = frozen_texts(
            prepared, assembled, rank=place.rank, world=place.world, device=place.device, say=say
        )
        found = checkpoint.find(run, rank=place.rank, say=say)
        histories = Histories.of(dataset, recipe)
        universal = found is not None and found.needs_conversion(recipe.train, world=place.world)
        worker = Worker(
            recipe,
            prepared,
            assembled,
            start_engine(assembled.model, recipe.train, universal=universal),
            batch_maker(prepared, lower),
            train,
            valid,
            ReferenceStages(histories, Thresholds.from_dict(prepared.manifest["thresholds"])),
            Schedule.plan(recipe.train, len(train)),
            frozen,
            model_folder,
            git,
            place,
            report,
            ExpectedRatings.of(run, recipe, histories),
        )
        if recipe.train.ema:
            worker.average = Average(assembled.model, recipe.train.ema, rank=place.rank)
        if found is not None:
            worker._resume(found, universal=universal)
        else:
            worker._refresh()
            worker._tell_of_calibration()
        asked, planned = recipe.train, worker.schedule
        if (planned.windows_per_step, planned.epochs) != (asked.windows_per_step, asked.epochs):
            say(
                f"{len(train):,} training windows are few: {planned.windows_per_step} per step, "
                f"up to {planned.epochs} epochs (train.min_steps={asked.min_steps})"
            )
        return worker

    def _tell_of_calibration(self) -> None:
        """Of a refit run: where its calibrations are from, or a warning that it has none."""
        if (missing := missing_calibration(self.recipe)) is not None:
            self._say(f"WARNING {missing}")
            self.progress.warnings.append(missing)
        elif self.recipe.train.calibration_from is not None:
            self._say(f"calibrations are those of {self.recipe.train.calibration_from}")

    def run(self) -> None:
        """All that remains. Raises DivergenceError, on every rank."""
        progress = self.progress
        while progress.epoch < self.schedule.epochs and not progress.finished:
            started, before = time.monotonic(), progress.seconds
            losses = self._epoch(started)
            self._refresh()
            with self._as_served():
                validation = self._validate()
                progress.seconds = before + time.monotonic() - started
                self._account(losses, validation)
            self._checkpoint(validation.metrics, last_trained=self.maker.last_trained)

    def _epoch(self, started: float) -> dict[str, float]:
        """The remaining steps of the epoch; mean losses of all of them."""
        config, schedule, progress = self.recipe.train, self.schedule, self.progress
        before, shown, first = progress.seconds, np.zeros(len(LOSSES)), progress.step
        progress.sums = progress.sums or [0.0] * len(LOSSES)
        self.engine.train()
        for made in ahead(self._made(first), depth=config.batches_ahead):
            losses = self._step(made)
            self._watch(losses, made.step)
            progress.sums = [total + loss for total, loss in zip(progress.sums, losses, strict=True)]
            shown += losses
            progress.step = made.step + 1
            if progress.step % config.log_every == 0:
                self._say_step(shown / min(config.log_every, progress.step - first), first, started)
                shown[:] = 0
            if made.last_trained is not None:
                progress.seconds = before + time.monotonic() - started
                means = self._told([total / progress.step for total in progress.sums])
                self._checkpoint(means, last_trained=made.last_trained)
        return self._told([total / schedule.steps for total in progress.sums])

    def _told(self, losses: Sequence[float]) -> dict[str, float]:
        """Of LOSSES, those that this run has."""
        told = told_losses(self.recipe)
        return {name: loss for name, loss in zip(LOSSES, losses, strict=True) if name in told}

    def _made(self, first: int) -> Iterator[Made]:
        """The batches of the epoch's steps from `first` on. Runs ahead of the steps: it must read nothing that they change."""
        config, schedule, epoch, place = self.recipe.train, self.schedule, self.progress.epoch, self.place
        for step, windows in self.train.batches(
            schedule.windows_per_step, seed=config.seed, epoch=epoch, shuffle=True, first_step=first
        ):
            parts = self.maker.parts(
                windows,
                rank=place.rank,
                world=place.world,
                step=step,
                epoch=epoch,
                train=True,
                parts=config.accumulate,
            )
            batches = [part.pinned() if place.device.type == "cuda" else part for part in parts]
            done = step + 1
            kept = config.checkpoint_steps and done % config.checkpoint_steps == 0 and done < schedule.steps
            yield Made(step, batches, self.maker.last_trained.copy() if kept else None)

    def _step(self, made: Made) -> list[float]:
        """One optimiser step; the losses of the global batch (per weight), the same on every rank."""
        config, epoch, place = self.recipe.train, self.progress.epoch, self.place
        done = epoch * self.schedule.steps + made.step
        set_rates(self.engine, rate_factor(done, self.schedule.total, config=config))
        total = torch.zeros(len(LOSSES), device=place.device)
        for part, batch in enumerate(made.batches):
            # Dropout is a function of where the run is, so that a resumed run needs no random state.
            torch.manual_seed(_seed_of(config.seed, epoch, made.step, part * place.world + place.rank))
            batch = batch.to(place.device)
            loss, sums = self.engine(batch)
            self.engine.backward(loss)
            self.engine.step()
            total += sums * batch.scale / config.accumulate
        if self.average is not None:
            self.average.update(done)
        dist.all_reduce(total)
        weights = [max(loss_weights(self.recipe)[name], 1e-12) for name in LOSSES]
        return [float(t) / place.world / weight for t, weight in zip(total.tolist(), weights, strict=True)]

    def _watch(self, losses: list[float], step: int) -> None:
        """Stop where the losses diverge. They are the same on every rank, so every rank stops."""
        config, progress = self.recipe.train, self.progress
        weights = loss_weights(self.recipe)
        total = sum(loss * weights[name] for name, loss in zip(LOSSES, losses, strict=True))
        problem = progress.watch.problem(losses, total=total, explosion=config.explosion)
        if problem is None:
            return
        places = self.train.places(self.schedule.windows_per_step, seed=config.seed, epoch=progress.epoch, step=step)
        raise DivergenceError(
            f"{problem} in epoch {progress.epoch + 1}, step {step + 1}",
            field="train.learning_rate",
            value=", ".join(f"{name} {loss:.4g}" for name, loss in self._told(losses).items()),
            fix="lower the learning rate, or look at the step's windows in the dataset's sequences (file/row group/row): "
            f"{' '.join(places)}. The last good checkpoint is {self.last_checkpoint}",
        )

    def _say_step(self, losses: NDArray[np.float64], first: int, started: float) -> None:
        schedule, step = self.schedule, self.progress.step
        speed = (step - first) * schedule.windows_per_step / (time.monotonic() - started)
        left = (schedule.steps - step) * schedule.windows_per_step / speed
        rates = {group["name"]: group["lr"] for group in self.engine.optimizer.param_groups}
        means = self._told(losses.tolist())
        self.tracker.steps(means, rates=rates, speed=speed, step=self.progress.epoch * schedule.steps + step)
        self._say(
            f"epoch {self.progress.epoch + 1}/{schedule.epochs} step {step}/{schedule.steps}  "
            f"{'  '.join(f'{name} {loss:.4f}' for name, loss in means.items())}  "
            f"{speed:.0f} windows/s  {left:.0f} s left in epoch",
        )

    def _say(self, line: str) -> None:
        _narrator(self.model_folder.parent, self.place)(line)

    def _refresh(self) -> None:
        """Encode every text with the tower as it is now."""
        model, texts = self.assembled.model, len(self.prepared.items.texts)
        if model.tower is None or self.maker.lower is None:
            model.cache_ZH = torch.zeros(texts, model.network.sizes.text_width, device=self.place.device)
            return
        with gathered(model):
            vectors = text_vectors(
                model.tower,
                self.maker.lower,
                texts,
                rank=self.place.rank,
                world=self.place.world,
                device=self.place.device,
            )
        model.cache_ZH = torch.from_numpy(vectors).to(self.place.device)

    @contextmanager
    def _as_served(self) -> Iterator[None]:
        """Within the block the model is what will be served: averaged where that is asked for, and whole on every rank."""
        model, trained = self.assembled.model, self.assembled.model.cache_ZH
        with self.average.applied() if self.average is not None else nullcontext():
            if self.average is not None:
                self._refresh()
            with gathered(model):
                yield
        model.cache_ZH = trained

    def _validate(self) -> Validation:
        place = self.place
        return validate(
            self.assembled.model,
            self.valid,
            self.maker,
            stages=self.stages,
            ratings=self.ratings,
            rank=place.rank,
            world=place.world,
            device=place.device,
        )

    def _account(self, losses: dict[str, float], validation: Validation) -> None:
        """Write down the epoch, keep the model if it is the best so far, decide whether to go on."""
        progress, metrics = self.progress, validation.metrics
        progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, []
        score = score_of(self.recipe, metrics)
        better = progress.best is None or math.isnan(score) or score > progress.best
        train_loss = {f"train_{name}_loss": value for name, value in losses.items()}
        seconds, progress.seconds = progress.seconds, 0.0
        progress.epochs.append({"epoch": progress.epoch, **train_loss, **metrics, "seconds": seconds})
        if better:
            progress.best, progress.epochs_without_gain = score, 0
        else:
            progress.epochs_without_gain += 1
        waited = progress.epochs_without_gain >= self.recipe.train.patience
        progress.finished = waited and progress.epoch * self.schedule.steps >= self.recipe.train.min_steps
        marks = " (best)" if better else ""
        shown = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if not math.isnan(value))
        self._say(f"epoch {progress.epoch}/{self.schedule.epochs} done in {seconds:.0f} s  valid: {shown}{marks}")
        self.tracker.validated(metrics, step=progress.epoch * self.schedule.steps)
        for warning in leak_warnings(metrics, leak_auc=self.recipe.train.leak_auc):
            self._say(f"WARNING {warning}")
            progress.warnings.append(f"epoch {progress.epoch}: {warning}")
        if better:
            self._export(validation)

    def _export(self, validation: Validation) -> None:
        state = full_state(self.assembled.model)
        vectors = item_vectors(self.assembled, self.prepared, self.assembled.model.cache_ZH)
        progress = self.progress
        history = {"epochs": progress.epochs, "warnings": progress.warnings}
        description = self.assembled.description
        if not self.recipe.split.refit:
            description = replace(
                description,
                calibration=validation.calibration,
                retention=validation.retention,
                stacking=validation.stacking,
            )
        if self.place.rank == 0:
            export_model(
                self.model_folder,
                assembled=replace(self.assembled, description=description),
                prepared=self.prepared,
                state=state,
                vectors=vectors,
                frozen=self.frozen,
                history={**history, "git": self.git, "dataset": self.prepared.manifest["id"]},
                factors=self.ratings.factors if self.ratings is not None else None,
            )

    def _checkpoint(self, metrics: dict[str, float], *, last_trained: NDArray[np.int64]) -> None:
        """Every rank writes its part to its own folder and reports it."""
        progress = self.progress
        tensors = {
            checkpoint.CACHE: self.assembled.model.cache_ZH,
            checkpoint.LAST_TRAINED: torch.from_numpy(last_trained),
        }
        if self.average is not None:
            tensors |= {checkpoint.AVERAGE + name: t for name, t in self.average.state().items()}
        with tempfile.TemporaryDirectory() as folder:
            checkpoint.write(
                Path(folder),
                engine=self.engine,
                config=self.recipe.train,
                progress=progress,
                tensors=tensors,
                rank=self.place.rank,
            )
            self.report(
                {**metrics, "epoch": progress.epoch, "step": progress.step, "best": progress.best}, Path(folder)
            )
        self.last_checkpoint = f"the one after {progress.position}"

    def _resume(self, found: Found, *, universal: bool) -> None:
        run, rank = self.model_folder.parent, self.place.rank
        if universal:
            self._say(f"converting the checkpoint of {found.world} workers for {self.place.world}")
        with checkpoint.converted_state(found, run, rank=rank) if universal else nullcontext() as converted:
            tensors = checkpoint.load(found, self.engine, converted=converted)
        self.assembled.model.cache_ZH = tensors[checkpoint.CACHE].to(self.place.device)
        self.maker.last_trained = tensors[checkpoint.LAST_TRAINED].numpy()
        if self.average is not None:
            prefix = checkpoint.AVERAGE
            self.average.load({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        self.progress = found.progress
        self.last_checkpoint = f"{found.folder.name}, after {found.progress.position}"
        self._say(f"resumed after {found.progress.position}")


def _narrator(run: Path, place: Place) -> Callable[[str], None]:
    """Rank 0 speaks for all."""
    return (lambda line: tell(run, line)) if place.rank == 0 else (lambda line: None)


def _seed_of(*parts: int) -> int:
    return int(np.random.SeedSequence([part % 2**63 for part in parts]).generate_state(1, np.uint64)[0] >> np.uint64(1))
