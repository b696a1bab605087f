"""The windows of a dataset, read in deterministic chunks: which windows make up step s of epoch e is a function of the seed alone.

Every rank walks the same list of chunks (Parquet row groups) and shuffles them in the same way; it turns only its own share of each
global batch into tensors. So the batches are the same for any number of workers, and an epoch that is begun again has the same ones.

Shape letters: none; ragged columns are (values, offsets).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clm_ray.data.buckets import stable_hash128
from clm_ray.data.columns import ragged
from clm_ray.schema import TRAIN, VALID

CHUNKS_SHUFFLED = 8
"""Row groups read and shuffled together."""


@dataclass(frozen=True)
class Chunk:
    """One row group and the windows in it that belong to a split."""

    path: Path
    group: int
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class _Order:
    """The order of one epoch: runs of chunks, the order within each run, and where each run begins and the last ends."""

    runs: list[NDArray[np.int64]]
    mixed: list[NDArray[np.int64]]
    ends: NDArray[np.int64]

    def taken(self, first: int, last: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """(run, positions in it) of the windows from `first` to `last` of the epoch."""
        for r in range(int(np.searchsorted(self.ends, first, side="right")) - 1, len(self.runs)):
            if self.ends[r] >= last:
                break
            yield r, self.mixed[r][max(first - self.ends[r], 0) : last - self.ends[r]]


@dataclass(frozen=True)
class WindowSet:
    """The windows of one split."""

    chunks: tuple[Chunk, ...]
    split: int

    def __len__(self) -> int:
        return sum(len(c.rows) for c in self.chunks)

    def steps(self, windows_per_step: int) -> int:
        """Steps of one epoch; only the last may be short."""
        return -(-len(self) // windows_per_step)

    def batches(
        self, windows_per_step: int, *, seed: int, epoch: int, shuffle: bool, first_step: int = 0
    ) -> Iterator[tuple[int, Windows]]:
        """(step, global batch) of one epoch from `first_step` on. Shuffling mixes whole runs of CHUNKS_SHUFFLED chunks;
        within a shuffled step the longest window comes first."""
        order = self._order(seed=seed, epoch=epoch, shuffle=shuffle)
        runs, ends = order.runs, order.ends
        open_runs: dict[int, pa.Table] = {}
        for step in range(first_step, self.steps(windows_per_step)):
            first, last = step * windows_per_step, min((step + 1) * windows_per_step, len(self))
            pieces = []
            for r, take in order.taken(first, last):
                if r not in open_runs:
                    open_runs = {k: t for k, t in open_runs.items() if ends[k + 1] > first}
                    open_runs[r] = pa.concat_tables([_read(self.chunks[c]) for c in runs[r]])
                pieces.append(open_runs[r].take(pa.array(take)))
            windows = Windows.of(pa.concat_tables(pieces), self.split)
            yield step, windows.longest_first() if shuffle else windows

    def places(self, windows_per_step: int, *, seed: int, epoch: int, step: int) -> list[str]:
        """Where the windows of a shuffled step lie in the dataset: "file/row group/row in it", without the users' ids."""
        order = self._order(seed=seed, epoch=epoch, shuffle=True)
        first, last = step * windows_per_step, min((step + 1) * windows_per_step, len(self))
        found = []
        for r, take in order.taken(first, last):
            chunks = [self.chunks[c] for c in order.runs[r]]
            rows = [f"{c.path.stem}/{c.group}/{row}" for c in chunks for row in c.rows]
            found += [rows[t] for t in take]
        return found

    def _order(self, *, seed: int, epoch: int, shuffle: bool) -> _Order:
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(self.chunks)) if shuffle else np.arange(len(self.chunks))
        runs = [order[first : first + CHUNKS_SHUFFLED] for first in range(0, len(order), CHUNKS_SHUFFLED)]
        sizes = [sum(len(self.chunks[c].rows) for c in run) for run in runs]
        mixed = [rng.permutation(size) if shuffle else np.arange(size) for size in sizes]
        return _Order(runs, mixed, np.cumsum([0, *sizes]))


def open_windows(dataset: Path, split: int, *, user_share: float = 1.0) -> WindowSet:
    """Find the windows with at least one target or reference of `split` (reads the small columns only); `user_share`: of the users
    with the smallest stable hash alone."""
    chunks = []
    for path in sorted((dataset / "sequences").glob("part-*.parquet")):
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["user_id", "tgt_split", "ref_split"])
            has = _any_of(table.column("tgt_split"), split) | _any_of(table.column("ref_split"), split)
            if user_share < 1.0:
                has &= stable_hash128(table.column("user_id"))[:, 0] / 2.0**64 < user_share
            if has.any():
                chunks.append(Chunk(path, group, np.flatnonzero(has)))
    return WindowSet(tuple(chunks), split)


def _any_of(column: pa.ChunkedArray, split: int) -> NDArray[np.bool_]:
    values, offsets = ragged(column)
    hits = np.concatenate([[0], np.cumsum(values == split)])
    return (hits[offsets[1:]] - hits[offsets[:-1]]) > 0


def _read(chunk: Chunk) -> pa.Table:
    return pq.ParquetFile(chunk.path).read_row_group(chunk.group).take(pa.array(chunk.rows))


@dataclass(frozen=True)
class Windows:
    """Windows of one step as per-window arrays; targets and references of the asked split only. `number`: of each window among its
    user's."""

    user: list[str]
    number: list[int]
    context: list[dict[str, NDArray[Any]]]
    target: list[dict[str, NDArray[Any]]]
    reference: list[dict[str, NDArray[Any]]]

    def __len__(self) -> int:
        return len(self.user)

    @staticmethod
    def of(table: pa.Table, split: int) -> Windows:
        """Take the table's ragged columns apart."""
        return Windows(
            table.column("user_id").to_pylist(),
            table.column("window").to_pylist(),
            _group(table, "ctx_", ("item", "event", "time", "dense", "value"), None),
            _group(
                table, "tgt_", ("item", "label", "weight", "offset", "rating", "time", "pos", "dense", "split"), split
            ),
            _group(table, "ref_", ("time", "pos", "bin", "censored", "value", "dense", "split"), split),
        )

    def share(self, rank: int, world: int) -> Windows:
        """Every `world`-th window, starting at `rank`."""
        return self._at(range(rank, len(self), world))

    def longest_first(self) -> Windows:
        """In the order of their events and targets, so that shares are of like size: the ranks of a step wait for the slowest."""
        size_B = [len(c["item"]) + len(t["item"]) for c, t in zip(self.context, self.target, strict=True)]
        return self._at(sorted(range(len(self)), key=lambda b: -size_B[b]))

    def _at(self, rows: Sequence[int]) -> Windows:
        return Windows(
            [self.user[row] for row in rows],
            [self.number[row] for row in rows],
            [self.context[row] for row in rows],
            [self.target[row] for row in rows],
            [self.reference[row] for row in rows],
        )


def _group(table: pa.Table, prefix: str, names: tuple[str, ...], split: int | None) -> list[dict[str, NDArray[Any]]]:
    parts = {name: ragged(table.column(prefix + name)) for name in names}
    out = []
    for row in range(table.num_rows):
        window = {name: values[offsets[row] : offsets[row + 1]] for name, (values, offsets) in parts.items()}
        if split is not None:
            keep = window["split"] == split
            window = {name: values[keep] for name, values in window.items()}
        out.append(window)
    return out


def training_windows(dataset: Path, *, user_share: float = 1.0) -> tuple[WindowSet, WindowSet]:
    """(train, valid); `user_share`: share of the users in train."""
    return open_windows(dataset, TRAIN, user_share=user_share), open_windows(dataset, VALID)
