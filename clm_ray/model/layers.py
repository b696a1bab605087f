"""Attention blocks of the user tower and the interaction.

Positions are relative (a learned penalty on distance), and a query sees the last `reach` tokens and the start token only, so what a
position sees does not depend on where a window was cut. Stacked layers see further than one: `layer_reaches` shares
out among them the context that every window carries.

Shape letters: B windows, T tokens (start token first), Q targets of a window, D width, A heads, E width of a head; K members of a head,
P inputs, H hidden width and O outputs of an MLP.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _slopes(heads: int) -> Tensor:
    """ALiBi slopes (Press et al., 2022): a geometric series from 1/2."""
    return torch.tensor([2.0 ** (-8.0 * (a + 1) / heads) for a in range(heads)])


def layer_reaches(reach: int, *, layers: int) -> list[int]:
    """The reach of each of `layers` stacked layers, so that the last one's states come from exactly the last `reach` tokens."""
    steps, more = divmod(reach - 1, layers)
    return [steps + (layer < more) + 1 for layer in range(layers)]


class Attention(nn.Module):
    """Multi-head attention of queries at given positions over the tokens of their window."""

    def __init__(self, width: int, *, heads: int, reach: int) -> None:
        super().__init__()
        self.heads = heads
        self.reach = reach
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.log_slope = nn.Parameter(_slopes(heads).log())

    def bias(self, pos_BQ: Tensor, tokens: int) -> Tensor:
        """[B, A, Q, T]: -slope · distance where allowed, -inf elsewhere. The start token is always allowed, unpenalised."""
        index_T = torch.arange(tokens, device=pos_BQ.device)
        distance = (pos_BQ.unsqueeze(-1) - index_T).to(self.log_slope.dtype)
        allowed = (distance >= 0) & (distance < self.reach)
        penalty = -self.log_slope.exp()[None, :, None, None] * distance.unsqueeze(1)
        penalty = penalty.masked_fill(~allowed.unsqueeze(1), float("-inf"))
        start = (index_T == 0)[None, None, None, :]
        return penalty.masked_fill(start, 0.0)

    def forward(self, query_BQD: Tensor, token_BTD: Tensor, bias: Tensor) -> Tensor:
        """[B, Q, D]."""
        q, (k, v) = self.query(query_BQD), self.key_value(token_BTD).chunk(2, dim=-1)
        q, k, v = (self._split(part) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, part_BND: Tensor) -> Tensor:
        # The width of a head is given, not left to be found: a batch may have no targets.
        return part_BND.view(*part_BND.shape[:2], self.heads, part_BND.shape[2] // self.heads).transpose(1, 2)


class Block(nn.Module):
    """A pre-norm transformer layer over the tokens of a window (causal through the bias)."""

    def __init__(self, width: int, *, heads: int, reach: int, dropout: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads=heads, reach=reach)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, token_BTD: Tensor) -> Tensor:
        """[B, T, D]."""
        position = torch.arange(token_BTD.shape[1], device=token_BTD.device)[None]
        normed = self.norm_attention(token_BTD)
        bias = self.attention.bias(position, token_BTD.shape[1])
        token_BTD = token_BTD + self.dropout(self.attention(normed, normed, bias))
        return token_BTD + self.dropout(self.mlp(self.norm_mlp(token_BTD)))


def mlp(inputs: int, hidden: int, outputs: int, *, dropout: float) -> nn.Sequential:
    """Two-layer head."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, outputs))


class Members(nn.Module):
    """Several two-layer heads in one (BatchEnsemble, Wen et al., 2020; TabM, Gorishniy et al., 2025): they share the first layer but for the
    signs and scales of what goes in, and have biases and last layers of their own. Each is trained on its own loss, so they err apart.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, *, members: int, dropout: float) -> None:
        super().__init__()
        shared = nn.Linear(inputs, hidden)
        self.weight = nn.Parameter(shared.weight.detach().clone())
        self.scale = nn.Parameter(torch.randint(0, 2, (members, inputs)).float() * 2 - 1)
        self.bias = nn.Parameter(torch.zeros(members, hidden))
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Parameter(torch.empty(members, outputs, hidden).uniform_(-(hidden**-0.5), hidden**-0.5))
        self.out_bias = nn.Parameter(torch.zeros(members, outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., K, O]: what each member says, from [..., P]."""
        # One product with all members' weights: scaling the inputs instead would make a copy of them for each member.
        weight_KHP = self.weight * self.scale.unsqueeze(1)
        hidden = F.linear(inputs, weight_KHP.flatten(0, 1), self.bias.flatten())
        hidden = hidden.view(*inputs.shape[:-1], *self.bias.shape)
        said: Tensor = (self.dropout(F.gelu(hidden)).unsqueeze(-2) * self.out).sum(-1) + self.out_bias
        return said


def members_of(inputs: int, hidden: int, outputs: int, *, members: int, dropout: float) -> nn.Module:
    """A two-layer head that says [..., K, O] of [..., P]."""
    if members > 1:
        return Members(inputs, hidden, outputs, members=members, dropout=dropout)
    return nn.Sequential(mlp(inputs, hidden, outputs, dropout=dropout), nn.Unflatten(-1, (1, outputs)))
