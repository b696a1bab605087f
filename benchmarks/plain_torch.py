"""The same model and the same batches in a plain PyTorch loop: no Ray, no DeepSpeed, one process."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from clm_ray.config.recipe import Recipe
from clm_ray.train.averaging import Average
from clm_ray.train.engine import make_optimizer, parameter_groups, rate_factor
from clm_ray.train.schedule import Schedule
from clm_ray.train.setup import assemble, batch_maker, frozen_texts, open_dataset
from clm_ray.train.windows import training_windows

CPU = torch.device("cpu")


def batches_per_second(recipe: Recipe, dataset: Path, *, threads: int) -> float:
    """Windows per second of batches that are made and thrown away."""
    torch.set_num_threads(threads)
    prepared = open_dataset(dataset, recipe)
    assembled = assemble(prepared)
    lower, _ = frozen_texts(prepared, assembled, rank=0, world=1, device=CPU, say=lambda _: None)
    maker = batch_maker(prepared, lower)
    train, _ = training_windows(dataset, user_share=recipe.train.user_share)
    schedule = Schedule.plan(recipe.train, len(train))
    began = time.perf_counter()
    for step, windows in train.batches(schedule.windows_per_step, seed=recipe.train.seed, epoch=0, shuffle=True):
        maker.make(windows, rank=0, world=1, step=step, epoch=0, train=True)
    return len(train) / (time.perf_counter() - began)


def windows_per_second(recipe: Recipe, dataset: Path, *, threads: int) -> float:
    """Speed of the first epoch's steps."""
    torch.set_num_threads(threads)
    prepared = open_dataset(dataset, recipe)
    assembled = assemble(prepared)
    model = assembled.model
    lower, vectors = frozen_texts(prepared, assembled, rank=0, world=1, device=CPU, say=lambda _: None)
    model.cache_ZH = torch.from_numpy(vectors)
    maker = batch_maker(prepared, lower)
    train, _ = training_windows(dataset, user_share=recipe.train.user_share)
    schedule = Schedule.plan(recipe.train, len(train))
    average = Average(model, recipe.train.ema, rank=0) if recipe.train.ema else None
    optimizer = make_optimizer(parameter_groups(model, recipe.train), recipe.train)
    model.train()
    began = time.perf_counter()
    for step, windows in train.batches(schedule.windows_per_step, seed=recipe.train.seed, epoch=0, shuffle=True):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate_factor(step, schedule.total, config=recipe.train)
        loss, _ = model(maker.make(windows, rank=0, world=1, step=step, epoch=0, train=True))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.train.clip_norm)
        optimizer.step()
        if average is not None:
            average.update(step)
    return len(train) / (time.perf_counter() - began)
