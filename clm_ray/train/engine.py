"""DeepSpeed settings from the recipe, and the engine."""

from __future__ import annotations

import os
from typing import Any

import torch

from clm_ray.config.train import TrainConfig
from clm_ray.errors import ConfigError
from clm_ray.model.recommender import Recommender

ADAM_BETAS = (0.9, 0.98)


def settings(config: TrainConfig) -> dict[str, Any]:
    """The DeepSpeed configuration. Raises ConfigError where the recipe's own keys clash with those set here."""
    ours: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.clip_norm,
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }
    if config.use_gpu:
        ours["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    return _merged(ours, config.deepspeed, path="train.deepspeed")


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


def start_engine(model: Recommender, config: TrainConfig) -> Any:
    """deepspeed.initialize on the process group that Ray Train has started."""
    if not config.use_gpu:
        # Else DeepSpeed moves the model to a GPU that the machine has and this run was not given.
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    if not config.use_gpu:
        # Else every start compiles a C++ op for shared-memory collectives.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    optimizer = torch.optim.AdamW(parameter_groups(model, config), betas=ADAM_BETAS)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=settings(config), dist_init_required=False
    )
    return engine


def rate_factor(step: int, total: int, *, warmup_share: float) -> float:
    """Linear warm-up, then cosine decay to a tenth of the peak."""
    warmup = max(1, int(total * warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return 0.1 + 0.45 * (1.0 + float(torch.cos(torch.tensor(progress * torch.pi))))


def set_rates(engine: Any, factor: float) -> None:
    """Scale every group's peak rate."""
    for group in engine.optimizer.param_groups:
        group["lr"] = group["peak"] * factor
