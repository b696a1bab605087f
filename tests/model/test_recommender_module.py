"""The trained module: which texts get gradient, what stays as it was pretrained, and batches in which something is missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_shop import LOOKS, SmallShop, lower_of, make_shop, small_recipe
from tiny_bert import write_tiny_bert

from clm_ray.config.model import EncoderConfig
from clm_ray.model.recommender import LOSSES, Batch, Recommender
from clm_ray.model.text import TextTower, load_pretrained, tokenize
from clm_ray.train.batches import BatchMaker

DROPOUT = small_recipe(model={"dropout": 0.3, "id_dropout": 0.3})


@pytest.fixture(scope="module")
def shop() -> SmallShop:
    return make_shop(recipe=DROPOUT)


@pytest.fixture
def trained(shop: SmallShop, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recommender, BatchMaker]:
    """A model with a text tower, and a maker with the lower states of every text."""
    config = EncoderConfig(name=str(write_tiny_bert(tmp_path_factory.mktemp("bert"), LOOKS)))
    encoder, tokenizer = load_pretrained(config)
    tower = TextTower(encoder, trained_layers=1, pooling="mean")
    return shop.model(tower), shop.maker(lower_of(tower, tokenize(shop.items.texts, tokenizer, max_tokens=8)))


def _batch(shop: SmallShop, maker: BatchMaker, *, count: int = 4, rank: int = 0, world: int = 1) -> Batch:
    return maker.make(shop.batch_windows(0, count), rank=rank, world=world, step=0, epoch=0, train=True)


def test_only_the_texts_of_the_budget_get_gradient(shop: SmallShop, trained: tuple[Recommender, BatchMaker]) -> None:
    model, maker = trained
    batch = _batch(shop, maker)
    budget = shop.recipe.model.encoder.items_per_step
    assert len(batch.texts.trained_K) == budget < len(batch.texts.cache_row_X)
    vectors = model.text_vectors(batch.texts)
    chosen = torch.zeros(len(vectors), dtype=torch.bool)
    chosen[batch.texts.trained_K] = True
    torch.testing.assert_close(vectors[~chosen], model.cache_ZH[batch.texts.cache_row_X][~chosen])
    assert model.tower is not None
    assert maker.lower is not None
    states, mask = maker.lower.padded(batch.texts.cache_row_X[chosen].numpy())
    torch.testing.assert_close(vectors[chosen], model.tower.pooled(states, mask))
    parameters = [p for p in model.tower.parameters() if p.requires_grad]
    for row in range(len(vectors)):
        grads = torch.autograd.grad(vectors[row].sum(), parameters, retain_graph=True, allow_unused=True)
        moved = any(g is not None and bool((g != 0).any()) for g in grads)
        assert moved == bool(chosen[row])


def test_the_encoder_reads_texts_alike_in_training_and_in_use(
    shop: SmallShop, trained: tuple[Recommender, BatchMaker]
) -> None:
    model, maker = trained
    batch = _batch(shop, maker)
    before = model.eval().text_vectors(batch.texts)
    model.train()
    assert model.network.training
    assert model.tower is not None
    assert not any(module.training for module in model.tower.modules())
    torch.testing.assert_close(model.text_vectors(batch.texts), before, atol=0, rtol=0)
    torch.manual_seed(0)
    assert not torch.equal(model.losses(batch), model.losses(batch)), "dropout of the network is on"


def test_training_reaches_every_trained_parameter(shop: SmallShop, trained: tuple[Recommender, BatchMaker]) -> None:
    model, maker = trained
    loss, _ = model(_batch(shop, maker))
    loss.backward()
    still = [n for n, p in model.named_parameters() if p.requires_grad and not bool((p.grad != 0).any())]
    assert still == []
    assert {n.split(".")[1] for n, p in model.named_parameters() if n.startswith("tower.") and p.grad is None} == {
        "family",
        "lower",
    }


@pytest.mark.parametrize("has_trained_texts", [True, False])
def test_a_rank_without_a_share_gives_zero_gradients_for_every_parameter(
    shop: SmallShop, trained: tuple[Recommender, BatchMaker], has_trained_texts: bool
) -> None:
    model, maker = trained
    batch = _batch(shop, maker, count=1, rank=1, world=2)
    if not has_trained_texts:
        maker.last_trained[batch.texts.cache_row_X.numpy()] = 100
        batch = _batch(shop, maker, count=1, rank=1, world=2)
    assert (len(batch.texts.trained_K) > 0) == has_trained_texts
    assert batch.click.weight_BQ.tolist() == [[0.0]]
    assert batch.references.seen_BR.tolist() == [[0]]
    loss, sums = model.train()(batch)
    loss.backward()
    assert sums.tolist() == [0.0] * len(LOSSES)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name}: the ranks would reduce different gradients"
            assert not bool((parameter.grad != 0).any()), name


def test_a_window_without_targets_is_no_obstacle(shop: SmallShop) -> None:
    model = shop.model()
    windows = shop.batch_windows()
    empty = [b for b, target in enumerate(windows.target) if not len(target["item"])]
    assert empty
    batch = shop.maker().make(shop.batch_windows(empty[0], 1), rank=0, world=1, step=0, epoch=0, train=True)
    with torch.no_grad():
        assert float(model.losses(batch)[0]) == 0.0


def test_without_a_text_tower_the_cache_stands_alone(shop: SmallShop) -> None:
    model = shop.model()
    batch = _batch(shop, shop.maker())
    assert len(batch.texts.trained_K) == 0
    torch.testing.assert_close(model.text_vectors(batch.texts), model.cache_ZH[batch.texts.cache_row_X])


def test_identifiers_are_left_out_at_random_in_training_only(shop: SmallShop) -> None:
    model = shop.model()
    rows = np.arange(1, len(shop.items.catalogue))
    inputs = shop.items.inputs(rows, shop.items.text_I[rows])
    table = model.network.identifier
    assert table is not None
    with torch.no_grad():
        with_ids = model.network.item_vectors(model.cache_ZH, inputs)
        table.weight[0] = 0.0
        without_ids = model.network.item_vectors(
            model.cache_ZH, replace(inputs, slot_U=torch.zeros(len(rows), dtype=torch.int64))
        )
        torch.manual_seed(1)
        dropped = model.train().network.item_vectors(model.cache_ZH, inputs)
    has, lost = ((dropped - other).abs().max(1).values < 1e-6 for other in (with_ids, without_ids))
    assert (has ^ lost).all()
    assert 0.05 < lost.float().mean() < 0.6


def test_heads_compute_in_float32_within_autocast(shop: SmallShop) -> None:
    network = shop.model().network
    random = torch.Generator().manual_seed(3)
    state = torch.randn(1, 4, network.sizes.width, generator=random)
    dense = torch.randn(1, 4, network.sizes.retention_features, generator=random)
    with torch.no_grad():
        expected = network.hazard_logits(state, dense), network.query(state)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = network.hazard_logits(state, dense), network.query(state)
            assert network.retrieval(state).dtype == torch.bfloat16, "what is called plainly is not"
    for mine, exact in zip(found, expected, strict=True):
        assert mine.dtype == torch.float32
        assert torch.equal(mine, exact)


def test_losses_within_autocast_are_finite_and_near(shop: SmallShop) -> None:
    model, windows = shop.model(), shop.batch_windows()
    batch = shop.maker().make(windows, rank=0, world=1, step=0, epoch=0, train=True)
    with torch.no_grad():
        exact = model.losses(batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = model.losses(batch)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0)
