"""Checkpoints: what a resumed run needs, in files whose digests tell a whole checkpoint from a damaged one.

    state/                 DeepSpeed's own files, of every rank; frozen weights are left out, they come with the encoder
    progress.json          how far the run is, by rank 0
    tensors.safetensors    text vector cache, when each text last had gradient, averaged weights, by rank 0
    files-RANK.json        SHA-256 of every file that the rank wrote, written last

Nothing here depends on the number of ranks but DeepSpeed's files under ZeRO 1 to 3. For another number of ranks these are converted
to DeepSpeed's universal form when they are read.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from clm_ray.config.train import TrainConfig
from clm_ray.data.assets import file_digest
from clm_ray.errors import TrainError
from clm_ray.train.guards import LossWatch

STATE = "state"
PROGRESS = "progress.json"
TENSORS = "tensors.safetensors"
CACHE, LAST_TRAINED, AVERAGE = "cache_ZH", "last_trained", "average."
"""Names in the tensor file; averaged weights have their own name after the prefix."""
_ATTEMPTS = "checkpoint_*"


@dataclass
class Progress:
    """How far a run is. `epoch` and `step` are the next to be done; `sums` the losses of this epoch so far, mean over ranks."""

    epoch: int = 0
    step: int = 0
    sums: list[float] = field(default_factory=list)
    seconds: float = 0.0
    best: float | None = None
    epochs_without_gain: int = 0
    finished: bool = False
    epochs: list[dict[str, float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    watch: LossWatch = field(default_factory=LossWatch)

    @property
    def position(self) -> str:
        """What has been done, in words that count from 1."""
        return f"epoch {self.epoch}" if self.step == 0 else f"step {self.step} of epoch {self.epoch + 1}"

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> Progress:
        """Inverse of `dataclasses.asdict`."""
        return Progress(**{**raw, "watch": LossWatch(**raw["watch"])})


@dataclass(frozen=True)
class Found:
    """A checkpoint that is whole."""

    folder: Path
    world: int
    zero_stage: int
    optimizer: str
    progress: Progress

    def needs_conversion(self, config: TrainConfig, *, world: int) -> bool:
        """Whether DeepSpeed's files must be cut anew for `world` ranks. Raises TrainError where that cannot be done."""
        if (self.zero_stage, self.optimizer) != (config.zero_stage, config.optimizer):
            raise TrainError(
                "the checkpoint was written with other settings",
                field="train",
                value=f"zero_stage={self.zero_stage}, optimizer={self.optimizer}",
                fix="train with these, or begin anew with --fresh",
            )
        if self.zero_stage == 0 or self.world == world:
            return False
        if self.optimizer == "sgd":
            raise TrainError(
                "DeepSpeed can convert a checkpoint of adam and adamw to another number of workers, of sgd it cannot",
                field="train.num_workers",
                value=world,
                fix=f"go on with {self.world} workers, or begin anew with --fresh",
            )
        return True


def write(
    folder: Path, *, engine: Any, config: TrainConfig, progress: Progress, tensors: dict[str, Tensor], rank: int
) -> None:
    """Write this rank's part. Every rank calls it, with a folder of its own or the same one; `tensors` are those of rank 0."""
    engine.save_checkpoint(folder, tag=STATE, save_latest=False, exclude_frozen_parameters=True)
    world = engine.world_size
    if rank == 0:
        made_by = {"world": world, "zero_stage": config.zero_stage, "optimizer": config.optimizer}
        (folder / PROGRESS).write_text(json.dumps({**made_by, "progress": asdict(progress)}), encoding="utf-8")
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, folder / TENSORS)
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    digests = {str(p.relative_to(folder)): file_digest(p) for p in files}
    (folder / _list_of(rank)).write_text(json.dumps({"world": world, "files": digests}), encoding="utf-8")


def find(storage: Path, *, rank: int, say: Callable[[str], None]) -> Found | None:
    """The newest whole checkpoint in a run's folder, the same for every rank; `say` hears of each one that is passed over."""
    chosen: list[str | None] = [None]
    if rank == 0:
        attempts = sorted(storage.glob(_ATTEMPTS), key=lambda p: p.name, reverse=True)
        chosen = [next((p.name for p in attempts if _is_whole(p, say=say)), None)]
    dist.broadcast_object_list(chosen, src=0)
    if chosen[0] is None:
        return None
    folder = storage / chosen[0]
    raw = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    return Found(folder, raw["world"], raw["zero_stage"], raw["optimizer"], Progress.from_dict(raw["progress"]))


def _is_whole(folder: Path, *, say: Callable[[str], None]) -> bool:
    problem = damage(folder)
    if problem is not None:
        say(f"WARNING {folder.name} is damaged ({problem}): going back to the checkpoint before it")
    return problem is None


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files; None where they are what was written."""
    rank, world = 0, 1
    while rank < world:
        path = folder / _list_of(rank)
        try:
            listed = json.loads(path.read_text(encoding="utf-8"))
            world, files = listed["world"], listed["files"]
        except (OSError, ValueError, KeyError, TypeError):
            return f"no list of files by rank {rank}"
        for name, digest in files.items():
            if not (folder / name).is_file():
                return f"{name} is missing"
            if file_digest(folder / name) != digest:
                return f"{name} has changed"
        rank += 1
    return None


def load(found: Found, engine: Any, *, converted: Path | None) -> dict[str, Tensor]:
    """Load DeepSpeed's state into the engine, from `converted` where that is given; returns the tensors beside it."""
    groups = engine.optimizer.param_groups
    # Of the groups' settings the recipe has the last word: DeepSpeed gives all groups those of the first under ZeRO-3.
    own = [{key: group[key] for key in ("name", "peak", "weight_decay")} for group in groups]
    engine.load_checkpoint(converted or found.folder, tag=STATE, load_module_strict=False)
    for group, settings in zip(engine.optimizer.param_groups, own, strict=True):
        group.update(settings)
    # A universal checkpoint of ZeRO-3 gives all groups one and the same step counter, which each of them would advance.
    for state in engine.client_optimizer.state.values():
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].clone()
    return load_file(found.folder / TENSORS)


@contextmanager
def converted_state(found: Found, storage: Path, *, rank: int) -> Iterator[Path]:
    """DeepSpeed's files in the universal form, in a hidden folder of the shared storage, removed after the block."""
    target = storage / f".universal-{found.folder.name}"
    if rank == 0:
        shutil.rmtree(target, ignore_errors=True)
        _convert(found.folder / STATE, target / STATE)
    dist.barrier()
    yield target
    dist.barrier()
    if rank == 0:
        shutil.rmtree(target, ignore_errors=True)


def _convert(source: Path, target: Path) -> None:
    from deepspeed.checkpoint import ds_to_universal

    arguments = argparse.Namespace(
        input_folder=str(source),
        output_folder=str(target),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(arguments)


def _list_of(rank: int) -> str:
    return f"files-{rank:05d}.json"
