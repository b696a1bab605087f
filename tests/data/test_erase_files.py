"""Erasing users from files that no dataset of the tiny shop has."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from clm_ray.config.workspace import Workspace
from clm_ray.data.erase import erase_files


def test_a_user_is_gone_as_a_neighbour_too(tmp_path: Path) -> None:
    path = tmp_path / "datasets" / "d" / "user_neighbours" / "part-00001.parquet"
    path.parent.mkdir(parents=True)
    pairs = {"user_id": ["ann", "bob", "carl"], "neighbour_id": ["bob", "ann", "bob"], "similarity": [0.5, 0.5, 0.1]}
    pq.write_table(pa.table(pairs), path)
    assert erase_files(Workspace(tmp_path), ["ann"]) == {str(path.relative_to(tmp_path)): 2}
    assert pq.read_table(path).to_pylist() == [{"user_id": "carl", "neighbour_id": "bob", "similarity": 0.1}]


def test_what_rejected_rows_said_of_a_user_is_blanked(tmp_path: Path) -> None:
    path = tmp_path / "datasets" / "rejected.parquet"
    path.parent.mkdir(parents=True)
    details = ['{"user":"4711","at":"soon"}', '{"user":"47110"}', '{"line":"x;4711;y"}', None]
    pq.write_table(pa.table({"row": [1, 2, 3, 4], "reason": ["r"] * 4, "detail": details}), path)
    assert list(erase_files(Workspace(tmp_path), ["pseudonym"], written=["4711"]).values()) == [2]
    assert pq.read_table(path).column("detail").to_pylist() == ["erased", details[1], "erased", None]


def test_availability_of_the_users_slates_goes_with_them(tmp_path: Path) -> None:
    events, offers = tmp_path / "feedback" / "events", tmp_path / "feedback" / "availability"
    for folder in (events, offers):
        folder.mkdir(parents=True)
    pq.write_table(pa.table({"user_id": ["ann", "bob"], "decision_id": ["d1", "d2"]}), events / "part-1.parquet")
    slots = ["decision:d1", "decision:d2", "decision:stored", "front"]
    pq.write_table(pa.table({"slot": slots, "item_id": ["i"] * 4}), offers / "part-1.parquet")
    erase_files(Workspace(tmp_path), ["ann"], decisions=["stored"])
    assert pq.read_table(offers / "part-1.parquet").column("slot").to_pylist() == ["decision:d2", "front"]
