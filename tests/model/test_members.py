"""Members of the click head: what each computes, how they are trained, what they answer together."""

from __future__ import annotations

import pytest
import torch
from small_shop import SmallShop, make_shop, small_recipe
from torch.nn import functional as F

from clm_ray.model.layers import Members
from clm_ray.model.network import mean_logit


@pytest.fixture(scope="module")
def shop() -> SmallShop:
    return make_shop().with_recipe(small_recipe(model={"members": 4}))


def test_each_member_is_a_two_layer_head_on_scaled_inputs() -> None:
    torch.manual_seed(0)
    members = Members(5, 7, members=3, dropout=0.0)
    torch.nn.init.normal_(members.bias)
    inputs = torch.randn(2, 4, 5)
    for k in range(3):
        hidden = F.gelu((inputs * members.scale[k]) @ members.weight.T + members.bias[k])
        alone = hidden @ members.out[k] + members.out_bias[k]
        torch.testing.assert_close(members(inputs)[..., k], alone, atol=1e-6, rtol=1e-5)


def test_members_begin_apart_and_all_of_them_learn(shop: SmallShop) -> None:
    model = shop.model()
    batch = shop.maker().make(shop.batch_windows(), rank=0, world=1, step=0, epoch=0, train=True)
    logit = model.network.member_logits_of(model.fields(batch, *model.encode(batch)))
    assert logit.shape == (*batch.click.label_BQ.shape, 4)
    assert logit.std(dim=-1).mean() > 0.01
    model(batch)[0].backward()
    head = model.network.click
    assert isinstance(head, Members)
    for name, weight in head.named_parameters():
        assert weight.grad is not None, name
        if name != "weight":
            assert bool((weight.grad.flatten(1) if weight.ndim > 1 else weight.grad[:, None]).abs().sum(1).min() > 0), (
                name
            )


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
