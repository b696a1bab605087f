"""Validation on the valid windows, shared by the ranks.

Log loss and AUC of clicks are those of the sampled targets (with the sampling offset), good for comparing epochs of one run; the
figures to report come from `evaluate`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from clm_ray.config.recipe import Recipe
from clm_ray.metrics.click import auc, log_loss
from clm_ray.model.calibration import Calibration
from clm_ray.model.network import survival_from
from clm_ray.model.recommender import Recommender
from clm_ray.train.batches import BatchMaker
from clm_ray.train.windows import WindowSet


@dataclass(frozen=True)
class Validation:
    """What validation found. The metrics are those of the uncalibrated probabilities."""

    metrics: dict[str, float]
    calibration: Calibration


@torch.no_grad()
def validate(
    model: Recommender, windows: WindowSet, maker: BatchMaker, *, rank: int, world: int, device: torch.device
) -> Validation:
    """Metrics click_auc, click_log_loss, retention_auc (at the longest reported horizon); NaN where there is nothing
    to measure; and the calibration of this epoch's click logits.
    """
    model.eval()
    click: list[NDArray[np.float64]] = [np.empty((0, 4))]
    retention: list[NDArray[np.float64]] = [np.empty((0, 2))]
    size = maker.recipe.train.windows_per_step
    last = maker.recipe.retention.bin_ends.index(max(maker.recipe.retention.report_days))
    for step, batch_windows in windows.batches(size, seed=0, epoch=0, shuffle=False):
        batch = maker.make(batch_windows, rank=rank, world=world, step=step, epoch=0, train=False).to(device)
        item_UD, token_BTD, state_BTD = model.encode(batch)
        logit = model.click_logits(batch, item_UD, token_BTD, state_BTD)
        keep = batch.click.weight_BQ > 0
        columns = (logit, batch.click.label_BQ, batch.click.weight_BQ, batch.click.offset_BQ)
        click.append(torch.stack([c[keep] for c in columns], dim=1).double().cpu().numpy())
        returned = survival_from(model.hazard_logits(batch, state_BTD))[..., last]
        full = batch.references.seen_BR > last
        came = (batch.references.bin_BR <= last).double()
        retention.append(torch.stack([returned[full].double(), came[full]], dim=1).cpu().numpy())
    model.train()
    clicks = _everyone(np.concatenate(click), world)
    returns = _everyone(np.concatenate(retention), world)
    logits, labels, weights, offsets = clicks.T
    probability = 1.0 / (1.0 + np.exp(-(logits + offsets)))
    return Validation(
        metrics={
            "click_auc": auc(labels, score=probability, weight=weights),
            "click_log_loss": log_loss(labels, probability=probability, weight=weights),
            "retention_auc": auc(returns[:, 1], score=returns[:, 0]),
        },
        calibration=Calibration.fit(logits, labels, weight_N=weights, offset_N=offsets),
    )


def _everyone(part: NDArray[np.float64], world: int) -> NDArray[np.float64]:
    if world == 1:
        return part
    parts: list[NDArray[np.float64]] = [part] * world
    dist.all_gather_object(parts, part)
    return np.concatenate(parts)


def score_of(recipe: Recipe, metrics: dict[str, float]) -> float:
    """The chosen metric, larger is better; NaN counts as nothing measured."""
    value = metrics[recipe.train.metric]
    return -value if recipe.train.metric == "click_log_loss" else value
