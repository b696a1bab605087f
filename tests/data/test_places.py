"""Paths of a recipe → files."""

from pathlib import Path

import pytest

from clm_ray.data.sources.places import find_files, resolve_path
from clm_ray.errors import DataError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    names = [
        "2024/01/a.csv",
        "2024/01/b.csv.gz",
        "2024/02/c.csv",
        "2024/02/d.parquet",
        "2024/_old/e.csv",
        ".hidden.csv",
    ]
    for name in [*names, "odd/part-1", "odd/part-2", "odd/_SUCCESS", "a[1].csv"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def names(tree: Path, *paths: str, format: str = "csv") -> list[str]:
    return [p.path.removeprefix(f"{tree}/") for p in find_files(paths, format=format, field="f")]


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_files_folders_and_globs(tree, prefix):
    base = f"{prefix}{tree}"
    assert names(tree, f"{base}/2024/02/c.csv") == ["2024/02/c.csv"]
    assert names(tree, f"{base}/2024") == ["2024/01/a.csv", "2024/01/b.csv.gz", "2024/02/c.csv"]
    assert names(tree, f"{base}/2024", format="parquet") == ["2024/02/d.parquet"]
    assert names(tree, f"{base}/2024/*/*.csv") == ["2024/01/a.csv", "2024/02/c.csv"]
    assert names(tree, f"{base}/**/[ab].csv*") == ["2024/01/a.csv", "2024/01/b.csv.gz"]
    assert names(tree, f"{base}/odd") == ["odd/part-1", "odd/part-2"]


def test_each_file_once_and_sorted(tree):
    twice = names(tree, f"{tree}/2024/02", f"{tree}/2024/01/*.csv", f"{tree}/2024/02/c.csv")
    assert twice == ["2024/01/a.csv", "2024/02/c.csv"]


def test_files_are_told_apart_by_their_folders_below_the_common_one(tree):
    def shown(*paths: str) -> list[str]:
        return [place.name for place in find_files(paths, format="csv", field="f")]

    assert shown(f"{tree}/2024") == ["01/a.csv", "01/b.csv.gz", "02/c.csv"]
    assert shown(f"{tree}/2024/01") == ["a.csv", "b.csv.gz"]
    assert shown(f"{tree}/2024/02/c.csv") == ["c.csv"]
    assert shown(f"{tree}/2024/02/c.csv", f"{tree}/a[1].csv") == ["2024/02/c.csv", "a[1].csv"]
    for day in ("1", "10"):
        (tree / f"d={day}").mkdir()
        (tree / f"d={day}" / "part-0.csv").touch()
    assert shown(f"{tree}/d=*/*.csv") == ["d=1/part-0.csv", "d=10/part-0.csv"]


def test_a_file_whose_name_looks_like_a_glob(tree):
    assert names(tree, f"{tree}/a[1].csv") == ["a[1].csv"]


def test_relative_paths_become_absolute(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert names(tree, "2024/02/*.csv") == ["2024/02/c.csv"]


@pytest.mark.parametrize("path", ["/nowhere/at/all", "/nowhere/*.csv", "weird://bucket/x", "s3:/half"])
def test_paths_that_hold_nothing_are_named(path):
    with pytest.raises(DataError) as caught:
        find_files([path], format="csv", field="source.events.paths")
    assert caught.value.value == path
    assert caught.value.field == "source.events.paths"


def test_a_uri_keeps_its_options_and_its_wildcards():
    filesystem, path = resolve_path("s3://bucket/log/2024-*/[ab]/**/*.parquet?region=eu-west-1")
    assert (filesystem.type_name, filesystem.region) == ("s3", "eu-west-1")
    assert path == "bucket/log/2024-*/[ab]/**/*.parquet"
    assert resolve_path("s3://bucket/*.parquet?region=eu-west-1")[1] == "bucket/*.parquet"
    assert resolve_path("s3://bucket/log/?region=eu-west-1")[1].rstrip("/") == "bucket/log"


def test_a_file_is_one_however_it_is_spelled(tree):
    spelled = f"{tree}/2024/01/../02/c.csv"
    assert names(tree, spelled, f"{tree}/2024/02/c.csv") == ["2024/02/c.csv"]
    assert names(tree, f"{tree}/2024/02", f"file://{tree}/2024/01/../02") == ["2024/02/c.csv"]
    assert names(tree, spelled) == ["2024/01/../02/c.csv"]


def test_a_link_beside_its_target_is_the_same_file(tree):
    (tree / "2024/01/0-link.csv").symlink_to(tree / "2024/01/a.csv")
    (tree / "2024/latest").symlink_to(tree / "2024/02", target_is_directory=True)
    assert names(tree, f"{tree}/2024/01/*.csv", f"{tree}/2024/latest/c.csv", f"{tree}/2024/02") == [
        "2024/01/a.csv",
        "2024/02/c.csv",
    ]
    assert names(tree, f"{tree}/2024/01/0-link.csv") == ["2024/01/0-link.csv"], "alone it keeps its place"
    (tree / "d=1").mkdir()
    (tree / "d=1/x.csv").symlink_to(tree / "odd/part-1")
    (tree / "d=1/y.csv").symlink_to(tree / "odd/part-1")
    [place] = find_files([f"{tree}/d=1"], format="csv", field="f")
    assert (place.name, place.partitions()["d"]) == ("x.csv", "1")
