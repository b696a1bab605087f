"""Members of the click and retention heads: what each computes, how they are trained, what they answer together."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_shop import SmallShop, make_shop, small_recipe
from torch.nn import functional as F

from clm_ray.model.layers import Members
from clm_ray.model.network import Network, mean_hazard_logit, mean_logit, survival_from


@pytest.fixture(scope="module")
def shop() -> SmallShop:
    return make_shop().with_recipe(small_recipe(model={"members": 4, "retention_members": 3}))


def test_each_member_is_a_two_layer_head_on_scaled_inputs() -> None:
    torch.manual_seed(0)
    members = Members(5, 7, 2, members=3, dropout=0.0)
    torch.nn.init.normal_(members.bias)
    inputs = torch.randn(2, 4, 5)
    for k in range(3):
        hidden = F.gelu((inputs * members.scale[k]) @ members.weight.T + members.bias[k])
        alone = hidden @ members.out[k].T + members.out_bias[k]
        torch.testing.assert_close(members(inputs)[..., k, :], alone, atol=1e-6, rtol=1e-5)


def test_members_begin_apart_and_all_of_them_learn(shop: SmallShop) -> None:
    model = shop.model()
    batch = shop.maker().make(shop.batch_windows(), rank=0, world=1, step=0, epoch=0, train=True)
    logit = model.network.member_logits_of(model.fields(batch, *model.encode(batch)))
    assert logit.shape == (*batch.click.label_BQ.shape, 4)
    assert logit.std(dim=-1).mean() > 0.01
    _, _, state_BTD = model.encode(batch)
    hazard = model.member_hazard_logits(batch, state_BTD)
    assert hazard.shape == (*batch.references.bin_BR.shape, 3, model.network.sizes.bins)
    assert hazard.std(dim=-2).mean() > 0.01
    model(batch)[0].backward()
    heads = [m for name, m in model.network.named_modules() if name in ("click", "retention")]
    assert len(heads) == 2
    for head in heads:
        assert isinstance(head, Members)
        for name, weight in head.named_parameters():
            assert weight.grad is not None, name
            if name != "weight":
                assert bool(weight.grad.flatten(1).abs().sum(1).min() > 0), name


def test_the_answer_is_the_mean_probability_of_the_members() -> None:
    logit = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3
    torch.testing.assert_close(torch.sigmoid(mean_logit(logit)), torch.sigmoid(logit).mean(-1))
    extreme = torch.tensor([[[200.0, 300.0], [-300.0, -200.0]]], requires_grad=True)
    mean_logit(extreme).sum().backward()
    assert bool(torch.isfinite(mean_logit(extreme)).all())
    assert extreme.grad is not None
    assert bool(torch.isfinite(extreme.grad).all())
    alone = torch.randn(2, 3, 1)
    assert torch.equal(mean_logit(alone), alone[..., 0])


def test_the_chance_to_come_back_is_the_mean_of_the_members_chances() -> None:
    logit = torch.randn(3, 5, 4, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3
    torch.testing.assert_close(survival_from(mean_hazard_logit(logit)), survival_from(logit).mean(-2))
    extreme = torch.tensor([[[[200.0, 300.0], [-300.0, -200.0]]]], requires_grad=True)
    mean_hazard_logit(extreme).sum().backward()
    assert bool(torch.isfinite(mean_hazard_logit(extreme)).all())
    assert extreme.grad is not None
    assert bool(torch.isfinite(extreme.grad).all())
    alone = torch.randn(2, 3, 1, 7)
    assert torch.equal(mean_hazard_logit(alone), alone[..., 0, :])


@pytest.mark.parametrize("seen", [False, True])
def test_whether_the_retention_head_sees_the_users_state_is_a_key(seen: bool) -> None:
    network = make_shop().with_recipe(small_recipe(model={"retention_state": seen})).model().network
    state, dense = torch.randn(2, 3, network.sizes.width), torch.randn(2, 3, network.sizes.retention_features)
    with torch.no_grad():
        same = torch.equal(network.hazard_logits(state, dense), network.hazard_logits(-state, dense))
    assert same != seen


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_without_any_feature_the_retention_head_sees_the_users_state() -> None:
    network = make_shop().model().network
    alone = Network(replace(network.sizes, retention_features=0), network.config)
    state, nothing = torch.randn(2, 3, network.sizes.width), torch.zeros(2, 3, 0)
    with torch.no_grad():
        assert not torch.equal(alone.hazard_logits(state, nothing), alone.hazard_logits(-state, nothing))
