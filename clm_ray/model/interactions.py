"""How user, item and features meet: the choices of `model.interactions`, each a small module that gives a click logit.

All take the same named fields, and the click logit is the sum of theirs (and of a linear path from the features, where the base rate
begins). A sum, not one MLP over all: a choice alone is then exactly the published model, several together are what DeepFM (Guo et al.,
2017) and Wide & Deep (Cheng et al., 2016) are, and adding a choice leaves the others as they were.

Shape letters: B windows, Q targets, D width, S dense features, F fields, K factors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clm_ray.model.layers import mlp

_START = 0.02
"""Standard deviation of initial factors: products of small numbers, so that the first logits are those of the base rate."""


@dataclass(frozen=True)
class Fields:
    """What meets, float32. user: profile h at the target's position; item: target x (its text, identifier, categories, vectors);
    attended: attention of x + h over the context; columns: the start token (user columns); score: retrieval score; dense: features.
    """

    user_BQD: Tensor
    item_BQD: Tensor
    attended_BQD: Tensor
    columns_BQD: Tensor
    score_BQ1: Tensor
    dense_BQS: Tensor

    def vectors(self) -> list[Tensor]:
        """The fields that are vectors of the model's width."""
        return [self.user_BQD, self.item_BQD, self.attended_BQD, self.columns_BQD]


_VECTORS = 4


@dataclass(frozen=True)
class Shape:
    """Sizes that a choice may need: model width, dense features, hidden width, dropout of MLPs, number of cross layers."""

    width: int
    features: int
    hidden: int
    dropout: float
    cross_layers: int


class Linear(nn.Module):
    """Logistic regression on the item's vector: with `use_ids: false` that of its text, BERT → LR.

    The features' own linear path is always there, see `Network.click_linear`.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.item = nn.Linear(shape.width, 1, bias=False)

    def forward(self, fields: Fields) -> Tensor:
        """[B, Q, 1]."""
        logit: Tensor = self.item(fields.item_BQD)
        return logit


class Factors(nn.Module):
    """Bi-interaction pooling (He & Chua, 2017): the sum of f ∘ g over all pairs of fields, as ((Σ f)² − Σ f²) / 2.

    Every feature is a field of its own: its value times a learned vector.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.vectors = nn.ModuleList(nn.Linear(shape.width, shape.width, bias=False) for _ in range(_VECTORS))
        self.features = nn.Parameter(torch.empty(shape.features, shape.width))
        for weight in self.parameters():
            nn.init.normal_(weight, std=_START)

    def forward(self, fields: Fields) -> Tensor:
        """[B, Q, K]."""
        mine = [project(vector) for project, vector in zip(self.vectors, fields.vectors(), strict=True)]
        dense = fields.dense_BQS
        total = torch.stack(mine).sum(0) + dense @ self.features
        squares = torch.stack(mine).square().sum(0) + dense.square() @ self.features.square()
        return (total.square() - squares) / 2


class FM(nn.Module):
    """Factorisation machine (Rendle, 2010): first order in the vectors, and <f, g> for every pair of fields."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.first = nn.Linear(_VECTORS * shape.width, 1, bias=False)
        self.factors = Factors(shape)

    def forward(self, fields: Fields) -> Tensor:
        """[B, Q, 1]."""
        first: Tensor = self.first(torch.cat(fields.vectors(), dim=-1))
        return first + self.factors(fields).sum(-1, keepdim=True)


class NFM(nn.Module):
    """Neural factorisation machine (He & Chua, 2017): an MLP on the pooled pairs."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.first = nn.Linear(_VECTORS * shape.width, 1, bias=False)
        self.factors = Factors(shape)
        self.mlp = mlp(shape.width, shape.hidden, 1, dropout=shape.dropout)

    def forward(self, fields: Fields) -> Tensor:
        """[B, Q, 1]."""
        first: Tensor = self.first(torch.cat(fields.vectors(), dim=-1))
        return first + self.mlp(self.factors(fields))


class NeuMF(nn.Module):
    """Neural matrix factorisation (He et al., 2017), deep collaborative filtering: the product of user and item (GMF) and an MLP over
    both, each with vectors of its own.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.user = nn.Linear(shape.width, 2 * shape.width)
        self.item = nn.Linear(shape.width, 2 * shape.width)
        self.hidden = nn.Sequential(nn.Linear(2 * shape.width, shape.hidden), nn.GELU(), nn.Dropout(shape.dropout))
        self.out = nn.Linear(shape.width + shape.hidden, 1)

    def forward(self, fields: Fields) -> Tensor:
        """[B, Q, 1]."""
        user_product, user = self.user(fields.user_BQD).chunk(2, dim=-1)
        item_product, item = self.item(fields.item_BQD).chunk(2, dim=-1)
        hidden = self.hidden(torch.cat([user, item], dim=-1))
        logit: Tensor = self.out(torch.cat([user_product * item_product, hidden], dim=-1))
        return logit


class DCN(nn.Module):
    """Deep & cross network, second version (Wang et al., 2021): x ← x₀ ∘ (W x + b) + x, each layer one order more; read out linearly."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        inputs = _VECTORS * shape.width + shape.features
        self.cross = nn.ModuleList(nn.Linear(inputs, inputs) for _ in range(shape.cross_layers))
        self.out = nn.Linear(inputs, 1)
        nn.init.normal_(self.out.weight, std=_START)

    def forward(self, fields: Fields) -> Tensor:
        """[B, Q, 1]."""
        first = torch.cat([*fields.vectors(), fields.dense_BQS], dim=-1)
        crossed = first
        for layer in self.cross:
            crossed = first * layer(crossed) + crossed
        logit: Tensor = self.out(crossed)
        return logit


def products(fields: Fields) -> Tensor:
    """[B, Q, 5D + 1 + S]: what the MLP of the choice `attention` reads (Zhou et al., 2018, with products)."""
    user, item, attended = fields.user_BQD, fields.item_BQD, fields.attended_BQD
    return torch.cat([item, user, item * user, attended, item * attended, fields.score_BQ1, fields.dense_BQS], dim=-1)


CROSSES: dict[str, Callable[[Shape], nn.Module]] = {"linear": Linear, "fm": FM, "nfm": NFM, "neumf": NeuMF, "dcn": DCN}
"""The choices beside `attention`."""
ATTENDING = {"attention", "fm", "nfm", "dcn"}
"""The choices that read the attended context."""
