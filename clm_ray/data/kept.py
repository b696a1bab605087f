"""The log as it was read last time: cleaned rows by bucket, so that the next `prepare` reads new files only (of the others it looks at the columns).

    ROOT/log/TABLE/ID/kept.json             which files (path, size, time of change) these rows are, and how they were read
    ROOT/log/TABLE/ID/part-BUCKET.parquet   their rows (CLEANED), rejected ones too, before ids are settled

A folder is written under a hidden name and gets its own once the whole log was found to be usable. It counts as long as all of its files are still
part of the log, unchanged, and would be read in the same way; else they are read again. So the log that comes out is the same, row for row.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clm_ray.data.buckets import part
from clm_ray.data.clean import CLEANED

_KEPT = "kept.json"
_FORMAT = 2
_FOLDERS = 32
"""With more folders than this the next one takes over all of them: days add up."""


@dataclass(frozen=True)
class KeptRows:
    """Rows of one folder. `file_of`: position of a file there → position in the log as it is now."""

    folder: Path
    file_of: tuple[int, ...]

    def read(self, bucket: int) -> pa.Table:
        """The rows of a bucket (CLEANED), with the positions of the files as they are now."""
        table = pq.read_table(self.folder / part(bucket), partitioning=None).cast(CLEANED)
        file_N = np.array(self.file_of, np.int32)[table.column("file").to_numpy()]
        return table.set_column(table.column_names.index("file"), CLEANED.field("file"), pa.array(file_N))


@dataclass(frozen=True)
class KeptTable:
    """What is kept of one table of events, and where its new rows go.

    rows: folders that still count. files: identity of each file of the table, in order. fresh: positions of the files that have to be read.
    first_file: position of the table's first file in the log.
    """

    folder: Path
    reading: str
    rows: tuple[KeptRows, ...]
    files: tuple[str, ...]
    fresh: tuple[int, ...]
    first_file: int
    building: Path
    """Where the rows of this time are written; `commit` gives the folder its name."""
    takes_over: bool
    """Whether what is written now replaces all folders that are there."""

    def joined(self, bucket: int, fresh: pa.Table) -> pa.Table:
        """All rows of a bucket: those kept, and `fresh` (CLEANED), which is written down to be kept."""
        rows = pa.concat_tables([*(kept.read(bucket) for kept in self.rows), fresh])
        if self.fresh:
            pq.write_table(rows if self.takes_over else fresh, self.building / part(bucket), compression="zstd")
        return rows

    def prepare(self) -> None:
        """Make room for what is to be written."""
        shutil.rmtree(self.building, ignore_errors=True)
        self.building.mkdir(parents=True)

    def commit(self) -> None:
        """Let what was written count from now on, and remove what does not any more."""
        kept = {rows.folder for rows in self.rows}
        if self.fresh:
            covered = range(len(self.files)) if self.takes_over else self.fresh
            content = {
                "format": _FORMAT,
                "reading": self.reading,
                "files": [self.files[n] for n in covered],
                "positions": [self.first_file + n for n in covered],
            }
            (self.building / _KEPT).write_text(json.dumps(content), encoding="utf-8")
            target = self.folder / self._id()
            shutil.rmtree(target, ignore_errors=True)
            self.building.rename(target)
            kept = {target} if self.takes_over else {*kept, target}
        for other in self.folder.iterdir():
            if other not in kept:
                shutil.rmtree(other, ignore_errors=True)

    def abandon(self) -> None:
        """Forget what was written this time."""
        shutil.rmtree(self.building, ignore_errors=True)

    def _id(self) -> str:
        named = [self.reading, self.takes_over, *(self.files[n] for n in self.fresh)]
        return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]


def open_kept(folder: Path, *, reading: Mapping[str, Any], files: Sequence[str], first_file: int) -> KeptTable:
    """What is kept under `folder` of `files` (their identities). reading: everything that decides what a row of them becomes."""
    how = hashlib.sha256(json.dumps(reading, sort_keys=True, default=sorted).encode()).hexdigest()[:16]
    position = {identity: n for n, identity in enumerate(files)}
    rows, covered = [], set[str]()
    for path in sorted(folder.glob(f"[!.]*/{_KEPT}")) if folder.is_dir() else ():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if (kept["format"], kept["reading"]) != (_FORMAT, how) or not covered.isdisjoint(kept["files"]):
            continue
        if all(identity in position for identity in kept["files"]):
            file_of = np.full(max(kept["positions"]) + 1, -1)
            file_of[kept["positions"]] = [first_file + position[identity] for identity in kept["files"]]
            rows.append(KeptRows(path.parent, tuple(file_of.tolist())))
            covered.update(kept["files"])
    fresh = tuple(n for n, identity in enumerate(files) if identity not in covered)
    return KeptTable(
        folder,
        how,
        tuple(rows),
        tuple(files),
        fresh,
        first_file,
        folder / f".building-{os.getpid()}",
        len(rows) >= _FOLDERS,
    )
