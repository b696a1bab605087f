"""The trained module: text tower and network together, one scalar loss per batch.

Every head contributes to the graph in every batch (0 where it has no targets), so that all ranks reduce the same gradients.
Losses are sums divided by *global* weights: averaging the ranks' gradients then gives the gradient of the global batch.

Shape letters: as in network.py; K texts with gradient, M retrieval positives, G retrieval negatives, Z all distinct texts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clm_ray.model.fairness import Fairness
from clm_ray.model.interactions import Fields
from clm_ray.model.network import (
    ItemInputs,
    Network,
    UserInputs,
    exact,
    gather_positions,
    mean_hazard_logit,
    mean_logit,
)
from clm_ray.model.shared import shared
from clm_ray.model.text import TextTower

LOSSES = ("click", "retention", "retrieval", "rating", "value", "next_action", "fairness")
"""Losses in the order of `Batch.scale`; each has a weight in the recipe."""


@dataclass(frozen=True)
class TextInputs:
    """Distinct texts of a batch, and those that get gradient, which the ranks encode together: each its share, all use all.

    `cache_row_X`: row in the vector cache. `trained_K`: texts of this batch that were encoded, `fresh_K`: as which of the `encoded` ones.
    `own_E`: which of these this rank encodes; `states`: their (lower states [., S, H], mask [., S]) in groups of like length, in this order;
    without any of its own one text that touches nothing, as each rank calls the tower equally often.
    """

    cache_row_X: Tensor
    trained_K: Tensor
    fresh_K: Tensor
    encoded: int
    own_E: Tensor
    states: tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True)
class ClickTargets:
    """Padded targets; padding has weight 0. Items are positions among the batch's distinct items. `rated_BQ`: the weight where there is a
    rating, else 0. `group_BQ`: group of the fairness penalty, -1 where in none.
    """

    pos_BQ: Tensor
    item_BQ: Tensor
    dense_BQS: Tensor
    label_BQ: Tensor
    weight_BQ: Tensor
    offset_BQ: Tensor
    rating_BQ: Tensor
    rated_BQ: Tensor
    group_BQ: Tensor


@dataclass(frozen=True)
class ReferenceTargets:
    """Padded references. `bin_BR` = J where no return was seen; bins from `seen_BR` on contribute nothing. `known_BR`: 1 where the spend
    within the horizon is known.
    """

    pos_BR: Tensor
    dense_BRS: Tensor
    bin_BR: Tensor
    seen_BR: Tensor
    value_BR: Tensor
    known_BR: Tensor


@dataclass(frozen=True)
class RetrievalTargets:
    """Next items: (window, position) → item, and the sampled negatives with log of their expected count."""

    row_M: Tensor
    pos_M: Tensor
    item_M: Tensor
    logq_M: Tensor
    negative_G: Tensor
    logq_G: Tensor


@dataclass(frozen=True)
class ActionTargets:
    """Next events: (window, position) → event type."""

    row_M: Tensor
    pos_M: Tensor
    event_M: Tensor


@dataclass(frozen=True)
class Batch:
    """What one engine step sees. `scale`, for each of LOSSES: loss weight · world / global weight."""

    texts: TextInputs
    items: ItemInputs
    users: UserInputs
    click: ClickTargets
    references: ReferenceTargets
    retrieval: RetrievalTargets
    actions: ActionTargets
    scale: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return _each(self, lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The same batch in pinned memory, which a GPU copies from while it computes."""
        return _each(self, Tensor.pin_memory)


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_each(one, change) for one in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _each(getattr(value, f.name), change) for f in fields(value)})
    return value


class Recommender(nn.Module):
    """Text tower (None without text), network, and the cache of text vectors that stand in for texts without gradient."""

    def __init__(
        self,
        network: Network,
        tower: TextTower | None,
        *,
        label_smoothing: float = 0.0,
        fairness: Fairness | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.tower = tower
        self.label_smoothing = label_smoothing
        self.fairness = fairness
        self.cache_ZH: Tensor = torch.zeros(1, network.sizes.text_width)

    def train(self, mode: bool = True) -> Recommender:
        """The encoder's own dropout stays off: its cached vectors must mean the same as its fresh ones."""
        super().train(mode)
        if self.tower is not None:
            self.tower.eval()
        return self

    def text_vectors(self, texts: TextInputs) -> Tensor:
        """t [X, H]: cached, and encoded with gradient for the K texts of the budget."""
        cached = self.cache_ZH[texts.cache_row_X]
        if self.tower is None or not texts.states:
            return cached
        own = torch.cat([self.tower.pooled(states, mask) for states, mask in texts.states])
        fresh = shared(own[: len(texts.own_E)], texts.own_E, texts.encoded)
        return cached.index_copy(0, texts.trained_K, fresh[texts.fresh_K].to(cached.dtype))

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """(item vectors [U, D], tokens [B, T, D], states [B, T, D])."""
        item_UD = self.network.item_vectors(self.text_vectors(batch.texts), batch.items)
        token_BTD = self.network.tokens(item_UD, batch.users)
        return item_UD, token_BTD, self.network.user_states(token_BTD)

    def fields(self, batch: Batch, item_UD: Tensor, token_BTD: Tensor, state_BTD: Tensor) -> Fields:
        """What the click and rating heads see of each target."""
        at = gather_positions(state_BTD, batch.click.pos_BQ)
        target = item_UD[batch.click.item_BQ]
        return self.network.fields(token_BTD, at, batch.click.pos_BQ, target, batch.click.dense_BQS)

    def click_logits(self, batch: Batch, item_UD: Tensor, token_BTD: Tensor, state_BTD: Tensor) -> Tensor:
        """[B, Q] without the sampling offset."""
        return self.network.click_logits_of(self.fields(batch, item_UD, token_BTD, state_BTD))

    def hazard_logits(self, batch: Batch, state_BTD: Tensor) -> Tensor:
        """[B, R, J]."""
        return mean_hazard_logit(self.member_hazard_logits(batch, state_BTD))

    def member_hazard_logits(self, batch: Batch, state_BTD: Tensor) -> Tensor:
        """[B, R, K, J]."""
        state_BRD = gather_positions(state_BTD, batch.references.pos_BR)
        return self.network.member_hazard_logits(state_BRD, batch.references.dense_BRS)

    def values(self, batch: Batch, state_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Distribution of the spend within the horizon, each [B, R]; see `Network.values`."""
        return self.network.values(gather_positions(state_BTD, batch.references.pos_BR), batch.references.dense_BRS)

    def losses(self, batch: Batch) -> Tensor:
        """Sums of LOSSES over this rank's windows, unscaled; 0 for those that the model does not have."""
        item_UD, token_BTD, state_BTD = self.encode(batch)
        fields = self.fields(batch, item_UD, token_BTD, state_BTD)
        logit_BQK = self.network.member_logits_of(fields)
        logit_BQ = mean_logit(logit_BQK)
        found = {
            "click": click_loss(logit_BQK, batch.click, smoothing=self.label_smoothing),
            "retention": hazard_loss(self.member_hazard_logits(batch, state_BTD), batch.references),
            "retrieval": self._retrieval_loss(batch.retrieval, item_UD, state_BTD),
        }
        network, asked, references = self.network, batch.click, batch.references
        if network.rating is not None:
            found["rating"] = network.rating.loss(network.ratings(fields), asked.rating_BQ, asked.rated_BQ)
        if network.spend is not None:
            found["value"] = network.spend.loss(self.values(batch, state_BTD), references.value_BR, references.known_BR)
        if network.action is not None:
            state_MD = state_BTD[batch.actions.row_M, batch.actions.pos_M]
            found["next_action"] = network.action.loss(network.action_logits(state_MD), batch.actions.event_M)
        if self.fairness is not None:
            found["fairness"] = self.fairness.penalty(
                logit_BQ,
                offset_BQ=asked.offset_BQ,
                label_BQ=asked.label_BQ,
                weight_BQ=asked.weight_BQ,
                group_BQ=asked.group_BQ,
            )
        nothing = logit_BQ.new_zeros(())
        return torch.stack([found.get(name, nothing) for name in LOSSES])

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(loss for the backward pass, detached loss sums)."""
        sums = self.losses(batch)
        return (sums * batch.scale).sum(), sums.detach()

    def _retrieval_loss(self, targets: RetrievalTargets, item_UD: Tensor, state_BTD: Tensor) -> Tensor:
        """Sampled softmax with logQ correction (Bengio & Senécal, 2008; Yi et al., 2019), accidental hits masked."""
        query = self.network.query(state_BTD[targets.row_M, targets.pos_M])
        with exact(query):
            item_UD = item_UD.float()
            own = (query * item_UD[targets.item_M]).sum(-1) - targets.logq_M
            others = query @ item_UD[targets.negative_G].T - targets.logq_G
            hit = targets.item_M[:, None] == targets.negative_G[None, :]
            others = others.masked_fill(hit, float("-inf"))
            logits = torch.cat([own[:, None], others], dim=1)
            return -(F.log_softmax(logits, dim=1)[:, 0]).sum()


def click_loss(logit_BQK: Tensor, targets: ClickTargets, *, smoothing: float = 0.0) -> Tensor:
    """Weighted binary cross-entropy of each member's logit with the sampling offset, summed over targets, mean of the members; labels y
    become (1 - s) y + s / 2 (Szegedy et al., 2016)."""
    label_BQ = (1 - smoothing) * targets.label_BQ + smoothing / 2
    logit_BQK = logit_BQK + targets.offset_BQ.unsqueeze(-1)
    each = F.binary_cross_entropy_with_logits(logit_BQK, label_BQ.unsqueeze(-1).expand_as(logit_BQK), reduction="none")
    return (each.mean(-1) * targets.weight_BQ).sum()


def hazard_loss(logit_BRKJ: Tensor, targets: ReferenceTargets) -> Tensor:
    """Discrete-time hazard likelihood with censoring (Gensheimer & Narasimhan, 2019) of each member, summed over references, mean of the members.

    Bin j counts while the user has not come back before it and it was observed to its end.
    """
    bins = torch.arange(logit_BRKJ.shape[-1], device=logit_BRKJ.device)
    counts_BRJ = (bins <= targets.bin_BR.unsqueeze(-1)) & (bins < targets.seen_BR.unsqueeze(-1))
    label_BRJ = (bins == targets.bin_BR.unsqueeze(-1)).to(logit_BRKJ.dtype)
    label_BRKJ = label_BRJ.unsqueeze(-2).expand_as(logit_BRKJ)
    each = F.binary_cross_entropy_with_logits(logit_BRKJ, label_BRKJ, reduction="none")
    return (each.mean(-2) * counts_BRJ).sum()
