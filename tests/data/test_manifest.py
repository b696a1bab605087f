"""The id of a dataset names everything that depends on it: equal ids, equal manifests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from clm_ray.config.recipe import load_recipe
from clm_ray.data.log import Counts, Log
from clm_ray.data.manifest import read_manifest, write_manifest
from clm_ray.errors import DataError
from clm_ray.schema import ITEMS, QUARANTINE, USERS

CONTENT: dict[str, Any] = {"thresholds": {"at_risk_days": 14.0}, "train_end_us": 1}


def _log() -> Log:
    counts = Counts(1, 1, 0, {}, {}, 1, 1, 1, 0, 0)
    row_zero = pa.table({f.name: pa.array([None], f.type) for f in ITEMS})
    return Log(None, row_zero, USERS.empty_table(), None, QUARANTINE.empty_table(), counts)  # type: ignore[arg-type]


def _write(folder: Path, *, text: str = "rows", overrides: tuple[str, ...] = (), **content: Any) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "events.parquet").write_text(text, encoding="utf-8")
    recipe = load_recipe("complete_journey", overrides=overrides)
    return str(write_manifest(folder, recipe=recipe, log=_log(), content={**CONTENT, **content})["id"])


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
