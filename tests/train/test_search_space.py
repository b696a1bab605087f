"""The search space: what is wrong with it is told before anything is started."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_shop import small_recipe

from clm_ray.config.recipe import Recipe
from clm_ray.errors import ConfigError
from clm_ray.train.space import Space, space_from, with_values

GOOD: dict[str, Any] = {
    "train.learning_rate": {"log_uniform": ["1e-4", 0.1]},
    "model.width": {"choice": [8, 16]},
    "model.dropout": {"uniform": [0, 0.5]},
    "model.layers": {"int": [1, 3]},
    "train.deepspeed.memory_breakdown": {"choice": [True, False]},
}


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return small_recipe()


def test_a_space_is_read_from_a_file(tmp_path: Path, recipe: Recipe) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("train.learning_rate: {log_uniform: [1e-4, 1e-1]}\nmodel.layers: {int: [1, 3]}\n")
    space = Space.open(file, recipe=recipe)
    assert space.to_dict() == {"train.learning_rate": {"log_uniform": [1e-4, 0.1]}, "model.layers": {"int": [1, 3]}}
    with pytest.raises(ConfigError, match="cannot be read"):
        Space.open(tmp_path / "nothing.yaml", recipe=recipe)
    file.write_text("a: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        Space.open(file, recipe=recipe)


def test_drawn_values_lie_in_the_space_and_reach_its_ends(recipe: Recipe) -> None:
    space = space_from(GOOD, recipe=recipe)
    rng = np.random.default_rng(0)
    drawn = {c.key: [c.draw(rng) for _ in range(400)] for c in space.choices}
    assert set(drawn["model.layers"]) == {1, 2, 3}
    assert set(drawn["model.width"]) == {8, 16}
    assert 0 <= min(drawn["model.dropout"]) < 0.05 < 0.45 < max(drawn["model.dropout"]) <= 0.5
    rates = drawn["train.learning_rate"]
    assert 1e-4 <= min(rates) < 2e-4 < 5e-2 < max(rates) <= 0.1
    assert np.median(rates) == pytest.approx(math.sqrt(1e-4 * 0.1), rel=0.5), "even on a logarithmic scale"


def test_values_reach_the_recipe_and_leave_the_rest(recipe: Recipe) -> None:
    changed = with_values(recipe, {"model.width": 16, "train.learning_rate": 0.02, "train.deepspeed.a.b": 1})
    assert (changed.model.width, changed.train.learning_rate) == (16, 0.02)
    assert changed.train.deepspeed == {"a": {"b": 1}}
    assert with_values(recipe, {}) == recipe
    with pytest.raises(ConfigError, match="value, not a section"):
        with_values(recipe, {"train.epochs.more": 1})


@pytest.mark.parametrize(
    ("raw", "field", "problem"),
    [
        ([], "space", "not a mapping"),
        ({}, "space", "not a mapping"),
        ({"train.learnin_rate": {"uniform": [0.1, 0.2]}}, "space", r"train\.learnin_rate: Extra inputs"),
        ({"trian.epochs": {"int": [1, 2]}}, "space.trian.epochs", "no such key"),
        ({"train": {"choice": [1, 2]}}, "space.train", "no trained model depends"),
        ({"policy.floor": {"uniform": [0, 0.1]}}, "space.policy.floor", "no trained model depends"),
        ({"sequences.body": {"int": [8, 9]}}, "space.sequences.body", "decides the dataset"),
        ({"clean.future_days": {"int": [8, 9]}}, "space.clean.future_days", "decides the dataset"),
        ({"train.metric": {"choice": ["click_auc", "click_log_loss"]}}, "space.train.metric", "compared by"),
        ({"train.epochs": {"ints": [1, 2]}}, "space.train.epochs", "how it is searched"),
        ({"train.epochs": {"int": [1, 2], "choice": [1]}}, "space.train.epochs", "how it is searched"),
        ({"train.epochs": 3}, "space.train.epochs", "how it is searched"),
        ({"train.epochs": {"choice": 3}}, "space.train.epochs.choice", "not a list"),
        ({"train.epochs": {"choice": [3]}}, "space.train.epochs.choice", "nothing to choose"),
        ({"train.epochs": {"choice": [3, 3]}}, "space.train.epochs.choice", "nothing to choose"),
        ({"train.epochs": {"int": [3, 3]}}, "space.train.epochs.int", "empty range"),
        ({"train.epochs": {"int": [1.5, 3]}}, "space.train.epochs.int", "whole numbers"),
        ({"train.epochs": {"int": [1, 2, 3]}}, "space.train.epochs.int", "not a range"),
        ({"train.epochs": {"int": [1, "many"]}}, "space.train.epochs.int", "not a range"),
        ({"model.dropout": {"uniform": [0.3, 0.1]}}, "space.model.dropout.uniform", "empty range"),
        ({"model.dropout": {"uniform": [0.0, ".nan"]}}, "space.model.dropout.uniform", "not a range"),
        ({"train.learning_rate": {"log_uniform": [0, 1]}}, "space.train.learning_rate.log_uniform", "logarithm"),
        ({"model.dropout": {"uniform": [0.0, 2.0]}}, "space", r"model\.dropout: Input should be less"),
        ({"train.epochs": {"uniform": [1.0, 3.0]}}, "space", r"train\.epochs: Input should be a valid integer"),
        ({"model.width": {"choice": [8, 12]}, "model.heads": {"choice": [2, 8]}}, "space", "not a multiple of heads"),
        ({"model.width": {"int": [8, 4000]}, "model.heads": {"choice": [2, 4]}}, "space", "not a multiple of heads"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(recipe: Recipe, raw: Any, field: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        space_from(raw, recipe=recipe)
    assert caught.value.field == field
    assert caught.value.fix
