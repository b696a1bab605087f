"""Worlds of one, two and three training processes, and a tiny dataset for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gloo_world import World
from small_dataset import write_dataset
from small_shop import LOOKS, make_shop, small_recipe
from tiny_bert import write_tiny_bert

from clm_ray.config.recipe import Recipe

RecipeOf = Callable[..., Recipe]


@pytest.fixture(scope="session")
def worlds() -> Iterator[Callable[[int], World]]:
    """The world of a size, started when it is first asked for."""
    started: dict[int, World] = {}

    def world(size: int) -> World:
        if size not in started:
            started[size] = World(size)
        return started[size]

    yield world
    for one in started.values():
        one.end()


@pytest.fixture(scope="session")
def recipe_of(tmp_path_factory: pytest.TempPathFactory) -> RecipeOf:
    """The small shop's recipe with a tiny BERT and `train` keys: two epochs of eleven steps, without dropout."""
    bert = write_tiny_bert(tmp_path_factory.mktemp("bert"), LOOKS)

    def recipe(*, dropout: float = 0.0, outputs: tuple[str, ...] = (), **train: Any) -> Recipe:
        model = {
            "encoder": {"name": str(bert), "items_per_step": 4, "max_tokens": 8, "trained_layers": 1},
            "layers": 2,
            "members": 2,
            "dropout": dropout,
            "id_dropout": dropout,
            "outputs": outputs,
        }
        defaults = {"epochs": 2, "min_steps": 1, "checkpoint_steps": 0, "learning_rate": 0.003, "patience": 9}
        return small_recipe(model=model, train={**defaults, "encoder_learning_rate": 0.003, **train})

    return recipe


@pytest.fixture(scope="session")
def small_data(recipe_of: RecipeOf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small shop's dataset folder."""
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", make_shop(recipe=recipe_of()))
