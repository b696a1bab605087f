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
from torch import Tensor

from clm_ray.config.recipe import Recipe
from clm_ray.metrics.click import auc, log_loss
from clm_ray.model.calibration import Calibration
from clm_ray.model.heads import Value
from clm_ray.model.network import survival_from
from clm_ray.model.recommender import Batch, Recommender
from clm_ray.model.retention_calibration import RetentionCalibration
from clm_ray.model.stacking import ALONE, Stacking
from clm_ray.train.batches import BatchMaker
from clm_ray.train.factors import ExpectedRatings
from clm_ray.train.reference_stages import ReferenceStages
from clm_ray.train.windows import Windows, WindowSet


@dataclass(frozen=True)
class Validation:
    """What validation found. The metrics are those of the uncalibrated probabilities."""

    metrics: dict[str, float]
    calibration: Calibration
    retention: RetentionCalibration
    stacking: Stacking = ALONE


@torch.no_grad()
def validate(
    model: Recommender,
    windows: WindowSet,
    maker: BatchMaker,
    *,
    stages: ReferenceStages,
    ratings: ExpectedRatings | None = None,
    rank: int,
    world: int,
    device: torch.device,
) -> Validation:
    """Metrics click_auc, click_log_loss, retention_auc (at the longest reported horizon); NaN where there is nothing
    to measure; and the calibrations of this epoch's click logits and, by life-cycle stage, hazard logits, and how the click logits are
    stacked with the expected ratings.

    With further outputs also rating_rmse, value_mae (both in the units of the data), value_ratio (predicted by actual sum) and
    next_action_log_loss; with a fairness penalty group_gap (largest less smallest group mean of what it penalises).
    """
    model.eval()
    click: list[NDArray[np.float64]] = [np.empty((0, 5))]
    hazards = [np.empty((0, len(maker.recipe.retention.bin_ends) + 3))]
    size = maker.recipe.train.windows_per_step
    further = _Further(model)
    last = maker.recipe.retention.bin_ends.index(max(maker.recipe.retention.report_days))
    for step, batch_windows in windows.batches(size, seed=0, epoch=0, shuffle=False):
        batch = maker.make(batch_windows, rank=rank, world=world, step=step, epoch=0, train=False).to(device)
        own = batch_windows.share(rank, world)
        item_UD, token_BTD, state_BTD = model.encode(batch)
        logit = model.click_logits(batch, item_UD, token_BTD, state_BTD)
        keep = batch.click.weight_BQ > 0
        columns = (logit, batch.click.label_BQ, batch.click.weight_BQ, batch.click.offset_BQ)
        found = torch.stack([c[keep] for c in columns], dim=1).double().cpu().numpy()
        click.append(np.column_stack([found, _expected(ratings, own)]))
        hazards.append(_hazards(model.hazard_logits(batch, state_BTD), batch, stages.at(own)))
        further.add(batch, item_UD, token_BTD, state_BTD, logit)
    model.train()
    clicks = _everyone(np.concatenate(click), world)
    hazard_RH = _everyone(np.concatenate(hazards), world)
    bin_R, seen_R, stage_R = hazard_RH[:, -3:].astype(np.int64).T
    logit_RJ, full_R = hazard_RH[:, :-3], seen_R > last
    returned_R = survival_from(torch.from_numpy(logit_RJ[full_R]))[:, last].numpy()
    logits, labels, weights, offsets, expected = clicks.T
    probability = 1.0 / (1.0 + np.exp(-(logits + offsets)))
    calibration = Calibration.fit(
        logits, labels, weight_N=weights, offset_N=offsets, kind=maker.recipe.train.calibration
    )
    return Validation(
        metrics={
            "click_auc": auc(labels, score=probability, weight=weights),
            "click_log_loss": log_loss(labels, probability=probability, weight=weights),
            "retention_auc": auc(bin_R[full_R] <= last, score=returned_R),
            **further.metrics(world),
        },
        calibration=calibration,
        retention=RetentionCalibration.fit(
            logit_RJ,
            bin_R=bin_R,
            seen_R=seen_R,
            stage_R=stage_R.astype(np.int8),
            kind=maker.recipe.train.retention_calibration,
        ),
        stacking=Stacking.fit(
            calibration.apply(torch.from_numpy(logits)).numpy(),
            labels,
            rating_N=expected,
            weight_N=weights,
            offset_N=offsets,
        ),
    )


def _expected(ratings: ExpectedRatings | None, windows: Windows) -> NDArray[np.float64]:
    """Expected rating of each target that counts, in the order of windows and targets; NaN where there is none."""
    counts_T = np.concatenate([np.empty(0, bool), *(target["weight"] > 0 for target in windows.target)])
    return ratings.at(windows)[counts_T] if ratings is not None else np.full(int(counts_T.sum()), np.nan)


def _hazards(logit_BRJ: Tensor, batch: Batch, stage_R: NDArray[np.int8]) -> NDArray[np.float64]:
    """[R, J + 3]: hazard logits, bin, seen bins and stage of each reference that the padded batch really holds."""
    references = batch.references
    held = references.seen_BR > 0
    counts = torch.stack([references.bin_BR[held], references.seen_BR[held]], dim=1)
    both = torch.cat([logit_BRJ[held].double(), counts.double()], dim=1).cpu().numpy()
    return np.column_stack([both, stage_R])


class _Further:
    """Sums for the metrics of further outputs and of the fairness penalty."""

    def __init__(self, model: Recommender) -> None:
        self.model = model
        self.sums: dict[str, NDArray[np.float64]] = {}

    def add(self, batch: Batch, item_UD: Tensor, token_BTD: Tensor, state_BTD: Tensor, logit_BQ: Tensor) -> None:
        """Take in one batch."""
        network, asked, references = self.model.network, batch.click, batch.references
        if network.rating is not None:
            rating = network.ratings(self.model.fields(batch, item_UD, token_BTD, state_BTD))
            error = (rating - asked.rating_BQ).square() * asked.rated_BQ
            self._add("rating", torch.stack([error.sum(), asked.rated_BQ.sum()]))
        if network.spend is not None:
            expected, known = Value.expected(*self.model.values(batch, state_BTD)), references.known_BR
            error = (expected - references.value_BR).abs() * known
            sums = [error.sum(), known.sum(), (expected * known).sum(), (references.value_BR * known).sum()]
            self._add("value", torch.stack(sums))
        if network.action is not None:
            actions = batch.actions
            loss = network.action.loss(network.action_logits(state_BTD[actions.row_M, actions.pos_M]), actions.event_M)
            self._add("next_action", torch.stack([loss, loss.new_tensor(len(actions.event_M))]))
        if self.model.fairness is not None:
            totals, weights = self.model.fairness.sums(
                logit_BQ,
                offset_BQ=asked.offset_BQ,
                label_BQ=asked.label_BQ,
                weight_BQ=asked.weight_BQ,
                group_BQ=asked.group_BQ,
            )
            self._add("groups", torch.cat([totals, weights]))

    def _add(self, name: str, sums: Tensor) -> None:
        self.sums[name] = self.sums.get(name, np.zeros(len(sums))) + sums.double().cpu().numpy()

    def metrics(self, world: int) -> dict[str, float]:
        """The metrics, over all ranks."""
        sums = {name: _everyone(part[None], world).sum(0) for name, part in self.sums.items()}
        found: dict[str, float] = {}
        with np.errstate(invalid="ignore", divide="ignore"):
            if "rating" in sums:
                found["rating_rmse"] = float(np.sqrt(np.divide(*sums["rating"])))
            if "value" in sums:
                error, known, expected, actual = sums["value"]
                found |= {
                    "value_mae": float(np.divide(error, known)),
                    "value_ratio": float(np.divide(expected, actual)),
                }
            if "next_action" in sums:
                found["next_action_log_loss"] = float(np.divide(*sums["next_action"]))
            if "groups" in sums:
                total_G, weight_G = np.split(sums["groups"], 2)
                mean_G = total_G[weight_G > 0] / weight_G[weight_G > 0]
                found["group_gap"] = float(mean_G.max() - mean_G.min()) if len(mean_G) else float("nan")
        return found


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
