"""The folders of a workspace and the pointers that say which are current."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clm_ray.config.workspace import DONE, Workspace
from clm_ray.errors import ConfigError


def test_a_root_is_given_or_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLM_ROOT", raising=False)
    assert Workspace.open(None, name="shop").root == tmp_path / "workspaces" / "shop"
    assert Workspace.open("here", name="shop").root == tmp_path / "here"
    monkeypatch.setenv("CLM_ROOT", str(tmp_path / "all"))
    assert Workspace.open(None, name="shop").root == tmp_path / "all" / "shop"
    assert Workspace.open(tmp_path / "one", name="shop").root == tmp_path / "one"
    assert not any(tmp_path.iterdir())


def test_a_relative_root_inside_a_submitted_job_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "runtime_resources" / "working_dir_files" / "pkg"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    monkeypatch.delenv("CLM_ROOT", raising=False)
    with pytest.raises(ConfigError, match="would be lost") as caught:
        Workspace.open("mine", name="shop")
    assert (caught.value.field, caught.value.value) == ("--root", "mine")
    assert Workspace.open("/somewhere", name="shop").root == Path("/somewhere")


def test_the_pointer_names_the_current_folder(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(ConfigError, match="no current folder in datasets") as caught:
        workspace.current("datasets")
    assert caught.value.fix == "run jobs/prepare.py first"
    workspace.point("datasets", "one")
    assert workspace.current("datasets") == tmp_path / "datasets" / "one"
    workspace.point("datasets", "two")
    assert workspace.current("datasets") == tmp_path / "datasets" / "two"
    assert [path.name for path in workspace.datasets.iterdir()] == ["CURRENT"]


def test_the_pointer_is_never_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written beside and renamed over: what fails before the rename leaves the old one."""
    workspace = Workspace(tmp_path)
    workspace.point("releases", "old")

    def cut_off(_self: Path, _target: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", cut_off)
        with pytest.raises(KeyboardInterrupt):
            workspace.point("releases", "new")
    assert workspace.current("releases").name == "old"


def test_the_newest_finished_run_is_found(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(ConfigError, match=r"train\.py"):
        workspace.newest_run()
    for age, name in enumerate(("new", "old")):
        folder = workspace.runs / name
        folder.mkdir(parents=True)
        (folder / DONE).write_text("{}")
        os.utime(folder / DONE, (1_000_000 - age, 1_000_000 - age))
    (workspace.runs / "unfinished").mkdir()
    assert workspace.newest_run() == "new"
