"""A second `prepare` reads new files only, and what comes out is the log that a first one would have read."""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray

from clm_ray.config.recipe import recipe_from
from clm_ray.config.workspace import Workspace
from clm_ray.data import kept
from clm_ray.data.code import code_digest, digest_of
from clm_ray.data.log import Log, read_log
from clm_ray.data.sources import files as source_files
from clm_ray.errors import QuarantineError

pytestmark = pytest.mark.ray
NOW_US = round(dt.datetime(2024, 6, 1, tzinfo=dt.UTC).timestamp() * 1e6)
HEADER = "user_id,item_id,event_type,timestamp,event_id"


def day(folder: Path, number: int, *, rows: int = 12, bad: int = 1, ids: bool = False) -> Path:
    """One day's file: good rows, some of which repeat an earlier day's ids, and broken ones."""
    folder.mkdir(exist_ok=True)
    path = folder / f"2024-05-{number:02d}.csv"
    lines = [
        f"u{n % 5},i{n % 3},buy,2024-05-{number:02d}T10:00:{n:02d}Z,{f'e{n % 8}' if ids else ''}" for n in range(rows)
    ]
    lines += [f"u{number},i1,buy,2024-05-{number:02d},x,too,many"] * bad
    path.write_text("\n".join((HEADER, *lines)) + "\n", encoding="utf-8")
    return path


def read(folder: Path, root: Path, *, now_us: int = NOW_US, **sections: Any) -> Log:
    raw = {
        "name": "t",
        "source": {"kind": "files", "events": {"paths": [str(folder)], "format": "csv"}},
        "event_types": {"buy": {"roles": ["positive", "context", "activity"]}},
        "sequences": {"buckets": 3},
        "clean": {"max_rejected_share": 0.8},
        **sections,
    }
    return read_log(recipe_from(raw), workspace=Workspace(root), now_us=now_us)


def content(log: Log) -> tuple[Any, ...]:
    events = pa.concat_tables(block for block in ray.get(log.events.to_arrow_refs()) if block.num_rows)
    order = [("event_id", "ascending"), ("user_id", "ascending")]
    return (
        events.sort_by(order).select(["event_id", "user_id", "item_id", "timestamp", "bucket"]).to_pylist(),
        log.counts,
        log.quarantine.to_pylist(),
        log.items.to_pylist(),
        log.users.to_pylist(),
    )


def spoil(path: Path) -> None:
    """Other rows of the same size and time: who reads on after the header reads rubbish."""
    status = path.stat()
    header, _, rows = path.read_bytes().partition(b"\n")
    path.write_bytes(header + b"\n" + b"?" * len(rows))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("ids", [False, True], ids=["content ids", "given ids"])
def test_old_files_are_not_read_again(ray_session: None, tmp_path: Path, ids: bool) -> None:
    files = [day(tmp_path / "log", number, ids=ids) for number in (2, 3)]
    read(tmp_path / "log", tmp_path / "workspace")
    # A file that sorts before the others moves their places in the list.
    day(tmp_path / "log", 1, ids=ids)
    fresh = content(read(tmp_path / "log", tmp_path / "other"))
    for path in files:
        spoil(path)
    assert content(read(tmp_path / "log", tmp_path / "workspace")) == fresh
    again = content(read(tmp_path / "log", tmp_path / "workspace"))
    assert again == fresh, "nothing new at all"


def test_a_changed_file_is_read_again_and_a_missing_one_forgotten(ray_session: None, tmp_path: Path) -> None:
    files = [day(tmp_path / "log", number) for number in (1, 2, 3)]
    read(tmp_path / "log", tmp_path / "workspace")
    day(tmp_path / "log", 2, rows=20, bad=3)
    files[2].unlink()
    found = content(read(tmp_path / "log", tmp_path / "workspace"))
    assert found == content(read(tmp_path / "log", tmp_path / "other"))
    assert len(list((tmp_path / "workspace" / "log" / "events").iterdir())) == 1, "what does not count is removed"


@pytest.mark.parametrize(
    "sections",
    [
        {"sequences": {"buckets": 5}},
        {"event_types": {"buy": {"roles": ["positive", "context"]}, "see": {"roles": ["activity"]}}},
        {"clean": {"max_rejected_share": 0.8, "earliest": "2024-05-02"}},
    ],
    ids=["buckets", "event types", "clean"],
)
def test_what_would_be_read_otherwise_is_read_again(
    ray_session: None, tmp_path: Path, sections: dict[str, Any]
) -> None:
    for number in (1, 2):
        day(tmp_path / "log", number)
    read(tmp_path / "log", tmp_path / "workspace")
    found = content(read(tmp_path / "log", tmp_path / "workspace", **sections))
    assert found == content(read(tmp_path / "log", tmp_path / "other", **sections))


def test_what_lay_in_the_future_is_read_again(ray_session: None, tmp_path: Path) -> None:
    for number in (1, 9):
        day(tmp_path / "log", number)
    early = round(dt.datetime(2024, 5, 3, tzinfo=dt.UTC).timestamp() * 1e6)
    first = read(tmp_path / "log", tmp_path / "workspace", now_us=early)
    assert first.counts.rejected["time in the future"] == 12
    assert not list((tmp_path / "workspace" / "log" / "events").iterdir())
    found = content(read(tmp_path / "log", tmp_path / "workspace"))
    assert found == content(read(tmp_path / "log", tmp_path / "other"))


def test_many_days_become_one_folder(ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_FOLDERS", 2)
    folders = tmp_path / "workspace" / "log" / "events"
    counts = []
    for number in range(1, 6):
        spoiled = day(tmp_path / "log", number)
        found = content(read(tmp_path / "log", tmp_path / "workspace"))
        counts.append(len(list(folders.iterdir())))
        last = content(read(tmp_path / "log", tmp_path / f"other-{number}")) if number in (3, 5) else found
        assert found == last
    assert counts == [1, 2, 1, 2, 1]
    spoil(spoiled)
    assert content(read(tmp_path / "log", tmp_path / "workspace")) == last


def test_a_log_that_is_refused_is_not_kept(ray_session: None, tmp_path: Path) -> None:
    day(tmp_path / "log", 1, bad=40)
    with pytest.raises(QuarantineError):
        read(tmp_path / "log", tmp_path / "workspace", clean={"max_rejected_share": 0.1})
    assert not list((tmp_path / "workspace" / "log" / "events").glob("[!.]*"))
    day(tmp_path / "log", 1, bad=0)
    assert read(tmp_path / "log", tmp_path / "workspace").counts.kept == 12


def test_the_identity_of_a_file_is_path_size_and_time(tmp_path: Path) -> None:
    from clm_ray.data.sources.places import find_files

    day(tmp_path / "log", 1)
    [place] = find_files([str(tmp_path / "log")], format="csv", field="f")
    first = place.identity()
    assert first == replace(place, name="other").identity()
    os.utime(place.path, ns=(1, 1))
    assert place.identity() != first


@pytest.mark.parametrize("what", ["code", "arrow"])
def test_rows_that_other_code_has_read_are_read_again(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    path = day(tmp_path / "log", 1)
    read(tmp_path / "log", tmp_path / "workspace")
    status = path.stat()
    path.write_bytes(path.read_bytes().replace(b"u0,", b"u9,"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def users() -> list[str]:
        found: list[str] = read(tmp_path / "log", tmp_path / "workspace").users["user_id"].to_pylist()
        return found

    assert "u9" not in users(), "nothing says that the file is another one"
    if what == "code":
        monkeypatch.setattr(source_files, "code_digest", lambda *_names: "another")
    else:
        monkeypatch.setattr(pa, "__version__", f"{pa.__version__}.post1")
    assert "u9" in users()
    assert len(list((tmp_path / "workspace" / "log" / "events").iterdir())) == 1, "what does not count is removed"


def test_the_digest_of_code_is_one_of_its_text(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    places = [tmp_path / "one.py", tmp_path / "room"]
    for path in (places[0], places[1] / "two.py", places[1] / "notes.txt"):
        path.write_text("a = 1\n")
    first = digest_of(places)
    (places[1] / "notes.txt").write_text("other")
    assert digest_of(places) == first
    for path in (places[0], places[1] / "two.py"):
        path.write_text("a = 2\n")
        assert digest_of(places) != first
        path.write_text("a = 1\n")
    assert digest_of(places) == first
    assert code_digest("data/clean.py") == code_digest("data/clean.py") != code_digest("data/clean.py", "data/sources")
