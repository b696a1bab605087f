"""Removing users from the files of a workspace: datasets, feedback, evaluations, and the user tables of models and releases.

A file is written anew elsewhere and then takes its old name, so a reader sees either the old one or the new one. A run that was cut off is
completed by running it again. Sums over many users (item statistics, neighbours, weights) stay: they name nobody, and the
certificate lists the models that have learned from the users.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clm_ray.config.workspace import DONE, Workspace
from clm_ray.data.assets import file_digest
from clm_ray.data.buckets import bucket_of, part
from clm_ray.data.certificate import Models
from clm_ray.data.kept_buckets import KeptBuckets
from clm_ray.data.manifest import ERASED, MANIFEST
from clm_ray.schema import slate_slot

_BY_BUCKET = ("events", "sequences", "impressions", "references", "interactions")
"""Folders of a dataset whose parts hold whole users."""
_USER_COLUMNS = ("user_id", "user", "neighbour_id")
_SCRATCH = ".erasing"
_GONE = "erased"
"""What stands for the detail of a rejected row that named a user."""


def erase_files(
    workspace: Workspace, users: Sequence[str], *, decisions: Sequence[str] = (), written: Sequence[str] = ()
) -> dict[str, int]:
    """Remove `users` (ids as the workspace knows them: pseudonyms where there are such) from every file below its root; file → rows removed
    (1 for a file of a kept bucket: it goes altogether, the next `prepare` makes it anew).

    decisions: ids of slates served to them that the store still holds; those in the feedback are found here. written: further texts that name
    them where rejected rows are shown: the ids as the log has them.
    """
    rows: dict[str, int] = {}
    value_set = pa.array(sorted(set(users)), pa.string())
    slots = _slots(workspace, value_set, decisions)
    names = re.compile("|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in sorted({*users, *written})))
    scratch = workspace.root / _SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    for path in KeptBuckets(workspace.log / "buckets").erase(users):
        rows[str(path.relative_to(workspace.root))] = 1
    for path in _files(workspace, users):
        place = _Place(path, scratch / "rewritten", _top(workspace, path) / MANIFEST)
        removed = _rewrite(place, value_set, slots, names)
        if removed:
            rows[str(path.relative_to(workspace.root))] = removed
    shutil.rmtree(scratch)
    return rows


def learned_from(workspace: Workspace, users: Sequence[str]) -> Models:
    """The models whose dataset holds any of `users`."""
    value_set = pa.array(sorted(set(users)), pa.string())
    seen = {folder.name for folder in _datasets(workspace) if _in_dataset(folder, value_set)}
    runs = (path.parent.parent.name for path in _trained_on(workspace, seen))
    releases = (path.parent.name for path in workspace.releases.glob(f"*/{MANIFEST}") if _parent(path) in seen)
    return Models(tuple(sorted(runs)), tuple(sorted(releases)))


def _files(workspace: Workspace, users: Sequence[str]) -> Iterator[Path]:
    """Every file that may name a user; slates before the events that say whose they were. Of a dataset's parts, those of the users' buckets."""
    for path in sorted(workspace.root.rglob("*.parquet")):
        if path.parent.name in _BY_BUCKET and path.parent.parent.parent == workspace.datasets:
            buckets = _manifest(path.parent.parent).get("buckets", 1)
            if path.name not in {part(bucket) for bucket in bucket_of(list(users), buckets).tolist()}:
                continue
        yield path


@dataclass(frozen=True)
class _Place:
    """A file, where its new content is written first (not beside it: a release allows no file that it does not list), and the manifest
    that may list it."""

    path: Path
    fresh: Path
    manifest: Path


def _rewrite(place: _Place, users: pa.Array, slots: pa.Array, names: re.Pattern[str]) -> int:
    """Rows removed (details of rejected rows blanked) in one file; 0 leaves it as it is."""
    path = place.path
    schema = pq.read_schema(path)
    named = {name: users for name in _USER_COLUMNS if name in schema.names} or (
        {"slot": slots} if "slot" in schema.names else {}
    )
    if not named and "detail" not in schema.names:
        return 0
    table, count = pq.read_table(path, partitioning=None), 0
    for name, values in named.items():
        gone = pc.is_in(table.column(name).cast(pa.string()), value_set=values)
        count += int(pc.sum(gone).as_py() or 0)
        table = table.filter(pc.invert(gone))
    if "detail" in schema.names:
        table, blanked = _blanked(table, names)
        count += blanked
    if count:
        _write(place, table)
    return count


def _blanked(table: pa.Table, names: re.Pattern[str]) -> tuple[pa.Table, int]:
    """Rejected rows stay, to be counted and found again in their file; what they said of a user goes. And how many said it."""
    details = table.column("detail").to_pylist()
    fresh = [_GONE if detail and names.search(detail) else detail for detail in details]
    place = table.column_names.index("detail")
    found = table.set_column(place, table.schema.field("detail"), pa.array(fresh, pa.string()))
    return found, sum(a != b for a, b in zip(details, fresh, strict=True))


def _write(place: _Place, table: pa.Table) -> None:
    """Replace a file. The manifest of its dataset or release gets the new digest before, beside the old one: both are right until it is done."""
    layout = pq.ParquetFile(place.path).metadata
    group = max(layout.row_group(0).num_rows, 1) if layout.num_row_groups else None
    pq.write_table(table, place.fresh, compression="zstd", row_group_size=group)
    if place.manifest.is_file():
        content = json.loads(place.manifest.read_text(encoding="utf-8"))
        name = str(place.path.relative_to(place.manifest.parent))
        digests = content.setdefault(ERASED, {}).setdefault(name, [])
        if (digest := file_digest(place.fresh)) not in digests:
            digests.append(digest)
        noted = place.fresh.with_name(MANIFEST)
        noted.write_text(json.dumps(content, indent=1), encoding="utf-8")
        noted.replace(place.manifest)
    place.fresh.replace(place.path)


def _top(workspace: Workspace, path: Path) -> Path:
    """The folder of the dataset, run, evaluation or release that a file belongs to."""
    return workspace.root.joinpath(*path.relative_to(workspace.root).parts[:2])


def _slots(workspace: Workspace, users: pa.Array, decisions: Sequence[str]) -> pa.Array:
    """Availability slots of the slates that were served to the users, in store or feedback."""
    found = set(decisions)
    for path in sorted((workspace.feedback / "events").glob("*.parquet")):
        table = pq.read_table(path, columns=["user_id", "decision_id"])
        theirs = table.filter(pc.is_in(table.column("user_id"), value_set=users)).column("decision_id")
        found.update(theirs.drop_null().to_pylist())
    return pa.array(sorted(slate_slot(decision) for decision in found), pa.string())


def _datasets(workspace: Workspace) -> Iterator[Path]:
    return (path.parent for path in workspace.datasets.glob(f"*/{MANIFEST}"))


def _in_dataset(folder: Path, users: pa.Array) -> bool:
    known = pq.read_table(folder / "users.parquet", columns=["user_id"]).column("user_id")
    return bool(pc.any(pc.is_in(known, value_set=users)).as_py())


def _trained_on(workspace: Workspace, datasets: set[str]) -> Iterator[Path]:
    for path in workspace.root.rglob("model/training.json"):
        if path.parent.parent.joinpath(DONE).is_file() and json.loads(path.read_text())["dataset"] in datasets:
            yield path


def _parent(manifest: Path) -> str:
    return str(json.loads(manifest.read_text(encoding="utf-8"))["parents"]["dataset"])


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
