"""A training run on one GPU through Ray Train and DeepSpeed: bert-base, all layers trained, bf16; what a step spends its time on.

`python -m benchmarks.gpu_train --root WORKSPACE --tokenizer FOLDER [--revision REV]`. Needs a prepared dataset. The encoder has random weights:
no pretrained bert-base comes from a package index, and their values do not matter for speed. Writes results/gpu.json
(keys `train_run`, `train_step`).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu_tower import flops_per_token
from benchmarks.record import record
from clm_ray.config.recipe import Recipe, load_recipe
from clm_ray.config.workspace import Workspace
from clm_ray.train.run import git_revision

if TYPE_CHECKING:
    from clm_ray.train.loop import Worker

STEPS = 30
WARMUP = 5


def encoder(folder: Path, tokenizer: Path) -> Path:
    """bert-base (12 layers, width 768) with random weights and a real tokenizer."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    BertModel(BertConfig()).save_pretrained(folder)
    for file in tokenizer.iterdir():
        shutil.copy(file, folder / file.name)
    return folder


def settings(dataset: Path, bert: Path, *, overrides: Sequence[str]) -> Recipe:
    """The dataset's recipe, for a GPU."""
    keys = [f"model.encoder.name={bert}", "model.encoder.sha256=null", "model.encoder.trained_layers=12"]
    keys += ["model.encoder.items_per_step=512", "train.use_gpu=true", "train.num_workers=1", "train.epochs=2"]
    keys += ["train.windows_per_step=128", "train.min_steps=1", "train.log_every=10", "train.tracking=[]"]
    return load_recipe(str(dataset / "recipe.yaml"), overrides=[*keys, *overrides])


def by_ray(recipe: Recipe, workspace: Workspace, *, targets: int, windows: int) -> dict[str, Any]:
    """The whole run: seconds of each epoch, and the steady rate of its steps."""
    import ray

    from clm_ray.train.run import train

    ray.init(num_gpus=1)
    run = train(recipe, workspace, fresh=True)
    ray.shutdown()
    epochs = json.loads((run / "model" / "training.json").read_text(encoding="utf-8"))["epochs"]
    said = (run / "progress.log").read_text(encoding="utf-8")
    rates = [float(rate) for rate in re.findall(r"epoch 2/2 .* (\d+) windows/s", said)]
    rate = rates[-1] if rates else float("nan")
    return {
        "epoch_seconds": [epoch["seconds"] for epoch in epochs],
        "windows_per_s": rate,
        "impressions_per_s": rate * targets / windows,
        "valid": {name: value for name, value in epochs[-1].items() if name.startswith(("click", "retention"))},
    }


def parts_of_a_step(recipe: Recipe, dataset: Path) -> dict[str, float]:
    """Milliseconds per step, by part, one after the other (making the batch on the CPU; the copy; forward, backward and update on the
    GPU), and of a whole step as the loop makes it, with batches made ahead. What a whole step takes beyond its GPU part, the GPU is idle.
    """
    import torch
    import torch.distributed as dist

    from clm_ray.train.loop import Place, Worker

    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    torch.cuda.set_device(0)
    dist.init_process_group("nccl", init_method="tcp://127.0.0.1:29511", rank=0, world_size=1)
    device = torch.device("cuda", 0)
    with tempfile.TemporaryDirectory() as folder:
        place = Place(0, 1, device)
        (Path(folder) / "run").mkdir()
        worker = Worker.start(
            recipe, dataset, Path(folder) / "run" / "model", git="", place=place, report=lambda metrics, at: None
        )
        spent = {"batch_ms": 0.0, "copy_ms": 0.0, "gpu_ms": 0.0}
        tokens = texts = targets = 0
        worker.engine.train()
        torch.cuda.reset_peak_memory_stats()
        batches = worker.train.batches(worker.schedule.windows_per_step, seed=0, epoch=0, shuffle=True)
        for step, windows in batches:
            if step == WARMUP + STEPS:
                break
            marks = [time.monotonic()]
            batch = worker.maker.make(windows, rank=0, world=1, step=step, epoch=0, train=True)
            marks.append(time.monotonic())
            batch = batch.to(device)
            torch.cuda.synchronize()
            marks.append(time.monotonic())
            loss, _ = worker.engine(batch)
            worker.engine.backward(loss)
            worker.engine.step()
            torch.cuda.synchronize()
            marks.append(time.monotonic())
            if step >= WARMUP:
                for name, a, b in zip(spent, marks, marks[1:], strict=False):
                    spent[name] += (b - a) * 1e3 / STEPS
                tokens += sum(int(mask.sum()) for _, mask in batch.texts.states)
                texts += len(batch.texts.own_E)
                targets += int((batch.click.weight_BQ > 0).sum())
        step_ms = _whole_step(worker)
        total = step_ms * STEPS / 1e3
        flops = tokens * flops_per_token(
            layers=12, width=768, inner=3072, tokens=0
        )  # attention over short texts is little
        return {
            **spent,
            "step_ms": step_ms,
            "texts_per_step": texts / STEPS,
            "tokens_per_text": tokens / max(texts, 1),
            "impressions_per_s": targets / total,
            "tower_tokens_per_s": tokens / total,
            "gpu_idle_share": 1 - spent["gpu_ms"] / step_ms,
            "tower_tflops_of_gpu_time": flops / (spent["gpu_ms"] * STEPS / 1e3) / 1e12,
            "peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9,
        }


def _whole_step(worker: Worker) -> float:
    """Milliseconds of a step of the loop, which waits for its losses."""
    from clm_ray.train.ahead import ahead

    began = 0.0
    for made in ahead(worker._made(0), depth=worker.recipe.train.batches_ahead):
        if made.step == WARMUP:
            began = time.monotonic()
        if made.step == WARMUP + STEPS:
            break
        worker._step(made)
    return (time.monotonic() - began) * 1e3 / STEPS


def main(argv: Sequence[str] | None = None) -> None:
    """Run, print, write."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--root", required=True, help="workspace with a prepared dataset")
    options.add_argument("--tokenizer", required=True, help="folder with the files of a BERT tokenizer")
    options.add_argument("--revision", help="revision of the code, where this is no checkout")
    options.add_argument("--only", choices=("whole", "step"), help="one of the two parts (default: both)")
    options.add_argument("--set", dest="overrides", action="append", default=[])
    args = options.parse_args(argv)

    import torch

    workspace = Workspace(Path(args.root).resolve())
    dataset = workspace.current("datasets")
    bert = encoder(Path(tempfile.mkdtemp()), Path(args.tokenizer))
    recipe = settings(dataset, bert, overrides=args.overrides)
    from clm_ray.schema import TRAIN
    from clm_ray.train.windows import open_windows

    found = open_windows(dataset, TRAIN)
    targets = sum(len(t["item"]) for _, w in found.batches(256, seed=0, epoch=0, shuffle=False) for t in w.target)
    device = {"device": torch.cuda.get_device_name(), "git": args.revision or git_revision()}
    if args.only != "step":
        run = by_ray(recipe, workspace, targets=targets, windows=len(found))
        record("gpu", {"train_run": {**device, **run}}, merge=True, git=args.revision)
    if args.only != "whole":
        record("gpu", {"train_step": {**device, **parts_of_a_step(recipe, dataset)}}, merge=True, git=args.revision)


if __name__ == "__main__":
    main()
