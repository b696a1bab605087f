"""DeepSpeed settings from the recipe, the optimiser, the engine, and the learning rate of each step."""

from __future__ import annotations

import math
import os
from typing import Any

import torch

from clm_ray.config.train import TrainConfig
from clm_ray.errors import ConfigError
from clm_ray.model.recommender import Recommender

ADAM_BETAS = (0.9, 0.98)
_LOWEST = 0.1
"""Where decay ends, as a share of the peak rate."""
_OURS = {
    "optimizer": "train.optimizer",
    "scheduler": "train.schedule",
    "checkpoint": "train.checkpoint_steps",
    "activation_checkpointing": "train.activation_checkpointing",
    "train_batch_size": "train.windows_per_step",
    "zero_force_ds_cpu_optimizer": "train.offload",
}
"""Top-level DeepSpeed keys that have a recipe key, or would work against one."""


def settings(config: TrainConfig, *, universal: bool = False) -> dict[str, Any]:
    """The DeepSpeed configuration; `universal`: to load a checkpoint in DeepSpeed's universal form.

    Raises ConfigError where the recipe's own keys clash with those set here, and where the ZeRO stage cannot offload what is asked for.
    """
    ours: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": config.accumulate,
        "gradient_clipping": config.clip_norm,
        "zero_optimization": {"stage": config.zero_stage, **_offload(config)},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }
    if config.use_gpu:
        ours["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    _check_reserved(config, ours)
    merged = _merged(ours, config.deepspeed, path="train.deepspeed")
    if config.offload != "none":
        # The optimiser is torch's: DeepSpeed's own for the CPU is compiled when a run starts.
        merged["zero_force_ds_cpu_optimizer"] = False
    if universal:
        merged["checkpoint"] = {"load_universal": True}
    return merged


def _offload(config: TrainConfig) -> dict[str, Any]:
    """What ZeRO keeps in CPU memory."""
    least = {"none": 0, "optimizer": 1, "parameters": 3}[config.offload]
    if config.zero_stage < least:
        raise ConfigError(
            f"ZeRO stage {config.zero_stage} cannot do it",
            field="train.offload",
            value=config.offload,
            fix=f"set train.zero_stage={least}" + (" or higher" if least < 3 else "") + ", or train.offload=none",
        )
    parts = {"none": (), "optimizer": ("offload_optimizer",), "parameters": ("offload_optimizer", "offload_param")}
    return {part: {"device": "cpu"} for part in parts[config.offload]}


def _check_reserved(config: TrainConfig, ours: dict[str, Any]) -> None:
    """Refuse keys that the recipe has a word for, where the recipe does not ask for them."""
    found = {key: (config.deepspeed[key], _OURS[key]) for key in _OURS if key in config.deepspeed}
    zero = config.deepspeed.get("zero_optimization")
    for key in ("offload_optimizer", "offload_param"):
        if isinstance(zero, dict) and key in zero and key not in ours["zero_optimization"]:
            found[f"zero_optimization.{key}"] = (zero[key], "train.offload")
    for key, (value, recipe_key) in found.items():
        raise ConfigError(
            "clashes with what the project sets",
            field=f"train.deepspeed.{key}",
            value=value,
            fix=f"use the recipe key {recipe_key}, or leave it out",
        )


def _merged(ours: dict[str, Any], theirs: dict[str, Any], *, path: str) -> dict[str, Any]:
    out = dict(ours)
    for key, value in theirs.items():
        if key not in ours:
            out[key] = value
        elif isinstance(ours[key], dict) and isinstance(value, dict):
            out[key] = _merged(ours[key], value, path=f"{path}.{key}")
        elif ours[key] != value:
            raise ConfigError(
                f"clashes with what the project sets ({ours[key]!r})",
                field=f"{path}.{key}",
                value=value,
                fix="use the recipe key for it (train.zero_stage, train.clip_norm, ...), or leave it out",
            )
    return out


def parameter_groups(model: Recommender, config: TrainConfig) -> list[dict[str, Any]]:
    """Encoder and rest with their own rates; no decay on biases, norms and one-dimensional weights."""
    groups = []
    parts = [("network", list(model.network.parameters()), config.learning_rate)]
    if model.tower is not None:
        new = model.tower.new_parameters()
        pretrained = [p for p in model.tower.parameters() if not any(p is n for n in new)]
        parts += [("tower", pretrained, config.encoder_learning_rate), ("tower", new, config.learning_rate)]
    for name, part, rate in parts:
        trained = [p for p in part if p.requires_grad]
        for decay in (True, False):
            chosen = [p for p in trained if (p.ndim > 1) == decay]
            if chosen:
                weight_decay = config.weight_decay if decay else 0.0
                groups.append({"params": chosen, "lr": rate, "peak": rate, "weight_decay": weight_decay, "name": name})
    return groups


def make_optimizer(groups: list[dict[str, Any]], config: TrainConfig) -> torch.optim.Optimizer:
    """torch's optimiser of the recipe's name, in one pass over memory per weight: on a CPU a third of the time."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=config.momentum, fused=True)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, betas=ADAM_BETAS, fused=True)


def start_engine(model: Recommender, config: TrainConfig, *, universal: bool = False) -> Any:
    """deepspeed.initialize on the process group that is there."""
    if not config.use_gpu:
        # Else DeepSpeed moves the model to a GPU that the machine has and this run was not given.
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    if not config.use_gpu:
        # Else every start compiles a C++ op for shared-memory collectives.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=make_optimizer(parameter_groups(model, config), config),
        config=settings(config, universal=universal),
        dist_init_required=False,
    )
    return engine


def rate_factor(step: int, total: int, *, config: TrainConfig) -> float:
    """Share of the peak rate at `step` (from 0) of `total`: linear warm-up, then the recipe's schedule."""
    warmup = max(1, int(total * config.warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, total - warmup)
    left = 0.5 * (1.0 + math.cos(math.pi * progress)) if config.schedule == "cosine" else 1.0 - progress
    return _LOWEST + (1.0 - _LOWEST) * left


def set_rates(engine: Any, factor: float) -> None:
    """Scale every group's peak rate."""
    for group in engine.optimizer.param_groups:
        group["lr"] = group["peak"] * factor
