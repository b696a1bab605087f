"""In exact mode one encoding per distinct text has the gradients of the naive way: one encoding per slot, by the untouched encoder.

Shape letters: as in network.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from small_shop import lower_of, make_shop, small_recipe
from tiny_encoders import LAYERS, POOLING, layers_of, pooled_one, random_tokens, tiny_encoder
from torch import Tensor, nn
from torch.nn import functional as F

from clm_ray.model.network import ItemInputs, Network, gather_positions
from clm_ray.model.recommender import Batch, Recommender, click_loss, hazard_loss
from clm_ray.model.text import TextTower, Tokens

TRAINED = 2
SHOP = make_shop(users=4, recipe=small_recipe(model={"encoder": {"items_per_step": 0}}))


def _trained_model(kind: str, tokens: Tokens) -> tuple[Recommender, Batch, list[Tensor]]:
    """Model with gradients of one step, the step's batch, and the gradients of the tower's trained parameters."""
    tower = TextTower(tiny_encoder(kind), trained_layers=TRAINED, pooling=POOLING[kind])
    model = SHOP.model(tower).train()
    model.cache_ZH = torch.full_like(model.cache_ZH, torch.nan)  # nothing may come from the cache
    maker = SHOP.maker(lower_of(tower, tokens))
    batch = maker.make(SHOP.batch_windows(0, 3), rank=0, world=1, step=0, epoch=0, train=True)
    model(batch)[0].backward()
    return model, batch, [_gradient(p) for p in tower.parameters() if p.requires_grad]


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _slot_by_slot(network: Network, batch: Batch, encode: Callable[[int], Tensor]) -> Tensor:
    """The loss of `batch`, with an item vector of its own, and an `encode(text)` of its own, for every slot with an item."""
    items = batch.items
    categories = items.category.tensor_split(items.category_start_U[1:])

    def vectors(item: Tensor) -> Tensor:
        flat = item.flatten()
        texts = batch.texts.cache_row_X[items.text_U[flat]]
        bags = [categories[u] for u in flat]
        starts = torch.tensor([0, *(len(bag) for bag in bags[:-1])]).cumsum(0)
        inputs = ItemInputs(
            torch.arange(len(flat)),
            items.slot_U[flat],
            torch.cat(bags),
            starts,
            items.vector_UM[flat],
            items.has_vector_U[flat],
        )
        return network.item_vectors(torch.stack([encode(int(t)) for t in texts]), inputs).view(*item.shape, -1)

    context_BN = batch.users.item_BN
    users = replace(batch.users, item_BN=torch.arange(context_BN.numel()).view_as(context_BN))
    token_BTD = network.tokens(vectors(context_BN).flatten(0, 1), users)
    state_BTD = network.user_states(token_BTD)
    asked, references, retrieval = batch.click, batch.references, batch.retrieval
    at = gather_positions(state_BTD, asked.pos_BQ)
    click = network.click_logits(token_BTD, at, asked.pos_BQ, vectors(asked.item_BQ), asked.dense_BQS)
    hazard = network.member_hazard_logits(gather_positions(state_BTD, references.pos_BR), references.dense_BRS)
    query_MD = network.query(state_BTD[retrieval.row_M, retrieval.pos_M])
    own_M = (query_MD * vectors(retrieval.item_M)).sum(-1) - retrieval.logq_M
    others_MG = query_MD @ vectors(retrieval.negative_G).T - retrieval.logq_G
    others_MG = others_MG.masked_fill(retrieval.item_M[:, None] == retrieval.negative_G, float("-inf"))
    first = torch.zeros(len(own_M), dtype=torch.int64)
    sums = [
        click_loss(click.unsqueeze(-1), asked),
        hazard_loss(hazard, references),
        F.cross_entropy(torch.cat([own_M[:, None], others_MG], 1), first, reduction="sum"),
    ]
    return (torch.stack(sums) * batch.scale[: len(sums)]).sum()


def _naive(kind: str, model: Recommender, batch: Batch, tokens: Tokens) -> tuple[Network, list[Tensor]]:
    """The same step through the untouched encoder, called once per slot: the network, and the encoder's gradients."""
    encoder, calls = tiny_encoder(kind), [0]
    network = Network(model.network.sizes, model.network.config)
    network.load_state_dict(model.network.state_dict())

    def encode(text: int) -> Tensor:
        calls[0] += 1
        return pooled_one(encoder, tokens, text, pooling=POOLING[kind])

    _slot_by_slot(network.train(), batch, encode).backward()
    assert calls[0] > 3 * len(batch.texts.cache_row_X)
    norm = {"gpt2": "ln_f", "qwen3": "norm"}.get(kind)
    layers = layers_of(encoder)[LAYERS - TRAINED :]
    trained = [*layers.parameters(), *(encoder.get_submodule(norm).parameters() if norm else [])]
    return network, [_gradient(p) for p in trained]


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "mpnet", "gpt2", "xlnet", "qwen3"])
def test_gradients_are_those_of_encoding_every_slot_separately(kind: str) -> None:
    tokens = random_tokens([1 + n % 6 for n in range(len(SHOP.items.texts))])
    model, batch, found = _trained_model(kind, tokens)
    network, expected = _naive(kind, model, batch, tokens)
    assert len(found) == len(expected) > 10
    names = [name for name, _ in model.network.named_parameters()]
    found += [_gradient(model.network.get_parameter(name)) for name in names]
    expected += [_gradient(network.get_parameter(name)) for name in names]
    # A key's bias moves all scores alike: its gradient is zero, and what is found there is rounding.
    least = 1e-3 * max(float(theirs.norm()) for theirs in expected)
    assert sum(float(theirs.norm()) > least for theirs in expected) > 0.5 * len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert float((mine - theirs).norm()) <= 1e-5 * max(float(theirs.norm()), least)
