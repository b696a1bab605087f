"""The network: item vectors, user tower, interaction, heads. One pass per user window, one vector per distinct item.

Shape letters: B windows, T tokens (start token at 0, context event n at n + 1), Q targets, R references, U distinct items,
X texts, M width of the items' further vectors, D width, H text width, V values per token, S dense features, J hazard bins,
K members of a head.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from clm_ray.config.model import ModelConfig
from clm_ray.features.tokens import TOKEN_VALUES
from clm_ray.model.heads import NextAction, Rating, Value
from clm_ray.model.interactions import ATTENDING, CROSSES, Fields, Shape, products
from clm_ray.model.layers import Attention, Block, layer_reaches, members_of


@dataclass(frozen=True)
class Sizes:
    """Everything that fixes the shapes of the parameters; stored in model.json."""

    width: int
    layers: int
    heads: int
    hidden: int
    reach: int
    text_width: int
    id_slots: int
    categories: int
    event_types: int
    token_values: int
    user_categories: int
    user_numbers: int
    click_features: int
    retention_features: int
    bins: int
    vector_width: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ItemInputs:
    """Distinct items of a batch: row of the text vector, identifier slot, categories (ragged, for an embedding bag), and
    a further vector (of an image, for example) where `has_vector_U`.
    """

    text_U: Tensor
    slot_U: Tensor
    category: Tensor
    category_start_U: Tensor
    vector_UM: Tensor
    has_vector_U: Tensor


@dataclass(frozen=True)
class UserInputs:
    """Windows of a batch; items are positions in the batch's distinct items. Padded tokens come last and are never attended."""

    item_BN: Tensor
    event_BN: Tensor
    value_BNV: Tensor
    user_category: Tensor
    user_category_start_B: Tensor
    user_number_B: Tensor


class ItemVector(nn.Module):
    """Vectors that items bring along, standardised (with buffers, so that a new item's are too) and projected; a learned vector stands
    for those that are missing.
    """

    mean_M: Tensor
    spread_M: Tensor

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean_M", torch.zeros(inputs))
        self.register_buffer("spread_M", torch.ones(inputs))
        self.project = nn.Linear(inputs, width)
        self.missing = nn.Parameter(torch.zeros(width))

    @torch.no_grad()
    def fit(self, mean_M: Tensor, spread_M: Tensor) -> None:
        """Set the scale: mean and spread of the catalogue's vectors."""
        self.mean_M.copy_(mean_M)
        self.spread_M.copy_(spread_M)

    def forward(self, vector_UM: Tensor, has_U: Tensor) -> Tensor:
        """[U, D]."""
        projected = self.project((vector_UM - self.mean_M) / self.spread_M)
        return torch.where(has_U.unsqueeze(-1), projected, self.missing.to(projected.dtype))


class Network(nn.Module):
    """Parameters and the functions that training and serving share."""

    value_kept: Tensor

    def __init__(self, sizes: Sizes, config: ModelConfig) -> None:
        super().__init__()
        self.sizes = sizes
        self.config = config
        self.recompute = False  # the blocks in the backward pass, instead of keeping what they computed
        d = sizes.width
        self.text = nn.Linear(sizes.text_width, d) if config.use_text else None
        self.identifier = nn.Embedding(sizes.id_slots, d) if config.use_ids else None
        self.category = nn.EmbeddingBag(sizes.categories, d, mode="mean") if config.use_categories else None
        self.item_norm = nn.LayerNorm(d)
        self.event = nn.Embedding(sizes.event_types, d)
        self.value = nn.Linear(sizes.token_values, d)
        kept = [not name.startswith(config.without) for name in TOKEN_VALUES]
        self.register_buffer("value_kept", torch.tensor(kept, dtype=torch.float32), persistent=False)
        self.start = nn.Parameter(torch.zeros(d))
        self.user_category = nn.EmbeddingBag(sizes.user_categories, d, mode="sum")
        self.user_number = nn.Linear(max(sizes.user_numbers, 1), d)
        self.blocks = nn.ModuleList(
            Block(d, heads=sizes.heads, reach=reach, dropout=config.dropout)
            for reach in layer_reaches(sizes.reach, layers=sizes.layers)
        )
        self.user_norm = nn.LayerNorm(d)
        chosen = config.interactions
        attends = bool({*chosen} & ATTENDING)
        self.interaction = Attention(d, heads=sizes.heads, reach=sizes.reach) if attends else None
        self.click: nn.Module | None = None
        if "attention" in chosen:
            inputs = 5 * d + 1 + sizes.click_features
            self.click = members_of(inputs, sizes.hidden, 1, members=config.members, dropout=config.dropout)
        self.click_linear = nn.Linear(sizes.click_features, 1)
        # Where no feature is chosen the state is all there is.
        self.retention_sees_state = config.retention_state or not sizes.retention_features
        inputs = (d if self.retention_sees_state else 0) + sizes.retention_features
        self.retention = members_of(
            inputs, sizes.hidden, sizes.bins, members=config.retention_members, dropout=config.dropout
        )
        self.retention_linear = nn.Linear(sizes.retention_features, sizes.bins)
        self.retrieval = nn.Linear(d, d)
        self.log_temperature = nn.Parameter(torch.zeros(1))  # DeepSpeed broadcasts no zero-dimensional tensor
        self._initialise()
        shape = Shape(d, sizes.click_features, sizes.hidden, config.dropout, config.cross_layers)
        self.vector = ItemVector(sizes.vector_width, d) if sizes.vector_width else None
        self.crosses = nn.ModuleDict({name: CROSSES[name](shape) for name in chosen if name in CROSSES})
        also, hidden, dropout = config.outputs, sizes.hidden, config.dropout
        product = 5 * d + 1 + sizes.click_features
        self.rating = Rating(product, hidden=hidden, dropout=dropout) if "rating" in also else None
        known = d + sizes.retention_features
        self.spend = Value(known, hidden=hidden, dropout=dropout) if "value" in also else None
        self.action = NextAction(d, event_types=sizes.event_types) if "next_action" in also else None

    def _initialise(self) -> None:
        for embedding in (self.identifier, self.category, self.event, self.user_category):
            if embedding is not None:
                nn.init.normal_(embedding.weight, std=0.05)
        nn.init.normal_(self.start, std=0.05)

    @torch.no_grad()
    def start_from_rate(self, *, rate: float, mean_offset: float) -> None:
        """Let the first click logits be those of the train targets' base rate (less the sampling offset)."""
        rate = min(max(rate, 1e-6), 1 - 1e-6)
        self.click_linear.bias.fill_(math.log(rate / (1 - rate)) - mean_offset)

    def item_vectors(self, text_XH: Tensor, items: ItemInputs) -> Tensor:
        """x [U, D] from the text vectors of the batch's distinct texts."""
        x = text_XH.new_zeros(len(items.text_U), self.sizes.width)
        if self.category is not None:
            x = x + self.category(items.category, items.category_start_U)
        if self.text is not None:
            x = x + self.text(text_XH)[items.text_U]
        if self.identifier is not None:
            named = self.identifier(items.slot_U)
            if self.training and self.config.id_dropout > 0:
                keep = torch.rand(len(named), 1, device=named.device) >= self.config.id_dropout
                named = named * keep
            x = x + named
        if self.vector is not None:
            x = x + self.vector(items.vector_UM, items.has_vector_U)
        return self.item_norm(x)

    def tokens(self, item_UD: Tensor, users: UserInputs) -> Tensor:
        """Token vectors [B, T, D]: the start token, then item + event type + values."""
        start = self.start + self.user_category(users.user_category, users.user_category_start_B)
        start = start + self.user_number(users.user_number_B)
        events = item_UD[users.item_BN] + self.event(users.event_BN) + self.value(users.value_BNV * self.value_kept)
        return torch.cat([start.unsqueeze(1), events], dim=1)

    def user_states(self, token_BTD: Tensor) -> Tensor:
        """Profile vectors h [B, T, D]: position p has seen p events (at most the last `reach` of them)."""
        states = token_BTD
        for block in self.blocks:
            recompute = self.recompute and torch.is_grad_enabled()
            states = checkpoint(block, states, use_reentrant=False) if recompute else block(states)
        return self.user_norm(states)

    def fields(
        self, token_BTD: Tensor, state_BQD: Tensor, pos_BQ: Tensor, target_BQD: Tensor, dense_BQS: Tensor
    ) -> Fields:
        """What meets in the click and rating heads, given the profile at each target's position."""
        attended = torch.zeros_like(target_BQD)
        if self.interaction is not None:
            bias = self.interaction.bias(pos_BQ, token_BTD.shape[1])
            attended = self.interaction(target_BQD + state_BQD, token_BTD, bias)
        with exact(token_BTD):
            target, state = target_BQD.float(), state_BQD.float()
            columns = token_BTD[:, :1].float().expand_as(target)
            score = self.retrieval_scores(state, target)
            return Fields(state, target, attended.float(), columns, score, dense_BQS)

    def click_logits(
        self, token_BTD: Tensor, state_BQD: Tensor, pos_BQ: Tensor, target_BQD: Tensor, dense_BQS: Tensor
    ) -> Tensor:
        """float32 [B, Q]: logit of a positive answer to each target, given the profile at its position."""
        return self.click_logits_of(self.fields(token_BTD, state_BQD, pos_BQ, target_BQD, dense_BQS))

    def click_logits_of(self, fields: Fields) -> Tensor:
        """float32 [B, Q]: logit of a positive answer to each target."""
        return mean_logit(self.member_logits_of(fields))

    def member_logits_of(self, fields: Fields) -> Tensor:
        """float32 [B, Q, K]: the same by each member of the click head (`model.members`)."""
        with exact(fields.item_BQD):
            logit: Tensor = self.click_linear(fields.dense_BQS)
            if self.click is not None:
                logit = self.click(products(fields)).squeeze(-1) + logit
            for cross in self.crosses.values():
                logit = logit + cross(fields)
            return logit

    def retrieval_scores(self, state_BQD: Tensor, item_BQD: Tensor) -> Tensor:
        """[B, Q, 1]: score of each item for the profile beside it."""
        return (self.query(state_BQD) * item_BQD).sum(-1, keepdim=True)

    def query(self, state: Tensor) -> Tensor:
        """Retrieval query, float32 [..., D], of a profile: its product with item vectors is the retrieval score."""
        with exact(state):
            return self.retrieval(state.float()) * self.log_temperature.exp() / self.sizes.width**0.5

    def ratings(self, fields: Fields) -> Tensor:
        """float32 [B, Q]: expected rating of each target. Needs the output `rating`."""
        assert self.rating is not None
        with exact(fields.item_BQD):
            rating: Tensor = self.rating(products(fields))
            return rating

    def values(self, state_BRD: Tensor, dense_BRS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """float32, each [B, R]: logit of any spend, mean and standard deviation of its logarithm. Needs the output `value`."""
        assert self.spend is not None
        with exact(state_BRD):
            found: tuple[Tensor, Tensor, Tensor] = self.spend(torch.cat([state_BRD.float(), dense_BRS], dim=-1))
            return found

    def action_logits(self, state: Tensor) -> Tensor:
        """float32 [..., E]: logit of each type for the next event. Needs the output `next_action`."""
        assert self.action is not None
        with exact(state):
            logit: Tensor = self.action(state.float())
            return logit

    def hazard_logits(self, state_BRD: Tensor, dense_BRS: Tensor) -> Tensor:
        """float32 [B, R, J]: logit of coming back within bin j given not before."""
        return mean_hazard_logit(self.member_hazard_logits(state_BRD, dense_BRS))

    def member_hazard_logits(self, state_BRD: Tensor, dense_BRS: Tensor) -> Tensor:
        """float32 [B, R, K, J]: the same by each member of the retention head (`model.retention_members`)."""
        with exact(state_BRD):
            seen = [state_BRD.float()] if self.retention_sees_state else []
            said: Tensor = self.retention(torch.cat([*seen, dense_BRS], dim=-1))
            return said + self.retention_linear(dense_BRS).unsqueeze(-2)


def exact(like: Tensor) -> torch.autocast:
    """float32 for what follows, also within autocast: probabilities of rare clicks do not survive bf16's three digits."""
    return torch.autocast(device_type=like.device.type, enabled=False)


def mean_logit(logit_BQK: Tensor) -> Tensor:
    """[B, Q]: logit of the mean of the members' probabilities."""
    if logit_BQK.shape[-1] == 1:
        return logit_BQK.squeeze(-1)
    # log of Σ p less log of Σ (1 - p): finite where all probabilities round to 0 or 1.
    return F.logsigmoid(logit_BQK).logsumexp(-1) - F.logsigmoid(-logit_BQK).logsumexp(-1)


def mean_hazard_logit(logit_BRKJ: Tensor) -> Tensor:
    """[B, R, J]: hazard logits of the mean of the members' survival curves: each member's hazard counts as far as it left the user away until then."""
    if logit_BRKJ.shape[-2] == 1:
        return logit_BRKJ.squeeze(-2)
    stays = F.logsigmoid(-logit_BRKJ)
    before = stays.cumsum(-1) - stays
    return (before + F.logsigmoid(logit_BRKJ)).logsumexp(-2) - (before + stays).logsumexp(-2)


def gather_positions(state_BTD: Tensor, pos_BQ: Tensor) -> Tensor:
    """[B, Q, D]: the state at each position."""
    return state_BTD.gather(1, pos_BQ.unsqueeze(-1).expand(-1, -1, state_BTD.shape[-1]))


def survival_from(hazard_logit: Tensor) -> Tensor:
    """P(active again by the end of bin j) = 1 - prod_{i <= j} (1 - hazard_i)."""
    return 1.0 - torch.exp(F.logsigmoid(-hazard_logit).cumsum(-1))
