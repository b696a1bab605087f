"""The same run for any ZeRO stage and any number of workers, in parts or whole, and as a plain torch loop would make it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gloo_world import Ended, World

from clm_ray.config.recipe import Recipe
from clm_ray.features.user import CUMULATIVE
from clm_ray.model.recommender import LOSSES
from clm_ray.train.engine import make_optimizer, parameter_groups, rate_factor
from clm_ray.train.losses import loss_weights
from clm_ray.train.schedule import Schedule
from clm_ray.train.setup import assemble, batch_maker, open_dataset
from clm_ray.train.texts import lower_states, text_vectors
from clm_ray.train.windows import training_windows

pytestmark = pytest.mark.slow
RecipeOf = Callable[..., Recipe]
Worlds = Callable[[int], World]
SMALL_IS_CUT_TOO = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
"""Else ZeRO-3 keeps every parameter as small as those here whole."""
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def plain(worlds: Worlds, recipe_of: RecipeOf, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """One worker, ZeRO-0."""
    return worlds(1).train(recipe_of(zero_stage=0), small_data, tmp_path_factory.mktemp("run"))


def _same(run: Ended, plain: Ended) -> None:
    """Losses of every step, validation of every epoch, weights of the kept model."""
    assert run.losses.keys() == plain.losses.keys()
    assert len(plain.losses) >= 20
    torch.testing.assert_close(run.curve, plain.curve, atol=1e-4, rtol=0)
    for mine, its in zip(run.history["epochs"], plain.history["epochs"], strict=True):
        assert {k: v for k, v in mine.items() if k != "seconds"} == pytest.approx(
            {k: v for k, v in its.items() if k != "seconds"}, abs=1e-3, nan_ok=True
        )
    assert run.weights.keys() == plain.weights.keys()
    for name, weight in run.weights.items():
        # A key's bias moves no softmax: its gradient is rounding noise, which Adam makes whole steps of.
        kept = slice(len(weight) // 2 if name.endswith("key_value.bias") else 0, None)
        torch.testing.assert_close(
            weight[kept], plain.weights[name][kept], atol=1e-3, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )
    vectors = [np.load(r.run / "model" / "item_vectors.npy") for r in (run, plain)]
    np.testing.assert_allclose(*vectors, atol=2e-3)


def test_the_retention_head_is_spared_what_only_grows_where_it_is_asked_for(
    recipe_of: RecipeOf, small_data: Path
) -> None:
    usual = recipe_of()
    asked = usual.model_copy(update={"model": usual.model.model_copy(update={"retention_cumulative": False})})
    given, spared = (open_dataset(small_data, recipe).spec.retention.chosen for recipe in (usual, asked))
    assert [name for name in given if name not in CUMULATIVE] == list(spared)
    assert len(given) > len(spared)


def test_the_loop_makes_the_steps_of_plain_torch(recipe_of: RecipeOf, small_data: Path, plain: Ended) -> None:
    recipe = recipe_of()
    prepared = open_dataset(small_data, recipe)
    assembled = assemble(prepared)
    model, tower, tokens = assembled.model, assembled.model.tower, assembled.tokens
    assert tower is not None
    assert tokens is not None
    lower = lower_states(tower, tokens, rank=0, world=1, device=CPU)
    texts = len(prepared.items.texts)
    maker = batch_maker(prepared, lower)
    train, _ = training_windows(small_data)
    schedule = Schedule.plan(recipe.train, len(train))
    optimizer = make_optimizer(parameter_groups(model, recipe.train), recipe.train)
    losses = []
    for epoch in range(schedule.epochs):
        model.train()
        model.cache_ZH = torch.from_numpy(text_vectors(tower, lower, texts, rank=0, world=1, device=CPU))
        for step, windows in train.batches(schedule.windows_per_step, seed=0, epoch=epoch, shuffle=True):
            factor = rate_factor(epoch * schedule.steps + step, schedule.total, config=recipe.train)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            optimizer.zero_grad()
            loss, _ = model(maker.make(windows, rank=0, world=1, step=step, epoch=epoch, train=True))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.train.clip_norm)
            optimizer.step()
            losses.append(loss.item())
    weights = torch.tensor([loss_weights(recipe)[name] for name in LOSSES])
    torch.testing.assert_close(plain.curve @ weights, torch.tensor(losses), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("world", "train"),
    [
        (2, {"zero_stage": 0}),
        (3, {"zero_stage": 1}),
        (2, {"zero_stage": 2}),
        (1, {"zero_stage": 3, "deepspeed": SMALL_IS_CUT_TOO}),
        (2, {"zero_stage": 3}),
        (3, {"zero_stage": 3, "deepspeed": SMALL_IS_CUT_TOO}),
        (1, {"zero_stage": 0, "accumulate": 3}),
        (2, {"zero_stage": 2, "accumulate": 3}),
        (2, {"zero_stage": 3, "accumulate": 2, "deepspeed": SMALL_IS_CUT_TOO}),
        (2, {"zero_stage": 1, "activation_checkpointing": True}),
        (2, {"zero_stage": 3, "activation_checkpointing": True, "deepspeed": SMALL_IS_CUT_TOO}),
        (2, {"zero_stage": 2, "offload": "optimizer"}),
        (2, {"zero_stage": 3, "offload": "parameters", "deepspeed": SMALL_IS_CUT_TOO}),
    ],
    ids=str,
)
def test_stage_workers_and_what_saves_memory_change_no_step(
    worlds: Worlds,
    recipe_of: RecipeOf,
    small_data: Path,
    plain: Ended,
    tmp_path: Path,
    world: int,
    train: dict[str, Any],
) -> None:
    _same(worlds(world).train(recipe_of(**train), small_data, tmp_path / "run"), plain)


def test_every_further_loss_is_that_of_the_global_batch(
    worlds: Worlds, recipe_of: RecipeOf, small_data: Path, plain: Ended, tmp_path: Path
) -> None:
    further = {
        "outputs": ("value", "next_action"),
        "fairness": {"user_column": "town", "weight": 5.0},
        "label_smoothing": 0.1,
        "calibration": "isotonic",
    }
    alone = worlds(1).train(recipe_of(zero_stage=0, **further), small_data, tmp_path / "alone")
    _same(worlds(3).train(recipe_of(zero_stage=2, **further), small_data, tmp_path / "three"), alone)
    last = alone.history["epochs"][-1]
    told = {"value_mae", "value_ratio", "next_action_log_loss", "group_gap", "train_value_loss", "train_fairness_loss"}
    assert told <= last.keys()
    # No validation reference of this shop was seen for a whole horizon.
    assert all(math.isfinite(last[name]) for name in told - {"value_mae", "value_ratio"})
    assert not told & plain.history["epochs"][-1].keys()
    assert (alone.curve[:, LOSSES.index("fairness")] > 0).any()


def test_the_optimizers_differ_and_all_train(
    worlds: Worlds, recipe_of: RecipeOf, small_data: Path, plain: Ended, tmp_path: Path
) -> None:
    curves = [plain.curve]
    for optimizer in ("adam", "sgd"):
        recipe = recipe_of(optimizer=optimizer, zero_stage=2, learning_rate=0.05 if optimizer == "sgd" else 0.003)
        run = worlds(2).train(recipe, small_data, tmp_path / optimizer)
        assert run.curve[-5:, 0].mean() < run.curve[:5, 0].mean()
        curves.append(run.curve)
    assert all((a - b).abs().max() > 1e-3 for a, b in ((curves[0], curves[1]), (curves[1], curves[2])))
