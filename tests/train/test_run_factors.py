"""A run with matrix factorisation: fitted on training targets alone, stacked on validation, served."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gloo_world import World

from clm_ray.config.recipe import Recipe, recipe_from
from clm_ray.data.columns import ragged
from clm_ray.errors import TrainError
from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History
from clm_ray.model.factors import Factors
from clm_ray.model.files import ModelFolder
from clm_ray.model.inference import Scorer, UserRequest
from clm_ray.model.stacking import ALONE
from clm_ray.schema import TRAIN, VALID
from clm_ray.train.factors import FOLDER, ExpectedRatings, fit_factors, training_ratings
from clm_ray.train.histories import Histories
from clm_ray.train.windows import training_windows

RecipeOf = Callable[..., Recipe]
Worlds = Callable[[int], World]


@pytest.fixture(scope="module")
def rated_data(small_data: Path, recipe_of: RecipeOf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small shop's dataset whose train and validation targets are ratings of 1 and 5."""
    folder = tmp_path_factory.mktemp("rated") / "dataset"
    shutil.copytree(small_data, folder)
    (folder / "recipe.yaml").write_text(_rated(recipe_of()).to_yaml(), encoding="utf-8")
    for path in (folder / "sequences").glob("*.parquet"):
        table = pq.read_table(path)
        label, start = ragged(table.column("tgt_label"))
        ratings = pa.ListArray.from_arrays(pa.array(start, pa.int32()), pa.array(1 + 4 * label, pa.float32()))
        place = table.column_names.index("tgt_rating")
        group = pq.ParquetFile(path).metadata.row_group(0).num_rows
        pq.write_table(
            table.set_column(place, "tgt_rating", ratings.cast(table.schema.field(place).type)),
            path,
            row_group_size=group,
        )
    return folder


def _rated(recipe: Recipe) -> Recipe:
    """With factors; what a purchase is worth is read as its rating."""
    raw = recipe.model_dump(mode="json")
    brief = {"width": 2, "samples": 2, "burn_in": 1, "thin": 1}
    purchase = {**raw["event_types"]["purchase"], "value": "rating"}
    types = {**raw["event_types"], "purchase": purchase}
    return recipe_from({**raw, "event_types": types, "model": {**raw["model"], "factors": brief}})


def _targets(data: Path, split: int) -> dict[tuple[str, int], list[float]]:
    """(user, item row) → labels."""
    found: dict[tuple[str, int], list[float]] = {}
    for path in sorted((data / "sequences").glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            for item, label, kind in zip(row["tgt_item"], row["tgt_label"], row["tgt_split"], strict=True):
                if kind == split:
                    found.setdefault((row["user_id"], item), []).append(label)
    return found


def test_the_ratings_are_those_of_the_training_targets_alone(rated_data: Path) -> None:
    ratings = training_ratings(rated_data)
    found: dict[int, list[float]] = {}
    for item, rating in zip(ratings.item_N, ratings.rating_N, strict=True):
        found.setdefault(int(item), []).append((rating - 1) / 4)
    wanted: dict[int, list[float]] = {}
    for (_, item), labels in _targets(rated_data, TRAIN).items():
        wanted.setdefault(item, []).extend(labels)
    assert ratings.users == len({user for user, _ in _targets(rated_data, TRAIN)})
    assert {k: sorted(v) for k, v in found.items()} == {k: sorted(v) for k, v in wanted.items()}
    some = training_ratings(rated_data, user_share=0.5)
    assert 0 < some.users < ratings.users
    assert 0 < len(some.rating_N) < len(ratings.rating_N)


def test_where_nothing_is_rated_the_recipe_is_refused(recipe_of: RecipeOf, small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"model\.factors.*no training target has a rating"):
        fit_factors(_rated(recipe_of()), small_data, tmp_path, say=lambda _: None)
    fit_factors(recipe_of(), small_data, tmp_path, say=lambda _: None)
    assert Factors.open(tmp_path / FOLDER) is None


def test_what_was_fitted_is_not_fitted_again(recipe_of: RecipeOf, rated_data: Path, tmp_path: Path) -> None:
    said: list[str] = []
    recipe = _rated(recipe_of())
    fit_factors(recipe, rated_data, tmp_path, say=said.append)
    once = len(said)
    fit_factors(recipe, rated_data, tmp_path, say=said.append)
    assert (once, len(said)) == (2, 2)
    assert Factors.open(tmp_path / FOLDER) is not None


def _planted(data: Path) -> Factors:
    """One sample: random vectors and biases of every item of the catalogue but the unknown one."""
    rng = np.random.default_rng(0)
    items = pq.read_table(data / "items.parquet").num_rows
    vectors = np.column_stack([rng.normal(0, 1, (items, 3)), np.ones(items), rng.normal(0, 1, items)])
    vectors[0] = np.nan
    precision = np.eye(4)[None] * 2.0
    return Factors(vectors.astype(np.float32), np.full((1, 4), 0.2), precision, np.array([1.5]), 3.0, 1.5)


def _whole(data: Path, recipe: Recipe) -> dict[str, History]:
    histories = Histories.of(data, recipe)
    users = {user for user, _ in _targets(data, VALID)}
    return {user: histories.of_user(user) for user in users}


def test_validation_and_scoring_expect_the_same_from_what_came_before_alone(
    recipe_of: RecipeOf, rated_data: Path, tmp_path: Path
) -> None:
    recipe = _rated(recipe_of())
    (tmp_path / FOLDER).mkdir()
    factors = _planted(rated_data)
    factors.save(tmp_path / FOLDER)
    ratings = ExpectedRatings.of(tmp_path, recipe, Histories.of(rated_data, recipe))
    assert ratings is not None
    vocabulary, whole = EventVocabulary(recipe.event_types), _whole(rated_data, recipe)
    _, valid = training_windows(rated_data)
    checked = 0
    for _, windows in valid.batches(3, seed=0, epoch=0, shuffle=False):
        expected = []
        for user, target in zip(windows.user, windows.target, strict=True):
            for moment, item in zip(target["time"], target["item"], strict=True):
                past = whole[user].before(int(moment))
                taste = factors.taste(past.item_N, vocabulary.ratings(past))
                expected.append(factors.expected(taste, np.array([item], np.int32))[0])
        for _ in range(2):  # looked up, then remembered
            assert ratings.at(windows) == pytest.approx(np.array(expected), nan_ok=True, abs=1e-5)
        checked += int((~np.isnan(expected)).sum())
    assert checked > 20


def test_of_a_recipe_without_factors_nothing_is_expected(recipe_of: RecipeOf, rated_data: Path, tmp_path: Path) -> None:
    recipe = recipe_of()
    assert ExpectedRatings.of(tmp_path, recipe, Histories.of(rated_data, recipe)) is None


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_a_run_stacks_and_its_model_answers_with_both(
    size: int, worlds: Worlds, recipe_of: RecipeOf, rated_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (run / FOLDER).mkdir(parents=True)
    recipe = _rated(recipe_of(epochs=1))
    # Vectors that know: an item's bias is how often it is liked in validation, which no past says.
    liked: dict[int, list[float]] = {}
    for (_, item), labels in _targets(rated_data, VALID).items():
        liked.setdefault(item, []).extend(labels)
    planted = _planted(rated_data)
    for item, labels in liked.items():
        planted.item_IF[item, -1] = 4.0 * np.mean(labels)
    planted.save(run / FOLDER)
    fit_factors(recipe, rated_data, run, say=lambda _: None)  # the planted ones are there already
    assert worlds(size).train(recipe, rated_data, run).error is None
    stacking = ModelFolder.open(run / "model").description().stacking
    assert stacking != ALONE
    assert stacking.other > 0.1
    scorer = Scorer.open(run / "model")
    rows = np.array([1, 3, 5], np.int32)
    user, history = next((u, h) for u, h in sorted(_whole(rated_data, recipe).items()) if (h.item_N > 0).sum() > 5)
    time = int(history.time_N[-2])
    (state,) = scorer.states([UserRequest(user, history, time)])
    (both,) = scorer.click_logits([state], [rows])
    past = history.before(time)
    expected = planted.expected(planted.taste(past.item_N, scorer.vocabulary.ratings(past)), rows)
    scorer.factors = None
    (own,) = scorer.click_logits([state], [rows])
    assert both == pytest.approx(stacking.own * own + stacking.other * expected + stacking.intercept, abs=1e-4)
    assert not np.allclose(both, own)
