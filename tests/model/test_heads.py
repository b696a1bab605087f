"""Rating, value and next action: their losses by hand, what they learn, and that a saved model foretells the same."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_shop import SmallShop, make_shop, small_recipe

from clm_ray.model.heads import NextAction, Rating, Value
from clm_ray.model.recommender import LOSSES, Batch

OUTPUTS = ["rating", "value", "next_action"]


@pytest.fixture(scope="module")
def shop() -> SmallShop:
    return make_shop(recipe=small_recipe(model={"outputs": OUTPUTS}, train={"learning_rate": 0.01}))


def _batch(shop: SmallShop, *, train: bool = True) -> Batch:
    return shop.maker().make(shop.batch_windows(), rank=0, world=1, step=0, epoch=0, train=train)


def test_rating_is_a_squared_error_in_standard_units() -> None:
    head = Rating(3, hidden=4, dropout=0.0)
    head.fit(3.5, 0.5)
    rating, actual = torch.tensor([[4.0, 2.0, 9.0]]), torch.tensor([[3.0, 2.5, 1.0]])
    weight = torch.tensor([[2.0, 1.0, 0.0]])
    assert float(head.loss(rating, actual, weight)) == pytest.approx(2 * (1 / 0.5) ** 2 + (0.5 / 0.5) ** 2)


def test_a_rating_head_begins_at_the_mean() -> None:
    head = Rating(3, hidden=4, dropout=0.0)
    head.fit(3.5, 1.2)
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    assert head(torch.randn(2, 5, 3)).tolist() == [[3.5] * 5] * 2


def test_value_is_a_zero_inflated_lognormal() -> None:
    logit, mean, sigma = (
        torch.tensor([[0.3, -1.0, 0.0]]),
        torch.tensor([[2.0, 1.0, 0.0]]),
        torch.tensor([[0.5, 2.0, 1.0]]),
    )
    actual, known = torch.tensor([[10.0, 0.0, 5.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    some = 1 / (1 + math.exp(-0.3))
    z = (math.log(10.0) - 2.0) / 0.5
    none = 1 - 1 / (1 + math.exp(1.0))
    expected = -math.log(some) + 0.5 * z**2 + math.log(0.5) - math.log(none)
    assert float(Value.loss((logit, mean, sigma), actual, known)) == pytest.approx(expected, rel=1e-5)
    assert float(Value.expected(logit, mean, sigma)[0, 0]) == pytest.approx(some * math.exp(2.0 + 0.125), rel=1e-5)


def test_the_value_head_finds_the_distribution_that_values_come_from() -> None:
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 4000)
    spends = rng.random(4000) < np.where(kind, 0.8, 0.2)
    value = np.where(spends, np.exp(rng.normal(np.where(kind, 3.0, 1.0), 0.5)), 0.0)
    head = Value(1, hidden=8, dropout=0.0)
    head.fit(float(np.log(value[spends]).mean()), float(np.log(value[spends]).std()))
    inputs = torch.tensor(kind, dtype=torch.float32)[None, :, None]
    actual = torch.tensor(value, dtype=torch.float32)[None]
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        (head.loss(head(inputs), actual, torch.ones_like(actual)) / 4000).backward()
        optimizer.step()
    with torch.no_grad():
        low, high = Value.expected(*head(torch.tensor([[[0.0], [1.0]]])))[0].tolist()
    assert low == pytest.approx(0.2 * math.exp(1.125), rel=0.1)
    assert high == pytest.approx(0.8 * math.exp(3.125), rel=0.1)


def test_an_enormous_spend_stays_a_number() -> None:
    assert math.isfinite(float(Value.expected(torch.tensor(9.0), torch.tensor(500.0), torch.tensor(3.0))))


def test_next_action_is_cross_entropy() -> None:
    logit = torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    first = math.log(math.e + 1 + 1 / math.e) - 1.0
    assert float(NextAction.loss(logit, torch.tensor([0, 2]))) == pytest.approx(first + math.log(3), rel=1e-5)
    assert float(NextAction.loss(torch.empty(0, 3), torch.empty(0, dtype=torch.int64))) == 0.0


def test_a_batch_carries_what_the_windows_say(shop: SmallShop) -> None:
    windows, batch = shop.batch_windows(), _batch(shop)
    for b, reference in enumerate(windows.reference):
        known = ~np.isnan(reference["value"])
        count = len(known)
        assert batch.references.known_BR[b, :count].tolist() == known.tolist()
        assert batch.references.value_BR[b, :count][known].tolist() == pytest.approx(reference["value"][known].tolist())
        assert not batch.references.known_BR[b, count:].any()
    assert batch.references.known_BR.any()
    assert not batch.references.known_BR.all()
    assert not batch.click.rated_BQ.any(), "this shop has no ratings"
    actions = batch.actions
    assert len(actions.event_M) > 0
    for row, pos, event in zip(actions.row_M.tolist(), actions.pos_M.tolist(), actions.event_M.tolist(), strict=True):
        context = windows.context[row]
        moment = context["time"][pos]
        assert moment < shop.train_end
        assert pos == 0 or context["time"][pos - 1] < moment, (
            "the state has seen nothing of the moment that is asked for"
        )
        assert event in context["event"][context["time"] == moment]
    kinds = [list(shop.recipe.event_types)[event] for event in actions.event_M.tolist()]
    assert "mailing" in kinds, "events without an item count"
    valid = shop.maker().make(shop.batch_windows(split=1), rank=0, world=1, step=0, epoch=0, train=False)
    moments = [
        shop.batch_windows(split=1).context[row]["time"][pos]
        for row, pos in zip(valid.actions.row_M.tolist(), valid.actions.pos_M.tolist(), strict=True)
    ]
    assert moments
    assert min(moments) >= shop.train_end, "validation foretells what comes after training"


def test_ratings_of_targets_are_learned_from_where_there_are_some(shop: SmallShop) -> None:
    windows = shop.batch_windows()
    rating = [np.where(t["label"] > 0, 5.0, np.nan).astype(np.float32) for t in windows.target]
    rated = replace(windows, target=[{**t, "rating": r} for t, r in zip(windows.target, rating, strict=True)])
    batch = shop.maker().make(rated, rank=0, world=1, step=0, epoch=0, train=True)
    label, weight = batch.click.label_BQ, batch.click.weight_BQ
    torch.testing.assert_close(batch.click.rated_BQ, weight * (label > 0))
    assert (batch.click.rating_BQ[label > 0] == 5.0).all()
    weights = float((weight * (label > 0)).sum())
    scale = float(batch.scale[LOSSES.index("rating")])
    assert scale == pytest.approx(shop.recipe.train.rating_weight / weights)


def test_each_loss_has_its_own_head_and_weight(shop: SmallShop) -> None:
    model, batch = shop.model(), _batch(shop)
    sums = model.losses(batch)
    for name in ("value", "next_action"):
        at = LOSSES.index(name)
        assert float(sums[at].detach()) > 0
        model.zero_grad()
        sums[at].backward(retain_graph=True)
        module = {"value": model.network.spend, "next_action": model.network.action}[name]
        moved = {n for n, p in model.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}
        assert module is not None
        assert any(p.grad is not None and bool((p.grad != 0).any()) for p in module.parameters())
        assert any(n.startswith("network.blocks") for n in moved), "the user tower learns from it"
        assert not any(n.startswith("network.click") for n in moved)


def test_without_outputs_nothing_is_there() -> None:
    shop = make_shop()
    model, batch = shop.model(), _batch(shop)
    assert (model.network.rating, model.network.spend, model.network.action) == (None, None, None)
    assert len(batch.actions.event_M) == 0
    further = slice(LOSSES.index("rating"), None)
    assert model.losses(batch)[further].tolist() == [0.0] * 4
    assert batch.scale[further].tolist() == [0.0] * 4


def test_a_validation_window_without_a_context_has_no_next_action(shop: SmallShop) -> None:
    recipe = small_recipe(model={"outputs": OUTPUTS}, split={"protocol": "per_user"})
    windows = shop.batch_windows(0, 3, split=1)
    bare = [{name: values[:0] for name, values in context.items()} for context in windows.context]
    batch = shop.maker(recipe=recipe).make(
        replace(windows, context=bare, number=[0] * len(windows)), rank=0, world=1, step=0, epoch=0, train=False
    )
    assert len(batch.actions.event_M) == 0
