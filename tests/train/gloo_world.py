"""Training workers as plain processes of a gloo process group: the loop as under Ray, in seconds.

The processes of a world live as long as the tests that share it, since to start one costs more than a run. What a run knows of the one
before it comes from the run's folder alone.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file

from clm_ray.config.recipe import Recipe, recipe_from
from clm_ray.errors import ClmError
from clm_ray.train.loop import Made, Place, Worker
from clm_ray.train.narrate import PROGRESS

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["deepspeed", "transformers", "gloo_world"])
_KEPT = 2
_PATIENCE_S = 300


class CutOffError(Exception):
    """Stands for the death of every process of a run."""


@dataclass(frozen=True)
class Asked:
    """One attempt at a run. `cut_off`: dies before this (epoch, step). `prepare`, a module's function, may change the worker first."""

    recipe: dict[str, Any]
    dataset: Path
    run: Path
    cut_off: tuple[int, int] | None
    prepare: Callable[[Worker], None] | None


@dataclass(frozen=True)
class Ended:
    """An attempt as every rank saw it. `losses`: (epoch, step) → (click, retention, retrieval)."""

    run: Path
    losses: dict[tuple[int, int], list[float]]
    error: str | None

    @property
    def curve(self) -> torch.Tensor:
        """[steps, losses]."""
        return torch.tensor([self.losses[at] for at in sorted(self.losses)])

    @property
    def lines(self) -> list[str]:
        """The progress log."""
        return (self.run / PROGRESS).read_text(encoding="utf-8").splitlines()

    @property
    def history(self) -> dict[str, Any]:
        """training.json of the kept model."""
        found: dict[str, Any] = json.loads((self.run / "model" / "training.json").read_text(encoding="utf-8"))
        return found

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """Weights of the kept model."""
        return load_file(self.run / "model" / "model.safetensors")


class World:
    """`size` processes, one rank each."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.ends: list[Connection] = []
        self.processes: list[Any] = []
        meeting = Path(tempfile.mkdtemp()) / "ranks"
        for rank in range(size):
            here, there = _CONTEXT.Pipe()
            process = _CONTEXT.Process(target=_serve, args=(there, meeting, rank, size), daemon=True)
            process.start()
            self.ends.append(here)
            self.processes.append(process)

    def train(
        self,
        recipe: Recipe,
        dataset: Path,
        run: Path,
        *,
        cut_off: tuple[int, int] | None = None,
        prepare: Callable[[Worker], None] | None = None,
    ) -> Ended:
        """Begin a run or go on with it."""
        run.mkdir(exist_ok=True)
        for end in self.ends:
            end.send(Asked(recipe.model_dump(mode="json"), dataset, run, cut_off, prepare))
        found = []
        for end in self.ends:
            assert end.poll(_PATIENCE_S), "a rank waits for ever"
            found.append(end.recv())
        assert all(repr(one) == repr(found[0]) for one in found), "ranks disagree"  # as text: nan is not nan
        losses, error = found[0]
        assert (error == "CutOffError: ") == (cut_off is not None), error
        return Ended(run, losses, error)

    def end(self) -> None:
        """End the processes."""
        for end in self.ends:
            end.send(None)
        for process in self.processes:
            process.join(10)
            if process.is_alive():
                process.kill()


def _serve(end: Connection, meeting: Path, rank: int, size: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "DS_ACCELERATOR": "cpu"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    while (asked := end.recv()) is not None:
        losses: dict[tuple[int, int], list[float]] = {}
        error = None
        try:
            _attempt(asked, Place(rank, size, torch.device("cpu")), losses)
        except (ClmError, CutOffError) as raised:
            error = f"{type(raised).__name__}: {raised}"
        end.send((losses, error))


def _attempt(asked: Asked, place: Place, losses: dict[tuple[int, int], list[float]]) -> None:
    def report(metrics: dict[str, float], folder: Path) -> None:
        """As Ray Train does: the ranks' parts go into one folder of the run, the last two are kept."""
        kept = asked.run / f"checkpoint_{int(metrics['epoch']):03d}_{int(metrics['step']):05d}"
        shutil.copytree(folder, kept, dirs_exist_ok=True)
        dist.barrier()
        if place.rank == 0:
            for old in sorted(asked.run.glob("checkpoint_*"))[:-_KEPT]:
                shutil.rmtree(old)
        dist.barrier()

    worker = Worker.start(
        recipe_from(asked.recipe), asked.dataset, asked.run / "model", git="test", place=place, report=report
    )
    if asked.prepare is not None:
        asked.prepare(worker)
    step_of = worker._step

    def step(made: Made) -> list[float]:
        if (worker.progress.epoch, made.step) == asked.cut_off:
            raise CutOffError
        found = step_of(made)
        losses[worker.progress.epoch, made.step] = found
        return found

    worker._step = step  # type: ignore[method-assign]
    worker.run()
