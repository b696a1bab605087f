"""Settings that no model was trained on (policy, endpoint, store) come from the recipe that publishes, not from the run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from clm_ray.config.recipe import load_recipe, recipe_from
from clm_ray.config.workspace import DONE, Workspace
from clm_ray.model.files import DESCRIPTION, ITEM_VECTORS, TABLES, WEIGHTS
from clm_ray.release.publish import publish
from clm_ray.release.read import recipe_of

THRESHOLDS = {"new_days": 28.0, "at_risk_days": 14.0, "churned_days": 50.0, "reactivated_days": 28.0}


def _trained(root: Path) -> tuple[Workspace, Path, Path]:
    """A run and its dataset, as far as publishing looks at them: names and JSON; weights and tables are only copied."""
    run, dataset = root / "runs" / "run-1", root / "datasets" / "data-1"
    (run / "model").mkdir(parents=True)
    dataset.mkdir(parents=True)
    for name in (WEIGHTS, DESCRIPTION, ITEM_VECTORS, *TABLES):
        (run / "model" / name).write_text(name, encoding="utf-8")
    np.save(run / "model" / ITEM_VECTORS, np.zeros((3, 2), np.float32))
    (run / "model" / "recipe.yaml").write_text(load_recipe("complete_journey").to_yaml(), encoding="utf-8")
    (run / "model" / "training.json").write_text(json.dumps({"dataset": "data-1", "git": "abc"}), encoding="utf-8")
    (run / DONE).touch()
    manifest = {"id": "data-1", "recipe": "complete_journey", "thresholds": THRESHOLDS}
    (dataset / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return Workspace(root), run, dataset


def test_the_kill_switch_is_pulled_by_publishing_again(tmp_path: Path) -> None:
    workspace, run, dataset = _trained(tmp_path)
    first = publish(workspace, run=run, dataset=dataset, evaluation=None)
    off = load_recipe(
        "complete_journey", overrides=["policy.enabled=false", "serve.k=3", "store.url=sqlite:////x/s.db"]
    )
    second = publish(workspace, run=run, dataset=dataset, evaluation=None, recipe=off)
    assert recipe_of(first.folder).policy.enabled
    assert second.id != first.id
    served = recipe_of(second.folder)
    assert (served.policy.enabled, served.serve.k, served.store.url) == (False, 3, "sqlite:////x/s.db")
    assert json.loads((second.folder / "policy.json").read_text(encoding="utf-8"))["enabled"] is False
    assert workspace.current("releases") == second.folder


def test_what_the_model_was_trained_with_stays(tmp_path: Path) -> None:
    workspace, run, dataset = _trained(tmp_path)
    other = load_recipe("complete_journey", overrides=["model.width=96", "sequences.max_context=7", "serve.k=3"])
    release = publish(workspace, run=run, dataset=dataset, evaluation=None, recipe=other)
    served, trained = recipe_of(release.folder), load_recipe("complete_journey")
    assert (served.model, served.sequences) == (trained.model, trained.sequences)
    assert served.serve.k == 3


def test_only_sections_that_training_does_not_read_are_taken_over() -> None:
    trained = load_recipe("complete_journey")
    raw = load_recipe("complete_journey", overrides=["policy.budget=5", "train.epochs=9"]).model_dump(mode="json")
    served = trained.served_by(recipe_from(raw))
    assert served.policy.budget == 5
    assert served.training_digest() == trained.training_digest()
