"""The penalty for treating groups unequally (`train.fairness`).

Shape letters: B windows, Q targets, G groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Fairness:
    """Σ_g (W_g / W) (m_g - m)²: the variance between groups of the mean click probability (`exposure`), or of its mean distance from the
    label (`error`). Means are over the targets of all workers, so that the penalty does not depend on how windows are shared out.
    """

    groups: int
    of: Literal["exposure", "error"]

    def penalty(
        self, logit_BQ: Tensor, *, offset_BQ: Tensor, label_BQ: Tensor, weight_BQ: Tensor, group_BQ: Tensor
    ) -> Tensor:
        """This rank's share of the penalty. Exposure is that of the probabilities served, without the sampling offset; the error is
        against the labels as they were sampled, with it.

        Its gradient is exact: with x the penalised quantity, d penalty / d x_i = 2 (m_g - m) w_i / W for a target i of group g, where
        the means may be taken as constants, as the weighted deviations from m sum to 0.
        """
        quantity_BQ = self._quantity(logit_BQ, offset_BQ, label_BQ)
        weight_BQ = weight_BQ * (group_BQ >= 0)
        at = group_BQ.clamp(min=0)
        total_G, weight_G = self._sums(quantity_BQ.detach(), weight_BQ, at)
        if _world() > 1:
            both = torch.stack([total_G, weight_G])
            dist.all_reduce(both)
            total_G, weight_G = both
        whole = weight_G.sum().clamp(min=1e-12)
        deviation_G = torch.where(weight_G > 0, total_G / weight_G.clamp(min=1e-12) - total_G.sum() / whole, 0.0)
        slope_BQ = 2 * deviation_G[at] * weight_BQ / whole
        share = (weight_G / whole * deviation_G.square()).sum() / _world()
        mine = (slope_BQ * quantity_BQ).sum()
        return share + mine - mine.detach()

    def sums(
        self, logit_BQ: Tensor, *, offset_BQ: Tensor, label_BQ: Tensor, weight_BQ: Tensor, group_BQ: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(Σ w x [G], Σ w [G]) of this rank's targets."""
        quantity_BQ = self._quantity(logit_BQ, offset_BQ, label_BQ)
        return self._sums(quantity_BQ, weight_BQ * (group_BQ >= 0), group_BQ.clamp(min=0))

    def _quantity(self, logit_BQ: Tensor, offset_BQ: Tensor, label_BQ: Tensor) -> Tensor:
        if self.of == "exposure":
            return torch.sigmoid(logit_BQ)
        return (torch.sigmoid(logit_BQ + offset_BQ) - label_BQ).abs()

    def _sums(self, quantity_BQ: Tensor, weight_BQ: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        total_G, weight_G = quantity_BQ.new_zeros(self.groups), quantity_BQ.new_zeros(self.groups)
        total_G.index_add_(0, at.flatten(), (weight_BQ * quantity_BQ).flatten())
        weight_G.index_add_(0, at.flatten(), weight_BQ.flatten())
        return total_G, weight_G


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
