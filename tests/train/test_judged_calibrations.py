"""A refit run, which has no validation, takes its calibrations from the run that was judged before it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gloo_world import Ended, World
from small_dataset import write_dataset
from small_shop import make_shop

from clm_ray.config.model import FactorsConfig
from clm_ray.config.recipe import Recipe, recipe_from
from clm_ray.config.workspace import Workspace
from clm_ray.errors import ConfigError
from clm_ray.model.calibration import IDENTITY, Calibration
from clm_ray.model.files import DESCRIPTION, Description, ModelFolder
from clm_ray.model.retention_calibration import UNCALIBRATED, RetentionCalibration
from clm_ray.model.stacking import ALONE, Stacking
from clm_ray.train.judged import judged_calibrations, missing_calibration, with_judged_model

pytestmark = pytest.mark.slow
RecipeOf = Callable[..., Recipe]
Worlds = Callable[[int], World]
CLICKS = Calibration("platt", 0.8, -0.3, rows=100)
RETURNS = RetentionCalibration(
    Calibration("platt", 1.2, 0.1, rows=300), {"new": Calibration("platt", 0.9, 0.4, rows=250)}
)
STACKED = Stacking(0.7, 0.9, -3.0, rows=80)


def refit(recipe: Recipe, **train: Any) -> Recipe:
    raw = recipe.model_dump(mode="json")
    return recipe_from({**raw, "split": {**raw["split"], "refit": True}, "train": {**raw["train"], **train}})


@pytest.fixture(scope="module")
def judged(worlds: Worlds, recipe_of: RecipeOf, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of a run with validation, and with calibrations that are known."""
    runs = tmp_path_factory.mktemp("root") / "runs"
    runs.mkdir()
    model = worlds(1).train(recipe_of(epochs=1), small_data, runs / "judged").run / "model"
    was = ModelFolder.open(model).description()
    known = Description(was.sizes, was.users, CLICKS, RETURNS, STACKED)
    (model / DESCRIPTION).write_text(json.dumps(known.to_dict()), encoding="utf-8")
    return model


@pytest.fixture(scope="module")
def all_data(recipe_of: RecipeOf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same shop's dataset with everything in training."""
    recipe = refit(recipe_of())
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", make_shop(recipe=recipe))


def _trained(worlds: Worlds, recipe: Recipe, data: Path, run: Path) -> tuple[Ended, Description]:
    ended = worlds(1).train(recipe, data, run)
    assert ended.error is None
    return ended, ModelFolder.open(run / "model").description()


def test_a_refit_run_has_the_calibrations_of_the_judged_one(
    worlds: Worlds, recipe_of: RecipeOf, all_data: Path, judged: Path, tmp_path: Path
) -> None:
    asked = with_judged_model(refit(recipe_of(epochs=1), calibration_from="judged"), Workspace(judged.parents[2]))
    ended, description = _trained(worlds, asked, all_data, tmp_path / "run")
    assert (description.calibration, description.retention, description.stacking) == (CLICKS, RETURNS, STACKED)
    assert f"calibrations are those of {judged}" in ended.lines
    assert ended.history["warnings"] == []


def test_a_refit_run_without_them_is_warned_of(
    worlds: Worlds, recipe_of: RecipeOf, all_data: Path, tmp_path: Path
) -> None:
    ended, description = _trained(worlds, refit(recipe_of(epochs=1)), all_data, tmp_path / "run")
    assert (description.calibration, description.retention) == (IDENTITY, UNCALIBRATED)
    (said,) = [line for line in ended.lines if line.startswith("WARNING")]
    assert "train.calibration_from" in said
    assert ended.history["warnings"] == [said.removeprefix("WARNING ")]


def test_nothing_is_missing_where_nothing_is_asked_for(recipe_of: RecipeOf) -> None:
    assert missing_calibration(recipe_of()) is None
    assert missing_calibration(refit(recipe_of(), calibration="none", retention_calibration="none")) is None
    said = missing_calibration(refit(recipe_of(), calibration="none"))
    assert said is not None
    assert "for train.retention_calibration=platt." in said
    rated = refit(recipe_of(), calibration="none", retention_calibration="none")
    rated = rated.model_copy(update={"model": rated.model.model_copy(update={"factors": FactorsConfig()})})
    said = missing_calibration(rated)
    assert said is not None
    assert "for model.factors." in said


def test_a_calibration_that_is_not_asked_for_is_not_taken(recipe_of: RecipeOf, judged: Path) -> None:
    one = refit(recipe_of(), calibration_from=str(judged), calibration="none")
    assert judged_calibrations(one) == (IDENTITY, RETURNS, ALONE), (
        "weights of calibrated logits mean nothing for others"
    )
    other = refit(recipe_of(), calibration_from=str(judged), retention_calibration="none")
    assert judged_calibrations(other) == (CLICKS, UNCALIBRATED, STACKED)


def test_a_run_is_found_by_name_or_by_its_model_folder(recipe_of: RecipeOf, judged: Path, tmp_path: Path) -> None:
    for given, root in (("judged", judged.parents[2]), (str(judged), tmp_path)):
        found = with_judged_model(refit(recipe_of(), calibration_from=given), Workspace(root))
        assert found.train.calibration_from == str(judged)
    assert with_judged_model(recipe_of(), Workspace(tmp_path)) == recipe_of()
    nowhere = with_judged_model(refit(recipe_of(), calibration_from="judged"), Workspace(tmp_path))
    with pytest.raises(ConfigError, match=r"train\.calibration_from: no model to take calibrations from"):
        judged_calibrations(nowhere)


def test_calibrations_of_another_model_or_of_none_are_refused(
    worlds: Worlds, recipe_of: RecipeOf, all_data: Path, judged: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="other settings: model"):
        judged_calibrations(refit(recipe_of(dropout=0.5), calibration_from=str(judged)))
    worlds(1).train(refit(recipe_of(epochs=1)), all_data, tmp_path / "run")
    with pytest.raises(ConfigError, match="no validation split either"):
        judged_calibrations(refit(recipe_of(), calibration_from=str(tmp_path / "run" / "model")))
