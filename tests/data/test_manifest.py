"""The id of a dataset names everything that depends on it: equal ids, equal manifests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clm_ray.config.recipe import load_recipe
from clm_ray.data.manifest import read_manifest, write_manifest
from clm_ray.errors import DataError

THRESHOLDS = {"at_risk_days": 14.0}


def _write(
    folder: Path,
    *,
    text: str = "rows",
    overrides: tuple[str, ...] = (),
    thresholds: dict[str, Any] | None = None,
    **content: Any,
) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "events.parquet").write_text(text, encoding="utf-8")
    recipe = load_recipe("complete_journey", overrides=overrides)
    return str(write_manifest(folder, recipe=recipe, thresholds=thresholds or THRESHOLDS, content=content)["id"])


def test_equal_content_has_the_same_id(tmp_path: Path) -> None:
    assert _write(tmp_path / "a") == _write(tmp_path / "b")


def test_other_rows_or_another_way_of_building_are_another_dataset(tmp_path: Path) -> None:
    ids = [
        _write(tmp_path / "a"),
        _write(tmp_path / "b", text="other rows"),
        _write(tmp_path / "c", overrides=("sequences.body=64",)),
    ]
    assert len(set(ids)) == 3


def test_other_life_cycle_thresholds_are_another_dataset(tmp_path: Path) -> None:
    assert _write(tmp_path / "a") != _write(tmp_path / "b", thresholds={"at_risk_days": 20.0})


def test_user_neighbours_are_another_dataset_and_switched_off_they_are_not_named(tmp_path: Path) -> None:
    base = ("neighbours.slices=4",)
    plain = _write(tmp_path / "a", overrides=base)
    assert plain == _write(tmp_path / "b", overrides=(*base, "neighbours.users=0"))
    assert plain != _write(tmp_path / "c", overrides=(*base, "neighbours.users=9"))


def test_settings_of_later_stages_leave_the_id(tmp_path: Path) -> None:
    assert _write(tmp_path / "a") == _write(tmp_path / "b", overrides=("policy.budget=5", "train.epochs=9"))


def test_other_words_in_the_report_are_no_other_dataset(tmp_path: Path) -> None:
    expected = _write(tmp_path / "a")
    for name in ("report.json", "report.md", "report.html", "report_figures.json"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("other words", encoding="utf-8")
        assert _write(folder) == expected
        assert name in read_manifest(folder)["files"]


def test_a_folder_without_a_manifest_is_not_a_dataset(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="prepare"):
        read_manifest(tmp_path)
