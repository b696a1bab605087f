"""The three losses against loops that anyone can check."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_shop import make_shop
from torch import Tensor

from clm_ray.model.network import survival_from
from clm_ray.model.recommender import (
    ClickTargets,
    ReferenceTargets,
    RetrievalTargets,
    click_loss,
    hazard_loss,
)

BINS = 4


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def _references(bins: list[list[int]], seen: list[list[int]]) -> ReferenceTargets:
    shape = torch.tensor(bins)
    none = torch.zeros(shape.shape)
    return ReferenceTargets(torch.zeros_like(shape), none[..., None], shape, torch.tensor(seen), none, none)


def test_hazard_loss_is_the_likelihood_with_censoring() -> None:
    logit = torch.randn(2, 5, BINS, generator=torch.Generator().manual_seed(0))
    # (bin of the return, bins seen in full): came back at once; later; never; lost sight of before; padding.
    bins = [[0, 2, BINS, 3, 0], [1, BINS, BINS, 2, 0]]
    seen = [[4, 3, 4, 2, 0], [2, 4, 1, 3, 0]]
    expected = 0.0
    for b in range(2):
        for r in range(5):
            for j in range(seen[b][r]):
                hazard = _sigmoid(float(logit[b, r, j]))
                if bins[b][r] == j:
                    expected -= math.log(hazard)
                    break
                expected -= math.log(1 - hazard)
    assert float(hazard_loss(logit.unsqueeze(-2), _references(bins, seen))) == pytest.approx(expected, rel=1e-5)


def test_what_was_not_seen_in_full_has_no_gradient() -> None:
    logit = torch.randn(1, 2, BINS, requires_grad=True)
    hazard_loss(logit.unsqueeze(-2), _references([[BINS, 1]], [[2, BINS]])).backward()
    assert logit.grad is not None
    assert ((logit.grad != 0) == torch.tensor([[[True, True, False, False], [True, True, False, False]]])).all()


def test_hazard_loss_of_members_is_the_mean_of_their_losses() -> None:
    logit = torch.randn(2, 3, 5, BINS, generator=torch.Generator().manual_seed(2))
    references = _references([[0, 2, BINS], [1, 3, 2]], [[4, 4, 2], [3, 4, 1]])
    each = [float(hazard_loss(logit[:, :, k : k + 1], references)) for k in range(5)]
    assert float(hazard_loss(logit, references)) == pytest.approx(np.mean(each), rel=1e-5)


def test_survival_is_one_minus_the_product_of_staying_away() -> None:
    logit = torch.randn(3, BINS, generator=torch.Generator().manual_seed(1)) * 3
    away = np.cumprod([[1 - _sigmoid(float(x)) for x in row] for row in logit], axis=1)
    np.testing.assert_allclose(survival_from(logit).numpy(), 1 - away, atol=1e-6)
    extreme = survival_from(torch.tensor([[-200.0, 200.0]]))
    assert extreme.tolist() == [[0.0, 1.0]]


def test_click_loss_weighs_each_target_and_ignores_padding() -> None:
    logit = torch.tensor([[0.3, -1.0, 5.0]])
    targets = ClickTargets(
        *(torch.zeros(1, 3, dtype=torch.int64) for _ in range(2)),
        dense_BQS=torch.zeros(1, 3, 1),
        label_BQ=torch.tensor([[1.0, 0.0, 0.0]]),
        weight_BQ=torch.tensor([[2.5, 1.0, 0.0]]),
        offset_BQ=torch.zeros(1, 3),
        rating_BQ=torch.zeros(1, 3),
        rated_BQ=torch.zeros(1, 3),
        group_BQ=torch.zeros(1, 3, dtype=torch.int64),
    )
    expected = -2.5 * math.log(_sigmoid(0.3)) - math.log(1 - _sigmoid(-1.0))
    assert float(click_loss(logit.unsqueeze(-1), targets)) == pytest.approx(expected, rel=1e-6)
    other = -2.5 * math.log(_sigmoid(-0.2)) - math.log(1 - _sigmoid(0.7))
    members = torch.stack([logit, torch.tensor([[-0.2, 0.7, 9.0]])], dim=-1)
    assert float(click_loss(members, targets)) == pytest.approx((expected + other) / 2, rel=1e-6)


def test_the_sampling_offset_counts_in_the_loss_only() -> None:
    shop = make_shop()
    model = shop.model()
    batch = shop.maker().make(shop.batch_windows(), rank=0, world=1, step=0, epoch=0, train=True)
    offset = batch.click.offset_BQ
    assert (offset > 0.1).any()
    with torch.no_grad():
        logit = model.click_logits(batch, *model.encode(batch))
        expected = float(click_loss(logit.unsqueeze(-1), batch.click))
        assert float(model.losses(batch)[0]) == pytest.approx(expected, rel=1e-5)
        without = replace(batch, click=replace(batch.click, offset_BQ=torch.zeros_like(offset)))
        assert float(click_loss((logit + offset).unsqueeze(-1), without.click)) == pytest.approx(expected, rel=1e-6)
        torch.testing.assert_close(model.click_logits(without, *model.encode(without)), logit)


def _naive_retrieval(query_MD: Tensor, item_UD: Tensor, targets: RetrievalTargets) -> float:
    total = 0.0
    for m in range(len(query_MD)):
        own = float(query_MD[m] @ item_UD[targets.item_M[m]] - targets.logq_M[m])
        others = [
            float(query_MD[m] @ item_UD[g] - targets.logq_G[n])
            for n, g in enumerate(targets.negative_G.tolist())
            if g != int(targets.item_M[m])
        ]
        total += math.log(sum(math.exp(x) for x in [own, *others])) - own
    return total


def test_retrieval_loss_corrects_for_sampling_and_masks_accidental_hits() -> None:
    shop = make_shop()
    model = shop.model()
    batch = shop.maker().make(shop.batch_windows(0, 6), rank=0, world=1, step=3, epoch=0, train=True)
    # Make sure of hits: the first two negatives are the positives of two rows.
    hits = batch.retrieval.negative_G.clone()
    hits[:2] = batch.retrieval.item_M[[0, -1]]
    batch = replace(batch, retrieval=replace(batch.retrieval, negative_G=hits))
    with torch.no_grad():
        item_UD, _, state_BTD = model.encode(batch)
        query = model.network.query(state_BTD[batch.retrieval.row_M, batch.retrieval.pos_M])
        expected = _naive_retrieval(query, item_UD, batch.retrieval)
        found = float(model.losses(batch)[2])
    assert len(query) > 10
    assert len(set(batch.retrieval.logq_G.tolist())) > 1
    assert found == pytest.approx(expected, rel=1e-4)
