"""Further vectors of items (of images, of a knowledge graph): what the model makes of them, and that it learns from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from small_shop import SmallShop, make_shop, small_recipe

from clm_ray.config.model import ModelConfig
from clm_ray.config.recipe import Recipe
from clm_ray.features.catalogue import Catalogue
from clm_ray.features.spec import FeatureSpec, Selection
from clm_ray.features.tokens import TOKEN_VALUES
from clm_ray.metrics.click import auc
from clm_ray.model.items import ItemTable, ItemVectors, UserTable, assign_slots
from clm_ray.model.network import ItemInputs, Network, Sizes
from clm_ray.model.recommender import Batch, Recommender
from clm_ray.schema import ITEMS
from clm_ray.train.batches import BatchMaker, Popularity
from clm_ray.train.windows import Windows

WIDTH = 6


def _items(vectors: list[list[float] | None]) -> pa.Table:
    return pa.table(
        {"item_id": [str(n) for n in range(len(vectors))], "vectors": pa.array(vectors, ITEMS.field("vectors").type)}
    )


def test_items_without_a_vector_get_zeros_and_are_told_apart() -> None:
    found = ItemVectors.of(_items([None, [1.0, 2.0], None, [0.0, 0.0]]))
    assert found.vector_IM.tolist() == [[0, 0], [1, 2], [0, 0], [0, 0]]
    assert found.has_I.tolist() == [False, True, False, True]
    assert found.vector_IM.dtype == np.float32
    mean, spread = found.scale()
    assert (mean.tolist(), spread.tolist()) == ([0.5, 1.0], [0.5, 1.0])


@pytest.mark.parametrize("items", [_items([None, None]), _items([None, None]).drop_columns(["vectors"]), _items([])])
def test_a_catalogue_without_vectors_has_some_of_width_zero(items: pa.Table) -> None:
    found = ItemVectors.of(items)
    assert found.vector_IM.shape == (len(items), 0)
    assert not found.has_I.any()
    assert [part.shape for part in found.scale()] == [(0,), (0,)]


def test_an_entry_that_is_the_same_everywhere_says_nothing_and_breaks_nothing() -> None:
    mean, spread = ItemVectors.of(_items([[3.0, 1e30], [3.0, -1e30], None])).scale()
    assert (mean[0], spread[0]) == (3.0, 1.0)
    assert np.isfinite(mean).all()
    assert np.isfinite(spread).all()
    assert spread[1] > 1e29


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> SmallShop:
    """The small shop, whose items but every fifth have a vector."""
    made = make_shop()
    rng = np.random.default_rng(0)
    has_I = np.arange(len(made.items.catalogue)) % 5 > 0
    vectors = ItemVectors((5 + 3 * rng.normal(size=(len(has_I), WIDTH)) * has_I[:, None]).astype(np.float32), has_I)
    monkeypatch.setitem(made.__dict__, "items", replace(made.items, vectors=vectors))
    return made


def test_vectors_enter_standardised_and_missing_ones_have_a_vector_of_their_own(shop: SmallShop) -> None:
    network = shop.model().network
    assert network.vector is not None
    rows = np.arange(1, len(shop.items.catalogue))
    inputs = shop.items.inputs(rows, shop.items.text_I[rows])
    has = inputs.has_vector_U
    scale = [torch.from_numpy(part) for part in shop.items.vectors.scale()]
    network.vector.fit(*scale)
    with torch.no_grad():
        found = network.vector(inputs.vector_UM, has)
        assert (found[~has] == network.vector.missing).all()
        standard = (inputs.vector_UM[has] - scale[0]) / scale[1]
        torch.testing.assert_close(standard.std(0, unbiased=False), torch.ones(WIDTH), atol=0.1, rtol=0)
        torch.testing.assert_close(found[has], network.vector.project(standard))
        whole = network.item_vectors(shop.model().cache_ZH, inputs)
        other = network.item_vectors(shop.model().cache_ZH, replace(inputs, vector_UM=inputs.vector_UM + 1))
        changed = (whole != other).any(1)
    assert torch.equal(changed, has)


def test_vectors_and_the_missing_one_are_trained_and_their_scale_is_saved(shop: SmallShop) -> None:
    model = shop.model()
    model(shop.maker().make(shop.batch_windows(), rank=0, world=1, step=0, epoch=0, train=True))[0].backward()
    assert model.network.vector is not None
    for parameter in model.network.vector.parameters():
        assert parameter.grad is not None
        assert bool((parameter.grad != 0).any())
    assert {"vector.mean_M", "vector.spread_M"} <= set(model.network.state_dict())


# A made log: users like one of two kinds of items, and only an item's vector shows its kind.

ITEM_COUNT, SEEN, USERS = 90, 60, 24


def _made_items(*, with_vectors: bool) -> tuple[ItemTable, NDArray[np.int64]]:
    """Item rows that look alike but for their vectors, and the kind of each. The rows from SEEN on are in no training window."""
    rng = np.random.default_rng(5)
    kind_I = rng.integers(0, 2, ITEM_COUNT + 1)
    shown = rng.normal(size=(2, WIDTH))[kind_I] + 0.3 * rng.normal(size=(ITEM_COUNT + 1, WIDTH))
    has_I = np.arange(ITEM_COUNT + 1) > 0
    catalogue = Catalogue.build(
        ["", *(f"i{n}" for n in range(ITEM_COUNT))], ["a thing"] * (ITEM_COUNT + 1), [[]] * (ITEM_COUNT + 1)
    )
    slots = assign_slots(catalogue, np.where(np.arange(ITEM_COUNT + 1) <= SEEN, 10.0, 0.0), min_events=5, buckets=8)
    vectors = ItemVectors(shown.astype(np.float32) * has_I[:, None], has_I)
    return ItemTable.build(catalogue, slots, vectors if with_vectors else None), kind_I


def _made_windows(kind_I: NDArray[np.int64], candidates: range, *, seed: int) -> Windows:
    """Each user has had five items of the kind that she likes, and is asked about eight of `candidates`."""
    rng = np.random.default_rng(seed)
    contexts, targets = [], []
    for user in range(USERS):
        likes = user % 2
        had = rng.choice(np.flatnonzero(kind_I[1 : SEEN + 1] == likes) + 1, 5, replace=False).astype(np.int32)
        asked = rng.choice(np.array(candidates), 8, replace=False).astype(np.int32)
        context: dict[str, NDArray[Any]] = {
            "item": had,
            "event": np.zeros(5, np.int32),
            "time": np.arange(5, dtype=np.int64),
            "value": np.full(5, np.nan, np.float32),
        }
        contexts.append({**context, "dense": np.zeros((5, len(TOKEN_VALUES)), np.float32)})
        ones = np.ones(8, np.float32)
        target = {
            "item": asked,
            "label": (kind_I[asked] == likes).astype(np.float32),
            "weight": ones,
            "offset": 0 * ones,
            "rating": np.nan * ones,
        }
        targets.append(
            {**target, "pos": np.full(8, 5, np.int32), "time": np.full(8, 9), "dense": np.ones((8, 1), np.float32)}
        )
    none = np.empty(0, np.int32)
    reference = {"pos": none, "bin": none, "censored": none, "dense": np.empty((0, 1), np.float32)}
    reference["value"] = np.empty(0, np.float32)
    return Windows([f"u{n}" for n in range(USERS)], [0] * USERS, contexts, targets, [reference] * USERS)


def _made_model(recipe: Recipe, items: ItemTable) -> tuple[Recommender, BatchMaker]:
    one = Selection(("one",), ("one",), {}, (0.0,), (1.0,))
    users = UserTable((""), (), (), ())
    sizes = Sizes(
        width=recipe.model.width,
        layers=1,
        heads=2,
        hidden=16,
        reach=recipe.sequences.max_context,
        text_width=1,
        id_slots=int(items.slot_I.max()) + 1,
        categories=1,
        event_types=len(recipe.event_types),
        token_values=len(TOKEN_VALUES),
        user_categories=1,
        user_numbers=0,
        click_features=1,
        retention_features=1,
        bins=len(recipe.retention.bin_ends),
        vector_width=items.vectors.vector_IM.shape[1],
    )
    torch.manual_seed(0)
    model = Recommender(Network(sizes, recipe.model), None)
    if model.network.vector is not None:
        model.network.vector.fit(*(torch.from_numpy(part) for part in items.vectors.scale()))
    popularity = Popularity.build(np.ones(SEEN + 1))
    return model, BatchMaker(recipe, FeatureSpec(one, one), items, users, {}, None, popularity, 100)


def _auc_of_new_items(*, with_vectors: bool) -> float:
    """After 120 steps, over candidates that no training window has."""
    recipe = small_recipe(model={"width": 16, "id_dropout": 0.2})
    items, kind_I = _made_items(with_vectors=with_vectors)
    model, maker = _made_model(recipe, items)

    def batch(candidates: range, *, seed: int) -> Batch:
        windows = _made_windows(kind_I, candidates, seed=seed)
        return maker.make(windows, rank=0, world=1, step=seed, epoch=0, train=True)

    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    model.train()
    for step in range(120):
        optimizer.zero_grad()
        model(batch(range(1, SEEN + 1), seed=1 + step))[0].backward()
        optimizer.step()
    model.eval()
    asked = batch(range(SEEN + 1, ITEM_COUNT + 1), seed=0)
    with torch.no_grad():
        logit = model.click_logits(asked, *model.encode(asked))
    return auc(asked.click.label_BQ.flatten().numpy(), score=logit.flatten().numpy())


@pytest.mark.slow
def test_what_only_the_vectors_show_is_learned_from_them() -> None:
    with_them, without = _auc_of_new_items(with_vectors=True), _auc_of_new_items(with_vectors=False)
    assert with_them > 0.95
    assert with_them - without > 0.3


@pytest.mark.parametrize("off", ["use_text", "use_ids", "use_categories"])
def test_what_is_switched_off_does_not_matter(off: str) -> None:
    def moved(config: dict[str, Any]) -> dict[str, bool]:
        """Which inputs change the item vectors."""
        network = make_shop(recipe=small_recipe(model=config)).model().network
        text_XH = torch.randn(3, network.sizes.text_width, generator=torch.Generator().manual_seed(0))
        third = torch.arange(3)
        none = torch.zeros(3, 0)
        given = ItemInputs(third, third, third, third, none, none[:, :0].any(1))
        with torch.no_grad():
            before = network.item_vectors(text_XH, given)
            after = {
                "use_text": network.item_vectors(text_XH.flip(0), given),
                "use_ids": network.item_vectors(text_XH, replace(given, slot_U=third.flip(0))),
                "use_categories": network.item_vectors(text_XH, replace(given, category=third.flip(0))),
            }
        return {name: not torch.equal(vectors, before) for name, vectors in after.items()}

    assert moved({}) == {"use_text": True, "use_ids": True, "use_categories": True}
    assert moved({off: False}) == {"use_text": True, "use_ids": True, "use_categories": True} | {off: False}


def test_something_must_be_left_to_know_an_item_by() -> None:
    with pytest.raises(ValidationError, match="nothing is left to know an item by"):
        ModelConfig(use_text=False, use_ids=False, use_categories=False)
