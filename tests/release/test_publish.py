"""Releases: what is written, what is refused, what verification finds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from clm_ray.config.recipe import recipe_from
from clm_ray.config.workspace import DONE, Workspace
from clm_ray.data.assets import file_digest
from clm_ray.errors import DataError, ReleaseError
from clm_ray.model.files import DESCRIPTION, ITEM_VECTORS, TABLES, WEIGHTS
from clm_ray.release import publish as publishing
from clm_ray.release.publish import Release, fill_store, publish, verify
from clm_ray.store.store import open_store

THRESHOLDS = {"new_days": 28.0, "at_risk_days": 14.0, "churned_days": 60.0, "reactivated_days": 28.0}
RAW: dict[str, Any] = {
    "name": "shop",
    "source": {"kind": "files", "events": {"paths": ["none"]}},
    "event_types": {"buy": {"roles": ["positive", "context", "activity"]}},
    "serve": {"clock": "log_end"},
}


class Made(NamedTuple):
    """A workspace with a dataset, a run trained on it and its evaluation, of files that only look like them."""

    workspace: Workspace
    run: Path
    dataset: Path
    evaluation: Path

    def publish(self, **more: Any) -> Release:
        paths = {"run": self.run, "dataset": self.dataset, "evaluation": self.evaluation}
        return publish(self.workspace, **{**paths, **more})


@pytest.fixture
def made(tmp_path: Path) -> Made:
    workspace = Workspace(tmp_path)
    model, dataset = workspace.runs / "first" / "model", workspace.datasets / "d1"
    evaluation = workspace.evaluations / "first"
    for folder in (model / "encoder", dataset, evaluation):
        folder.mkdir(parents=True)
    for name in (WEIGHTS, DESCRIPTION, ITEM_VECTORS, *TABLES, "encoder/config.json"):
        (model / name).write_text(f"content of {name}", encoding="utf-8")
    np.save(model / ITEM_VECTORS, np.zeros((3, 2), np.float32))
    (model / "recipe.yaml").write_text(recipe_from(RAW).to_yaml(), encoding="utf-8")
    write_json(model / "training.json", {"dataset": "d1", "git": "abc"})
    (model.parent / DONE).touch()
    write_json(dataset / "manifest.json", {"id": "d1", "recipe": "shop", "thresholds": THRESHOLDS})
    write_json(evaluation / "metrics.json", {"auc": 0.7})
    return Made(workspace, model.parent, dataset, evaluation)


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def refused(folder: Path) -> ReleaseError:
    with pytest.raises(ReleaseError) as caught:
        verify(folder)
    assert caught.value.fix
    return caught.value


def test_a_release_is_the_model_and_what_it_came_from(made: Made) -> None:
    release = made.publish()
    manifest = json.loads((release.folder / "manifest.json").read_text(encoding="utf-8"))
    assert release.folder == made.workspace.releases / release.id == made.workspace.current("releases")
    assert manifest == release.manifest
    assert manifest["parents"] == {"dataset": "d1", "run": "first", "recipe": "shop", "git": "abc"}
    assert (manifest["thresholds"], manifest["clock"]) == (THRESHOLDS, "log_end")
    files = {str(p.relative_to(release.folder)): file_digest(p) for p in release.folder.rglob("*") if p.is_file()}
    del files["manifest.json"]
    assert manifest["files"] == files
    model = {str(p.relative_to(made.run / "model")) for p in (made.run / "model").rglob("*") if p.is_file()}
    assert set(files) == model | {"policy.json", "metrics.json"}
    for name in model - {"recipe.yaml"}:
        assert (release.folder / name).read_bytes() == (made.run / "model" / name).read_bytes()
    assert json.loads((release.folder / "metrics.json").read_text(encoding="utf-8")) == {"auc": 0.7}
    assert verify(release.folder) == release


def test_equal_content_is_the_same_release(made: Made) -> None:
    first = made.publish()
    written = (first.folder / "manifest.json").read_bytes()
    assert made.publish().id == first.id
    assert (first.folder / "manifest.json").read_bytes() == written
    assert sorted(path.name for path in made.workspace.releases.iterdir()) == sorted(["CURRENT", first.id])


def test_other_content_is_another_release_and_the_old_one_stays(made: Made) -> None:
    first = made.publish()
    assert made.publish(evaluation=None).id != first.id
    (made.run / "model" / WEIGHTS).write_text("trained further", encoding="utf-8")
    second = made.publish()
    assert second.id != first.id
    assert made.workspace.current("releases") == second.folder
    assert verify(first.folder) == first


def test_a_changed_file_is_named(made: Made) -> None:
    folder = made.publish().folder
    (folder / "encoder" / "config.json").write_text("other", encoding="utf-8")
    error = refused(folder)
    assert (error.problem, error.value) == ("a file was changed", str(folder / "encoder" / "config.json"))


def test_a_missing_file_is_named(made: Made) -> None:
    folder = made.publish().folder
    (folder / ITEM_VECTORS).unlink()
    error = refused(folder)
    assert (error.problem, error.value) == ("a file is missing", str(folder / ITEM_VECTORS))


def test_an_extra_file_is_named(made: Made) -> None:
    folder = made.publish().folder
    (folder / "encoder" / "notes.txt").write_text("", encoding="utf-8")
    error = refused(folder)
    assert (error.problem, error.value) == ("a file is not in the manifest", "encoder/notes.txt")


def changed_threshold(text: str) -> str:
    return text.replace("14.0", "15.0")


@pytest.mark.parametrize("change", [changed_threshold, lambda _: "{", lambda _: "[]", lambda _: '{"id": "x"}'])
def test_a_changed_manifest_is_named(made: Made, change: Any) -> None:
    path = made.publish().folder / "manifest.json"
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    error = refused(path.parent)
    assert (error.problem, error.value) == ("a file was changed", str(path))


def test_a_folder_without_manifest_is_no_release(made: Made) -> None:
    folder = made.publish().folder
    (folder / "manifest.json").unlink()
    assert refused(folder).problem == "has no manifest"


def test_publishing_again_repairs_a_damaged_release(made: Made) -> None:
    first = made.publish()
    (first.folder / WEIGHTS).write_text("cut o", encoding="utf-8")
    assert made.publish().id == first.id
    assert verify(first.folder).id == first.id


@pytest.mark.parametrize("name", ["optimizer.pt", "encoder/pytorch_model.BIN", "items.pkl"])
def test_a_file_that_could_run_code_is_refused(made: Made, name: str) -> None:
    (made.run / "model" / name).write_bytes(b"\x80\x04")
    with pytest.raises(ReleaseError, match="could run code") as caught:
        made.publish()
    assert (caught.value.field, caught.value.value) == ("release", name)
    assert not made.workspace.releases.exists()


@pytest.mark.parametrize("name", [WEIGHTS, DESCRIPTION, ITEM_VECTORS, *TABLES, "training.json"])
def test_an_incomplete_model_is_refused(made: Made, name: str) -> None:
    (made.run / "model" / name).unlink()
    with pytest.raises(ReleaseError, match="missing") as caught:
        made.publish()
    assert caught.value.value == str(made.run / "model" / name)
    assert caught.value.fix
    assert not made.workspace.releases.exists()


def test_a_run_on_other_data_is_refused(made: Made) -> None:
    write_json(made.dataset / "manifest.json", {"id": "d2", "recipe": "shop", "thresholds": THRESHOLDS})
    with pytest.raises(ReleaseError, match="another dataset") as caught:
        made.publish()
    assert caught.value.field == "--run"
    assert "d1" in str(caught.value.value)
    assert "d2" in str(caught.value.value)


def test_an_unfinished_run_is_refused(made: Made) -> None:
    (made.run / DONE).unlink()
    with pytest.raises(ReleaseError, match="not finished") as caught:
        made.publish()
    assert (caught.value.field, caught.value.value) == ("--run", "first")
    assert not made.workspace.releases.exists()


def test_an_unfinished_dataset_is_refused(made: Made) -> None:
    (made.dataset / "manifest.json").unlink()
    with pytest.raises(DataError, match="no finished dataset"):
        made.publish()


def test_current_moves_only_to_a_verified_release(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made.publish()
    (made.run / "model" / WEIGHTS).write_text("trained further", encoding="utf-8")

    def cut_off(*_: object, **__: object) -> dict[str, Any]:
        raise KeyboardInterrupt

    for step in ("_manifest", "verify"):
        with monkeypatch.context() as patch:
            patch.setattr(publishing, step, cut_off)
            with pytest.raises(KeyboardInterrupt):
                made.publish()
        assert made.workspace.current("releases") == first.folder
    second = made.publish()
    assert made.workspace.current("releases") == second.folder != first.folder
    leftovers = {path.name for path in made.workspace.releases.iterdir()} - {"CURRENT", first.id, second.id}
    assert leftovers == set()


def test_a_half_written_folder_of_that_name_is_replaced(made: Made) -> None:
    first = made.publish()
    shutil.rmtree(first.folder)
    first.folder.mkdir()
    (first.folder / "half").write_text("", encoding="utf-8")
    assert verify(made.publish().folder).id == first.id


def test_the_demo_clock_starts_at_the_end_of_the_log_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = publishing.LoadedDataset(dataset="d1", users=1, events=1, last_event_us=1_000)
    monkeypatch.setattr(publishing, "load_dataset", lambda _store, _folder: loaded)
    with open_store(f"sqlite:///{tmp_path / 'store.db'}") as store:
        fill_store(store, tmp_path, clock="wall", wall_us=5_000)
        assert store.clock_offset() is None
        assert fill_store(store, tmp_path, clock="log_end", wall_us=5_000) == loaded
        fill_store(store, tmp_path, clock="log_end", wall_us=9_000)
        assert store.clock_offset() == -4_000
