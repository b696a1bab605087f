"""Further heads of the network (`model.outputs`), and their losses: rating, value in the horizon, next action.

Shape letters: as in network.py; E event types, M next events, P width of the interaction's products.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clm_ray.model.layers import mlp

_LEAST_SIGMA = 0.05
_LARGEST_EXPONENT = 60.0
"""An expected value stays finite in float32."""


class Scaled(nn.Module):
    """Mean and spread of what is predicted, as buffers: a head predicts in standard units, whatever those of the data."""

    mean: Tensor
    spread: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("spread", torch.ones(1))

    @torch.no_grad()
    def fit(self, mean: float, spread: float) -> None:
        """Set the scale: mean and spread of the training targets."""
        self.mean.fill_(mean)
        self.spread.fill_(spread if spread > 0 else 1.0)


class Rating(Scaled):
    """The rating that a user would give, from what the click head sees."""

    def __init__(self, inputs: int, *, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = mlp(inputs, hidden, 1, dropout=dropout)

    def forward(self, product_BQP: Tensor) -> Tensor:
        """[B, Q], in the units of the data."""
        rating: Tensor = self.layers(product_BQP).squeeze(-1) * self.spread + self.mean
        return rating

    def loss(self, rating_BQ: Tensor, actual_BQ: Tensor, weight_BQ: Tensor) -> Tensor:
        """Squared error in standard units, weighted, summed."""
        return (((rating_BQ - actual_BQ) / self.spread).square() * weight_BQ).sum()


class Value(Scaled):
    """Spend within the horizon, zero-inflated lognormal (Wang, Liu & Miao, 2019): the chance that there is any, and mean and spread of
    its logarithm where there is. The scale is that of the logarithm.
    """

    def __init__(self, inputs: int, *, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = mlp(inputs, hidden, 3, dropout=dropout)

    def forward(self, joined_BRS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(logit of any spend, mean, standard deviation of log spend), each [B, R]."""
        logit, mean, sigma = self.layers(joined_BRS).unbind(-1)
        return logit, mean * self.spread + self.mean, (F.softplus(sigma) + _LEAST_SIGMA) * self.spread

    @staticmethod
    def expected(logit: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:
        """Mean of the distribution, in the units of the data."""
        return torch.sigmoid(logit) * torch.exp((mean + sigma.square() / 2).clamp(max=_LARGEST_EXPONENT))

    @staticmethod
    def loss(predicted: tuple[Tensor, Tensor, Tensor], actual_BR: Tensor, known_BR: Tensor) -> Tensor:
        """Negative log likelihood (without the constant of log spend), summed over the references whose horizon was seen in full."""
        logit, mean, sigma = predicted
        some = (actual_BR > 0).to(logit.dtype)
        each = F.binary_cross_entropy_with_logits(logit, some, reduction="none")
        z = (torch.log(torch.where(actual_BR > 0, actual_BR, 1.0)) - mean) / sigma
        each = each + some * (0.5 * z.square() + torch.log(sigma))
        return (each * known_BR).sum()


class NextAction(nn.Module):
    """Of which type a user's next event is."""

    def __init__(self, width: int, *, event_types: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, event_types)

    def forward(self, state: Tensor) -> Tensor:
        """Logits [..., E]."""
        logit: Tensor = self.project(state)
        return logit

    @staticmethod
    def loss(logit_ME: Tensor, event_M: Tensor) -> Tensor:
        """Cross-entropy, summed."""
        return F.cross_entropy(logit_ME, event_M, reduction="sum")
