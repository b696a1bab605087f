"""What a bucket gave last time: a build makes anew the buckets for which something changed, and takes the others as they are.

    ROOT/log/buckets/KEY/sequences.parquet, interactions.parquet, impressions.parquet    links to the parts of the dataset that they were made for
    ROOT/log/buckets/KEY/result.pickle                                                   the rest of what the bucket gave (BucketResult)
    ROOT/log/buckets/KEY/kept.json                                                       the bucket, and the SHA-256 of each of these files
    ROOT/log/buckets/KEY/lives.pickle                                                    SHA-256 of the rest; life-cycle thresholds, BucketLives under them

The key is a digest of everything that the result depends on: the bucket's own events, and of what all buckets share the part that lies before the
last moment the bucket looks at. So the dataset that comes out is that of a full build, file for file, and a build that was cut off goes on with
the buckets that it had. A day of new events changes the buckets of its users; a late event changes all that look at the days after it; a new item
moves the rows of the items table and changes all of them. Retention references of the test split follow the end of the log, so they are not kept.
Thresholds of the life cycle are learned once all buckets are there, and are no part of the key: what depends on them is added to a kept bucket, and
replaced where they are others.

Shape letters: D days, S slices, R references.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import clm_ray
from clm_ray.data.assets import file_digest
from clm_ray.data.bucket import BucketBuilder
from clm_ray.data.bucket_lives import BucketLives
from clm_ray.data.bucket_result import BucketResult
from clm_ray.data.buckets import bucket_of
from clm_ray.data.code import code_digest
from clm_ray.data.columns import map_value
from clm_ray.data.manifest import BUILT_BY, FORMAT
from clm_ray.features.neighbours import ItemNeighbours
from clm_ray.features.statistics import ItemStatistics, day_of
from clm_ray.lifecycle.stages import Thresholds
from clm_ray.schema import DAY_US, slate_slot

PARTS = ("sequences", "interactions", "impressions")
"""Folders of the dataset whose parts are kept; of impressions those that the log has row by row."""
_KEPT, _RESULT, _LIVES = "kept.json", "result.pickle", "lives.pickle"
_DIGEST_BYTES = 32
_ROOMS = ("config", "data", "features", "lifecycle", "schema.py")
"""Where the code lies that a result depends on."""


Chain = tuple[NDArray[np.int64], Sequence[bytes]]
"""Moments, rising, and a digest of everything up to and including each."""


@dataclass(frozen=True)
class Dependencies:
    """What buckets depend on beside their own events. `fixed`: digest of recipe, code and items table. days, slices: of the item statistics by day,
    of the neighbours by the end of their slice. Travels to every worker."""

    builder: BucketBuilder
    fixed: str
    days: Chain
    slices: Chain

    @staticmethod
    def of(builder: BucketBuilder) -> Dependencies:
        """Of the buckets that `builder` builds."""
        recipe, catalogue = builder.recipe, builder.source.catalogue
        named = [
            FORMAT,
            clm_ray.__version__,
            pa.__version__,
            np.__version__,
            code_digest(*_ROOMS),
            recipe.serve.impression_event,
        ]
        known = [catalogue.ids, catalogue.categories]
        digest = hashlib.sha256(
            json.dumps([named, recipe.model_dump(mode="json", include={*BUILT_BY}), known]).encode()
        )
        for array in (catalogue.entry_E, catalogue.start):
            digest.update(array.tobytes())
        source = builder.source
        return Dependencies(builder, digest.hexdigest(), _by_day(source.statistics), _by_slice(source.neighbours))

    def key(self, events: pa.Table, *, digest: str) -> str:
        """Of a bucket: `events` (schema.EVENTS plus `item`), sorted, and a digest of them."""
        last = int(events.column("timestamp").cast(pa.int64()).to_numpy().max(initial=0))
        grid_R = self._grid(last)
        explicit = self.builder.occasions.config.negatives == "explicit"
        waits = explicit or events.column("decision_id").null_count < events.num_rows
        found = hashlib.sha256(f"{self.fixed} {digest} {self._plan(last, waits=waits)}".encode())
        found.update(grid_R.tobytes())
        found.update(_chained(self.days, before=int(day_of(np.array([last]))[0])))
        found.update(_chained(self.slices, before=last + 1))
        for name in _slots_of(events):
            items = self.builder.occasions.slots.items(name)
            found.update(f"{name} {None if items is None else hashlib.sha256(items.tobytes()).hexdigest()}\n".encode())
        return found.hexdigest()[:32]

    def _grid(self, last: int) -> NDArray[np.int64]:
        """Retention references that can lie in the bucket's windows: those of the test split do not."""
        plan, config, grid_R = self.builder.plan, self.builder.recipe.retention, self.builder.grid_R
        if not config.enabled:
            return grid_R[:0]
        end = plan.log_end if plan.config.refit else plan.valid_end
        return grid_R[(grid_R <= last + (config.active_within_days + 1) * DAY_US) & (grid_R < end)]

    def _plan(self, last: int, *, waits: bool) -> str:
        """The cuts, and the ends of the log as far as a bucket whose last event is at `last` can tell them. `waits`: some of its labels are known
        only after the window of attribution."""
        plan, retention = self.builder.plan, self.builder.recipe.retention
        ahead = (retention.active_within_days + max(*retention.bin_ends, *retention.report_days) + 2) * DAY_US
        activity = last + ahead if plan.config.refit else plan.valid_end
        known = last + (self.builder.occasions.window_us if waits else 0) + 1
        ends = min(plan.log_end, known), min(plan.activity_end, activity)
        return repr(replace(plan, log_end=ends[0], activity_end=ends[1]))


@dataclass(frozen=True)
class KeptBuckets:
    """What is kept under `folder` (ROOT/log/buckets)."""

    folder: Path

    def find(self, key: str) -> KeptBucket | None:
        """What was kept under a key, if it is whole."""
        kept = KeptBucket(self.folder / key)
        return kept if kept.is_whole() else None

    def keep(self, key: str, result: BucketResult, *, bucket: int, buckets: int, parts: Sequence[Path]) -> None:
        """Keep a result whose rows stand in `parts` (in the order of PARTS); `bucket` of `buckets`."""
        fresh = self.folder / f".{key}-{os.getpid()}"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        for name, path in zip(PARTS, parts, strict=True):
            link(path, fresh / f"{name}.parquet")
        (fresh / _RESULT).write_bytes(pickle.dumps(result))
        digests = {path.name: file_digest(path) for path in sorted(fresh.iterdir())}
        (fresh / _KEPT).write_text(
            json.dumps({"bucket": bucket, "buckets": buckets, "files": digests}), encoding="utf-8"
        )
        shutil.rmtree(self.folder / key, ignore_errors=True)
        fresh.rename(self.folder / key)

    def lives(self, key: str, thresholds: Thresholds) -> BucketLives | None:
        """What `keep_lives` kept under a key, if it is whole and of these thresholds."""
        path = self.folder / key / _LIVES
        content = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(content[_DIGEST_BYTES:]).digest() != content[:_DIGEST_BYTES]:
            return None
        lives: BucketLives
        under, lives = pickle.loads(content[_DIGEST_BYTES:])
        return lives if under == thresholds else None

    def keep_lives(self, key: str, lives: BucketLives, thresholds: Thresholds) -> None:
        """Keep the lives of a kept bucket under these thresholds, instead of those under others."""
        content = pickle.dumps((thresholds, lives))
        fresh = self.folder / key / f".{_LIVES}-{os.getpid()}"
        fresh.write_bytes(hashlib.sha256(content).digest() + content)
        fresh.rename(self.folder / key / _LIVES)

    def forget(self, *, but: Collection[str] = ()) -> None:
        """Remove what is kept under other keys, and what an interrupted build left behind."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.name not in but:
                shutil.rmtree(path)

    def erase(self, users: Sequence[str]) -> Iterator[Path]:
        """Remove the buckets of `users` altogether; yields the files that went."""
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            if not _is_of(path, users):
                continue
            files = sorted(path.iterdir())
            shutil.rmtree(path)
            yield from files


@dataclass(frozen=True)
class KeptBucket:
    """One folder."""

    folder: Path

    def is_whole(self) -> bool:
        """Whether every file is there as it was written."""
        noted = self.folder / _KEPT
        if not noted.is_file():
            return False
        files: dict[str, str] = json.loads(noted.read_text(encoding="utf-8"))["files"]
        paths = [(self.folder / name, digest) for name, digest in files.items()]
        return all(path.is_file() and file_digest(path) == digest for path, digest in paths)

    def result(self) -> BucketResult:
        """The result, without the rows that stand in the parts."""
        found: BucketResult = pickle.loads((self.folder / _RESULT).read_bytes())
        return found

    def put(self, parts: Sequence[Path]) -> None:
        """Let the kept rows stand in `parts` too (in the order of PARTS)."""
        for name, path in zip(PARTS, parts, strict=True):
            link(self.folder / f"{name}.parquet", path)


def link(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where the filesystem has no such links. Files are replaced here, never changed."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def _is_of(folder: Path, users: Sequence[str]) -> bool:
    """Whether a kept bucket may hold any of the users. One that was never finished may hold anybody."""
    noted = folder / _KEPT
    if folder.name.startswith(".") or not noted.is_file():
        return True
    kept = json.loads(noted.read_text(encoding="utf-8"))
    return kept["bucket"] in set(bucket_of(list(users), kept["buckets"]).tolist())


def _slots_of(events: pa.Table) -> list[str]:
    """Names of the slots that the bucket's events and answers to slates may ask about."""
    named = {name for name in map_value(events.column("context"), "slot").tolist() if name is not None}
    decisions = events.column("decision_id").drop_null().unique().to_pylist()
    return sorted(named | {slate_slot(decision) for decision in decisions})


def _chained(chain: Chain, *, before: int) -> bytes:
    """The digest of everything at moments before `before`."""
    count = int(np.searchsorted(chain[0], before, side="left"))
    return chain[1][count - 1] if count else b""


def _by_day(statistics: ItemStatistics) -> Chain:
    order = np.lexsort((statistics.item_K, statistics.day_K))
    columns = [values[order] for values in statistics.columns().values()]
    days, first = np.unique(statistics.day_K[order], return_index=True)
    return days.astype(np.int64), _digests(columns, [*first.tolist(), len(order)])


def _by_slice(neighbours: ItemNeighbours) -> Chain:
    state, digests = b"", []
    for number, end in enumerate(neighbours.end_S.tolist()):
        found = hashlib.sha256(state + str(end).encode())
        for relation in (neighbours.surprise, neighbours.choice):
            low, high = np.searchsorted(relation.slice_E, [number, number + 1])
            for values in (relation.item_E, relation.neighbour_E, relation.similarity_E):
                found.update(values[low:high].tobytes())
        state = found.digest()
        digests.append(state)
    return neighbours.end_S, digests


def _digests(columns: Sequence[NDArray[Any]], edges: Sequence[int]) -> list[bytes]:
    state, digests = b"", []
    for low, high in pairwise(edges):
        found = hashlib.sha256(state)
        for values in columns:
            found.update(values[low:high].tobytes())
        state = found.digest()
        digests.append(state)
    return digests
