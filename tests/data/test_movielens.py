"""MovieLens-100K: from RecBole's files to events, items and users."""

import datetime as dt
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
import ray

from clm_ray.config.recipe import load_recipe
from clm_ray.data.assets import file_digests
from clm_ray.data.sources import Reading, movielens
from clm_ray.data.sources.movielens import main, movielens_folder, read_movielens, unpack_wheel
from clm_ray.errors import AssetError
from clm_ray.schema import ITEMS, USERS, validate

NOW_US = round(dt.datetime(2026, 1, 1, tzinfo=dt.UTC).timestamp() * 1e6)
FILES = {
    "ml-100k.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n10\t9\t5\t881250949\n",
    "ml-100k.item": (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        '242\tKolya "The Film"\t1996\tComedy Children\'s\n9\tunknown\t\tunknown\n'
    ),
    "ml-100k.user": (
        "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
        "196\t49\tM\twriter\t55105\n10\t53\tF\tother\tT8H1N\n"
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "ml-100k"
    made.mkdir()
    for name, text in FILES.items():
        (made / name).write_text(text)
    return made


@pytest.mark.ray
def test_ratings_films_and_users(ray_session, folder):
    recipe = load_recipe("movielens_100k", overrides=[f"source.path={folder}"])
    source = read_movielens(recipe, Reading(NOW_US), digests=file_digests(folder))
    rows = pa.concat_tables(block for block in ray.get(source.rows.to_arrow_refs()) if block.num_rows)
    moment = dt.datetime(1997, 12, 4, 15, 55, 49, tzinfo=dt.UTC)
    shown = rows.select(["user_id", "item_id", "event_type", "timestamp", "value", "reason", "row"]).to_pylist()
    assert [tuple(row.values()) for row in shown] == [
        ("196", "242", "rating", moment, 3.0, None, 2),
        ("10", "9", "rating", moment, 5.0, None, 3),
    ]
    items = validate(source.items, ITEMS, name="items").to_pylist()
    assert items[0]["text"] == 'Kolya "The Film", 1996, Comedy, Children\'s'
    assert (items[0]["categories"], items[0]["numeric"]) == (["Comedy", "Children's"], [("year", 1996.0)])
    assert (items[1]["text"], items[1]["numeric"]) == ("unknown, unknown", [])
    users = validate(source.users, USERS, name="users").to_pylist()
    assert users[0]["categorical"] == [("gender", "M"), ("occupation", "writer"), ("region", "5")]
    assert (users[1]["categorical"][2], users[1]["numeric"]) == (("region", "abroad"), [("age", 53.0)])


def test_where_the_files_are_looked_for(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("CLM_DOWNLOADS", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssetError) as caught:
        movielens_folder(None)
    assert caught.value.fix == "python -m clm_ray.data.sources.movielens"
    (tmp_path / "downloads").mkdir()
    folder.rename(tmp_path / "downloads" / "ml-100k")
    assert movielens_folder(None) == tmp_path / "downloads" / "ml-100k"
    monkeypatch.setenv("CLM_DOWNLOADS", str(tmp_path / "downloads"))
    monkeypatch.chdir("/")
    assert movielens_folder(None) == tmp_path / "downloads" / "ml-100k"
    assert movielens_folder(str(tmp_path)) == tmp_path


def wheel(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(f"recbole/dataset_example/ml-100k/{name}", text)
        archive.writestr("recbole/evil.py", "raise SystemExit")
    return path


def test_only_the_data_are_taken_out_of_the_wheel(folder, tmp_path):
    target = unpack_wheel(wheel(tmp_path / "w.whl", FILES), folder=tmp_path / "out", digests=file_digests(folder))
    assert sorted(p.name for p in (tmp_path / "out").rglob("*") if p.is_file()) == sorted(FILES)
    assert (target / "ml-100k.user").read_text() == FILES["ml-100k.user"]


def test_a_wheel_with_other_data_is_refused(folder, tmp_path):
    with pytest.raises(AssetError, match="SHA-256"):
        unpack_wheel(wheel(tmp_path / "w.whl", FILES), folder=tmp_path / "out")
    with pytest.raises(AssetError, match="does not carry"):
        unpack_wheel(wheel(tmp_path / "v.whl", {}), folder=tmp_path / "out")


def test_a_failed_download_says_what_pip_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(movielens, "WHEEL", str(tmp_path / "no-such-wheel"))
    assert main(["--downloads", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "pip could not download it" in said
    assert "source.path" in said
