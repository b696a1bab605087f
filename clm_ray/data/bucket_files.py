"""The files of one bucket that are written as its rows are made: sequences, impressions, interactions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clm_ray.data.bucket_figures import WindowFigures
from clm_ray.data.bucket_result import BucketResult
from clm_ray.data.buckets import part
from clm_ray.data.columns import rows_to_table
from clm_ray.data.spans import SpanRows
from clm_ray.schema import IMPRESSIONS, INTERACTIONS, SEQUENCES

SEQUENCES_ROW_GROUP = 256


@dataclass(frozen=True)
class PackedRows:
    """Rows as tables, which travel well, and the figures of the windows."""

    windows: pa.Table
    impressions: pa.Table
    figures: WindowFigures

    @staticmethod
    def of(rows: SpanRows) -> PackedRows:
        """Pack some rows."""
        windows, impressions = rows_to_table(rows.windows, SEQUENCES), rows_to_table(rows.impressions, IMPRESSIONS)
        return PackedRows(windows, impressions, WindowFigures.of(rows.windows))


class BucketFiles:
    """Takes a bucket's rows in their order and holds no more windows than a row group. The files do not depend on the portions in which rows come.
    `figures`: of the windows taken."""

    def __init__(self, building: Path, bucket: int) -> None:
        self._paths = {name: building / name / part(bucket) for name in ("sequences", "impressions", "interactions")}
        self._sequences = pq.ParquetWriter(
            self._paths["sequences"], SEQUENCES, compression="zstd", use_dictionary=False
        )
        self._waiting = SEQUENCES.empty_table()
        self._impressions: list[pa.Table] = []
        self._written = False
        self.figures = WindowFigures()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            if self._waiting.num_rows or not self._written:
                self._write(self._waiting)
            write_impressions(
                self._paths["impressions"], pa.concat_tables([IMPRESSIONS.empty_table(), *self._impressions])
            )
        self._sequences.close()

    def take(self, rows: SpanRows) -> None:
        """Add rows."""
        if rows.windows or rows.impressions:
            self.put(PackedRows.of(rows))

    def put(self, rows: PackedRows) -> None:
        """Add rows that were packed elsewhere."""
        self.figures = self.figures.joined(rows.figures)
        self._impressions.append(rows.impressions)
        waiting = pa.concat_tables([self._waiting, rows.windows])
        while waiting.num_rows >= SEQUENCES_ROW_GROUP:
            self._write(waiting.slice(0, SEQUENCES_ROW_GROUP))
            waiting = waiting.slice(SEQUENCES_ROW_GROUP)
        # Memory of its own: a slice would hold on to everything it was cut from.
        self._waiting = waiting.take(pa.array(np.arange(waiting.num_rows)))

    def write_interactions(self, result: BucketResult) -> None:
        """Write the bucket's share of the interaction matrix."""
        pq.write_table(_interactions(result), self._paths["interactions"], compression="zstd")

    def _write(self, windows: pa.Table) -> None:
        # In one piece, so that pages end where they would if all windows had come at once.
        self._sequences.write_table(windows.combine_chunks(), row_group_size=SEQUENCES_ROW_GROUP)
        self._written = True


def write_impressions(path: Path, rows: pa.Table) -> None:
    """Write a part of impressions (schema.IMPRESSIONS, in any order) anew: a file that stands there may be kept under another name too."""
    ordered = rows.sort_by([("user_id", "ascending"), ("time", "ascending"), ("kind", "ascending")])
    path.unlink(missing_ok=True)
    pq.write_table(ordered.combine_chunks(), path, compression="zstd")


def _interactions(result: BucketResult) -> pa.Table:
    users = np.repeat(
        np.array([u for u, *_ in result.interactions], object), [len(items) for _, items, _, _ in result.interactions]
    )
    columns = [
        np.concatenate([row[n] for row in result.interactions]) if result.interactions else np.empty(0)
        for n in (1, 2, 3)
    ]
    return pa.table([pa.array(users, pa.string()), *(pa.array(c) for c in columns)], names=INTERACTIONS.names).cast(
        INTERACTIONS
    )
