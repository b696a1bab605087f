"""What benchmarks write: reproducible commands, and nothing of the machine they ran on but its kind."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from benchmarks import record

PATHS = re.compile(r"(?:^|[\\s:=\"'])(?:~|/(?:home|root|tmp|var|work|mnt|Users))/")


@pytest.mark.parametrize("path", sorted(record.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_results_name_no_path_of_a_machine(path: Path) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    assert set(found) - {"parts"} == {"figures", "command", "git", "machine", "versions", "date"}
    assert not PATHS.search(path.read_text(encoding="utf-8"))


def test_the_command_that_is_kept_has_no_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    elsewhere = "/tmp/else/where"
    monkeypatch.setattr(sys, "argv", ["x/data.py", "--root", elsewhere, "--out", str(tmp_path / "a/b"), "--sizes", "5"])
    written = record.record("data", {"figure": 1.0}, git="abc")
    found = json.loads(written.read_text(encoding="utf-8"))
    assert found["command"] == "python -m benchmarks.data --root where --out a/b --sizes 5"
    assert found["figures"] == {"figure": 1.0}


def test_parts_of_a_file_keep_what_is_said_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(sys, "argv", ["x/data.py", "--only", "a"])
    record.record("data", {"a": 1.0, "b": 2.0}, git="first", date="2026-01-01")
    monkeypatch.setattr(sys, "argv", ["x/data.py", "--only", "b"])
    record.record("data", {"b": 3.0}, git="second", date="2026-01-02", merge=True)
    written = record.record("data", {"c": 4.0}, git="third", date="2026-01-03", merge=True)
    found = json.loads(written.read_text(encoding="utf-8"))
    assert found["figures"] == {"a": 1.0, "b": 3.0, "c": 4.0}
    assert {name: (part["git"], part["date"], part["command"][-1]) for name, part in found["parts"].items()} == {
        "a": ("first", "2026-01-01", "a"),
        "b": ("second", "2026-01-02", "b"),
        "c": ("third", "2026-01-03", "b"),
    }
