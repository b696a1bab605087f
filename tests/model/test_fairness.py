"""The penalty for unequal treatment: its value, its gradient, and that training on it brings groups together."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from small_shop import SmallShop, make_shop, small_recipe

from clm_ray.config.train import GroupPenalty
from clm_ray.errors import TrainError
from clm_ray.model.fairness import Fairness
from clm_ray.train.losses import Groups

GROUP = torch.tensor([[0, 0, 1, 1, 2], [1, 0, -1, 0, 2]])
WEIGHT = torch.tensor([[1.0, 2.0, 1.0, 0.5, 1.0], [1.0, 0.0, 1.0, 3.0, 1.0]])
LABEL = torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0, 1.0]])
OFFSET = torch.full((2, 5), 0.7)


def _penalty(logit: torch.Tensor, of: Literal["exposure", "error"]) -> torch.Tensor:
    return Fairness(4, of).penalty(logit, offset_BQ=OFFSET, label_BQ=LABEL, weight_BQ=WEIGHT, group_BQ=GROUP)


def _by_hand(logit: torch.Tensor, of: str) -> torch.Tensor:
    x = torch.sigmoid(logit) if of == "exposure" else (torch.sigmoid(logit + OFFSET) - LABEL).abs()
    inside = GROUP >= 0
    whole = (WEIGHT * inside).sum()
    mean = (WEIGHT * x)[inside].sum() / whole
    total = torch.zeros(())
    for group in range(3):
        mine = group == GROUP
        weight = WEIGHT[mine].sum()
        total = total + weight / whole * ((WEIGHT * x)[mine].sum() / weight - mean) ** 2
    return total


@pytest.mark.parametrize("of", ["exposure", "error"])
def test_value_and_gradient_are_those_of_the_variance_between_groups(of: Literal["exposure", "error"]) -> None:
    logit = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    by_hand = _by_hand(logit, of)
    (expected,) = torch.autograd.grad(by_hand, logit)
    penalty = _penalty(logit, of)
    (found,) = torch.autograd.grad(penalty, logit)
    torch.testing.assert_close(penalty, by_hand)
    torch.testing.assert_close(found, expected)
    assert (found[0] != 0).all()
    assert float(found[1, 2]) == 0.0, "a target in no group is left alone"


def test_equal_groups_cost_nothing() -> None:
    logit = torch.full((2, 5), 0.3, requires_grad=True)
    penalty = _penalty(logit, "exposure")
    (gradient,) = torch.autograd.grad(penalty, logit)
    assert float(penalty.detach()) == pytest.approx(0.0, abs=1e-12)
    assert gradient.abs().max() < 1e-6


def _gap(shop: SmallShop, weight: float) -> float:
    """Difference between the towns' mean probabilities after training, on the training windows."""
    fairness = {"user_column": "town", "weight": weight} if weight else None
    recipe = small_recipe(train={"fairness": fairness})
    maker = shop.maker(recipe=recipe)
    maker.groups = Groups.build(GroupPenalty(user_column="town"), columns=shop.columns, catalogue=shop.source.catalogue)
    model = shop.model(seed=1)
    model.fairness = Fairness(len(maker.groups.names), "exposure") if weight else None
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(60):
        optimizer.zero_grad()
        loss, _ = model(maker.make(shop.batch_windows(), rank=0, world=1, step=step, epoch=0, train=True))
        loss.backward()
        optimizer.step()
    batch = maker.make(shop.batch_windows(), rank=0, world=1, step=0, epoch=0, train=False)
    with torch.no_grad():
        p = torch.sigmoid(model.click_logits(batch, *model.encode(batch)))
    group, kept = batch.click.group_BQ, batch.click.weight_BQ > 0
    means = [float(p[(group == g) & kept].mean()) for g in (0, 1)]
    return abs(means[0] - means[1])


@pytest.mark.slow
def test_training_with_the_penalty_brings_the_groups_together() -> None:
    shop = make_shop()
    assert _gap(shop, 0.0) > 0.02
    assert _gap(shop, 300.0) < 0.3 * _gap(shop, 0.0)


def test_groups_of_users_are_the_values_of_their_column() -> None:
    columns = {"a": ({"town": "y"}, {}), "b": ({"town": "x"}, {}), "c": ({}, {})}
    shop = make_shop()
    groups = Groups.build(GroupPenalty(user_column="town"), columns=columns, catalogue=shop.source.catalogue)
    asked = np.array([1, 2], np.int32)
    assert groups.names == ("x", "y")
    assert [groups.of(user, asked).tolist() for user in ("a", "b", "c", "new")] == [[1, 1], [0, 0], [-1, -1], [-1, -1]]
    with pytest.raises(TrainError, match="no user has a value") as error:
        Groups.build(GroupPenalty(user_column="city"), columns=columns, catalogue=shop.source.catalogue)
    assert "town" in error.value.fix


def test_groups_of_items_are_their_first_listed_category() -> None:
    catalogue = make_shop().source.catalogue
    config = GroupPenalty(item_categories=("sale", "red"))
    groups = Groups.build(config, columns={}, catalogue=catalogue)
    rows = np.arange(len(catalogue), dtype=np.int32)
    names = {row: set() for row in rows.tolist()}
    row_X, code_X, _ = catalogue.explode(rows)
    for row, code in zip(row_X.tolist(), code_X.tolist(), strict=True):
        names[row].add(catalogue.categories[code])
    for row, group in zip(rows.tolist(), groups.of("anyone", rows).tolist(), strict=True):
        expected = "sale" if "sale" in names[row] else "red" if "red" in names[row] else "others"
        assert groups.names[group] == expected
    with pytest.raises(TrainError, match="no item has this category"):
        Groups.build(GroupPenalty(item_categories=("blue",)), columns={}, catalogue=catalogue)
