"""A run's name stands for one dataset and one recipe: used again it goes on with the same run, and with no other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clm_ray.config.recipe import Recipe
from clm_ray.config.workspace import DONE, Workspace
from clm_ray.errors import ConfigError
from clm_ray.train.identity import RUN
from clm_ray.train.run import train

RecipeOf = Callable[..., Recipe]


@pytest.fixture
def workspace(small_data: Path, tmp_path: Path) -> Workspace:
    """Two datasets, "small" is current."""
    found = Workspace(tmp_path)
    for name in ("small", "later"):
        shutil.copytree(small_data, found.datasets / name)
        manifest = json.loads((small_data / "manifest.json").read_text())
        (found.datasets / name / "manifest.json").write_text(json.dumps({**manifest, "id": name}))
    found.point("datasets", "small")
    return found


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """What would be trained, in place of training."""
    found: list[Recipe] = []

    def fit(recipe: Recipe, dataset: Path, run: Path, **_: Any) -> None:
        assert (run / RUN).is_file(), "it is written before the run begins"
        found.append(recipe)

    monkeypatch.setattr("clm_ray.train.run.fit", fit)
    return found


@pytest.mark.parametrize("finished", [False, True])
def test_the_same_name_with_another_recipe_or_dataset_is_refused(
    recipe_of: RecipeOf, workspace: Workspace, fitted: list[Recipe], finished: bool
) -> None:
    run = train(recipe_of(), workspace, name="mine")
    if finished:
        (run / DONE).touch()
    before = (run / RUN).read_bytes()
    with pytest.raises(ConfigError, match=r"train\.windows_per_step is 4 there and 8 here") as caught:
        train(recipe_of(windows_per_step=8), workspace, name="mine")
    assert (caught.value.field, caught.value.value) == ("--run", "mine")
    assert "--fresh" in caught.value.fix
    many = {"seed": 3, "ema": 0.5, "epochs": 7, "patience": 1, "optimizer": "sgd", "schedule": "linear"}
    other = recipe_of(outputs=("next_action",), **many)
    with pytest.raises(ConfigError, match=r"model\.outputs is .* and 2 more"):
        train(other, workspace, name="mine")
    workspace.point("datasets", "later")
    with pytest.raises(ConfigError, match='dataset is "small" there and "later" here'):
        train(recipe_of(), workspace, name="mine")
    assert len(fitted) == 1
    assert (run / RUN).read_bytes() == before


def test_other_means_of_training_go_on_with_the_run(
    recipe_of: RecipeOf, workspace: Workspace, fitted: list[Recipe]
) -> None:
    train(recipe_of(), workspace, name="mine")
    other = recipe_of(num_workers=5, threads_per_worker=2, checkpoint_steps=7, log_every=1, tracking=[])
    run = train(other, workspace, name="mine")
    assert [recipe.train.num_workers for recipe in fitted] == [recipe_of().train.num_workers, 5]
    (run / DONE).touch()
    assert train(recipe_of(num_workers=3), workspace, name="mine") == run
    assert len(fitted) == 2, "a finished run is returned as it is"


def test_what_is_read_later_is_no_part_of_a_run(
    recipe_of: RecipeOf, workspace: Workspace, fitted: list[Recipe]
) -> None:
    recipe = recipe_of()
    train(recipe, workspace, name="mine")
    policy = recipe.policy.model_copy(update={"floor": 0.01})
    train(recipe.model_copy(update={"policy": policy, "description": "said otherwise"}), workspace, name="mine")
    assert len(fitted) == 2


def test_a_name_starts_over_with_fresh(recipe_of: RecipeOf, workspace: Workspace, fitted: list[Recipe]) -> None:
    train(recipe_of(), workspace, name="mine")
    run = train(recipe_of(windows_per_step=8), workspace, name="mine", fresh=True)
    assert json.loads((run / RUN).read_text())["recipe"]["train"]["windows_per_step"] == 8
    train(recipe_of(windows_per_step=8), workspace, name="mine")
    assert len(fitted) == 3


def test_a_run_that_is_not_begun_leaves_no_name_behind(
    recipe_of: RecipeOf, workspace: Workspace, fitted: list[Recipe]
) -> None:
    with pytest.raises(ConfigError):
        train(recipe_of(deepspeed={"gradient_clipping": 7}), workspace, name="mine")
    assert not (workspace.runs / "mine").exists()
    train(recipe_of(), workspace, name="mine")
    assert len(fitted) == 1
