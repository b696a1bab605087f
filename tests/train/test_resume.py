"""A run that was cut off ends as one that was not: in mid-epoch, with other workers, past a damaged checkpoint; and runs that stop themselves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_world import Ended, World

from clm_ray.config.recipe import Recipe
from clm_ray.train.loop import Made, Worker

pytestmark = pytest.mark.slow
RecipeOf = Callable[..., Recipe]
Worlds = Callable[[int], World]
SMALL_IS_CUT_TOO = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
EVERY_FOUR: dict[str, Any] = {
    "checkpoint_steps": 4,
    "ema": 0.9,
    "schedule": "constant",
    "metric": "click_log_loss",
    "learning_rate": 0.002,
    "seed": 3,  # its second epoch is the better one
}
MID_SECOND = (1, 6)
"""Two steps after the checkpoint at step 4 of the second epoch."""


@pytest.fixture(scope="module")
def whole(worlds: Worlds, recipe_of: RecipeOf, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """The run that nothing disturbs, by two workers."""
    return worlds(2).train(recipe_of(**EVERY_FOUR), small_data, tmp_path_factory.mktemp("run"))


def _figures(ended: Ended) -> list[dict[str, float]]:
    return [{k: v for k, v in e.items() if k != "seconds"} for e in ended.history["epochs"]]


def _steady(ended: Ended) -> dict[str, torch.Tensor]:
    """The weights less the biases of keys, which softmax ignores: their gradient is rounding, and Adam makes whole steps of it."""
    weights = {name: w for name, w in ended.weights.items() if not name.endswith("key.bias")}
    return {name: w.chunk(2)[1] if name.endswith("key_value.bias") else w for name, w in weights.items()}


def _went_on(resumed: Ended, whole: Ended, *, first: tuple[int, int] = (1, 4), atol: float = 1e-4) -> None:
    """Only the steps since the checkpoint were made, and they and all figures are those of the undisturbed run."""
    assert sorted(resumed.losses) == [at for at in sorted(whole.losses) if at >= first]
    for at, losses in resumed.losses.items():
        assert losses == pytest.approx(whole.losses[at], abs=atol)
    for mine, its in zip(_figures(resumed), _figures(whole), strict=True):
        assert mine == pytest.approx(its, abs=atol, nan_ok=True)
    for name, weight in _steady(resumed).items():
        torch.testing.assert_close(weight, _steady(whole)[name], atol=3e-4, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_the_run_itself_has_what_the_others_lose(whole: Ended) -> None:
    assert len(whole.losses) >= 20
    assert sorted(p.name for p in whole.run.glob("checkpoint_*")) == ["checkpoint_001_00008", "checkpoint_002_00000"]
    assert [e["epoch"] for e in whole.history["epochs"]] == [1, 2], "the last epoch must be the best, to compare all"


def test_a_run_cut_off_in_mid_epoch_is_as_if_it_had_not_been(
    worlds: Worlds, recipe_of: RecipeOf, small_data: Path, whole: Ended, tmp_path: Path
) -> None:
    recipe = recipe_of(**EVERY_FOUR)
    worlds(2).train(recipe, small_data, tmp_path / "run", cut_off=MID_SECOND)
    resumed = worlds(2).train(recipe, small_data, tmp_path / "run")
    assert "resumed after step 4 of epoch 2" in resumed.lines
    _went_on(resumed, whole)


def test_dropout_needs_no_random_state(
    worlds: Worlds, recipe_of: RecipeOf, small_data: Path, whole: Ended, tmp_path: Path
) -> None:
    recipe = recipe_of(dropout=0.3, zero_stage=1, **EVERY_FOUR)
    undisturbed = worlds(2).train(recipe, small_data, tmp_path / "whole")
    worlds(2).train(recipe, small_data, tmp_path / "run", cut_off=MID_SECOND)
    resumed = worlds(2).train(recipe, small_data, tmp_path / "run")
    _went_on(resumed, undisturbed)
    assert (undisturbed.curve - whole.curve).abs().max() > 1e-2, "there was dropout"


@pytest.mark.parametrize(
    ("before", "after", "train"),
    [
        (2, 3, {"zero_stage": 0}),
        (2, 3, {"zero_stage": 1}),
        (3, 1, {"zero_stage": 1}),
        (2, 1, {"zero_stage": 2}),
        (2, 3, {"zero_stage": 3}),
        (3, 2, {"zero_stage": 3, "deepspeed": SMALL_IS_CUT_TOO}),
    ],
    ids=str,
)
def test_it_comes_back_with_another_number_of_workers(
    worlds: Worlds,
    recipe_of: RecipeOf,
    small_data: Path,
    whole: Ended,
    tmp_path: Path,
    before: int,
    after: int,
    train: dict[str, Any],
) -> None:
    recipe = recipe_of(**EVERY_FOUR, **train)
    worlds(before).train(recipe, small_data, tmp_path / "run", cut_off=MID_SECOND)
    resumed = worlds(after).train(recipe, small_data, tmp_path / "run")
    _went_on(resumed, whole)
    converted = any("converting the checkpoint" in line for line in resumed.lines)
    assert converted == (train["zero_stage"] > 0)
    assert not list((tmp_path / "run").glob(".universal*"))


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    worlds: Worlds, recipe_of: RecipeOf, small_data: Path, whole: Ended, tmp_path: Path
) -> None:
    recipe = recipe_of(**EVERY_FOUR)
    worlds(2).train(recipe, small_data, tmp_path / "run", cut_off=(1, 10))
    last = tmp_path / "run" / "checkpoint_001_00008"
    largest = max((p for p in last.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-100])
    resumed = worlds(2).train(recipe, small_data, tmp_path / "run")
    (warning,) = [line for line in resumed.lines if line.startswith("WARNING")]
    assert "checkpoint_001_00008 is damaged" in warning
    assert largest.name in warning
    _went_on(resumed, whole)


def test_the_averaged_weights_are_those_that_are_served(
    worlds: Worlds, recipe_of: RecipeOf, small_data: Path, whole: Ended, tmp_path: Path
) -> None:
    """Averaging changes no training step, and what is kept is the average of the steps' weights."""
    raw = worlds(2).train(recipe_of(**{**EVERY_FOUR, "ema": 0.0}), small_data, tmp_path / "raw")
    torch.testing.assert_close(raw.curve, whole.curve, atol=1e-5, rtol=0)
    distance = {n: float((w - whole.weights[n]).abs().max()) for n, w in raw.weights.items()}
    assert max(distance.values()) > 3e-3
    assert any(d > 1e-5 for n, d in distance.items() if n.startswith("tower.upper"))
    assert all(d == 0 for n, d in distance.items() if n.startswith(("tower.lower", "tower.embeddings")))
    again = worlds(3).train(
        recipe_of(zero_stage=3, deepspeed=SMALL_IS_CUT_TOO, **EVERY_FOUR), small_data, tmp_path / "cut"
    )
    _went_on(again, whole, first=(0, 0))


def _breaks_at_step_six(worker: Worker) -> None:
    """From the seventh step of the first epoch on, the loss is no number."""
    step_of = worker._step

    def step(made: Made) -> list[float]:
        if made.step >= 6:
            made = replace(made, batches=[replace(b, scale=b.scale * math.nan) for b in made.batches])
        return step_of(made)

    worker._step = step  # type: ignore[method-assign]


def test_a_loss_that_is_no_number_names_step_windows_and_checkpoint(
    worlds: Worlds, recipe_of: RecipeOf, small_data: Path, tmp_path: Path
) -> None:
    run = worlds(2).train(recipe_of(**EVERY_FOUR), small_data, tmp_path / "run", prepare=_breaks_at_step_six)
    assert run.error is not None
    assert run.error.startswith("DivergenceError: train.learning_rate: the loss is not finite in epoch 1, step 7")
    assert run.error.count("part-0") == 4, "the places of the step's four windows"
    assert run.error.endswith("The last good checkpoint is the one after step 4 of epoch 1")
    assert len(run.losses) == 7


def _suspicious(worker: Worker) -> None:
    """Nothing can be learned here: what is too good must be set below chance, where no recipe may set it."""
    changed = worker.recipe.train.model_copy(update={"leak_auc": 0.01})
    worker.recipe = worker.recipe.model_copy(update={"train": changed})


def test_a_figure_too_good_is_in_the_log_and_in_training_json(
    worlds: Worlds, recipe_of: RecipeOf, small_data: Path, whole: Ended, tmp_path: Path
) -> None:
    assert whole.history["warnings"] == []
    run = worlds(2).train(recipe_of(**EVERY_FOUR), small_data, tmp_path / "run", prepare=_suspicious)
    assert any(line.startswith("WARNING click_auc") and "train.leak_auc" in line for line in run.lines)
    assert any(warning.startswith("epoch 1: click_auc") for warning in run.history["warnings"])


def test_a_finished_run_has_nothing_left_to_do(
    worlds: Worlds, recipe_of: RecipeOf, small_data: Path, whole: Ended
) -> None:
    before = json.dumps(whole.history)
    again = worlds(3).train(recipe_of(**EVERY_FOUR), small_data, whole.run)
    assert again.losses == {}
    assert json.dumps(again.history) == before
