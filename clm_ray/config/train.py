"""How the model is trained."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from clm_ray.config.section import Section


class GroupPenalty(Section):
    """A penalty for treating groups unequally: the variance between the groups of a mean over the step's targets (of all workers), each
    group weighted by its targets.

    Exactly one of `user_column` and `item_categories` says what the groups are.
    """

    user_column: str | None = None
    """A categorical column of the user table: each of its values is a group; users without one are in none."""
    item_categories: tuple[str, ...] = ()
    """Categories of items: an item is in the group of the first one that it has; all others form one more group."""
    of: Literal["exposure", "error"] = "exposure"
    """What is to be equal: the mean click probability (`exposure`), or its mean distance from the label (`error`)."""
    weight: float = Field(default=1.0, gt=0)
    """Weight of the penalty in the loss."""

    @model_validator(mode="after")
    def _one_kind(self) -> GroupPenalty:
        if (self.user_column is None) == (not self.item_categories):
            raise ValueError("give either user_column or item_categories")
        return self


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
    """Weight decay of matrices."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """adamw: weight decay apart from the gradient; adam: decay as part of it (L2); sgd: with `momentum`."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of sgd; the others do not read it."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """The rate after warm-up: down to a tenth along a cosine or a line, or constant."""
    warmup_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps with a rising rate."""
    batches_ahead: int = Field(default=2, ge=0)
    """Batches that a thread of each worker makes ahead of their step."""
    accumulate: int = Field(default=1, ge=1)
    """Parts that a step is computed in, one after the other, on each worker: less memory for activations, the same gradient."""
    activation_checkpointing: bool = False
    """Compute user-tower blocks and trained encoder layers again in the backward pass: less memory, more time, the same gradient."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Gradient clipping."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay per step of a moving average of the trained weights, which is then what is validated, exported and served; 0: off."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage. 0: every worker holds everything, which is fastest; 1, 2, 3 share out the optimiser's state, the gradients
    too, the weights too, for models that do not fit otherwise."""
    offload: Literal["none", "optimizer", "parameters"] = "none"
    """What a GPU worker keeps in CPU memory: the optimiser's state (stages 1 to 3), or parameters too (stage 3)."""
    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """Further DeepSpeed keys; a clash with a key this project sets is an error."""
    click_weight: float = Field(default=1.0, ge=0)
    """Weight of the click loss."""
    retention_weight: float = Field(default=0.3, ge=0)
    """Weight of the retention loss."""
    retrieval_weight: float = Field(default=0.1, ge=0)
    """Weight of the retrieval loss."""
    rating_weight: float = Field(default=0.3, ge=0)
    """Weight of the rating loss (squared error in standard units), where model.outputs has `rating`."""
    value_weight: float = Field(default=0.1, ge=0)
    """Weight of the value loss, where model.outputs has `value`."""
    next_action_weight: float = Field(default=0.1, ge=0)
    """Weight of the loss of the next action, where model.outputs has `next_action`."""
    fairness: GroupPenalty | None = None
    """Penalty for unequal treatment of groups; None: none."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Click labels y become (1 - s) y + s/2 in the loss. Where positives are rare, this raises every probability: leave it at 0."""
    calibration: Literal["platt", "isotonic", "none"] = "platt"
    """How click probabilities are calibrated on the validation split: by two parameters, by a monotone step curve drawn through its steps'
    middles (a few thousand positives at least), or not."""
    retention_calibration: Literal["platt", "none"] = "platt"
    """How the chances to come back are calibrated on the validation references: by two parameters for each life-cycle stage (one with few
    references takes those of all stages together), or not."""
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
    weights, whose sizes must be the same. Layers of the encoder go to their own places: how many are trained, and whether by LoRA, may differ."""
    calibration_from: str | None = None
    """With split.refit: name of the run that was judged before (or its model folder), whose calibrations this run takes; with no validation it
    can fit none of its own."""
    checkpoint_steps: int = Field(default=100, ge=0)
    """Steps between checkpoints within an epoch, each a short pause; 0: at the end of an epoch only."""
    explosion: float = Field(default=10.0, gt=1)
    """A run stops when its training loss, smoothed over some twenty steps, is this many times what it was over the first of them (for a loss
    that may be negative: when it has risen by as much as that is for a positive one of the same size)."""
    leak_auc: float = Field(default=0.995, gt=0.5, le=1)
    """A validation AUC above this is reported as a probable leak: a label or a feature that knows the answer."""
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
