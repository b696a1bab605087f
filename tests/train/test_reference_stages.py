"""Stages of references come from the whole history, as they do when the model is asked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from small_shop import SmallShop, make_shop

from clm_ray.config.recipe import load_recipe
from clm_ray.lifecycle.stages import Thresholds, stages_at
from clm_ray.schema import VALID
from clm_ray.train.histories import Histories
from clm_ray.train.reference_stages import ReferenceStages


def test_references_are_in_the_stage_that_the_whole_history_says(small_data: Path) -> None:
    recipe = load_recipe(str(small_data / "recipe.yaml"))
    shop: SmallShop = make_shop(recipe=recipe)
    manifest = json.loads((small_data / "manifest.json").read_text(encoding="utf-8"))
    stages = ReferenceStages(Histories.of(small_data, recipe), Thresholds.from_dict(manifest["thresholds"]))
    windows = shop.batch_windows(split=VALID)
    expected = []
    for user, reference in zip(windows.user, windows.reference, strict=True):
        history = shop.histories[user]
        active = history.time_N[shop.source.vocabulary.is_activity(history)]
        expected += stages_at(active, reference["time"], thresholds=stages.thresholds).tolist()
    found = stages.at(windows)
    assert found.tolist() == expected
    assert len(set(expected)) > 1
    # The ranks' shares together are the whole.
    shares = [stages.at(windows.share(rank, 2)) for rank in range(2)]
    assert np.array_equal(np.sort(np.concatenate(shares)), np.sort(found))


def test_windows_without_references_have_none(small_data: Path) -> None:
    recipe = load_recipe(str(small_data / "recipe.yaml"))
    manifest = json.loads((small_data / "manifest.json").read_text(encoding="utf-8"))
    windows = make_shop(recipe=recipe).batch_windows(count=0, split=VALID)
    stages = ReferenceStages(Histories.of(small_data, recipe), Thresholds.from_dict(manifest["thresholds"]))
    assert stages.at(windows).tolist() == []
