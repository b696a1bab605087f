"""How the model is trained."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from clm_ray.config.section import Section


class TrainConfig(Section):
    """Ray Train, DeepSpeed and the optimiser."""

    num_workers: int = Field(default=2, ge=1)
    """Ray Train workers (one process each)."""
    use_gpu: bool = False
    """One GPU per worker (NCCL, bf16); else CPU (gloo, float32)."""
    threads_per_worker: int = Field(default=1, ge=1)
    """Torch threads of a CPU worker."""
    epochs: int = Field(default=3, ge=1)
    """Passes over the training windows (more where `min_steps` asks for them)."""
    windows_per_step: int = Field(default=32, ge=1)
    """Global batch, user windows; divided among the workers (fewer where `min_steps` asks for it)."""
    min_steps: int = Field(default=200, ge=1)
    """Optimiser steps that a run makes at least: a small dataset is cut into smaller steps, down to four windows, and passed over
    more often. Validation stops a run only after them; the best epoch is kept in any case."""
    learning_rate: float = Field(default=3e-3, gt=0)
    """Peak rate of everything but the encoder."""
    encoder_learning_rate: float = Field(default=3e-5, gt=0)
    """Peak rate of the encoder."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW weight decay."""
    warmup_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps with a rising rate; then cosine decay to a tenth."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Gradient clipping."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """DeepSpeed ZeRO stage."""
    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """Further DeepSpeed keys; a clash with a key this project sets is an error."""
    click_weight: float = Field(default=1.0, ge=0)
    """Weight of the click loss."""
    retention_weight: float = Field(default=0.3, ge=0)
    """Weight of the retention loss."""
    retrieval_weight: float = Field(default=0.1, ge=0)
    """Weight of the retrieval loss."""
    retrieval_negatives: int = Field(default=512, ge=1)
    """Items sampled per step for the retrieval loss, the same for every worker."""
    metric: Literal["click_auc", "click_log_loss", "retention_auc"] = "click_auc"
    """Validation metric that chooses the best checkpoint."""
    patience: int = Field(default=2, ge=1)
    """Epochs without improvement before training stops."""
    log_every: int = Field(default=20, ge=1)
    """Steps between progress lines, and between the points of the curves."""
    tracking: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    """Where a run's curves go, in `tracking/` of its folder: TensorBoard, Weights & Biases (offline unless WANDB_MODE says otherwise),
    both; []: nowhere. No model depends on it."""
    user_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the users whose targets are trained on, those with the smallest stable hash; features, validation and test stay those of
    everybody."""
    start_from: str | None = None
    """Model folder of another run or release (also of another recipe): its trained text tower, user tower and interaction are the start
    weights, whose sizes must be the same."""
    seed: int = 0
    """Seed of initial weights, order, dropout and draws."""
    max_failures: int = Field(default=2, ge=0)
    """Worker failures from which the run resumes by itself."""

    @field_validator("tracking")
    @classmethod
    def _each_once(cls, tracking: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(tracking)) < len(tracking):
            raise ValueError(f"names one place twice: {list(tracking)}")
        return tracking
