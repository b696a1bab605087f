"""From windows to batches: the same global step for any number of ranks."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_shop import LOOKS, SmallShop, lower_of, make_shop
from tiny_bert import write_tiny_bert

from clm_ray.config.model import EncoderConfig
from clm_ray.config.recipe import Recipe
from clm_ray.model.recommender import Batch, Recommender
from clm_ray.model.text import TextTower, load_pretrained, tokenize
from clm_ray.schema import DAY_US
from clm_ray.train.batches import NEXT_ITEMS_PER_WINDOW, BatchMaker, Encoding, Popularity
from clm_ray.train.texts import LowerStates
from clm_ray.train.windows import Windows


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("bert"), LOOKS)


@pytest.fixture(scope="module")
def shop() -> SmallShop:
    return make_shop()


def _model(shop: SmallShop, bert: Path) -> tuple[Recommender, LowerStates]:
    encoder, tokenizer = load_pretrained(EncoderConfig(name=str(bert)))
    tower = TextTower(encoder, trained_layers=1, pooling="mean")
    return shop.model(tower), lower_of(tower, tokenize(shop.items.texts, tokenizer, max_tokens=8))


def _step(
    model: Recommender, maker: BatchMaker, windows: Windows, world: int, *, step: int = 0
) -> tuple[float, dict[str, torch.Tensor]]:
    """(mean over ranks of the scaled loss, mean gradient): what DeepSpeed makes of the ranks' backward passes. There is no process group
    here: each rank encodes all the texts that the ranks would share out.
    """
    model.zero_grad()
    total = 0.0
    before = maker.last_trained.copy()
    whole = maker.make(windows, rank=0, world=1, step=step, epoch=0, train=True).texts
    for rank in range(world):
        maker.last_trained = before.copy()
        batch = maker.make(windows, rank=rank, world=world, step=step, epoch=0, train=True)
        texts = replace(batch.texts, own_E=whole.own_E, states=whole.states)
        loss, _ = model(replace(batch, texts=texts))
        (loss / world).backward()
        total += loss.item() / world
    return total, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("world", "windows"), [(2, 8), (3, 7), (2, 1), (4, 2)])
def test_loss_and_gradient_of_a_step_do_not_depend_on_the_number_of_ranks(
    shop: SmallShop, bert: Path, world: int, windows: int
) -> None:
    model, lower = _model(shop, bert)
    batch = shop.batch_windows(3, windows)
    loss, gradient = _step(model, shop.maker(lower), batch, 1, step=5)
    shared_loss, shared_gradient = _step(model, shop.maker(lower), batch, world, step=5)
    assert shared_loss == pytest.approx(loss, rel=1e-5)
    assert shared_gradient.keys() == gradient.keys()
    for name, expected in gradient.items():
        torch.testing.assert_close(
            shared_gradient[name], expected, atol=2e-5, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert any(name.startswith("tower.upper") for name in gradient)


def test_the_scale_is_loss_weight_by_global_weight(shop: SmallShop) -> None:
    windows = shop.batch_windows(0, 6)
    config = shop.recipe.train
    for world in (1, 2):
        batch = shop.maker().make(windows, rank=0, world=world, step=0, epoch=0, train=True)
        weight = sum(float(t["weight"].sum()) for t in windows.target)
        references = sum(len(r["bin"]) for r in windows.reference)
        assert batch.scale[0].item() == pytest.approx(config.click_weight * world / weight)
        assert batch.scale[1].item() == pytest.approx(config.retention_weight * world / references)
    one = shop.maker().make(windows, rank=0, world=1, step=0, epoch=0, train=True)
    assert one.scale[2].item() == pytest.approx(config.retrieval_weight / len(one.retrieval.item_M))


def _trained_texts(batch: Batch) -> set[int]:
    return set(batch.texts.cache_row_X[batch.texts.trained_K].tolist())


def test_the_budget_goes_to_the_texts_that_waited_longest(shop: SmallShop, bert: Path) -> None:
    maker = shop.maker(_model(shop, bert)[1])
    windows = shop.batch_windows(0, 6)
    rows = np.unique(np.concatenate([p["item"] for p in (*windows.context, *windows.target)]))
    texts = set(shop.items.text_I[np.append(rows, 0)].tolist())
    budget = shop.recipe.model.encoder.items_per_step
    rounds = -(-len(texts) // budget)
    assert rounds > 2
    chosen = [
        _trained_texts(maker.make(windows, rank=0, world=1, step=s, epoch=0, train=True)) for s in range(2 * rounds)
    ]
    assert set.union(*chosen[:rounds]) == texts, "each text is reached before one has its second turn"
    assert sum(map(len, chosen[: rounds - 1])) == budget * (rounds - 1) == len(set.union(*chosen[: rounds - 1]))
    assert all(a.isdisjoint(b) for a, b in itertools.pairwise(chosen))


def test_every_rank_makes_the_same_choice(shop: SmallShop, bert: Path) -> None:
    lower = _model(shop, bert)[1]
    windows = shop.batch_windows(0, 6)
    makers = [shop.maker(lower) for _ in range(3)]
    for step in range(3):
        whole = makers[2].make(windows, rank=0, world=1, step=step, epoch=0, train=True)
        parts = [makers[r].make(windows, rank=r, world=2, step=step, epoch=0, train=True) for r in range(2)]
        assert set.union(*map(_trained_texts, parts)) == _trained_texts(whole)
        assert all(len(part.texts.states) == 1 for part in parts), "each rank calls the tower equally often"
        own = [part.texts.own_E.tolist() for part in parts]
        assert sorted(itertools.chain(*own)) == list(range(whole.texts.encoded)), "each text is encoded by one rank"
        negatives = [_rows(part, part.retrieval.negative_G, maker=makers[2]) for part in (whole, *parts)]
        assert negatives[0] == negatives[1] == negatives[2]
    assert makers[0].last_trained.tolist() == makers[1].last_trained.tolist() == makers[2].last_trained.tolist()


@pytest.mark.parametrize(("texts", "world"), [(1, 3), (64, 1), (150, 3), (301, 2), (129, 2)])
def test_the_ranks_share_the_texts_out_in_groups_of_like_length(texts: int, world: int) -> None:
    length = np.random.default_rng(0).integers(1, 30, texts)
    trained = np.arange(texts, dtype=np.int64)
    groups = [Encoding(trained, rank, world).groups(length, size=64) for rank in range(world)]
    assert len({len(of_rank) for of_rank in groups}) == 1, "each rank calls the tower equally often"
    assert sorted(np.concatenate([group for of_rank in groups for group in of_rank]).tolist()) == trained.tolist()
    for of_rank in groups:
        assert max(map(len, of_rank)) <= 64
        assert (np.diff(length[np.concatenate(of_rank)]) >= 0).all()


def _rows(batch: Batch, item_G: torch.Tensor, *, maker: BatchMaker) -> list[tuple[int, int]]:
    """What identifies the items of a batch from outside: their text and slot."""
    text = batch.texts.cache_row_X[batch.items.text_U[item_G]].tolist()
    return list(zip(text, batch.items.slot_U[item_G].tolist(), strict=True))


def test_without_a_budget_every_text_of_the_batch_has_gradient(shop: SmallShop, bert: Path) -> None:
    encoder = shop.recipe.model.encoder.model_copy(update={"items_per_step": 0})
    recipe = shop.recipe.model_copy(update={"model": shop.recipe.model.model_copy(update={"encoder": encoder})})
    maker = shop.maker(_model(shop, bert)[1], recipe=recipe)
    windows = shop.batch_windows(0, 6)
    batch = maker.make(windows, rank=0, world=1, step=0, epoch=0, train=True)
    rows = np.unique(np.concatenate([p["item"] for p in (*windows.context, *windows.target)]))
    assert _trained_texts(batch) == set(shop.items.text_I[np.append(rows, 0)].tolist())


def test_a_validation_batch_has_no_budget_and_leaves_no_trace(shop: SmallShop, bert: Path) -> None:
    maker = shop.maker(_model(shop, bert)[1])
    batch = maker.make(shop.batch_windows(0, 6), rank=0, world=1, step=0, epoch=0, train=False)
    assert len(batch.texts.trained_K) == len(batch.texts.states) == len(batch.retrieval.item_M) == 0
    assert not maker.last_trained.any()


def _next_items(shop: SmallShop, *, recipe: Recipe | None = None) -> dict[int, list[tuple[int, int]]]:
    """Window of the batch → (position, identifier slot) of each retrieval positive."""
    batch = shop.maker(recipe=recipe).make(shop.batch_windows(), rank=0, world=1, step=0, epoch=0, train=True)
    found: dict[int, list[tuple[int, int]]] = {}
    columns = (getattr(batch.retrieval, name).tolist() for name in ("row_M", "pos_M", "item_M"))
    for window, pos, item in zip(*columns, strict=True):
        found.setdefault(window, []).append((pos, int(batch.items.slot_U[item])))
    return found


def test_next_items_are_a_windows_own_events_of_the_training_period_seen_from_strictly_before(shop: SmallShop) -> None:
    windows, found = shop.batch_windows(), _next_items(shop)
    sequences, vocabulary, slots = shop.recipe.sequences, shop.source.vocabulary, shop.items.slot_I
    ties = later = tails = 0
    for b, (user, number, context) in enumerate(zip(windows.user, windows.number, windows.context, strict=True)):
        history = shop.histories[user]
        whole = history.select(vocabulary.is_context(history))
        start = max(0, number * sequences.body - sequences.max_context)
        time, item = context["time"], context["item"]
        assert time.tolist() == whole.time_N[start : start + len(time)].tolist()
        wanted = []
        for n in range(len(time)):
            seen = int((whole.time_N < time[n]).sum())
            whole_past = start == 0 or seen > start
            if start + n >= number * sequences.body and item[n] > 0 and time[n] < shop.train_end and whole_past:
                wanted.append((seen - start, slots[item[n]]))
                ties += seen - start < n
        assert len(wanted) <= NEXT_ITEMS_PER_WINDOW
        assert found.get(b, []) == wanted
        later += int((time >= shop.train_end).sum())
        tails += start > 0
    assert min(ties, later, tails) > 5


def test_what_was_not_wanted_and_what_lies_in_the_embargo_is_no_next_item(shop: SmallShop) -> None:
    everything = sum(map(len, _next_items(shop).values()))
    split = shop.recipe.split.model_copy(update={"embargo_days": 10.0})
    before = shop.train_end - 10 * DAY_US
    found = _next_items(shop, recipe=shop.recipe.model_copy(update={"split": split}))
    windows = shop.batch_windows()
    assert 0 < sum(map(len, found.values())) < everything
    for b, places in found.items():
        assert max(pos for pos, _ in places) <= (windows.context[b]["time"] < before).sum()
    # From here on a purchase counts as liked from 5 on.
    rated = shop.recipe.event_types["purchase"].model_copy(update={"value": "rating", "positive_from": 5.0})
    types = {**shop.recipe.event_types, "purchase": rated}
    liked = _next_items(shop, recipe=shop.recipe.model_copy(update={"event_types": types}))
    wanted = 0
    for b, context in enumerate(windows.context):
        bought = context["event"] == shop.source.vocabulary.index["purchase"]
        assert len(liked.get(b, [])) <= int((bought & (context["value"] >= 5.0)).sum())
        wanted += len(liked.get(b, []))
    assert 0 < wanted < everything


def test_a_user_split_by_rows_gives_no_next_item_of_its_later_splits(shop: SmallShop) -> None:
    split = shop.recipe.split.model_copy(update={"protocol": "per_user"})
    by_user = shop.recipe.model_copy(update={"split": split})
    windows, found = shop.batch_windows(), _next_items(shop, recipe=by_user)
    everything = _next_items(shop)
    fewer = 0
    for b, (context, target) in enumerate(zip(windows.context, windows.target, strict=True)):
        last = target["time"].max(initial=-1)
        allowed = [pair for pair in everything.get(b, []) if (context["time"] < last).sum() > pair[0]]
        assert found.get(b, []) == allowed
        fewer += len(everything.get(b, [])) - len(allowed)
    assert fewer > 5


def test_long_windows_give_a_sample_of_their_next_items() -> None:
    recipe = make_shop().recipe
    long = recipe.model_copy(update={"sequences": recipe.sequences.model_copy(update={"max_context": 30, "body": 30})})
    shop = make_shop(recipe=long)
    windows = shop.batch_windows()
    draws = [
        shop.maker().make(windows, rank=0, world=1, step=step, epoch=epoch, train=True).retrieval
        for step, epoch in ((0, 0), (0, 0), (1, 0), (0, 1))
    ]
    counts = torch.bincount(draws[0].row_M)
    assert counts.max() == NEXT_ITEMS_PER_WINDOW
    assert torch.equal(draws[0].item_M, draws[1].item_M)
    assert not torch.equal(draws[0].item_M, draws[2].item_M)
    assert not torch.equal(draws[0].item_M, draws[3].item_M)


def test_negatives_are_drawn_by_popularity_with_known_probabilities() -> None:
    popularity = Popularity.build(np.array([50.0, 16.0, 0.0, 1.0]), alpha=0.5)
    assert popularity.row.tolist() == [1, 3], "never the unknown item, never one without events"
    np.testing.assert_allclose(popularity.q, [0.8, 0.2])
    drawn = popularity.draw(20_000, np.random.default_rng(0))
    assert abs((drawn == 1).mean() - 0.8) < 0.02
    np.testing.assert_allclose(
        popularity.log_expected(np.array([1, 3, 2, 0], np.int32), 10), np.log([8.0, 2.0, 2.0, 2.0]), rtol=1e-6
    )


def test_without_any_event_there_are_only_unknown_negatives() -> None:
    popularity = Popularity.build(np.zeros(3))
    assert popularity.draw(4, np.random.default_rng(0)).tolist() == [0, 0, 0, 0]
    assert popularity.log_expected(np.array([1, 2], np.int32), 4).tolist() == [0.0, 0.0]
